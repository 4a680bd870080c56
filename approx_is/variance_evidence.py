"""How much draws reduce the second moment, or would, measured batch by batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.moving_average import MovingAverage
from approx_is.state import check_at_least, check_like

__all__ = ["VarianceEvidence"]

PATIENCE = 32
"""Batches before a measured ratio is believed."""


class VarianceEvidence:
    r"""Estimates the variance ratio :math:`\rho`, from draws or from what would have been drawn.

    From draws it is :math:`\overline{w v^2} / \overline{w^2 v^2}`, with w = 1/(Np). From uniform batches, of whose
    samples an importance z was predicted, it is that of draws in proportion to z:

    .. math:: \rho = \frac{\overline{v^2}}{\bar z \; \overline{v^2 / z}}

    Numerators and denominators are averaged separately.

    Args:
        rate: of the moving averages, in (0, 1].
    """

    def __init__(self, rate: float) -> None:
        self._moments = MovingAverage(rate, 3)
        self._batches = 0

    def observe_drawn(self, importance: Tensor, unbiased: Tensor) -> None:
        """Take in a batch drawn by importance: v, and w, float64 [B]."""
        weighted = unbiased * importance
        self._update([weighted * importance, torch.ones_like(weighted), weighted.square()])

    def observe_uniform(self, importance: Tensor, predicted: Tensor) -> None:
        """Take in a uniform batch: v, and z, float64 [B], NaN where there is none; counts if half of it has one."""
        known = predicted.isfinite()
        if 2 * int(known.count_nonzero()) >= len(predicted):
            squares, scale = importance[known].square(), predicted[known]
            self._update([squares, scale, squares / scale])

    @property
    def ratio(self) -> float:
        r""":math:`\rho`; NaN while too few batches were measured."""
        if self._batches < PATIENCE:
            return math.nan
        uniform, scale, weighted = self._moments.value.tolist()
        return uniform / (scale * weighted) if scale * weighted > 0 else 1.0

    def reset(self) -> None:
        """Forget everything."""
        self._moments.reset()
        self._batches = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the averages (not copied) and their number of batches."""
        return {"moments": self._moments.state_dict(), "batches": self._batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self._moments.load_state_dict(state["moments"])
        self._batches = state["batches"]

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "VarianceEvidence.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        check_at_least(state, {"batches": 0}, where)
        self._moments.check_state_dict(state["moments"])

    def _update(self, values: list[Tensor]) -> None:
        moments = torch.stack(values).mean(1)
        if bool(moments.isfinite().all()):
            self._moments.update(moments.cpu())
            self._batches += 1
