"""What an observation does: to the gate, the history, the predictor, the proposal and the figures about them."""

from __future__ import annotations

import torch
from torch import Tensor

from approx_is.diagnostics import RunningDiagnostics
from approx_is.draw import Ticket
from approx_is.drawer import Drawer
from approx_is.duplicates import average_duplicates
from approx_is.gain import GainRatio, second_moments
from approx_is.gate import Look
from approx_is.learner import Learner
from approx_is.observation import Observation

__all__ = ["Feedback"]


class Feedback:
    """Hands an observation on to all that learn from it, or to as few as the gate looks for.

    Args:
        drawer: made the draws, and asks the gate.
        learner: remembers and predicts.
        gain: measures what draws gain.
        diagnostics: measure how good they are.
    """

    def __init__(self, drawer: Drawer, learner: Learner, gain: GainRatio, diagnostics: RunningDiagnostics) -> None:
        self._gate = drawer.gate
        self._proposal = drawer.proposal
        self._learner = learner
        self._gain = gain
        self._diagnostics = diagnostics

    def give(self, seen: Observation, ticket: Ticket, look: Look, step: int) -> None:
        """Hand on what was observed of a draw, one sample at least."""
        if look is Look.LEARN:
            self._learn(seen, ticket, step)
            return
        last = self._remember(seen, step) if look is Look.REMEMBER else None
        drawn = ticket.place is None
        self._gate.observe(seen.importance, seen.unbiased, drawn=drawn, predicted=None, last=last)

    def _remember(self, seen: Observation, step: int) -> Tensor:
        last = self._learner.last(seen.indices)
        # of a plain epoch, and so without duplicates
        self._learner.remember(seen.indices, seen.importance, seen.unbiased, step)
        return last

    def _learn(self, seen: Observation, ticket: Ticket, step: int) -> None:
        uniform = ticket.place is not None
        predicted = self._proposal.importance(seen.indices)
        smoothed = self._smoothed(seen.indices, predicted) if uniform else None
        self._gate.observe(seen.importance, seen.unbiased, drawn=not uniform, predicted=smoothed, last=None)
        averaged = average_duplicates(seen.indices, seen.importance)
        self._learner.learn(seen.indices, averaged, seen.unbiased, step, ticket.drawn_at)
        self._gain.observe(second_moments(seen.importance, seen.unbiased, seen.weights), len(seen), uniform=uniform)
        mean = self._diagnostics.update(seen.weights, seen.unbiased, seen.importance, predicted, uniform=uniform)
        if not self._learner.own_scale:
            self._proposal.observe_mean(mean)
        due = self._learner.due(seen.indices, warming_up=self._is_first(ticket))
        self._proposal.set_importance(due, self._learner.predict(due))

    def _smoothed(self, indices: Tensor, importance: Tensor) -> Tensor:
        known = self._learner.history.counts(indices) > 0
        return torch.where(known, importance + self._proposal.constant, torch.nan)

    def _is_first(self, ticket: Ticket) -> bool:
        return ticket.place is not None and ticket.place < self._learner.history.num_samples
