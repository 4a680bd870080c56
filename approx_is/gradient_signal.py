r"""How much of a minibatch gradient is signal: estimates of :math:`\|\nabla F\|^2` beside :math:`\|g\|^2`.

The squared norm of one minibatch gradient is signal plus noise. The product of two that are independent is signal
alone, in expectation: the two halves of a batch, or this step's gradient and the momentum of the steps before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["MomentumSignal", "half_batch_signal"]


def half_batch_signal(first: Iterable[Tensor], second: Iterable[Tensor]) -> tuple[float, float]:
    r"""Estimate the signal from the gradients of two halves of a batch, or of two ranks.

    .. math:: S = \langle g_A, g_B \rangle, \quad \|g\|^2 = \left\| \tfrac12 (g_A + g_B) \right\|^2

    Unbiased, for any optimizer. Report it with `sampler.gain.observe_signal(*half_batch_signal(a, b))`.

    Args:
        first: the gradients of the parameters over one half of the draws.
        second: those over the other half, in the same order.

    Returns:
        Signal and squared norm of the whole batch's gradient.

    Raises:
        ValueError: the two have not the same shapes.

    Example:
        >>> half_batch_signal([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, -2.0])])
        (-1.0, 4.0)
    """
    first, second = list(first), list(second)
    if [half.shape for half in first] != [half.shape for half in second]:
        raise ValueError(
            "`half_batch_signal(first, second)` must be the gradients of the same parameters in the same order; "
            f"got shapes {[list(half.shape) for half in first]} and {[list(half.shape) for half in second]}."
        )
    signal = _dot(first, second)
    norms = _dot(first, first) + _dot(second, second)
    return float(signal), float((norms + 2 * signal) / 4)


class MomentumSignal:
    r"""Estimates the signal from an optimizer's momentum, just before each of its steps.

    .. math:: S_t = \frac{\langle g_t, m_{t-1} \rangle}{Z_{t-1}}

    Momentum m is a weighted sum of the gradients before, and Z the sum of its weights, so that m / Z is their mean:
    independent of this batch, and but a few steps old. SGD's buffers and the first moments of Adam and its like are
    used as they are; nothing is stored. What weight decay adds to the buffers is taken out again, as if the parameters
    had not moved since.

    Args:
        optimizer: SGD with momentum, or one that keeps first moments as Adam does.

    Raises:
        ValueError: the optimizer has no momentum.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            if not _decay(group) > 0:
                raise ValueError(
                    f"`GainLR(signal='momentum')` needs an optimizer with momentum; got {type(optimizer).__name__} "
                    "without. Report the signal of half batches yourself and pass signal=None, or set momentum."
                )

    def __call__(self, optimizer: Optimizer, steps: int) -> tuple[float, float] | None:
        """Return signal and squared norm of the gradients that are about to be stepped on.

        Args:
            optimizer: with gradients set, clipped perhaps, and not yet stepped.
            steps: how many steps its momentum has seen.

        Returns:
            The two; None if no parameter has both a gradient and momentum.
        """
        signals, norms = [], []
        for group in optimizer.param_groups:
            gradients, momenta, parameters = _with_momentum(optimizer, group)
            if not gradients:
                continue
            sign = -1.0 if group.get("maximize", False) else 1.0
            signal = _dot(gradients, momenta) * sign / _total_weight(group, steps)
            if group.get("weight_decay", 0) and not group.get("decoupled_weight_decay", False):
                signal -= _dot(gradients, parameters) * sign * group["weight_decay"]
            signals.append(signal)
            norms.append(_dot(gradients, gradients))
        if not signals:
            return None
        scale = _loss_scale(optimizer)
        signal, norm = torch.stack([torch.stack(signals).sum(), torch.stack(norms).sum()]).tolist()
        return signal / scale, norm / scale**2


def _with_momentum(optimizer: Optimizer, group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    found = list(_triples(optimizer, group["params"]))
    return [each[0] for each in found], [each[1] for each in found], [each[2] for each in found]


def _triples(optimizer: Optimizer, parameters: list[nn.Parameter]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for parameter in parameters:
        state = optimizer.state.get(parameter, {})
        momentum = state.get("momentum_buffer", state.get("exp_avg"))
        if parameter.grad is not None and momentum is not None and not parameter.grad.is_sparse:
            yield parameter.grad, momentum, parameter.detach()


def _decay(group: dict[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


def _total_weight(group: dict[str, Any], steps: int) -> float:
    """Return Z: the sum of the weights that the gradients of `steps` steps have in the momentum."""
    decay = _decay(group)
    if "betas" in group:
        return float(1 - decay**steps)
    # the first gradient enters whole, later ones times 1 - dampening
    first = float(decay ** (steps - 1))
    return first + (1 - float(group.get("dampening", 0))) * (1 - first) / (1 - decay)


def _loss_scale(optimizer: Optimizer) -> float:
    # a fused optimizer unscales the gradients of a GradScaler within its step
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def _dot(first: list[Tensor], second: list[Tensor]) -> Tensor:
    products = [torch.dot(_vector(one), _vector(other)) for one, other in zip(first, second, strict=True)]
    return torch.stack(products).double().sum() if products else torch.zeros((), dtype=torch.float64)


def _vector(values: Tensor) -> Tensor:
    values = values.detach().flatten()
    return values.float() if values.dtype.itemsize < 4 else values
