"""The gate of a predictor: predictions are cheap but may be wrong, so their gain is measured."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.diagnostics import increment_of_moments
from approx_is.gate import SETTLE_STEPS, Look, VarianceGate
from approx_is.moving_average import MovingAverage
from approx_is.state import check_at_least, check_like
from approx_is.step_clock import StepClock
from approx_is.time_credit import TimeCredit
from approx_is.trials import Trials
from approx_is.variance_evidence import VarianceEvidence

__all__ = ["PredictorGate"]

logger = logging.getLogger(__name__)

GLANCE_EVERY = 32
"""Steps between two looks at what is observed while it would not pay, and between two that are left out of learning;
they show what a step takes without."""

IDEAL_RATE = 0.1
"""Of the moving average that says what ideal draws would gain: few looks must do."""

SETTLED_STEPS, SETTLED_FACTOR, SHORT_STEP = 256, 8, 5e-3
"""Steps from which on both are so many times as long, if a plain step takes no more than so many seconds: a look takes
about as long whatever the step, and is to be felt by none."""

TRUST = 0.25
"""Of the time that the foretold speed-up would have saved so far a trial may take so much: the longer a training goes
on, the longer it can be expected to go on, and a dear trial early in a short one is not won back."""

PARTS = ("ideal", "predicted", "remembered", "clock", "trials", "credit")
"""That have states of their own."""

REMEASURE_EVERY = 16 * SETTLED_FACTOR * GLANCE_EVERY
"""Steps after which a closed gate measures anew what learning takes: the machine may have been busy."""


class PredictorGate:
    """Compares the measured variance ratio with the measured cost in time, see `VarianceGate`.

    While it is closed, it goes only as far as what it has found so far promises, and naps where it is sure that there
    is nothing to do for some steps:

    - Asleep: a look now and then says what ideal draws would gain.
    - If that would pay, the predictor learns as far as the budget goes. Each step adds the budget to a credit, and one
      that learns takes from it the time by which it is longer.
    - A predictor that takes more than the budget waits until the history alone, which takes a fraction of the time,
      shows that the last observations foretell the next well enough to win back what a trial takes, or until there is
      credit enough. Then it has a trial, see `Trials`.

    Args:
        options: margin, relative cost, budget and rate are used.
        epoch_steps: batches an epoch.
        update_every: steps that are learned from together, at one of them.
        now: returns the time in seconds; None for the clock's.
    """

    def __init__(
        self,
        options: VarianceGate,
        *,
        epoch_steps: float,
        update_every: int = 1,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._options = options
        self._ideal = MovingAverage(IDEAL_RATE, 2)  # means of v² and v over the data set
        self._predicted = VarianceEvidence(options.rate)  # of draws by prediction
        self._remembered = VarianceEvidence(options.rate)  # of draws by the last observation
        self._clock = StepClock(
            ("plain", "remembering", "learning", "drawn"),
            spans={"learning": update_every, "drawn": update_every},
            now=now,
        )
        self._open = False
        self._steps = 0
        self._trials = Trials(epoch_steps)
        self._credit = TimeCredit(options.budget, epoch_steps=epoch_steps)
        self._would_pay = False  # whether ideal draws would
        self._nap = self._left = 0  # plain steps that nothing is looked at in, and how many of them are to come

    @property
    def is_open(self) -> bool:
        """Whether samples are to be drawn by prediction."""
        return self._open

    @property
    def times_plain_steps(self) -> bool:
        """Whether a draw now and then is to be a plain one although the gate is open."""
        return self._is_timed

    @property
    def tau(self) -> float:
        r""":math:`\tau`; its square is what ideal draws would gain."""
        return increment_of_moments(*self._ideal.value.tolist())

    @property
    def variance_ratio(self) -> float:
        r""":math:`\rho`; NaN while too few batches were measured."""
        return self._predicted.ratio

    @property
    def relative_cost(self) -> float:
        """A step's time with the predictor over one without, at least 1; NaN while it is not known."""
        if self._options.relative_cost is not None:
            return self._options.relative_cost
        kind = "drawn" if self._clock.is_known("drawn") else "learning"
        ratio = self._clock.believed_ratio(kind, "plain")
        return ratio if math.isnan(ratio) else max(1.0, ratio)

    def look(self, *, drawn: bool) -> Look:
        """Return how much the next update does."""
        return Look.LEARN if drawn else self._look_at_plain()

    def begin_update(self, look: Look) -> None:
        """Measure a plain step without what it is observed with: most of them are not observed."""
        if look is Look.GLANCE and self._is_timed:
            self._clock.stop()

    def observe(
        self, observed: Tensor, unbiased: Tensor, *, drawn: bool, predicted: Tensor | None, last: Tensor | None
    ) -> None:
        """Take in a batch, see `Gate.observe`; one drawn before the gate last moved tells of ideal draws only."""
        importance, unbiased = observed.double(), unbiased.double()
        weighted = unbiased * importance
        self._ideal.update(torch.stack([(weighted * importance).mean(), weighted.mean()]).cpu())
        if drawn != self._open:
            return
        if drawn:
            self._predicted.observe_drawn(importance, unbiased)
        elif predicted is not None:
            self._predicted.observe_uniform(importance, predicted.double())
        elif last is not None:
            last = last.double()
            self._remembered.observe_uniform(importance, last + 0.5 * last.nanmean())

    def observe_scores(self, scores: Tensor) -> None:
        """Take no notice: a predictor scores nothing."""

    def end_step(self, look: Look, *, drawn: bool) -> None:
        """Measure the step's time, charge it, and decide anew if there was anything to learn from it."""
        if self._left > 1 and look is Look.AWAY:
            self._left -= 1
            return
        self._wake()
        kinds = {Look.LEARN: "learning", Look.REMEMBER: "remembering"}
        kind = "drawn" if drawn else kinds.get(look, "plain")
        is_late = drawn and not self._open  # it learns whatever that takes, which is no news once the gate is closed
        if self._is_timed:
            self._clock.tick(kind, waited=look is not Look.AWAY and not is_late)
        self._steps += 1
        self._trials.rest_for(1)
        self._charge(kind)
        if self._steps % REMEASURE_EVERY == 0 and not (self._open or self._is_on_trial):
            self._clock.forget("learning")
        if look is not Look.AWAY:
            self._decide()
        if kind == "learning" and self._trials.is_running:
            self._trials.learn()
            if self._trials.is_half_an_epoch_old:  # by now everyone has been predicted
                self._predicted.reset()
            elif not self._trials.is_running:
                self._end_trial()
        self._nap = self._left = self._sure_to_look_away()
        if self._is_timed and (look is Look.AWAY or is_late) and self._look_at_plain() is not Look.AWAY:
            self._clock.start()

    @property
    def verdict(self) -> str:
        """Whether the gate is open, with what the draws gain and what they cost in time."""
        cost = "an unknown time" if math.isnan(self.relative_cost) else f"{self.relative_cost:.3f} times as long"
        gains = {"by prediction": self.variance_ratio, "by the last observation": self._remembered.ratio}
        known = [f"{how} {gain:.2f} times" for how, gain in gains.items() if not math.isnan(gain)]
        gain = ", ".join([*known, f"ideally {self.tau**2:.2f} times"])
        if self._open:
            return f"open: draws reduce the second moment {gain}; a step takes {cost}"
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
            "gate_learning": float(self.look(drawn=self._open) is Look.LEARN),
            "gate_tau": self.tau,
            "gate_variance_ratio": self.variance_ratio,
            "gate_step_time_ratio": self.relative_cost,
            "gate_speedup": self.variance_ratio / self.relative_cost,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return averages, counters and measured times."""
        self._wake()
        return {
            "ideal": self._ideal.state_dict(),
            "predicted": self._predicted.state_dict(),
            "remembered": self._remembered.state_dict(),
            "clock": self._clock.state_dict(),
            "open": self._open,
            "steps": self._steps,
            "trials": self._trials.state_dict(),
            "credit": self._credit.state_dict(),
            "would_pay": self._would_pay,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        for name in PARTS:
            getattr(self, f"_{name}").load_state_dict(state[name])
        for name in ("open", "steps", "would_pay"):
            setattr(self, f"_{name}", state[name])
        self._nap = self._left = 0

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "load_state_dict(state)['gate']"
        check_like(state, self.state_dict(), where, skip=("clock",))
        check_at_least(state, {"steps": 0}, where)
        for name in PARTS:
            getattr(self, f"_{name}").check_state_dict(state[name])

    def _look_at_plain(self) -> Look:
        if self._left > 0:
            return Look.AWAY
        if self._options.relative_cost == 1:  # there is nothing to save
            return Look.LEARN
        is_due = self._steps % (GLANCE_EVERY * self._patience) == 0
        if self._open or (self._is_timed and (is_due or self._steps < SETTLE_STEPS)):
            return Look.GLANCE
        if self._is_on_trial:
            return Look.LEARN
        if self._would_pay and self._credit.value >= 0:
            return Look.REMEMBER if self._is_dear else Look.LEARN
        return Look.GLANCE if is_due else Look.AWAY

    @property
    def _is_timed(self) -> bool:
        return self._options.relative_cost is None

    @property
    def _is_on_trial(self) -> bool:
        return self._would_pay and self._trials.is_running

    @property
    def _patience(self) -> int:
        is_settled = self._steps >= SETTLED_STEPS and self._clock.median("plain") <= SHORT_STEP  # not if unknown
        return SETTLED_FACTOR if is_settled else 1

    @property
    def _is_dear(self) -> bool:
        return self.relative_cost > 1 + self._options.budget  # not while it is unknown

    def _sure_to_look_away(self) -> int:
        """Return how many plain steps from now on `look` will find nothing to do in, or fewer."""
        if self._open or self._options.relative_cost == 1 or self._is_on_trial or self._steps < SETTLE_STEPS:
            return 0
        steps = -self._steps % (GLANCE_EVERY * self._patience)  # to the next that is looked at whatever is known
        return self._credit.steps_below(0.0, steps) if self._would_pay else steps

    def _wake(self) -> None:
        """Make up for the steps of a nap that went by."""
        steps = self._nap - self._left
        self._nap = self._left = 0
        if steps == 0:
            return
        self._clock.tick("plain", waited=False)
        self._steps += steps
        self._trials.rest_for(steps)
        self._credit.earn(steps)

    def _charge(self, kind: str) -> None:
        self._credit.earn()
        if self._options.relative_cost is not None:
            if kind == "learning":
                self._credit.spend_learning(self._options.relative_cost - 1)
        elif kind == "learning":
            self._credit.spend_learning(_surcharge(self._clock.ratio(kind, "plain")))
        elif kind == "remembering":
            ratio = min(self._clock.ratio(kind, "plain"), self._clock.ratio("learning", "plain"))  # is part of it
            self._credit.spend(0.0 if math.isnan(ratio) else _surcharge(ratio))

    def _decide(self) -> None:
        cost, target = self.relative_cost, 1 + self._options.margin
        self._would_pay = self.tau**2 >= target * (1.0 if math.isnan(cost) else cost)
        if self._open:
            if self.variance_ratio / cost < 1:
                self._trials.rest_again()
                self._clock.forget("drawn")  # when it opens again, it is to be measured anew
                self._move(to_open=False)
        elif not self._trials.is_resting and self.variance_ratio / cost >= target:
            self._trials.stop()
            self._move(to_open=True)
        elif self._trials.is_running:
            if self._trials.is_nearly_over and self.variance_ratio < 1:
                self._end_trial()
        elif not self._trials.is_resting and self._is_dear and self._deserves_trial(cost):
            self._trials.begin()
            self._predicted.reset()

    def _deserves_trial(self, cost: float) -> bool:
        surcharge = self._trials.length * (cost - 1)
        speedup = self._remembered.ratio / cost
        is_foretold = speedup >= 1 + self._options.margin
        saved = self._steps * (1 - 1 / speedup) if is_foretold else 0.0
        return surcharge <= max(TRUST * saved, self._credit.value)

    def _end_trial(self) -> None:
        self._trials.stop()
        self._remembered.reset()  # the next one is to have evidence of its own
        surcharge = self._trials.length * (self.relative_cost - 1)
        is_charged = self._options.budget > 0 and surcharge > 0  # not NaN
        self._trials.rest_again(at_least=surcharge / self._options.budget if is_charged else 0.0)

    def _move(self, *, to_open: bool) -> None:
        self._open = to_open
        logger.info("Gate %s", self.verdict)
        self._predicted.reset()
        self._remembered.reset()


def _surcharge(ratio: float) -> float:
    return ratio if math.isnan(ratio) else max(0.0, ratio - 1)
