"""A sample matters by how many others are harder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.checks import check_number, check_positive
from approx_is.history import LossHistory
from approx_is.state import check_at_least, check_like

__all__ = ["RankPredictor", "descending_ranks", "mean_rank_score", "rank_scores"]

CHUNK = 2**20
"""Samples handled at a time, so that int64 and float64 copies stay small however many samples there are."""


class RankPredictor:
    r"""Sorts all samples by their latest observation, and predicts by rank alone.

    .. math:: v_i = s^{-r_i / N}

    with :math:`r_i` = 0 for the highest observation and N − 1 for the lowest. The selection pressure :math:`s` is the
    ratio of the largest to the smallest probability, up to the last of N steps. So how much is drawn by importance is
    chosen, not observed: an outlier is drawn no more than the hardest sample of any other run, and small differences
    between losses count as much as large ones.

    Sorting costs :math:`O(N \log N)`, once an epoch unless `every` says otherwise. In between predictions stay as they
    are, though losses change. Samples of equal observation are ranked in the order of their indices; those that were
    never observed stand where the mean of the others would. Before the first ranking all have the mean score.

    The paper weighs no loss: that is `k=0` of the sampler. The draws are then of more hard samples than the data has,
    and the gradient is that of another objective, until the pressure has come down to 1. With `k=1` it stays unbiased.

    Reference:
        Loshchilov & Hutter (2015), *Online Batch Selection for Faster Training of Neural Networks*.

    Args:
        history: of the sampler.
        labels: not used.
        num_classes: not used.
        generator: not used.
        pressure: :math:`s`, a finite number ≥ 1 (1 is uniform), or a function of the training step that returns one.
            It is asked for at each ranking, and at step 0. `GeometricAnnealing(100, 1, steps)` is the paper's.
        every: updates between two rankings, at least 1; None for an epoch: once N observations were made since the
            last.

    Raises:
        TypeError: `pressure` is or returns no number, or `every` is no integer.
        ValueError: an option is out of bounds.
    """

    judges_unseen = True
    own_scale = True
    smoothing_fraction = 0.0

    def __init__(
        self,
        history: LossHistory,
        labels: Tensor | None,
        num_classes: int,
        generator: torch.Generator,
        *,
        pressure: float | Callable[[int], float] = 100.0,
        every: int | None = None,
    ) -> None:
        self._every = None if every is None else check_positive(every, "RankPredictor(every=...)")
        self._history = history
        self._schedule = pressure
        self._pressure = self._pressure_at(0)
        self._ranks = torch.zeros(history.num_samples, dtype=torch.int32, device=history.device)
        self._rankings = 0
        self._updates = self._observations = 0  # since the last ranking

    @property
    def revision(self) -> int:
        """Number of rankings so far: after each, every sample's prediction is another."""
        return self._rankings

    def predict(self, indices: Tensor) -> Tensor:
        """Return the score of each sample's rank, float32 [B], in [1/s, 1]."""
        if self._rankings == 0:
            return torch.full(indices.shape, mean_rank_score(self._pressure), device=self._history.device)
        return rank_scores(self._ranks[indices], self._history.num_samples, self._pressure)

    def update(self, indices: Tensor, observed: Tensor, step: int) -> None:
        """Rank all samples by what the history holds, if it is time; take no notice of `observed`, which follows.

        Raises:
            TypeError: the pressure at this step is no number.
            ValueError: it is not finite, or below 1.
        """
        if self._is_due():
            self._rank(step)
        self._updates += 1
        self._observations += len(indices)

    def state_dict(self) -> dict[str, Any]:
        """Return the ranks (not copied), the pressure they are used with, and when they were made."""
        return {
            "ranks": self._ranks,
            "pressure": self._pressure,
            "rankings": self._rankings,
            "updates": self._updates,
            "observations": self._observations,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        where = "RankPredictor.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        check_at_least(state, {"ranks": 0, "pressure": 1, "rankings": 0, "updates": 0, "observations": 0}, where)
        highest = int(state["ranks"].max())
        if highest >= len(self._ranks):
            raise ValueError(
                f"`{where}['ranks']` must be below {len(self._ranks)}; got {highest}. The state is damaged."
            )
        self._ranks.copy_(state["ranks"])
        self._pressure = state["pressure"]
        self._rankings = state["rankings"]
        self._updates, self._observations = state["updates"], state["observations"]

    def _is_due(self) -> bool:
        if self._every is None:
            return self._observations >= self._history.num_samples
        return self._updates >= self._every

    def _rank(self, step: int) -> None:
        pressure = self._pressure_at(step)  # may raise, and so comes first
        self._ranks = descending_ranks(_latest_observations(self._history))
        self._pressure = pressure
        self._rankings += 1
        self._updates = self._observations = 0

    def _pressure_at(self, step: int) -> float:
        is_function = callable(self._schedule)
        argument = "RankPredictor(pressure=...)" + (f"({step})" if is_function else "")
        pressure = check_number(self._schedule(step) if callable(self._schedule) else self._schedule, argument)
        if not (math.isfinite(pressure) and pressure >= 1):
            raise ValueError(f"`{argument}` must be finite and at least 1; got {pressure}. Use 1 for uniform draws.")
        return pressure


def descending_ranks(values: Tensor) -> Tensor:
    """Return the rank of each value, 0 for the highest, those of equal values in the order of their indices.

    Takes some 20 bytes a value while it sorts, and 0.2 s a million.

    Args:
        values: float [N].

    Returns:
        Ranks, int32 [N], a permutation of 0 … N − 1.

    Example:
        >>> descending_ranks(torch.tensor([1.0, 3.0, 1.0, 7.0]))
        tensor([2, 1, 3, 0], dtype=torch.int32)
    """
    order = values.sort(descending=True, stable=True).indices
    ranks = torch.empty(len(values), dtype=torch.int32, device=values.device)
    for start in range(0, len(values), CHUNK):
        those = order[start : start + CHUNK]
        ranks[those] = torch.arange(start, start + len(those), dtype=torch.int32, device=values.device)
    return ranks


def rank_scores(ranks: Tensor, num_samples: int, pressure: float) -> Tensor:
    r"""Return the score of ranks, :math:`s^{-r/N}`.

    Args:
        ranks: :math:`r`, 0 the highest, integer [B].
        num_samples: N.
        pressure: :math:`s`, finite, ≥ 1.

    Returns:
        Scores, float32 [B], in [1/s, 1].

    Example:
        >>> rank_scores(torch.tensor([0, 1, 2]), 4, 16.0)
        tensor([1.0000, 0.5000, 0.2500])
    """
    return (ranks.double() * (-math.log(pressure) / num_samples)).exp().float()


def mean_rank_score(pressure: float) -> float:
    r"""Return the mean score over many samples, :math:`\int_0^1 s^{-x} \, dx = (1 - 1/s) / \ln s`; 1 for s = 1.

    Example:
        >>> round(mean_rank_score(100.0), 6)
        0.214976
    """
    log_pressure = math.log(pressure)
    return -math.expm1(-log_pressure) / log_pressure if log_pressure > 0 else 1.0


def _latest_observations(history: LossHistory) -> Tensor:
    """Return the latest observation of all samples, float32 [N]; their mean where there is none."""
    values = torch.empty(history.num_samples, dtype=torch.float32, device=history.device)
    total = torch.zeros(2, dtype=torch.float64, device=history.device)  # of observations, of samples that have one
    for start in range(0, len(values), CHUNK):
        indices = torch.arange(start, min(start + CHUNK, len(values)), device=history.device)
        seen, last = history.counts(indices) > 0, history.last(indices)
        total += torch.stack([last.sum(dtype=torch.float64), seen.sum().double()])  # 0 where there is none
        values[start : start + CHUNK] = torch.where(seen, last.float(), -1.0)
    mean = (total[0] / total[1].clamp(min=1)).float()
    return torch.where(values < 0, mean, values)
