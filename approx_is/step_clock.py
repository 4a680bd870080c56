"""How long training steps of each kind take."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from approx_is.host import wait_for_accelerators
from approx_is.state import check_like

__all__ = ["StepClock"]

ENOUGH_STEPS = 8
"""Steps of a kind before its time is believed."""

ENOUGH_MEANS = 2
"""The same where several steps count as one."""

DROPPED = 1
"""First steps of a kind, or first mean, that are not counted: they allocate, compile and fill caches."""


class StepClock:
    """Measures the time from step to step, by kind; a median says how long a kind takes.

    Evaluations and checkpoints between two steps fall into the time of one of them, where a median does not see them.
    An accelerator runs behind, so only steps at whose end it was waited for, and at the end of the one before or where
    they `start`, count.

    Args:
        kinds: names of the kinds of steps.
        spans: kinds of which one step in so many takes longer, and the others less, for that: the mean of so many
            counts as one.
        window: steps of each kind, or means, that are remembered.
        now: returns the time in seconds; None for `perf_counter`.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        *,
        spans: Mapping[str, int] | None = None,
        window: int = 15,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._now = now or perf_counter
        self._window = window
        self._spans = dict.fromkeys(kinds, 1) | dict(spans or {})
        self._seconds = {kind: deque[float](maxlen=window) for kind in kinds}
        self._partial: dict[str, list[float]] = {kind: [] for kind in kinds}  # steps of a mean that is not complete yet
        self._dropped = dict.fromkeys(kinds, 0)
        self._last = self._stopped = math.nan

    def start(self) -> None:
        """Wait for what was to be computed so far, and say that the next step begins now."""
        wait_for_accelerators()
        self._last = self._now()

    def stop(self) -> None:
        """Wait for what was to be computed so far: what is done from now on to the next tick is no part of the step."""
        wait_for_accelerators()
        self._stopped = self._now()

    def tick(self, kind: str, *, waited: bool = True) -> None:
        """Say that a step of that kind ends now, and whether for all that it had to compute."""
        last, stopped = self._last, self._stopped
        self._last, self._stopped = self._now() if waited else math.nan, math.nan
        if not waited or math.isnan(last):
            return
        if self._dropped[kind] < DROPPED * self._spans[kind]:
            self._dropped[kind] += 1
            return
        self._partial[kind].append((self._last if math.isnan(stopped) else stopped) - last)
        if len(self._partial[kind]) == self._spans[kind]:
            self._seconds[kind].append(statistics.fmean(self._partial[kind]))
            self._partial[kind].clear()

    def count(self, kind: str) -> int:
        """Return how many steps of that kind are remembered, those of a mean that is complete."""
        return self._spans[kind] * len(self._seconds[kind])

    def median(self, kind: str) -> float:
        """Return the median of the remembered steps in seconds; NaN if there are none."""
        seconds = self._seconds[kind]
        return statistics.median(seconds) if seconds else math.nan

    def ratio(self, kind: str, base: str) -> float:
        """Return how many times as long a step of one kind takes as one of the other; NaN if not known yet."""
        median, base_median = self.median(kind), self.median(base)
        return median / base_median if base_median > 0 else math.nan

    def believed_ratio(self, kind: str, base: str) -> float:
        """Return `ratio`; NaN while there are too few steps of either kind to believe it."""
        return self.ratio(kind, base) if self.is_known(kind) and self.is_known(base) else math.nan

    def is_known(self, kind: str) -> bool:
        """Return whether there are enough steps of that kind, and means, to believe its time."""
        return self.count(kind) >= ENOUGH_STEPS and len(self._seconds[kind]) >= ENOUGH_MEANS

    def forget(self, kind: str) -> None:
        """Forget the steps of that kind."""
        self._seconds[kind].clear()
        self._partial[kind].clear()

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered; the time that passes until the state is loaded is no step."""
        return {kind: list(seconds) for kind, seconds in self._seconds.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what was remembered; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        for kind, seconds in self._seconds.items():
            seconds.clear()
            seconds.extend(state[kind])
            self._partial[kind].clear()
            self._dropped[kind] = 0
        self._last = self._stopped = math.nan

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "StepClock.load_state_dict(state)"
        check_like(state, self._seconds, where, skip=self._seconds.keys())
        for kind in self._seconds:
            seconds = state[kind]
            if not isinstance(seconds, list) or len(seconds) > self._window:
                raise ValueError(f"`{where}[{kind!r}]` must be a list of at most {self._window} numbers.")
            for value in seconds:
                if not isinstance(value, float) or not math.isfinite(value) or value < 0:
                    raise ValueError(f"`{where}[{kind!r}]` must hold seconds, finite and ≥ 0; got {value!r}.")
