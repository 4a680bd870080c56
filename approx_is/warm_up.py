"""The first epoch: every sample once, in random order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.state import check_like

__all__ = ["WarmUp"]


class WarmUp:
    """Hands out a random permutation of N samples, batch by batch, so that the history starts with one entry of each.

    Args:
        num_samples: N.
        seed: of the permutation.
        smallest_batch: leave out what remains once it is less than this: the batch size to drop a smaller last batch.
        device: where the indices are made.
    """

    def __init__(
        self, num_samples: int, *, seed: int, smallest_batch: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        self._num_samples = num_samples
        self._seed = seed
        self._smallest_batch = smallest_batch
        self._device = torch.device(device)
        self._position = 0
        self._permutation: Tensor | None = None  # N numbers, made when first needed and dropped at the end

    @property
    def finished(self) -> bool:
        """Whether no batch is left."""
        return self._num_samples - self._position < self._smallest_batch

    def take(self, batch_size: int) -> Tensor | None:
        """Return the next indices, int64 [at most batch_size]; None once it is finished."""
        if self.finished:
            self._permutation = None
            return None
        if self._permutation is None:
            self._permutation = self._permute()
        start = self._position
        self._position = min(start + batch_size, self._num_samples)
        return self._permutation[start : self._position].to(self._device, torch.int64)

    def give_back(self, count: int) -> None:
        """Take back the last `count` indices handed out: they come again."""
        self._position -= count

    def state_dict(self) -> dict[str, Any]:
        """Return seed and position; the permutation follows from them."""
        return {"seed": self._seed, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the position; raise `ValueError` before changing anything if the state does not fit."""
        self.check_state_dict(state)
        self._seed = state["seed"]
        self._position = state["position"]
        self._permutation = None

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        check_like(state, self.state_dict(), "WarmUp.load_state_dict(state)")
        if not 0 <= state["position"] <= self._num_samples:
            raise ValueError(f"`WarmUp.load_state_dict(state)['position']` must be in [0, {self._num_samples}].")

    def _permute(self) -> Tensor:
        dtype = torch.int32 if self._num_samples < 2**31 else torch.int64
        generator = torch.Generator().manual_seed(self._seed)
        return torch.randperm(self._num_samples, dtype=dtype, generator=generator, device="cpu")
