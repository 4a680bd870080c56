"""A sample matters as much as when it was last seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.checks import check_number
from approx_is.class_mean import ClassMean
from approx_is.history import LossHistory
from approx_is.labels import classes_of
from approx_is.predictors.stateless import StatelessPredictor
from approx_is.state import check_at_least, check_like

__all__ = ["LastLossPredictor", "bounded_power"]


class LastLossPredictor(StatelessPredictor):
    r"""Predicts the latest observation of each sample, or a power of it.

    .. math:: v_i = L_i^a

    With an exponent below 1 draws are more even, with 0 uniform, and with one above 1 hard samples are drawn yet more.

    With exponent 1 there is no state: the history is the prediction. With another the sampler's mean of what was
    observed is in another unit than the predictions, so the predictor keeps the mean power of each class itself, for
    samples that were never seen: a moving average, weighted so that it estimates the mean over the data set and not
    over the draws.

    Prioritised experience replay moves the exponent of the weights, k of the sampler, from 0.4 to 1 meanwhile::

        ApproxSampler(
            loader, predictor="last-loss", predictor_options={"exponent": 0.6}, k=LinearAnnealing(0.4, 1.0, steps)
        )

    Reference:
        Schaul et al. (2015), *Prioritized Experience Replay*, eq. 1, proportional prioritisation; their exponent is
        0.6.

    Args:
        history: of the sampler.
        labels: class of each sample, integer [N], or None; not used with exponent 1.
        num_classes: number of classes C; not used with exponent 1.
        generator: not used.
        exponent: :math:`a`, finite, ≥ 0; :math:`0^0` is 1.

    Raises:
        TypeError: `exponent` is no number.
        ValueError: `exponent` is out of bounds.
    """

    judges_unseen = False
    own_scale = False
    knows_draws = False

    def __init__(
        self,
        history: LossHistory,
        labels: Tensor | None,
        num_classes: int,
        generator: torch.Generator,
        *,
        exponent: float = 1.0,
    ) -> None:
        self._history = history
        self._labels = labels
        self._exponent = check_number(exponent, "LastLossPredictor(exponent=...)")
        if not (math.isfinite(self._exponent) and self._exponent >= 0):
            raise ValueError(
                f"`LastLossPredictor(exponent=...)` must be finite and at least 0; got {self._exponent}. Use 0 for "
                "uniform draws."
            )
        self._unseen: ClassMean | None = None
        if self._exponent != 1:
            self._unseen = ClassMean(num_classes, device=history.device)
            self.judges_unseen = self.own_scale = self.knows_draws = True

    def predict(self, indices: Tensor) -> Tensor:
        """Return the power of each latest observation, [B].

        For a sample that was never seen it is the mean power of its class, 1 before any was seen. With exponent 1 it
        is 0, which the sampler replaces.
        """
        last = self._history.last(indices)
        if self._unseen is None:
            return last
        seen = self._history.counts(indices) > 0
        return torch.where(
            seen, bounded_power(last, self._exponent), self._unseen.of(classes_of(self._labels, indices))
        )

    def update(
        self,
        indices: Tensor,
        observed: Tensor,
        step: int,
        *,
        weights: Tensor | None = None,
        drawn_at: int | None = None,
    ) -> None:
        """Take the observed powers into the means of their classes; with exponent 1, take no notice.

        Args:
            indices: samples, int64 [B].
            observed: their importance, float32 [B].
            step: not used.
            weights: unbiased weights :math:`1/(N p_i)` of the draw, float64 [B]; None for uniform ones.
            drawn_at: not used.
        """
        if self._unseen is not None:
            weights = torch.ones_like(observed, dtype=torch.float64) if weights is None else weights
            powers = bounded_power(observed, self._exponent)
            self._unseen.update(classes_of(self._labels, indices), powers, weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the exponent and the means of the classes (not copied); with exponent 1, an empty state."""
        if self._unseen is None:
            return super().state_dict()
        return {"exponent": self._exponent, "unseen": self._unseen.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the means; raise `ValueError` before changing anything if they do not fit or are of other powers."""
        if self._unseen is None:
            super().load_state_dict(state)
            return
        where = "LastLossPredictor.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        check_at_least(state["unseen"], {"sums": 0}, f"{where}['unseen']")
        if state["exponent"] != self._exponent:
            raise ValueError(
                f"`{where}` was made with exponent {state['exponent']}; this one has {self._exponent}. Use the same to "
                "resume."
            )
        self._unseen.load_state_dict(state["unseen"])


def bounded_power(values: Tensor, exponent: float) -> Tensor:
    """Return values ≥ 0 to the power of `exponent` ≥ 0, float32, at most the largest number of that type; 0⁰ is 1.

    Example:
        >>> bounded_power(torch.tensor([0.0, 4.0, 1e30]), 2.0)
        tensor([0.0000e+00, 1.6000e+01, 3.4028e+38])
    """
    return values.double().pow(exponent).clamp(max=torch.finfo(torch.float32).max).float()
