"""How many uniform steps a step of importance sampling is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is import host
from approx_is.checks import check_positive
from approx_is.moving_average import MovingAverage
from approx_is.state import check_like

__all__ = ["LARGEST_GAIN", "GainRatio", "gain_ratio", "second_moments"]

LARGEST_GAIN = 10.0
"""A ratio estimated above this is an accident of the estimate."""

LARGEST_JUMP = 100.0
"""A batch's second moment counts as so many times the average at most."""

ROUNDING = 1e-6
"""A ratio above 1 by no more than this is 1: weights are float32, and uniform draws are to gain exactly nothing."""


def second_moments(norms: Tensor, unbiased: Tensor, weights: Tensor) -> Tensor:
    r"""Estimate the second moment of one sample's gradient, drawn uniformly and drawn as it was.

    .. math:: u = \frac1B \sum_j w_j v_j^2, \quad q = \frac1B \sum_j \alpha_j^2 v_j^2

    Both are unbiased for their expectations over the draws, :math:`E\|g_{U1}\|^2` and :math:`E\|g_{R1}\|^2`.

    Args:
        norms: gradient norms :math:`v_j` of the drawn samples, in any common unit, float [B].
        unbiased: :math:`w_j = 1/(N p_j)`, float64 [B].
        weights: the weights :math:`\alpha_j` that the gradients had, float [B]; `unbiased` itself at k = 1.

    Returns:
        (u, q), float64 [2].
    """
    norms = norms.double()
    weighted = weights * norms
    return torch.stack([(unbiased * norms).dot(norms), weighted.dot(weighted)]) / len(norms)


def gain_ratio(variance_ratio: float, signal_share: float, batch_size: int) -> float:
    r"""Return how much smaller the second moment of a minibatch gradient is than with uniform draws.

    .. math:: r = \frac{E\|g_U\|^2}{E\|g_R\|^2} = 1 + (\rho - 1)\left(1 - (1 - \tfrac1B) \varphi\right)

    Importance sampling reduces noise only. Where the gradient is all signal (:math:`\varphi = 1`) there is nothing to
    gain but the B-th part; where it is all noise, r is :math:`\rho`.

    Reference:
        Johnson & Guestrin (2018), "gain ratio"; an identity for B draws with replacement.

    Args:
        variance_ratio: :math:`\rho = E\|g_{U1}\|^2 / E\|g_{R1}\|^2` of one draw.
        signal_share: :math:`\varphi = \|\nabla F\|^2 / E\|g_R\|^2`, in [0, 1].
        batch_size: draws a batch, B.

    Returns:
        r.

    Example:
        >>> gain_ratio(2.5, 0.4, 4)
        2.05
    """
    return 1 + (variance_ratio - 1) * (1 - (1 - 1 / batch_size) * signal_share)


