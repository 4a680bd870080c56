"""What was drawn, how likely it was, and what it weighs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

__all__ = ["Draw", "Ticket"]


@dataclass(eq=False)
class Ticket:
    """Ties every copy of a draw to the sampler that made it, and remembers whether it was used."""

    owner: object
    spent: bool = False


@dataclass(frozen=True, eq=False)
class Draw:
    """Samples drawn for one batch, with the truth at the moment of the draw.

    Worker processes load batches ahead of training, so the sampler may have changed its mind since: the weights here
    still belong to the probabilities that the samples were drawn with.

    Attributes:
        indices: positions in the data set, int64 [B]; a sample may appear more than once.
        probabilities: chance of each sample to be drawn, float64 [B].
        weights: weight of each sample's loss, :math:`(N p_i)^{-k}`, float32 [B].
    """

    indices: Tensor
    probabilities: Tensor
    weights: Tensor
    _ticket: Ticket | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Return the batch size B."""
        return len(self.indices)

    def weighted_mean(self, losses: Tensor) -> Tensor:
        """Return the mean of `weights * losses`: the loss to call `backward()` on.

        The sum is divided by the batch size, never by the sum of the weights, which would bias the gradient.

        Args:
            losses: one loss a sample, float [B], with `reduction="none"`, on any device.

        Returns:
            A scalar on the device of `losses`.

        Raises:
            ValueError: `losses` does not hold one value a sample.

        Example:
            >>> draw = Draw(torch.tensor([3, 1]), torch.tensor([0.2, 0.4]), torch.tensor([1.25, 0.625]))
            >>> draw.weighted_mean(torch.tensor([2.0, 4.0]))
            tensor(2.5000)
        """
        check_per_sample(losses, len(self), "Draw.weighted_mean(losses)")
        return (self.weights.to(losses.device, non_blocking=True) * losses).mean()

    def to(self, device: torch.device | str) -> Draw:
        """Return the same draw with its tensors on `device`; it stays one draw: updating either spends both."""
        return replace(
            self,
            indices=self.indices.to(device, non_blocking=True),
            probabilities=self.probabilities.to(device, non_blocking=True),
            weights=self.weights.to(device, non_blocking=True),
        )


def check_per_sample(values: Tensor, batch_size: int, argument: str) -> None:
    """Raise unless `values` is a tensor of shape [batch_size]."""
    if not isinstance(values, Tensor):
        raise TypeError(f"`{argument}` must be a tensor of shape [{batch_size}]; got {type(values).__name__}.")
    if values.shape == (batch_size,):
        return
    remedy = "Flatten or reduce them to one value a sample."
    if values.ndim == 0:
        remedy = 'Compute the loss with reduction="none".'
    raise ValueError(
        f"`{argument}` must have shape [{batch_size}], one value a sample; got shape {list(values.shape)}. {remedy}"
    )
