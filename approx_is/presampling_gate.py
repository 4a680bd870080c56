"""The gate of presampling: scores are exact but cost a forward pass, so they must promise enough."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from approx_is.diagnostics import batch_increment
from approx_is.gate import SETTLE_STEPS, Look, VarianceGate
from approx_is.state import check_at_least, check_like
from approx_is.step_clock import StepClock

__all__ = ["PresamplingGate"]

logger = logging.getLogger(__name__)

GLANCE_EVERY = 8
"""Steps between two looks while the gate is closed; each is at two steps, so that the second can be timed."""

MEASURED_FOR = 4_096
"""Closed steps after which the time that presampling took is measured anew: the machine may have been busy then."""


class PresamplingGate:
    r"""Is open while the moving average of :math:`\tau` exceeds a threshold.

    .. math:: \tau \leftarrow a_\tau \tau + (1 - a_\tau) \tau_t, \quad \tau_0 = 0

    where :math:`\tau_t` is that of the candidates' scores or, while the gate is closed, of what the uniform batch was
    observed to be, which is why that should be of the same kind. Unless a threshold or cost is given, a closed gate
    takes in two steps of eight.

    Reference:
        Katharopoulos & Fleuret (2018), algorithm 1, line 15.

    Args:
        options: threshold, decay and relative cost are used.
        least_threshold: the threshold, if the options have none, and if steps do not turn out to cost more.
        update_every: drawn steps that are learned from together, at one of them.
        now: returns the time in seconds; None for the clock's.
    """

    def __init__(
        self,
        options: VarianceGate,
        *,
        least_threshold: float,
        update_every: int = 1,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._options = options
        self._least_threshold = least_threshold
        self._average = 0.0
        self._clock = StepClock(("uniform", "drawn"), spans={"drawn": update_every}, now=now)
        self._was_open = False
        self._closed_steps = 0
        self._steps = 0

    @property
    def threshold(self) -> float:
        """The threshold in use."""
        if self._options.threshold is not None:
            return self._options.threshold
        return max(self._least_threshold, self._relative_cost)

    @property
    def is_open(self) -> bool:
        """Whether candidates are to be scored."""
        return self._average > self.threshold and (not self._is_timed or self._clock.is_known("uniform"))

    @property
    def times_plain_steps(self) -> bool:
        """Whether a draw now and then is to be a plain one although the gate is open."""
        return self._is_timed

    @property
    def tau(self) -> float:
        r"""The moving average of :math:`\tau`, at least 1."""
        return max(1.0, self._average)

    def look(self, *, drawn: bool) -> Look:
        r"""Return that uniform batches are only asked for :math:`\tau`: all of them where a threshold is given."""
        if drawn:
            return Look.LEARN
        if not self._is_timed or self._steps < SETTLE_STEPS or self._was_open:
            return Look.GLANCE
        return Look.GLANCE if self._steps % GLANCE_EVERY < 2 else Look.AWAY

    def begin_update(self, look: Look) -> None:
        """Measure a uniform step without what it is observed with."""
        if look is Look.GLANCE and self._is_timed:
            self._clock.stop()

    def observe(
        self, observed: Tensor, unbiased: Tensor, *, drawn: bool, predicted: Tensor | None, last: Tensor | None
    ) -> None:
        r"""Take in :math:`\tau` of a uniform batch; a drawn one's candidates were scored before."""
        if not drawn:
            self.observe_scores(observed)

    def observe_scores(self, scores: Tensor) -> None:
        """Take in the scores of candidates drawn uniformly, float32 [B]."""
        decay = self._options.decay
        self._average = decay * self._average + (1 - decay) * batch_increment(scores)
        if self.is_open != self._was_open:
            self._was_open = self.is_open
            logger.info("Gate %s", self.verdict)

    def end_step(self, look: Look, *, drawn: bool) -> None:
        """Measure the time that the step took, unless it is of no consequence."""
        self._steps += 1
        if self._is_timed:
            self._clock.tick("drawn" if drawn else "uniform", waited=look is not Look.AWAY)
        self._closed_steps = 0 if drawn else self._closed_steps + 1
        if self._closed_steps == MEASURED_FOR:
            self._clock.forget("drawn")

    @property
    def verdict(self) -> str:
        r"""Whether the gate is open, with :math:`\tau` and its threshold."""
        above, state = (">", "open") if self.is_open else ("≤", "closed")
        return f"{state}: τ = {self._average:.2f} {above} {self.threshold:.2f}"

    def metrics(self) -> dict[str, float]:
        """Return `gate_open` (1 or 0), `gate_tau`, `gate_threshold` and `gate_step_time_ratio` (NaN if not known)."""
        return {
            "gate_open": float(self.is_open),
            "gate_tau": self._average,
            "gate_threshold": self.threshold,
            "gate_step_time_ratio": self._clock.ratio("drawn", "uniform"),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the measured times."""
        return {
            "average": self._average,
            "closed_steps": self._closed_steps,
            "steps": self._steps,
            "clock": self._clock.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self._average = state["average"]
        self._closed_steps, self._steps = state["closed_steps"], state["steps"]
        self._clock.load_state_dict(state["clock"])
        self._was_open = self.is_open

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "load_state_dict(state)['gate']"
        check_like(state, self.state_dict(), where, skip=("clock",))
        check_at_least(state, {"average": 0, "closed_steps": 0, "steps": 0}, where)
        self._clock.check_state_dict(state["clock"])

    @property
    def _is_timed(self) -> bool:
        return self._options.threshold is None and self._options.relative_cost is None

    @property
    def _relative_cost(self) -> float:
        if self._options.relative_cost is not None:
            return self._options.relative_cost
        ratio = self._clock.believed_ratio("drawn", "uniform")
        return 1.0 if math.isnan(ratio) else ratio
