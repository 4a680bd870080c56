"""How good the draws are: pure functions over importances, and running averages of what was drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.moving_average import MovingAverage
from approx_is.state import check_like

__all__ = [
    "RunningDiagnostics",
    "batch_increment",
    "captured",
    "effective_sample_size",
    "increment_of_moments",
    "variance_ratio",
]


NAMES = (
    "observed_importance",
    "variance_ratio",
    "captured",
    "tau",
    "batch_size_increment",
    "calibration",
    "effective_sample_size",
)
"""Of what `RunningDiagnostics` measures."""


def effective_sample_size(weights: Tensor) -> Tensor:
    r"""Return :math:`(\sum w)^2 / \sum w^2`, in [1, B]: how many equally weighted draws a batch is worth, a scalar."""
    weights = weights.double()
    return weights.sum().square() / weights.dot(weights)


def variance_ratio(importance: Tensor, probabilities: Tensor) -> float:
    r"""Return the second moment of a uniform draw over that of a weighted one: above 1, the weighted draw is better.

    .. math:: \rho = \frac{\frac1N \sum v_i^2}{\frac1N \sum v_i^2 / (N p_i)}

    Args:
        importance: true importances v of all samples (gradient norms, or a bound of them), float [N], ≥ 0.
        probabilities: probability of each sample, float [N].

    Returns:
        The ratio; 1 if all importances are 0.

    Example:
        >>> variance_ratio(torch.tensor([1.0, 3.0]), torch.tensor([0.25, 0.75]))
        1.25
    """
    squares = importance.double() ** 2
    weighted = torch.where(squares > 0, squares / (probabilities.double() * len(squares)), 0.0)
    return _ratio(squares.mean(), weighted.mean())


def captured(importance: Tensor, probabilities: Tensor) -> float:
    r"""Return the share of the ideal log variance reduction that the probabilities capture.

    .. math:: \frac{\log \rho}{\log \rho^*}, \quad \rho^* = \frac{\frac1N \sum v_i^2}{(\frac1N \sum v_i)^2}

    1 is the oracle :math:`p \propto v`, 0 is uniform, below 0 is worse than uniform.

    Args:
        importance: true importances v of all samples, float [N], ≥ 0.
        probabilities: probability of each sample, float [N].

    Returns:
        The share; NaN where all importances are equal and there is nothing to capture, −∞ where a sample that matters
        has probability 0.

    Example:
        >>> captured(torch.tensor([1.0, 3.0]), torch.tensor([0.25, 0.75]))
        1.0
    """
    importance = importance.double()
    ideal = _ratio((importance**2).mean(), importance.mean() ** 2)
    return _log_share(variance_ratio(importance, probabilities), ideal)


def batch_increment(importance: Tensor) -> float:
    r"""Return :math:`\tau`, the batch size increment that draws exactly in proportion to the importance are worth.

    .. math:: \frac1\tau = \sqrt{1 - \frac{\|g - u\|^2}{\sum_i g_i^2}}, \quad g_i = \frac{v_i}{\sum_j v_j}, \quad
        \tau = \frac{\sqrt{\frac1n \sum_i v_i^2}}{\frac1n \sum_i v_i}

    Reference:
        Katharopoulos & Fleuret (2018), eq. 26. The second moment of a gradient falls by :math:`\tau^2`.

    Args:
        importance: v of samples drawn uniformly, float [n], ≥ 0.

    Returns:
        :math:`\tau \in [1, \sqrt n]`; 1 if all are 0.

    Example:
        >>> round(batch_increment(torch.tensor([1.0, 2.0, 3.0, 4.0])), 5)
        1.09545
    """
    importance = importance.double()
    mean_square, mean = torch.stack([importance.square().mean(), importance.mean()]).tolist()
    return increment_of_moments(mean_square, mean)


def increment_of_moments(mean_square: float, mean: float) -> float:
    r"""Return :math:`\tau`, see `batch_increment`, of the means of :math:`v^2` and :math:`v`; 1 if they are 0."""
    return max(1.0, math.sqrt(mean_square) / mean) if mean > 0 else 1.0


class RunningDiagnostics:
    """Moving averages over the draws, from which `metrics` are computed; nothing is transferred until they are read.

    Args:
        rate: of the moving averages, in (0, 1].
        device: where the averages live.
    """

    def __init__(self, *, rate: float = 0.005, device: torch.device | str = "cpu") -> None:
        self._moments = MovingAverage(rate, 5, device=device)
        self._uniform = True

    def update(
        self,
        weights: Tensor,
        unbiased: Tensor,
        observed: Tensor,
        predicted: Tensor,
        *,
        uniform: bool,
        num_batches: int = 1,
    ) -> Tensor:
        """Take in batches and return their estimate of the data set's mean importance.

        The averages start anew when draws by importance follow plain epochs, and the reverse.

        Args:
            weights: the weights of the draw, for any k, float [B].
            unbiased: the weights that k = 1 would have, :math:`1/(N p_i)`, float64 [B].
            observed: observed importances, finite, float [B].
            predicted: what the predictor expected of them, float [B].
            uniform: whether they are of a plain epoch.
            num_batches: how many batches of about the same size they are.

        Returns:
            Mean of `unbiased * observed`, a float64 scalar.
        """
        if uniform != self._uniform:
            self._moments.reset()
        self._uniform = uniform
        importance = unbiased * observed
        factors = [importance, importance * observed, importance * importance, unbiased * predicted]
        moments = torch.stack(factors).mean(1)
        sample_size = effective_sample_size(weights).unsqueeze(0) / num_batches
        self._moments.update(torch.cat([moments, sample_size]), num_batches)
        return moments[0]

    def metrics(self) -> dict[str, float]:
        """Return the averages as floats; NaN before the first batch.

        - `observed_importance`: estimated mean of the observed importance over the data set.
        - `variance_ratio`: second moment of uniform draws over that of these draws (at k = 1), from the draws alone.
        - `captured`: `variance_ratio` as a share of the best one could have, in logarithms, see `captured`.
        - `tau`: batch size increment that ideal draws would be worth, see `batch_increment`.
        - `batch_size_increment`: the same of these draws, the square root of `variance_ratio`.
        - `calibration`: predicted over observed importance; below 1, predictions are too low.
        - `effective_sample_size`: how many equally weighted draws a batch was worth.
        """
        if self._moments.is_empty:
            return dict.fromkeys(NAMES, math.nan)
        mean, uniform, weighted, predicted, sample_size = self._moments.value.unbind()
        ratio = _ratio(uniform, weighted)
        tau = increment_of_moments(uniform.item(), mean.item())
        captured = _log_share(ratio, _ratio(uniform, mean**2))
        calibration = _ratio(predicted, mean)
        figures = (mean.item(), ratio, captured, tau, math.sqrt(ratio), calibration, sample_size.item())
        return dict(zip(NAMES, figures, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the averages."""
        return {"moments": self._moments.state_dict(), "uniform": self._uniform}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the averages; raise `ValueError` before changing anything if the state does not fit."""
        self.check_state_dict(state)
        self._moments.load_state_dict(state["moments"])
        self._uniform = state["uniform"]

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        check_like(state, self.state_dict(), "RunningDiagnostics.load_state_dict(state)")
        self._moments.check_state_dict(state["moments"])


def _ratio(numerator: Tensor, denominator: Tensor) -> float:
    return (numerator / denominator).item() if denominator > 0 else 1.0


def _log_share(ratio: float, ideal: float) -> float:
    if ideal <= 1:
        return math.nan
    return math.log(ratio) / math.log(ideal) if ratio > 0 else -math.inf
