"""The epochs of plain training, `DataLoader(shuffle=True)`, which can be gone on with in their midst."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

__all__ = ["PlainEpochs"]


class PlainEpochs:
    """Iterates a loader, each time one epoch or what is left of it.

    Args:
        loader: with a `RandomSampler`, or under torchrun a `DistributedSampler`.
        order: the generator of the former.
    """

    def __init__(self, loader: DataLoader[Any], order: torch.Generator) -> None:
        self._loader = loader
        self._order = order
        self._epoch = 0
        self._taken = 0
        self._began_with = order.get_state()

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the batches that were not taken yet: the others are fetched, and skipped."""
        skipped = self._taken
        if isinstance(self._loader.sampler, DistributedSampler):
            self._loader.sampler.set_epoch(self._epoch)
        self._order.set_state(self._began_with)
        for position, batch in enumerate(self._loader):
            if position >= skipped:
                self._taken = position + 1
                yield batch
        self._epoch, self._taken, self._began_with = self._epoch + 1, 0, self._order.get_state()

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epochs."""
        return {"epoch": self._epoch, "taken": self._taken, "began_with": self._began_with}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a place."""
        self._epoch, self._taken, self._began_with = state["epoch"], state["taken"], state["began_with"]
