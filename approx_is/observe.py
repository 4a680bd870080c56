"""What to observe of a sample: how much its gradient can weigh."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["upper_bound"]


def upper_bound(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return the norm of softmax cross-entropy's gradient at the logits, an upper bound of the full gradient's norm.

    .. math:: \| \mathrm{softmax}(z) - \mathrm{onehot}(y) \|_2 \le \sqrt 2

    Up to a constant of the network it bounds the norm of the gradient with respect to all parameters, and so is what
    the variance of an unbiased gradient depends on: observe it rather than the loss when k = 1.

    Reference:
        Katharopoulos & Fleuret (2018), eq. 16 and §3.2.

    Args:
        logits: float [B, C].
        targets: class indices, int64 [B] in [0, C).

    Returns:
        Norms, float32 [B] in [0, √2], detached; half-precision logits are computed in float32.

    Raises:
        ValueError: the shapes do not match.

    Example:
        >>> upper_bound(torch.zeros(1, 10), torch.tensor([3]))
        tensor([0.9487])
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"`upper_bound(logits, targets)` must have shapes [B, C] and [B]; got {list(logits.shape)} and "
            f"{list(targets.shape)}."
        )
    with torch.no_grad():
        probabilities = logits.detach().float().softmax(1)
        others = probabilities.scatter(1, targets.unsqueeze(1), 0.0)
        # 1 - p of the target, as the sum of the others: it does not cancel where the network is sure
        missing = others.sum(1)
        return (others.square().sum(1) + missing.square()).sqrt()
