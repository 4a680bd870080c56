"""Every sample matters equally."""

from __future__ import annotations

import torch
from torch import Tensor

from approx_is.history import LossHistory
from approx_is.predictors.stateless import StatelessPredictor

__all__ = ["UniformPredictor"]


class UniformPredictor(StatelessPredictor):
    """Predicts importance 1 for every sample: draws are uniform, with replacement. The baseline of the others.

    Args:
        history: of the sampler.
        labels: not used.
        num_classes: not used.
        generator: not used.
    """

    judges_unseen = True
    own_scale = True

    def __init__(
        self, history: LossHistory, labels: Tensor | None, num_classes: int, generator: torch.Generator
    ) -> None:
        self._device = history.device

    def predict(self, indices: Tensor) -> Tensor:
        """Return ones, float32 [B]."""
        return torch.ones(len(indices), dtype=torch.float32, device=self._device)
