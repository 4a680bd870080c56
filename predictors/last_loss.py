"""A sample matters as much as when it was last seen."""

from __future__ import annotations

import torch
from torch import Tensor

from approx_is.history import LossHistory
from approx_is.predictors.stateless import StatelessPredictor

__all__ = ["LastLossPredictor"]


class LastLossPredictor(StatelessPredictor):
    """Predicts the latest observation of each sample. It has no state: the history is the prediction.

    Reference:
        Schaul et al. (2015), proportional prioritisation, with exponent 1.

    Args:
        history: of the sampler.
        labels: not used.
        num_classes: not used.
        generator: not used.
    """

    def __init__(
        self, history: LossHistory, labels: Tensor | None, num_classes: int, generator: torch.Generator
    ) -> None:
        self._history = history

    def predict(self, indices: Tensor) -> Tensor:
        """Return the latest observation, [B]; 0 for a sample that was never seen, which the sampler replaces."""
        return self._history.last(indices)
