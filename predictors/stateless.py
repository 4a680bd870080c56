"""What predictors without a state of their own have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["StatelessPredictor"]


class StatelessPredictor:
    """Learns nothing and has nothing to save; a sample's prediction changes only when it is observed."""

    local = True

    def update(self, indices: Tensor, observed: Tensor, step: int) -> None:
        """Take no notice."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Accept an empty state only."""
        if state:
            raise ValueError(
                f"`{type(self).__name__}.load_state_dict(state)` must be empty; got entries {sorted(state)}."
            )
