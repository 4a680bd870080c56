"""The mean importance of each class: what a sample is expected to matter before it was ever seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.state import check_like

__all__ = ["ClassMean"]


class ClassMean:
    """Moving averages of observed importance, one a class; a class not seen yet has the mean of those that were.

    Kept as two sums a class: of weighted importances, and of weights.

    Args:
        num_classes: number of classes C; 1 without labels.
        decay: of a class's averages each time a batch has samples of it, in [0, 1).
        device: where they live.
    """

    def __init__(self, num_classes: int, *, decay: float = 0.99, device: torch.device | str = "cpu") -> None:
        self._decay = decay
        self._sums = torch.zeros(2, num_classes, dtype=torch.float64, device=device)
        self._both = torch.arange(2, device=device).unsqueeze(1)

    def update(self, labels: Tensor, observed: Tensor, weights: Tensor, num_batches: int = 1) -> None:
        """Take in batches: classes int64 [B], observed importances float [B], their unbiased weights float64 [B]."""
        # of classes in the batches only: a rare class keeps its mean
        self._sums.index_copy_(1, labels, self._sums.index_select(1, labels) * self._decay**num_batches)
        self._sums.index_put_((self._both, labels), torch.stack([weights * observed, weights]), accumulate=True)

    def of(self, labels: Tensor) -> Tensor:
        """Return the mean importance of classes, int64 [B] → float32 [B]; 1 before anything was observed."""
        importance, weights = self._sums.index_select(1, labels).unbind()
        total, total_weight = self._sums.sum(1).unbind()
        overall = torch.where(total_weight > 0, total / total_weight, 1.0)
        return torch.where(weights > 0, importance / weights, overall).float()

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        return {"sums": self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the averages; raise `ValueError` if the state does not fit."""
        check_like(state, self.state_dict(), "ClassMean.load_state_dict(state)")
        self._sums.copy_(state["sums"])
