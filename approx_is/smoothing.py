"""Additive smoothing: how far the draws lean towards uniform."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.checks import check_number
from approx_is.state import check_like

__all__ = ["AdaptiveSmoothing", "ConstantSmoothing", "Smoothing", "make_smoothing", "smoothed_probabilities"]

LEAST_SHARE = 1e-6
"""Smallest smoothing constant over the mean importance: no sample is out of reach, no unbiased weight above 1e6 + 1."""


def smoothed_probabilities(
    importance: Tensor, constant: Tensor | float, total: Tensor | float, num_samples: int
) -> Tensor:
    r"""Return the probability of each sample after adding a constant to every importance.

    .. math:: p_i = \frac{s_i + c}{\sum_j s_j + N c}

    Uniform if all importances and the constant are 0.

    Reference:
        Katharopoulos & Fleuret (2017), §3.3.1.

    Args:
        importance: :math:`s_i`, float [B].
        constant: :math:`c`, ≥ 0.
        total: :math:`\sum_j s_j` over all samples.
        num_samples: N.

    Returns:
        Probabilities, float64 [B].

    Example:
        >>> smoothed_probabilities(torch.tensor([4.0, 1.0]), 1.0, 5.0, 2)
        tensor([0.7143, 0.2857], dtype=torch.float64)
    """
    importance = importance.double()
    normaliser = torch.as_tensor(total + num_samples * constant, dtype=torch.float64, device=importance.device)
    return torch.where(normaliser > 0, (importance + constant).div_(normaliser), 1 / num_samples)


class ConstantSmoothing:
    """Adds the same constant to the importance of every sample.

    Args:
        constant: what to add, in the unit of the observed importance, ≥ 0. With 0 a sample predicted to matter nothing
            is still drawn now and then: the constant used is never below 1e-6 of the mean importance.

    Raises:
        ValueError: `constant` is negative or not finite.
    """

    def __init__(self, constant: float) -> None:
        self._constant = _check_amount(constant, "smoothing")

    def constant(self, mean_importance: Tensor) -> Tensor:
        """Return the constant c, a float64 scalar, given the mean predicted importance of all samples."""
        return (mean_importance * LEAST_SHARE).clamp(min=self._constant)

    def update(self, observed_mean: Tensor, num_batches: int = 1, /) -> None:
        """Take no notice: the constant is constant."""

    def state_dict(self) -> dict[str, Any]:
        """Return the constant, so that a state made under another is refused."""
        return {"constant": self._constant}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless the state was made with the same constant."""
        self.check_state_dict(state)

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless the state was made with the same constant."""
        check_like(state, self.state_dict(), "ConstantSmoothing.load_state_dict(state)")
        _check_same(state["constant"], self._constant, "smoothing")


class AdaptiveSmoothing:
    r"""Adds a fraction of the mean importance: half of it keeps unbiased weights at or below 3.

    .. math:: c = f \max(\bar L, \tfrac1N \sum_j s_j)

    where :math:`\bar L` is a moving average of the observed importance, weighted so that it estimates the mean over the
    data set. The paper has :math:`\bar L` alone. The maximum with the mean of the predictions costs nothing and turns
    "about 3" into a bound: no unbiased weight exceeds :math:`1 + 1/f`, also while predictions run ahead of the average.
    Where predictions fall behind what is observed, :math:`\bar L` takes over and draws more evenly.

    Reference:
        Katharopoulos & Fleuret (2017), §3.3.1 (:math:`f = 1/2`).

    Args:
        fraction: :math:`f`, ≥ 0.
        decay: of the moving average, in [0, 1).

    Raises:
        ValueError: an argument is out of bounds.
    """

    def __init__(self, fraction: float = 0.5, *, decay: float = 0.9) -> None:
        self._fraction = _check_amount(fraction, "AdaptiveSmoothing(fraction=...)")
        if not 0 <= decay < 1:
            raise ValueError(f"`AdaptiveSmoothing(decay=...)` must be in [0, 1); got {decay}.")
        self._decay = decay
        self._mean = torch.zeros((), dtype=torch.float64)
        self._share = 0.0  # of the average that observations make up: corrects its start at 0

    def constant(self, mean_importance: Tensor) -> Tensor:
        """Return the constant c, a float64 scalar, given the mean predicted importance of all samples."""
        observed = (self._mean / max(self._share, 1e-12)).to(mean_importance.device)
        return torch.maximum(observed, mean_importance).mul_(max(self._fraction, LEAST_SHARE))

    def update(self, observed_mean: Tensor, num_batches: int = 1, /) -> None:
        """Take in the observed mean of batches, a finite float64 scalar that estimates the mean over the data set."""
        decay = self._decay**num_batches
        self._mean = torch.lerp(self._mean.to(observed_mean.device), observed_mean.double(), 1 - decay)
        self._share = decay * self._share + (1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Return the moving average and the settings it was made with."""
        return {"mean": self._mean, "share": self._share, "fraction": self._fraction, "decay": self._decay}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the moving average; raise `ValueError` if the state does not fit or has other settings."""
        self.check_state_dict(state)
        self._mean = state["mean"].clone()
        self._share = state["share"]

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` if the state does not fit or has other settings."""
        check_like(state, self.state_dict(), "AdaptiveSmoothing.load_state_dict(state)")
        _check_same(state["fraction"], self._fraction, "AdaptiveSmoothing(fraction=...)")
        _check_same(state["decay"], self._decay, "AdaptiveSmoothing(decay=...)")


Smoothing = ConstantSmoothing | AdaptiveSmoothing


def make_smoothing(smoothing: str | float | Smoothing, *, fraction: float = 0.5) -> Smoothing:
    """Return the smoothing for what a user passed: "adaptive", of that fraction, a constant, or a smoothing object."""
    if isinstance(smoothing, ConstantSmoothing | AdaptiveSmoothing):
        return smoothing
    if isinstance(smoothing, str):
        if smoothing != "adaptive":
            raise ValueError(f'`smoothing` must be "adaptive", a constant or a smoothing object; got {smoothing!r}.')
        return AdaptiveSmoothing(fraction)
    return ConstantSmoothing(smoothing)


def _check_amount(amount: float, argument: str) -> float:
    amount = check_number(amount, argument)
    if not math.isfinite(amount) or amount < 0:
        raise ValueError(f"`{argument}` must be finite and at least 0; got {amount}.")
    return amount


def _check_same(found: float, expected: float, argument: str) -> None:
    if found != expected:
        raise ValueError(
            f"The state was made with `{argument}` = {found}; this one has {expected}. Use the same to resume."
        )
