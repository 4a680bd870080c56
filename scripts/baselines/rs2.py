"""RS2: a fresh random subset every epoch.

Reference: Okanovic, Waleffe, Mageirakos, Nikolakakis, Karbasi, Kalogerias, Gürel, Rekatsinas: Repeated random sampling
for minimizing the time-to-accuracy of learning. ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from baselines.checks import check, check_observed, check_sizes
from baselines.plan import EpochPlan

__all__ = ["RS2"]


class RS2:
    """Repeated sampling of random subsets: epochs of rN samples, none of them twice in an epoch.

    The gradient is that of plain training. What saves time is that a training of as many epochs takes a share r of the
    steps, *with the learning rate's schedule compressed to them*, as one over `Config.steps` is. Without replacement
    the subsets are parts of plain epochs: at equal steps and with the same schedule that is plain training.

    Reference: Okanovic et al. (2024), section 3 (RS2 with and without replacement).

    Args:
        num_samples: samples N.
        batch_size: samples a batch; the last of an epoch may be smaller.
        fraction: share r of the samples that an epoch takes, in (0, 1]; by default that of their code.
        replacement: True for subsets that are independent of one another; False for subsets that take no sample again
            before all were taken. The paper reports both; its analysis is of the latter.
        seed: of the draws.

    Raises:
        ValueError: an argument is out of its bounds.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, fraction: float = 0.1, replacement: bool = True, seed: int = 0
    ) -> None:
        check_sizes("RS2", num_samples, batch_size)
        check(0 < fraction <= 1, "RS2(fraction=...)", "in (0, 1]", fraction, "Use 1 for plain epochs.")
        self._num_samples = num_samples
        self._subset_size = max(1, round(fraction * num_samples))
        self._replacement = replacement
        self._generator = torch.Generator().manual_seed(seed)
        self._rest = torch.empty(0, dtype=torch.int64)
        self._plan = EpochPlan(batch_size)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of a new subset, or of what is left of the last one; the weights are 1."""
        if self._plan.done:
            self._plan.begin(self._subset())
        yield from self._plan.batches()

    def observe(self, indices: Tensor, losses: Tensor) -> None:
        """Learn nothing."""
        check_observed("RS2.observe", indices, losses)

    def propensities(self, indices: Tensor, losses: Tensor) -> Tensor:
        """Return ones: all samples have the same chance."""
        check_observed("RS2.propensities", indices, losses)
        return torch.ones(len(indices), dtype=torch.float64)

    def _subset(self) -> Tensor:
        order = torch.randperm(self._num_samples, generator=self._generator)
        if self._replacement:
            return order[: self._subset_size]
        return self._next_of_pass(order)

    def _next_of_pass(self, order: Tensor) -> Tensor:
        """Return the next subset of a pass over all samples; where one ends amid it, `order` begins the next pass."""
        if len(self._rest) < self._subset_size:
            taken = torch.isin(order, self._rest)  # last in the next pass: nothing twice in an epoch
            self._rest = torch.cat([self._rest, order[~taken], order[taken]])
        subset, self._rest = self._rest[: self._subset_size], self._rest[self._subset_size :]
        return subset

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state."""
        return {"plan": self._plan.state_dict(), "rest": self._rest, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._plan.load_state_dict(state["plan"])
        self._rest = state["rest"]
        self._generator.set_state(state["generator"])
