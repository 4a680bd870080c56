"""The weight of a drawn sample's loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from approx_is.checks import check_number

__all__ = ["check_exponent", "check_k", "importance_weights"]


LARGEST_WEIGHT = torch.finfo(torch.float32).max


def importance_weights(probabilities: Tensor, num_samples: int, k: float = 1.0) -> Tensor:
    r"""Return the weights that make a loss over weighted draws unbiased (k = 1) or lean towards its maximum (k < 1).

    .. math:: \alpha_i = (N p_i)^{-k}

    With k = 1 the mean of :math:`\alpha_i g_i` over draws is an unbiased estimate of the mean of :math:`g_i` over the
    data set. With k < 1 and :math:`p_i \propto L_i` the draws descend :math:`\sum_i L_i^{2-k}` instead, a smooth
    maximum loss: hard samples count for more. Uniform draws weigh 1 for every k: the learning rate keeps its meaning.

    Reference:
        Katharopoulos & Fleuret (2017), eq. 12, up to the constant :math:`N^{1-k}`.

    Args:
        probabilities: chance of each sample to be drawn, float [B], in (0, 1].
        num_samples: size N of the data set.
        k: bias exponent in (−∞, 1].

    Returns:
        Weights, float32 [B], on the device of `probabilities`.

    Raises:
        ValueError: `k` is above 1 or not finite.

    Example:
        >>> importance_weights(torch.tensor([0.1, 0.2, 0.3, 0.4]), num_samples=4, k=1.0)
        tensor([2.5000, 1.2500, 0.8333, 0.6250])
    """
    check_k(k, "importance_weights")
    return (probabilities.double() * num_samples).pow(-k).clamp(max=LARGEST_WEIGHT).to(torch.float32)


def check_k(k: float, caller: str) -> float:
    """Return `k` as a float, or raise `ValueError` if it is not a finite number of at most 1."""
    number = check_number(k, f"{caller}(k=...)")
    if not math.isfinite(number) or number > 1:
        raise ValueError(
            f"`{caller}(k=...)` must be a finite number of at most 1; got {number}. Use k=1 for an unbiased gradient."
        )
    return number


def check_exponent(k: float | Callable[[int], float], caller: str) -> Callable[[int], float]:
    """Return k as a function of the step, checked at step 0 and whenever it is asked; raise as `check_k` does."""
    if callable(k):
        check_k(k(0), caller)
        return lambda step: check_k(k(step), caller)
    constant = check_k(k, caller)
    return lambda step: constant
