"""When a closed gate tries out its predictor, and how long it rests after that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from approx_is.state import check_at_least, check_like
from approx_is.variance_evidence import PATIENCE

__all__ = ["Trials"]

FIRST_REST, LONGEST_REST = 256, 8_192
"""Steps of a rest: doubled each time, so that a gate cannot flap for ever."""

FOR_EVER = 1e15
"""Steps that no training takes."""


class Trials:
    """Counts the steps of a trial, in which a predictor learns whatever that takes, and of the rest after it.

    Args:
        epoch_steps: batches an epoch; a trial takes as many, and some for the evidence.
    """

    def __init__(self, epoch_steps: float) -> None:
        self._length = math.ceil(epoch_steps) + 2 * PATIENCE
        self._half_epoch = math.ceil(epoch_steps / 2)
        self._left = 0
        self._rest, self._next_rest = 0, FIRST_REST

    @property
    def length(self) -> int:
        """Steps that a trial takes."""
        return self._length

    @property
    def is_running(self) -> bool:
        """Whether there are steps left of a trial."""
        return self._left > 0

    @property
    def is_half_an_epoch_old(self) -> bool:
        """Whether half an epoch was learned from, to the step."""
        return self._left == self._length - self._half_epoch

    @property
    def is_nearly_over(self) -> bool:
        """Whether no more than a quarter is left."""
        return self._left <= self._length // 4

    @property
    def is_resting(self) -> bool:
        """Whether it is too early for another trial."""
        return self._rest > 0

    def begin(self) -> None:
        """Start a trial."""
        self._left = self._length

    def learn(self) -> None:
        """Count a step of the trial."""
        self._left -= 1

    def stop(self) -> None:
        """End the trial, if there is one."""
        self._left = 0

    def rest_again(self, at_least: float = 0.0) -> None:
        """Begin a rest, twice as long as the one before up to a bound, or of so many steps if that is more."""
        self._rest = max(self._next_rest, math.ceil(min(at_least, FOR_EVER)))
        self._next_rest = min(2 * self._next_rest, LONGEST_REST)

    def rest_for(self, steps: int) -> None:
        """Count steps of the rest, if there is one."""
        self._rest = max(0, self._rest - steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the counters."""
        return {"left": self._left, "rest": self._rest, "next_rest": self._next_rest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self._left, self._rest, self._next_rest = state["left"], state["rest"], state["next_rest"]

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "Trials.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        check_at_least(state, {"left": 0, "rest": 0, "next_rest": FIRST_REST}, where)
