"""Every sample matters equally."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.history import LossHistory

__all__ = ["UniformPredictor"]


class UniformPredictor:
    """Predicts importance 1 for every sample: draws are uniform, with replacement. The baseline of the others.

    Args:
        history: of the sampler.
        labels: not used.
        num_classes: not used.
        generator: not used.
    """

    local = True

    def __init__(
        self, history: LossHistory, labels: Tensor | None, num_classes: int, generator: torch.Generator
    ) -> None:
        self._device = history.device

    def predict(self, indices: Tensor) -> Tensor:
        """Return ones, float32 [B]."""
        return torch.ones(len(indices), device=self._device)

    def update(self, indices: Tensor, observed: Tensor, step: int) -> None:
        """Take no notice."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Accept an empty state only."""
        if state:
            raise ValueError(f"`UniformPredictor.load_state_dict(state)` must be empty; got entries {sorted(state)}.")
