"""The time that a predictor may take before it is known to be worth it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from approx_is.state import check_at_least, check_like

__all__ = ["TimeCredit"]

LEAST_ADVANCE, LARGEST_ADVANCE = 2.0, 5.0
"""Steps' time that is advanced."""

LARGEST_DEBT, LARGEST_CREDIT = 100.0, 1e9
"""Steps' time that can be owed and saved up; a debt beyond it is one of a machine that slowed down, not of learning."""


class TimeCredit:
    """Earns a share of each step's time, and is spent by steps that take longer; its unit is a plain step's time.

    Args:
        budget: share of the time that is earned, ≥ 0.
        epoch_steps: batches an epoch; what one earns is advanced, within bounds.
    """

    def __init__(self, budget: float, *, epoch_steps: float) -> None:
        self._budget = budget
        self._credit = min(max(budget * epoch_steps, LEAST_ADVANCE), LARGEST_ADVANCE)
        self._uncharged = 0  # steps that learned before it was known what that takes

    @property
    def value(self) -> float:
        """What is left, negative if it is owed."""
        return self._credit

    def earn(self, steps: int = 1) -> None:
        """Add what steps earn, one after the other, so that it is the same to the bit however they are told."""
        for _ in range(steps):
            self._credit = min(self._credit + self._budget, LARGEST_CREDIT)

    def steps_below(self, value: float, at_most: int) -> int:
        """Return for how many steps, or fewer, the credit is sure to be below a value, the present one included."""
        if self._credit >= value:
            return 0
        earned = (value - self._credit) / self._budget if self._budget > 0 else math.inf
        return max(0, int(min(at_most, earned - 1)))  # one less, for rounding

    def spend(self, surcharge: float) -> None:
        """Take the time by which a step was longer."""
        self._credit = max(self._credit - surcharge, -LARGEST_DEBT)

    def spend_learning(self, surcharge: float) -> None:
        """Take the time by which a step that learned was longer; if that is not known yet, NaN, it is taken later."""
        if math.isnan(surcharge):
            self._uncharged += 1
        else:
            self.spend((1 + self._uncharged) * surcharge)
            self._uncharged = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the credit and what is not charged yet."""
        return {"credit": self._credit, "uncharged": self._uncharged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self._credit, self._uncharged = state["credit"], state["uncharged"]

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "TimeCredit.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        check_at_least(state, {"credit": -LARGEST_DEBT, "uncharged": 0}, where)
