"""The gate of a predictor: predictions are cheap but may be wrong, so their gain is measured."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.diagnostics import increment_of_moments
from approx_is.gate import Look, VarianceGate
from approx_is.moving_average import MovingAverage
from approx_is.state import check_at_least, check_like
from approx_is.step_clock import StepClock

__all__ = ["PredictorGate"]

logger = logging.getLogger(__name__)

GLANCE_EVERY = 16
"""Steps between two looks at what is observed while it would not pay."""

IDEAL_RATE = 0.1
"""Of the moving average that says what ideal draws would gain: few looks must do."""

SETTLE_STEPS = 16
"""First steps, in which nothing is learned: they show what a step takes without."""

PLAIN_EVERY = 32
"""Steps between two that are left out of learning, to measure what a step takes without."""

ENOUGH_STEPS = 8
"""Steps of a kind before its time is believed."""

PATIENCE = 32
"""Batches before a measured variance ratio is believed."""

FIRST_REST, LONGEST_REST = 256, 8_192
"""Steps that a gate stays closed after it had to close: doubled each time, so that it cannot flap for ever."""

LARGEST_ADVANCE = 20.0
"""Steps' time that is advanced to learn from at most."""


class PredictorGate:
    """Compares the measured variance ratio with the measured cost in time, see `VarianceGate`.

    A closed gate is asleep or learning. It learns while ideal draws would pay, as far as the budget goes: each step
    adds the budget to a credit, and a step that learns takes from it the time by which it is longer.

    Args:
        options: margin, relative cost, budget and rate are used.
        epoch_steps: batches an epoch.
    """

    def __init__(self, options: VarianceGate, *, epoch_steps: float) -> None:
        self._options = options
        self._ideal = MovingAverage(IDEAL_RATE, 2)  # means of v² and v over the data set
        self._moments = MovingAverage(options.rate, 3)  # see _closed_moments and _drawn_moments
        self._clock = StepClock(("plain", "learning", "drawn"))
        self._open = False
        self._batches = 0  # that the moments are of
        self._steps = 0
        self._rest, self._next_rest = 0, FIRST_REST
        self._credit = min(options.budget * epoch_steps, LARGEST_ADVANCE)
        self._would_pay = False  # whether ideal draws would

    @property
    def is_open(self) -> bool:
        """Whether samples are to be drawn by prediction."""
        return self._open

    @property
    def tau(self) -> float:
        r""":math:`\tau`; its square is what ideal draws would gain."""
        return increment_of_moments(*self._ideal.value.tolist())

    @property
    def variance_ratio(self) -> float:
        r""":math:`\rho`; NaN while too few batches were measured."""
        if self._batches < PATIENCE:
            return math.nan
        uniform, scale, weighted = self._moments.value.tolist()
        return uniform / (scale * weighted) if scale * weighted > 0 else 1.0

    @property
    def relative_cost(self) -> float:
        """A step's time with the predictor over one without, at least 1; NaN while it is not known."""
        if self._options.relative_cost is not None:
            return self._options.relative_cost
        kind = "drawn" if self._clock.count("drawn") >= ENOUGH_STEPS else "learning"
        if min(self._clock.count(kind), self._clock.count("plain")) < ENOUGH_STEPS:
            return math.nan
        return max(1.0, self._clock.ratio(kind, "plain"))

    def look(self, *, drawn: bool) -> Look:
        """Return whether the next update learns, only tells what ideal draws would gain, or passes by."""
        if drawn or self._is_learning:
            return Look.LEARN
        return Look.AWAY if self._steps % GLANCE_EVERY else Look.GLANCE

    def observe(self, observed: Tensor, unbiased: Tensor, smoothed: Tensor | None, *, drawn: bool) -> None:
        """Take in a batch, see `Gate.observe`; one drawn before the gate last moved tells of ideal draws only."""
        importance = observed.double()
        weighted = unbiased * importance
        self._ideal.update(torch.stack([(weighted * importance).mean(), weighted.mean()]).cpu())
        if drawn != self._open:
            return
        if drawn:
            moments = torch.stack([(weighted * importance).mean(), unbiased.new_ones(()), weighted.square().mean()])
        elif smoothed is not None and 2 * int((known := smoothed.isfinite()).count_nonzero()) >= len(observed):
            squares, scale = importance[known].square(), smoothed[known]
            moments = torch.stack([squares, scale, squares / scale]).mean(1)
        else:
            return
        if bool(moments.isfinite().all()):
            self._moments.update(moments.cpu())
            self._batches += 1

    def observe_scores(self, scores: Tensor) -> None:
        """Take no notice: a predictor scores nothing."""

    def end_step(self, look: Look, *, drawn: bool) -> None:
        """Measure the step's time, charge it, and decide anew if there was anything to learn from it."""
        kind = "drawn" if drawn else "learning" if look is Look.LEARN else "plain"
        if self._options.relative_cost is None:
            self._clock.tick(kind)
        self._steps += 1
        self._rest = max(0, self._rest - 1)
        self._credit += self._options.budget
        if kind == "learning":
            self._credit -= self._learning_cost
        if look is not Look.AWAY:
            self._decide()

    @property
    def verdict(self) -> str:
        """Whether the gate is open, with what the draws gain and what they cost in time."""
        cost = "an unknown time" if math.isnan(self.relative_cost) else f"{self.relative_cost:.3f} times as long"
        gain = f"ideal ones {self.tau**2:.2f} times"
        if self._open:
            return f"open: draws reduce the second moment {self.variance_ratio:.2f} times, {gain}; a step takes {cost}"
        if not math.isnan(self.variance_ratio):
            gain = f"{self.variance_ratio:.2f} times, {gain}"
        return f"closed: draws would reduce the second moment {gain}; a step would take {cost}"

    def metrics(self) -> dict[str, float]:
        """Return the figures of the verdict, NaN where they are not known.

        - `gate_open`, `gate_learning`: 1 or 0.
        - `gate_tau`: see `batch_increment`.
        - `gate_variance_ratio`: of the draws, or while it is closed of what they would have been.
        - `gate_step_time_ratio`: a step's time with the predictor over one without.
        - `gate_speedup`: the quotient of these two.
        """
        return {
            "gate_open": float(self._open),
            "gate_learning": float(self._open or self._is_learning),
            "gate_tau": self.tau,
            "gate_variance_ratio": self.variance_ratio,
            "gate_step_time_ratio": self.relative_cost,
            "gate_speedup": self.variance_ratio / self.relative_cost,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return averages, counters and measured times."""
        return {
            "ideal": self._ideal.state_dict(),
            "moments": self._moments.state_dict(),
            "clock": self._clock.state_dict(),
            "open": self._open,
            "batches": self._batches,
            "steps": self._steps,
            "rest": self._rest,
            "next_rest": self._next_rest,
            "credit": self._credit,
            "would_pay": self._would_pay,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self._ideal.load_state_dict(state["ideal"])
        self._moments.load_state_dict(state["moments"])
        self._clock.load_state_dict(state["clock"])
        self._open, self._credit, self._would_pay = state["open"], state["credit"], state["would_pay"]
        self._batches, self._steps = state["batches"], state["steps"]
        self._rest, self._next_rest = state["rest"], state["next_rest"]

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "load_state_dict(state)['gate']"
        check_like(state, self.state_dict(), where, skip=("clock",))
        check_at_least(state, {"batches": 0, "steps": 0, "rest": 0, "next_rest": FIRST_REST}, where)
        self._ideal.check_state_dict(state["ideal"])
        self._moments.check_state_dict(state["moments"])
        self._clock.check_state_dict(state["clock"])

    @property
    def _is_learning(self) -> bool:
        if self._options.relative_cost is None:
            if self._steps < SETTLE_STEPS or self._steps % PLAIN_EVERY == 0:
                return False
        elif self._options.relative_cost == 1:  # nothing to save
            return True
        return self._would_pay and self._credit >= 0

    @property
    def _learning_cost(self) -> float:
        if self._options.relative_cost is not None:
            return self._options.relative_cost - 1
        ratio = self._clock.ratio("learning", "plain")
        return 0.0 if math.isnan(ratio) else max(0.0, ratio - 1)

    def _decide(self) -> None:
        cost, target = self.relative_cost, 1 + self._options.margin
        self._would_pay = self.tau**2 >= target * (1.0 if math.isnan(cost) else cost)
        speedup = self.variance_ratio / cost
        if self._open and speedup < 1:
            self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, LONGEST_REST)
            self._clock.forget("drawn")  # when it opens again, it is to be measured anew
            self._move(to_open=False)
        elif not self._open and self._rest == 0 and speedup >= target:
            self._move(to_open=True)

    def _move(self, *, to_open: bool) -> None:
        self._open = to_open
        logger.info("Gate %s", self.verdict)
        self._moments.reset()
        self._batches = 0
