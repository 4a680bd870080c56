"""The batches of one epoch, decided on at its beginning, and how far they were taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["EpochPlan"]


class EpochPlan:
    """Samples in the order in which an epoch takes them. At first there are none, and it is done.

    Args:
        batch_size: samples a batch; the last batch of an epoch may be smaller.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._indices = torch.empty(0, dtype=torch.int64)
        self._weights = torch.empty(0)
        self._taken = 0

    @property
    def done(self) -> bool:
        """Whether all batches were taken."""
        return self._taken >= len(self._indices)

    def begin(self, indices: Tensor, weights: Tensor | None = None) -> None:
        """Plan an epoch of these samples, int64 [M], in this order.

        Args:
            indices: the samples.
            weights: of their losses, [M]; by default all 1.
        """
        self._indices, self._taken = indices, 0
        self._weights = torch.ones(len(indices)) if weights is None else weights.float()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches that were not taken yet: indices and weights."""
        while not self.done:
            rows = slice(self._taken, self._taken + self._batch_size)
            self._taken = rows.stop
            yield self._indices[rows], self._weights[rows]

    def state_dict(self) -> dict[str, Any]:
        """Return the plan and the place in it."""
        return {"indices": self._indices, "weights": self._weights, "taken": self._taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a place."""
        self._indices, self._weights, self._taken = state["indices"], state["weights"], state["taken"]
