"""When importance sampling is worth it: what the user chooses, and what a sampler asks of a gate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from torch import Tensor

from approx_is.checks import check_number
from approx_is.state import check_like

__all__ = ["PLAIN_DRAW_EVERY", "SETTLE_STEPS", "AlwaysOpen", "Gate", "Look", "VarianceGate"]

SETTLE_STEPS = 16
"""First steps, all plain and looked at, where times are measured: they show what a step takes without."""

PLAIN_DRAW_EVERY = 64
"""Steps between two plain ones while a gate that measures times is open."""


@dataclass(frozen=True, kw_only=True)
class VarianceGate:
    r"""Draws by importance while that pays for its time, and in plain uniform epochs while it does not.

    For a predictor the gate is open while

    .. math:: \rho > \frac{\text{time of a step with importance sampling}}{\text{time of a step without}}, \quad
        \rho = \frac{\overline{w v^2}}{\overline{w^2 v^2}}

    where v is the observed importance and :math:`w = 1/(Np)`: the second moment of uniform draws over that of draws by
    prediction. Both sides are measured. While it is closed, :math:`\rho` is measured with the probabilities that would
    have been used; samples that are not yet in the history do not count. A step without is what is left of a plain one
    where nothing is observed. While the gate is open, one step in 64 is a plain one, for its time.

    A closed gate saves what the predictor costs as well. It leaves observations unread, but for one step in 32, later
    in 256 if they are short, while even ideal draws (:math:`\rho = \tau^2`) would not pay. When they would, the
    predictor learns from as many uniform steps as `budget` allows. One that takes more than that is first stood in for
    by the last observations: if the speedup that they foretell would by now have saved four times what a trial takes,
    or the budget has saved that up, it learns from all steps of an epoch, on trial. A trial that fails is followed by
    no other until the budget has earned what it took.

    For presampling the gate is that of the paper: open while :math:`\tau`, a moving average that starts at 0, exceeds
    a threshold. While the gate is closed it is computed from what steps observe, without a forward pass.

    Times are those of the clock: two runs of one seed may open their gates at different steps. Give `relative_cost`, or
    for presampling `threshold`, for runs that repeat to the bit.

    Reference:
        Katharopoulos & Fleuret (2018), §3.3 and algorithm 1.

    Args:
        threshold: of :math:`\tau` for presampling; None for (B + 3b) / 3b, or the measured ratio of step times if that
            is larger. Not used for predictors.
        decay: :math:`a_\tau`, of that moving average, in [0, 1).
        margin: a predictor's gate opens at a speedup of 1 + margin and closes below 1, ≥ 0; `math.inf` keeps it closed.
        relative_cost: a predictor's step over a uniform one in time, ≥ 1; None measures it.
        budget: share of the training time that a predictor may take while its gate is closed and there is no evidence
            yet that it will pay, ≥ 0. That of one epoch is advanced, but no less than the time of 2 steps, and no more
            than that of 5.
        rate: of a predictor's moving averages, in (0, 1].

    Raises:
        ValueError: an argument is out of bounds.
    """

    threshold: float | None = None
    decay: float = 0.9
    margin: float = 0.1
    relative_cost: float | None = None
    budget: float = 0.01
    rate: float = 0.02

    def __post_init__(self) -> None:
        """Check the bounds."""
        for name in ("threshold", "decay", "margin", "relative_cost", "budget", "rate"):
            value = getattr(self, name)
            if value is not None and math.isnan(check_number(value, f"VarianceGate({name}=...)")):
                raise ValueError(f"`VarianceGate({name}=...)` must be a number; got {value}.")
        for name, least in (("threshold", 0), ("margin", 0), ("relative_cost", 1), ("budget", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`VarianceGate({name}=...)` must be at least {least}; got {value}.")
        if not 0 <= self.decay < 1:
            raise ValueError(f"`VarianceGate(decay=...)` must be in [0, 1); got {self.decay}.")
        if not 0 < self.rate <= 1:
            raise ValueError(f"`VarianceGate(rate=...)` must be in (0, 1]; got {self.rate}.")


class Look(IntEnum):
    """What an update does with what was observed."""

    AWAY = 0
    """Nothing: it is not even read."""

    GLANCE = 1
    """Tells the gate."""

    REMEMBER = 2
    """Tells the gate, and the history."""

    LEARN = 3
    """Tells the gate, and remembers, learns and predicts anew."""


class Gate(Protocol):
    """Decides, from what is observed, whether samples are drawn by importance."""

    @property
    def is_open(self) -> bool:
        """Whether draws are by importance."""
        ...

    @property
    def times_plain_steps(self) -> bool:
        """Whether a draw now and then is to be a plain one all the same, for the time it takes."""
        ...

    @property
    def tau(self) -> float:
        r""":math:`\tau` as the gate has it."""
        ...

    def look(self, *, drawn: bool) -> Look:
        """Return what the next update is to do.

        Args:
            drawn: whether its batch was drawn by importance.
        """
        ...

    def begin_update(self, look: Look) -> None:
        """Say that the training step is over, and that what follows is the sampler's."""
        ...

    def observe(
        self, observed: Tensor, unbiased: Tensor, *, drawn: bool, predicted: Tensor | None, last: Tensor | None
    ) -> None:
        r"""Take in a batch.

        Args:
            observed: importance v, float32 [B], finite and ≥ 0.
            unbiased: :math:`w = 1/(Np)` as it was drawn, float64 [B].
            drawn: whether it was drawn by importance.
            predicted: what a uniform batch's samples would have been drawn in proportion to, float [B], NaN for those
                that the history does not know; None if nothing was predicted.
            last: their last observations, float [B], NaN where there is none; None if they were not looked up.
        """
        ...

    def observe_scores(self, scores: Tensor) -> None:
        """Take in the scores of candidates drawn uniformly, float32 [B], finite and ≥ 0."""
        ...

    def end_step(self, look: Look, *, drawn: bool) -> None:
        """Say that the update is done, and how."""
        ...

    @property
    def verdict(self) -> str:
        """Whether the gate is open, and why, in words and numbers."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return the figures of the verdict."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
        ...

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        ...


class AlwaysOpen:
    """No gate: every draw is by importance, and every observation is learned from."""

    is_open = True
    times_plain_steps = False
    tau = 1.0
    verdict = "open: there is no gate"

    def look(self, *, drawn: bool) -> Look:
        """Learn from all."""
        return Look.LEARN

    def begin_update(self, look: Look) -> None:
        """Take no notice."""

    def observe(
        self, observed: Tensor, unbiased: Tensor, *, drawn: bool, predicted: Tensor | None, last: Tensor | None
    ) -> None:
        """Take no notice."""

    def observe_scores(self, scores: Tensor) -> None:
        """Take no notice."""

    def end_step(self, look: Look, *, drawn: bool) -> None:
        """Take no notice."""

    def metrics(self) -> dict[str, float]:
        """Return nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Accept an empty state only."""
        self.check_state_dict(state)

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless the state is empty."""
        check_like(state, {}, "load_state_dict(state)['gate']")
