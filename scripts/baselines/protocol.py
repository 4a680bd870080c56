"""What a training loop may rely on: methods that choose the samples, and methods that change the gradient.

The loop of the former, with any optimizer::

    for indices, weights in chooser.epoch():
        inputs, targets = samples.__getitems__(indices)
        losses = F.cross_entropy(model(inputs), targets, reduction="none")
        optimizer.zero_grad()
        (weights * losses).mean().backward()
        optimizer.step()
        chooser.observe(indices, losses)

and of the latter, with any loader of uniform batches::

    for batch in loader:
        loss = method.step(batch)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

__all__ = ["Batch", "BatchChooser", "Samples"]

Batch = tuple[Tensor, Tensor]
"""Inputs [B, ...] and targets [B]."""


class Samples(Protocol):
    """Samples that are fetched a batch at a time, such as `samples.InMemoryDataset`."""

    def __len__(self) -> int:
        """Return the number of samples N."""
        ...

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the batch of these samples; `indices` may be a tensor."""
        ...


class BatchChooser(Protocol):
    """Chooses which samples are trained on, and what they weigh."""

    def epoch(self) -> Iterator[Batch]:
        """Iterate over an epoch, or what is left of one that was begun: indices int64 [B] and weights float32 [B].

        Both are on the CPU. An epoch can be empty.
        """
        ...

    def observe(self, indices: Tensor, losses: Tensor) -> None:
        """Learn the unweighted losses [B] of a batch, as they were before its step, attached to a graph or not."""
        ...

    def propensities(self, indices: Tensor, losses: Tensor) -> Tensor:
        """Return what the chances of these samples are in proportion to, as things are, float64 [n].

        Args:
            indices: of the samples, int64 [n].
            losses: of these with the network as it is, [n], for methods that would run it to know.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state: from it the batches go on bit by bit, also amid an epoch."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        ...
