"""Selective-Backprop: run all samples forward, and train on those whose loss is high among recent ones.

Reference: Jiang, Wong, Zhou, Andersen, Dean, Ganger, Joshi, Kaminsky, Kozuch, Lipton, Pillai: Accelerating deep
learning by focusing on the biggest losers. arXiv:1910.00762, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from baselines.checks import check, check_observed, check_sizes
from baselines.plan import EpochPlan

__all__ = ["SelectiveBackprop", "selection_probabilities"]


def selection_probabilities(losses: Tensor, recent: Tensor, beta: float) -> Tensor:
    r"""Return the probability with which each sample is selected, float64 [B].

    .. math:: P(L) = \mathrm{CDF}_R(L)^\beta

    Reference: Jiang et al. (2019), equation 1.

    Args:
        losses: of the candidates, [B].
        recent: the losses [R] whose empirical distribution function, the share that is at most L, is CDF_R.
        beta: exponent; for losses that are all different about 1 / (1 + β) of the samples are selected.
    """
    at_most = torch.searchsorted(recent.sort().values, losses, right=True)
    return (at_most.double() / len(recent)) ** beta


class SelectiveBackprop:
    """Trains on batches of samples that were selected by their losses.

    The candidates are the batches of plain epochs. The network scores each, their losses enter the history, and the
    selected ones wait until they are a full batch (algorithm 1); what is left at the end of an epoch waits on. Those
    trained on run forward once more. Nothing undoes the bias: the weights are 1.

    Their published code differs from the paper: it takes all samples in the first epoch, and counts the lower losses
    only, so that of equal ones it selects none. What is left at the end of an epoch it trains on as a smaller batch.

    Reference: Jiang et al. (2019), algorithms 1 and 2.

    Args:
        num_samples: samples N.
        batch_size: samples a batch, both of candidates and of selected ones.
        score: returns the losses [B] of the samples of these indices, int64 [B], with the network as it is; in their
            code that is in evaluation mode.
        beta: exponent β > 0, the bias to high losses and the selectivity; by default that of their code. The paper
            tunes it, to 1/2 of the samples on CIFAR-100 (β = 1), 1/3 on CIFAR-10 (2), and 1/4 on SVHN (3).
        window: recent losses R that a loss is compared with, its own among them; by default as in their code.
        seed: of the draws.

    Raises:
        ValueError: an argument is out of its bounds.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        score: Callable[[Tensor], Tensor],
        beta: float = 3.0,
        window: int = 1024,
        seed: int = 0,
    ) -> None:
        check_sizes("SelectiveBackprop", num_samples, batch_size)
        check(beta > 0, "SelectiveBackprop(beta=...)", "above 0", beta, "Use 1 to train on about half of the samples.")
        check(window >= 1, "SelectiveBackprop(window=...)", "at least 1", window, "1024 is usual.")
        self._num_samples, self._batch_size = num_samples, batch_size
        self._score, self._beta, self._window = score, beta, window
        self._generator = torch.Generator().manual_seed(seed)
        self._recent = torch.empty(0)
        self._selected = torch.empty(0, dtype=torch.int64)
        self._candidates = EpochPlan(batch_size)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Score all samples once, or what is left of them; iterate over the full batches selected meanwhile."""
        if self._candidates.done:
            self._candidates.begin(torch.randperm(self._num_samples, generator=self._generator))
        for indices, weights in self._candidates.batches():
            self._select(indices)
            if len(self._selected) >= self._batch_size:
                batch = self._selected[: self._batch_size]
                self._selected = self._selected[self._batch_size :]
                yield batch, torch.ones(len(batch), dtype=weights.dtype)

    def observe(self, indices: Tensor, losses: Tensor) -> None:
        """Learn nothing: the history is of the candidates' losses."""
        check_observed("SelectiveBackprop.observe", indices, losses)

    def propensities(self, indices: Tensor, losses: Tensor) -> Tensor:
        """Return with which probability these are selected by their losses, each one's own among the recent ones."""
        check_observed("SelectiveBackprop.propensities", indices, losses)
        if len(self._recent) == 0:
            return torch.ones(len(indices), dtype=torch.float64)
        lowest = len(self._recent) ** -self._beta  # where its own is the only one at most as high
        return selection_probabilities(losses, self._recent, self._beta).clamp_min(lowest)

    def _select(self, indices: Tensor) -> None:
        """Score candidates and let the selected ones wait; a loss that is not finite counts as the highest."""
        losses = self._score(indices).detach().to("cpu", torch.float32).nan_to_num(math.inf, math.inf, math.inf)
        check_observed("SelectiveBackprop(score=...)", indices, losses)
        self._recent = torch.cat([self._recent, losses])[-self._window :]
        probabilities = selection_probabilities(losses, self._recent, self._beta)
        draws = torch.rand(len(indices), dtype=torch.float64, generator=self._generator)
        self._selected = torch.cat([self._selected, indices[draws < probabilities]])

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state."""
        return {
            "candidates": self._candidates.state_dict(),
            "selected": self._selected,
            "recent": self._recent,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._candidates.load_state_dict(state["candidates"])
        self._selected, self._recent = state["selected"], state["recent"]
        self._generator.set_state(state["generator"])
