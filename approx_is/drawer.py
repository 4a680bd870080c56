"""Makes draws: plain epochs at first and while the gate is closed, else by importance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.draw import Draw, Ticket, uniform_draw
from approx_is.gate import PLAIN_DRAW_EVERY, Gate
from approx_is.proposal import Proposal
from approx_is.protocols import ScoringPredictor
from approx_is.ranks import share_of
from approx_is.state import check_like
from approx_is.stretch import Stretch
from approx_is.uniform_epochs import UniformEpochs
from approx_is.weighting import importance_weights

__all__ = ["Drawer"]


class Drawer:
    """Decides what the next draw is from, makes it, and weighs it.

    Args:
        num_samples: N.
        epochs: the plain ones.
        proposal: what is drawn from by importance.
        gate: says when.
        exponent: gives k of the step.
        scorer: a predictor that scores candidates rather than predicting; None for others.
        candidates: samples that each batch is drawn from; None for all.
        num_ranks: how many share the draws.
    """

    def __init__(
        self,
        num_samples: int,
        epochs: UniformEpochs,
        proposal: Proposal,
        gate: Gate,
        *,
        exponent: Callable[[int], float],
        scorer: ScoringPredictor | None,
        candidates: int | None,
        num_ranks: int = 1,
    ) -> None:
        self.epochs = epochs
        self.proposal = proposal
        self.gate = gate
        self._num_samples = num_samples
        self._exponent = exponent
        self._scorer = scorer
        self._candidates = candidates
        self._num_ranks = num_ranks
        self._owner = object()
        self._plain_at = 0  # updates when a plain draw was last made

    @property
    def owner(self) -> object:
        """What the tickets of these draws name."""
        return self._owner

    def is_by_importance(self, step: int) -> bool:
        """Return whether the next draw is by importance."""
        if not self.gate.is_open or (self.gate.times_plain_steps and step - self._plain_at >= PLAIN_DRAW_EVERY):
            return False
        return self._scorer is not None or self.epochs.first_is_over

    def request(self, batch_size: int, step: int) -> Draw:
        """Return a batch, or candidates to `choose` it from.

        Args:
            batch_size: draws of each rank.
            step: updates so far.
        """
        together = self._num_ranks * batch_size
        if not self.is_by_importance(step):
            self._plain_at = step
            indices, place = self.epochs.take(together)
            return self._uniform(indices, Ticket(self._owner, place=place, drawn_at=step))
        k = self._exponent(step)  # it may refuse, and so comes first
        if self._scorer is not None:
            size, choose = (self._num_ranks * each for each in self._scorer.sizes(batch_size, self.gate.tau))
        elif self._candidates is not None:
            size, choose = self._candidates, together
        else:
            return self._weighed(*self.proposal.draw(together), k, Ticket(self._owner, drawn_at=step))
        candidates = self.proposal.draw_candidates(size)
        return self._uniform(candidates, Ticket(self._owner, drawn_at=step, choose=choose))

    def choose(self, candidates: Draw, importance: Tensor) -> tuple[Draw, Tensor]:
        """Return what is chosen from candidates of that importance, float [S], and its positions among them.

        Ranks that score their candidates have nobody else's data, and so each chooses its part from its own.
        """
        ticket = candidates._ticket
        assert ticket is not None
        k = self._exponent(ticket.drawn_at)
        if self._scorer is not None:
            self.gate.observe_scores(importance)
        num_ranks = 1 if self._scorer is None else self._num_ranks
        parts = [self._choose_part(ticket.choose, importance, num_ranks, rank) for rank in range(num_ranks)]
        positions, probabilities = (torch.cat(values) for values in zip(*parts, strict=True))
        chosen = Ticket(self._owner, drawn_at=ticket.drawn_at)
        return self._weighed(candidates.indices[positions], probabilities, k, chosen), positions

    def take_back(self, draws: list[Draw]) -> None:
        """Forget draws that were not trained on: their samples of a plain epoch come again."""
        places = [draw._ticket.place for draw in draws if draw._ticket is not None and draw._ticket.place is not None]
        if places:
            self.epochs.rewind(min(places))

    def probabilities(self, indices: Tensor | None, step: int) -> Tensor:
        """Return the probability of samples, int64 [B] or None for all, in the next draw: float64 [B] or [N]."""
        if self.is_by_importance(step):
            return self.proposal.probabilities(indices)
        size = self._num_samples if indices is None else len(indices)
        return torch.full((size,), 1 / self._num_samples, dtype=torch.float64, device=self.proposal.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parts, tensors not copied."""
        return {
            "epochs": self.epochs.state_dict(),
            "proposal": self.proposal.state_dict(),
            "gate": self.gate.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self.epochs.load_state_dict(state["epochs"])
        self.proposal.load_state_dict(state["proposal"])
        self.gate.load_state_dict(state["gate"])

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        check_like(state, self.state_dict(), "load_state_dict(state)['drawer']", skip=("epochs", "proposal", "gate"))
        self.epochs.check_state_dict(state["epochs"])
        self.proposal.check_state_dict(state["proposal"])
        self.gate.check_state_dict(state["gate"])

    def _choose_part(self, choose: int, importance: Tensor, num_ranks: int, rank: int) -> tuple[Tensor, Tensor]:
        share = share_of(len(importance), num_ranks, rank)
        own = importance[share.start : share.start + share.length]
        positions, probabilities = self.proposal.choose(share_of(choose, num_ranks, rank).length, own)
        return positions + share.start, probabilities

    def _uniform(self, indices: Tensor | Stretch, ticket: Ticket) -> Draw:
        return uniform_draw(indices, self._num_samples, ticket, self.proposal.device)

    def _weighed(self, indices: Tensor, probabilities: Tensor, k: float, ticket: Ticket) -> Draw:
        weights = importance_weights(probabilities, self._num_samples, k)
        return Draw(indices, probabilities, weights, ticket)
