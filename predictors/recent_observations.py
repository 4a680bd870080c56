"""The observations that RAIS fits its uncertainty set to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from approx_is.state import check_at_least, check_like

__all__ = ["RecentObservations"]


class RecentObservations:
    """Keeps the last observations with what was known of them when they were drawn: a ring buffer.

    Args:
        capacity: observations kept, m.
        num_features: K.
        device: where they live.
    """

    def __init__(self, capacity: int, num_features: int, *, device: torch.device) -> None:
        self._rows = torch.zeros(capacity, num_features + 2, dtype=torch.float32, device=device)
        self._slots = torch.arange(capacity, device=device)
        self._written = 0

    def __len__(self) -> int:
        """Return how many are kept."""
        return min(self._written, len(self._rows))

    def append(self, features: Tensor, norms: Tensor, weights: Tensor) -> None:
        """Keep observations: features [B, K] of the moment of the draw, norms [B] and unbiased weights [B]."""
        rows = torch.cat([features, norms.float().unsqueeze(1), weights.float().unsqueeze(1)], 1)
        capacity = len(self._rows)
        rows = rows[-capacity:]
        self._rows[(self._slots[: len(rows)] + self._written) % capacity] = rows
        self._written += len(rows)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what is kept as float64 arrays, in no particular order: features, norms and weights."""
        rows = self._rows[: len(self)].double().cpu().numpy()
        return rows[:, :-2], rows[:, -2], rows[:, -1]

    def state_dict(self) -> dict[str, Any]:
        """Return the buffer (not copied) and its position."""
        return {"rows": self._rows, "written": self._written}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self._rows.copy_(state["rows"])
        self._written = state["written"]

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "RecentObservations.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        check_at_least(state, {"rows": 0, "written": 0}, where)
