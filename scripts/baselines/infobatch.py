"""InfoBatch: each epoch leaves out a random part of the easy samples, and the rest of them weigh more.

Reference: Qin, Wang, Zheng, Gu, Peng, Xu, Zhou, Shang, Sun, Xie, You: InfoBatch: Lossless training speed up by unbiased
dynamic data pruning. ICLR 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from baselines.checks import check, check_observed, check_sizes
from baselines.plan import EpochPlan

__all__ = ["InfoBatch", "keep_probabilities"]


def keep_probabilities(scores: Tensor, ratio: float) -> Tensor:
    r"""Return the probability with which an epoch keeps each sample, float64 [N].

    .. math:: 1 - \mathcal P_t(z) = 1 - r \text{ if } \mathcal H_t(z) < \bar{\mathcal H}_t \text{ else } 1

    Reference: Qin et al. (2024), equation 3, soft pruning.

    Args:
        scores: last losses [N]; infinite ones, which stand for unknown, are never pruned and have no part in the mean.
        ratio: probability r with which an easy sample is pruned.
    """
    scores = scores.double()
    easy = scores < scores[scores.isfinite()].mean()  # the mean of none is NaN, than which nothing is less
    return torch.where(easy, 1 - ratio, 1.0).double()


class InfoBatch:
    r"""Prunes each sample whose last loss is below the mean with probability r; kept easy ones weigh 1 / (1 - r).

    Summed over an epoch the weighted gradients are, in expectation, those of all samples. The *mean* over what was kept
    is N / M times that, for the M samples kept: fewer steps, each as much longer (equations 5 to 7, rescaling). The
    last epochs are full ones, where noise in how often a sample was taken would stay (equation 8, annealing).

    Their published code keeps exactly ⌊(1 - r) n⌋ of n easy samples. Its sampler begins anew in `__iter__`, which
    recent versions of torch call for every batch: it never ends, or with `drop_last=True` counts the epoch many times.

    Reference: Qin et al. (2024), equations 3 to 8.

    Args:
        num_samples: samples N.
        batch_size: samples a batch; the last of an epoch may be smaller.
        progress: returns the share of the training that is done, such as `lambda: step / steps`; asked as an epoch
            begins.
        ratio: probability r in [0, 1) with which an epoch leaves an easy sample out.
        delta: share of the training after which all samples are taken.
        seed: of the draws.

    Raises:
        ValueError: an argument is out of its bounds.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        progress: Callable[[], float],
        ratio: float = 0.5,
        delta: float = 0.875,
        seed: int = 0,
    ) -> None:
        check_sizes("InfoBatch", num_samples, batch_size)
        check(0 <= ratio < 1, "InfoBatch(ratio=...)", "at least 0 and below 1", ratio, "The paper uses 0.5.")
        check(0 <= delta <= 1, "InfoBatch(delta=...)", "in [0, 1]", delta, "Use 1 to prune to the end.")
        self._progress, self._ratio, self._delta = progress, ratio, delta
        self._scores = torch.full((num_samples,), math.inf)
        self._generator = torch.Generator().manual_seed(seed)
        self._plan = EpochPlan(batch_size)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of what a new epoch keeps, or of what is left of the last one."""
        if self._plan.done:
            self._begin_epoch()
        yield from self._plan.batches()

    def observe(self, indices: Tensor, losses: Tensor) -> None:
        """Remember losses [B] until they are observed again; one that is not finite keeps its sample from pruning."""
        check_observed("InfoBatch.observe", indices, losses)
        self._scores[indices] = losses.detach().to("cpu", torch.float32).nan_to_num(math.inf, math.inf, math.inf)

    def propensities(self, indices: Tensor, losses: Tensor) -> Tensor:
        """Return with which probability an epoch that begins now keeps these samples; the losses are the last ones."""
        check_observed("InfoBatch.propensities", indices, losses)
        return self._keep_probabilities()[indices]

    def _keep_probabilities(self) -> Tensor:
        return keep_probabilities(self._scores, self._ratio if self._progress() < self._delta else 0.0)

    def _begin_epoch(self) -> None:
        probabilities = self._keep_probabilities()
        draws = torch.rand(len(probabilities), dtype=torch.float64, generator=self._generator)
        kept = (draws < probabilities).nonzero().flatten()
        kept = kept[torch.randperm(len(kept), generator=self._generator)]
        self._plan.begin(kept, 1 / probabilities[kept])

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state."""
        generator = self._generator.get_state()
        return {"plan": self._plan.state_dict(), "scores": self._scores.clone(), "generator": generator}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._plan.load_state_dict(state["plan"])
        self._scores = state["scores"].clone()
        self._generator.set_state(state["generator"])
