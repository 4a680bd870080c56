"""What an observation does: to the gate, the history, the predictor, the proposal and the figures about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from approx_is.backlog import Backlog, Lesson
from approx_is.diagnostics import RunningDiagnostics
from approx_is.draw import Ticket
from approx_is.drawer import Drawer
from approx_is.duplicates import average_duplicates
from approx_is.gain import GainRatio, second_moments
from approx_is.gate import AlwaysOpen, Look
from approx_is.learner import Learner
from approx_is.observation import Observation
from approx_is.state import check_at_least, check_like

__all__ = ["Feedback"]


class Feedback:
    """Hands an observation on to all that learn from it, or to as few as the gate looks for.

    The gate is told at once, the others when there are as many batches as they are to learn from together.

    Args:
        drawer: made the draws, and asks the gate.
        learner: remembers and predicts.
        gain: measures what draws gain.
        diagnostics: measure how good they are.
        update_every: batches that are learned from together.
    """

    def __init__(
        self, drawer: Drawer, learner: Learner, gain: GainRatio, diagnostics: RunningDiagnostics, *, update_every: int
    ) -> None:
        self._gate = drawer.gate
        self._proposal = drawer.proposal
        self._learner = learner
        self._gain = gain
        self._diagnostics = diagnostics
        device = learner.history.device
        self._backlog = Backlog(update_every, learner.history.num_samples, device)
        self._not_finite = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def not_finite(self) -> int:
        """Number of observations left out, of those that were looked at so far."""
        return int(self._not_finite)

    def give(self, lesson: Lesson, ticket: Ticket, look: Look, num_draws: int) -> None:
        """Hand on what was observed of a draw, of `num_draws` samples over all ranks."""
        uniform = ticket.place is not None
        if look is not Look.LEARN:
            self._not_finite += lesson.seen.num_left_out
            last = self._remember(lesson) if look is Look.REMEMBER else None
            self._tell_gate(lesson.seen, uniform=uniform, predicted=None, last=last)
            return
        if not isinstance(self._gate, AlwaysOpen):
            predicted = self._would_have_drawn(lesson.seen.indices) if uniform else None
            self._tell_gate(lesson.seen, uniform=uniform, predicted=predicted, last=None)
        first = ticket.place is not None and ticket.place < self._learner.history.num_samples
        if not self._backlog.fits(uniform=uniform, first=first):
            self._learn()
        self._gain.observe(None, num_draws, uniform=uniform)
        self._backlog.add(lesson, uniform=uniform, first=first)
        if self._backlog.is_full:
            self._learn()

    def state_dict(self) -> dict[str, Any]:
        """Return what is yet to be learned from, and what was left out."""
        return {"backlog": self._backlog.state_dict(), "not_finite": self.not_finite}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self._backlog.load_state_dict(state["backlog"])
        self._not_finite.fill_(state["not_finite"])

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "load_state_dict(state)['feedback']"
        check_like(state, self.state_dict(), where, skip=("backlog",))
        check_at_least(state, {"not_finite": 0}, where)
        self._backlog.check_state_dict(state["backlog"])

    def _tell_gate(self, seen: Observation, *, uniform: bool, predicted: Tensor | None, last: Tensor | None) -> None:
        if len(seen):
            self._gate.observe(seen.importance, seen.unbiased, drawn=not uniform, predicted=predicted, last=last)

    def _remember(self, lesson: Lesson) -> Tensor:
        self._learn()
        seen = lesson.seen
        last = self._learner.last(seen.indices)
        if len(seen):
            # of a plain epoch, and so without duplicates
            self._learner.remember(seen.indices, seen.importance, seen.unbiased, lesson.step)
        return last

    def _learn(self) -> None:
        uniform, first = self._backlog.uniform, self._backlog.first
        lessons = [lesson for lesson in self._backlog.lessons if len(lesson.seen)]
        if not lessons:
            self._forget_lessons()
            return
        seen = Observation.joined([lesson.seen for lesson in lessons])
        predicted = self._proposal.importance(seen.indices)
        averaged = average_duplicates(seen.indices, seen.importance)
        self._forget_lessons()  # not before ranks were waited for
        self._learner.learn(lessons, replace(seen, importance=averaged))
        if not uniform:
            moments = second_moments(seen.importance, seen.unbiased, seen.weights)
            self._gain.observe_moments(moments, len(lessons))
        mean = self._diagnostics.update(
            *(seen.weights, seen.unbiased, seen.importance, predicted), uniform=uniform, num_batches=len(lessons)
        )
        if not self._learner.own_scale:
            self._proposal.observe_mean(mean, len(lessons))
        due = self._learner.due(seen.indices, len(lessons), warming_up=first)
        self._proposal.set_importance(due, self._learner.predict(due))

    def _forget_lessons(self) -> None:
        for lesson in self._backlog.take():
            self._not_finite += lesson.seen.num_left_out

    def _would_have_drawn(self, indices: Tensor) -> Tensor:
        """Return what samples would have been drawn in proportion to, float [B]; NaN where nothing was observed."""
        known = self._learner.history.counts(indices) > 0
        return torch.where(known, self._proposal.importance(indices) + self._proposal.constant, torch.nan)
