"""Plain epochs: every sample once, in random order, again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from approx_is.permutation import permuted
from approx_is.state import check_at_least, check_like
from approx_is.stretch import Entries, Stretch

__all__ = ["UniformEpochs"]

LARGEST_SHUFFLED = 2**22
"""Up to so many samples are shuffled all at once, 4 bytes each; permutations of more are computed block by block."""

BLOCK = 2**16
"""Entries of a block: enough that what a block costs anyway hardly counts. The permutation does not depend on it."""

AHEAD = 2**13
"""Entries that are taken from a block together: batch by batch, to make numbers of them takes as long as all else."""


class UniformEpochs:
    """Hands out random permutations of N samples, one after another, batch by batch.

    The first of them fills the history with one entry of each sample, whatever comes in between. Later ones are what a
    closed gate draws from. No more than 16 MiB of one is kept at a time, however large N is.

    Args:
        num_samples: N.
        seed: of the permutations.
        smallest_batch: leave out what remains of one once it is less than this: the batch size to drop a smaller last
            batch.
    """

    def __init__(self, num_samples: int, *, seed: int, smallest_batch: int = 1) -> None:
        self._num_samples = num_samples
        self._seed = seed
        self._smallest_batch = smallest_batch
        self._place = 0  # samples passed in all permutations so far
        self._block_size = num_samples if num_samples <= LARGEST_SHUFFLED else BLOCK
        self._permutation: Tensor | None = None  # a block of it, made when needed and dropped at the end
        self._block_kept = (-1, -1)  # the number of its permutation, and its first place there
        self._ahead: Entries | None = None
        self._ahead_from = 0  # the place of the first

    @property
    def first_is_over(self) -> bool:
        """Whether no batch of the first permutation is left."""
        return self._place > self._num_samples - self._smallest_batch

    def take(self, batch_size: int) -> tuple[Stretch, int]:
        """Return the next indices, `batch_size` at most, and their place, for `rewind`."""
        place, left = self._place, self._num_samples - self._place % self._num_samples
        if left < self._smallest_batch:
            place, left = place + left, self._num_samples
        size = min(batch_size, left)
        first = place - self._ahead_from
        if self._ahead is None or first < 0 or first + size > len(self._ahead):
            self._ahead, self._ahead_from, first = self._entries_ahead(place, max(size, AHEAD)), place, 0
        self._place = place + size
        return Stretch(self._ahead, first, size), place

    def rewind(self, place: int) -> None:
        """Go back to a place: what was handed out from there on comes again."""
        self._place = min(place, self._place)

    def begin_epoch(self) -> None:
        """Leave out what is left of a permutation, unless it is the first: an epoch is to see every sample once."""
        number, offset = divmod(self._place, self._num_samples)
        if number > 0 and offset > 0:
            self._place = (number + 1) * self._num_samples
            self._permutation = None

    def state_dict(self) -> dict[str, Any]:
        """Return seed and place; the permutations follow from them."""
        return {"seed": self._seed, "place": self._place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the place; raise `ValueError` before changing anything if the state does not fit."""
        self.check_state_dict(state)
        self._seed = state["seed"]
        self._place = state["place"]
        self._permutation = self._ahead = None

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "UniformEpochs.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        check_at_least(state, {"seed": 0, "place": 0}, where)

    def _entries_ahead(self, place: int, size: int) -> Entries:
        number, start = divmod(place, self._num_samples)
        end = min(start + size, self._num_samples)
        entries = self._entries(number, start, end).to(torch.int64, copy=True)
        if end == self._num_samples:
            self._permutation = None
        return Entries(entries)

    def _entries(self, number: int, start: int, end: int) -> Tensor:
        size = self._block_size
        first = start - start % size
        if end <= first + size:
            return self._block(number, first)[start - first : end - first]
        blocks = [self._block(number, place) for place in range(first, end, size)]
        return torch.cat(blocks)[start - first : end - first]

    def _block(self, number: int, first: int) -> Tensor:
        if self._permutation is None or self._block_kept != (number, first):
            self._permutation = self._make_block(number, first)
            self._block_kept = (number, first)
        return self._permutation

    def _make_block(self, number: int, first: int) -> Tensor:
        (key,) = np.random.SeedSequence([self._seed, number]).generate_state(1)
        if self._num_samples <= LARGEST_SHUFFLED:
            generator = torch.Generator().manual_seed(int(key))
            return torch.randperm(self._num_samples, dtype=torch.int32, generator=generator, device="cpu")
        positions = np.arange(first, min(first + self._block_size, self._num_samples), dtype=np.int64)
        return torch.from_numpy(permuted(positions, self._num_samples, int(key)))