class GainRatio:
    r"""Estimates the gain ratio from what a sampler observes and, if somebody reports it, from the gradient's signal.

    Every sampler has one, as `sampler.gain`, and feeds it. The norms it sees are those of the loss layer, the gradient
    is that of all parameters: they are in different units, so only ratios of like with like are used,
    :math:`\rho = \bar u / \bar q` (see `second_moments`) and :math:`\varphi = \bar S / \overline{\|g\|^2}`, numerator
    and denominator averaged separately. Without `observe_signal`, :math:`\varphi` is 0 and r is its upper bound
    :math:`\rho`; `GainLR` reports the signal.

    The ratio is causal: asked before a step, it depends on the steps before. It is 1 while draws are uniform and for
    `patience` batches after, and in [1, 10] always.

    B is the size of the batch last observed. Where several batches make up a step, call `end_step` after each step, as
    `GainLR` does, for B to be the step's.

    Reference:
        Johnson & Guestrin (2018), "for learning rate adjustment, estimate gain ratio using moving averages".

    Args:
        rate: of the moving averages, in (0, 1].
        patience: batches that are not drawn uniformly before the ratio is believed, at least 1.
        device: where the averages of what is observed live.
        mean: returns the mean of a number over ranks that draw by themselves; None where there are none.

    Raises:
        ValueError: a bound is violated.

    Example:
        >>> gain = GainRatio(patience=1)
        >>> gain.observe(torch.tensor([2.5, 1.0], dtype=torch.float64), batch_size=4, uniform=False)
        >>> gain.value
        2.5
        >>> gain.observe_signal(0.4, 1.0)
        >>> gain.value
        2.05
    """

    def __init__(
        self,
        *,
        rate: float = 0.02,
        patience: int = 8,
        device: torch.device | str = "cpu",
        mean: Callable[[float], float] | None = None,
    ) -> None:
        self._mean = mean
        self._patience = check_positive(patience, "GainRatio(patience=...)")
        self._moments = MovingAverage(rate, 2, device=device)
        self._signal = MovingAverage(rate, 2)
        self._batches = 0  # since draws are no longer uniform
        self._batch_size = 1
        self._draws = 0  # of the step under way

    def observe(self, moments: Tensor | None, batch_size: int, *, uniform: bool) -> None:
        """Take in a batch; moments that are not finite are skipped, and outliers capped.

        Args:
            moments: as `second_moments` returns them, float64 [2]; None for a uniform batch, or to hand them in later,
                see `observe_moments`.
            batch_size: draws in the batch.
            uniform: whether they were uniform: nothing is gained, and the moments' averages start anew after it.

        Raises:
            ValueError: `batch_size` is not positive; nothing was changed.
        """
        self._batch_size = check_positive(batch_size, "GainRatio.observe(batch_size)")
        self._draws += self._batch_size
        if uniform:
            self._batches = 0
            if not self._moments.is_empty:
                self._moments.reset()
        elif moments is not None:
            self.observe_moments(moments, 1)

    def observe_moments(self, moments: Tensor, num_batches: int) -> None:
        """Take in the moments of batches drawn by importance that `observe` was told of without them.

        Args:
            moments: their mean, as `second_moments` returns it of all batches together, float64 [2].
            num_batches: how many there were.
        """
        if not host.is_on_host(moments):
            moments = torch.where(moments.isfinite().all(), moments, self._moments.value)
        elif not all(map(math.isfinite, moments.tolist())):
            return
        self._batches += num_batches
        self._moments.update(_capped(moments, self._moments.value), num_batches)

    def end_step(self) -> None:
        """Say that the optimizer has stepped: its gradient was of all draws observed since the last time."""
        if self._draws:
            self._batch_size, self._draws = self._draws, 0

    def observe_signal(self, signal: float, squared_norm: float) -> None:
        r"""Take in the gradient of a batch; one that is not finite is skipped.

        Args:
            signal: an estimate of :math:`\|\nabla F\|^2`, the part of the gradient that is no noise, of any sign: see
                `MomentumSignal` and `half_batch_signal`.
            squared_norm: :math:`\|g\|^2` of the same batch.
        """
        moments = torch.tensor([signal, squared_norm], dtype=torch.float64)
        if bool(moments.isfinite().all()):
            self._signal.update(moments)

    @property
    def variance_ratio(self) -> float:
        r""":math:`\rho`; 1 before anything was drawn by importance."""
        return _ratio(self._moments.value, otherwise=1.0)

    @property
    def signal_share(self) -> float:
        r""":math:`\varphi`, in [0, 1]; 0 if no signal was reported."""
        return min(max(_ratio(self._signal.value, otherwise=0.0), 0.0), 1.0)

    @property
    def value(self) -> float:
        """The gain ratio r, in [1, 10]."""
        if self._batches < self._patience:
            return 1.0
        ratio = gain_ratio(self.variance_ratio, self.signal_share, self._batch_size)
        return min(ratio, LARGEST_GAIN) if ratio > 1 + ROUNDING else 1.0

    def agreed_value(self) -> float:
        """Return the mean of r over ranks that draw by themselves; all of them are to ask."""
        return self.value if self._mean is None else self._mean(self.value)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages (not copied) and counts."""
        return {
            "moments": self._moments.state_dict(),
            "signal": self._signal.state_dict(),
            "batches": self._batches,
            "batch_size": self._batch_size,
            "draws": self._draws,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self._moments.load_state_dict(state["moments"])
        self._signal.load_state_dict(state["signal"])
        self._batches = state["batches"]
        self._batch_size = state["batch_size"]
        self._draws = state["draws"]

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "GainRatio.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        self._moments.check_state_dict(state["moments"])
        self._signal.check_state_dict(state["signal"])
        for name, least in (("batches", 0), ("batch_size", 1), ("draws", 0)):
            if state[name] < least:
                raise ValueError(f"`{where}[{name!r}]` must be at least {least}; got {state[name]}.")


def _capped(moments: Tensor, averages: Tensor) -> Tensor:
    # one outlier would make the ratio its own, 1 / w, for as long as it is remembered
    return torch.where(averages > 0, torch.minimum(moments, LARGEST_JUMP * averages), moments)


def _ratio(moments: Tensor, otherwise: float) -> float:
    numerator, denominator = moments.tolist()
    return numerator / denominator if denominator > 0 else otherwise
