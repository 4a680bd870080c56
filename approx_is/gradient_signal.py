r"""How much of a minibatch gradient is signal: estimates of :math:`\|\nabla F\|^2` beside :math:`\|g\|^2`.

The squared norm of one minibatch gradient is signal plus noise. The product of two that are independent is signal
alone, in expectation: the two halves of a batch, or this step's gradient and the momentum of the steps before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from approx_is.state import check_like

__all__ = ["MomentumSignal", "half_batch_signal"]


def half_batch_signal(first: Iterable[Tensor], second: Iterable[Tensor]) -> tuple[float, float]:
    r"""Estimate the signal from the gradients of two halves of a batch, or of two ranks.

    .. math:: S = \langle g_A, g_B \rangle, \quad \|g\|^2 = \left\| \tfrac12 (g_A + g_B) \right\|^2

    Unbiased, for any optimizer, where the halves are drawn independently and are of one size. Report it with
    `sampler.gain.observe_signal(*half_batch_signal(a, b))`.

    Args:
        first: the gradients of the parameters over one half of the draws, dense or sparse.
        second: those over the other half, in the same order.

    Returns:
        Signal and squared norm of the whole batch's gradient.

    Raises:
        TypeError: a gradient is None.
        ValueError: the two have not the same shapes.

    Example:
        >>> half_batch_signal([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, -2.0])])
        (-1.0, 4.0)
    """
    first, second = list(first), list(second)
    if not all(isinstance(gradient, Tensor) for gradient in (*first, *second)):
        raise TypeError(
            "`half_batch_signal(first, second)` must be tensors; got a gradient that is none. Leave a parameter "
            "without a gradient out of both."
        )
    if [half.shape for half in first] != [half.shape for half in second]:
        raise ValueError(
            "`half_batch_signal(first, second)` must be the gradients of the same parameters in the same order; "
            f"got shapes {[list(half.shape) for half in first]} and {[list(half.shape) for half in second]}."
        )
    signal = _sum(_dot(one, other) for one, other in zip(first, second, strict=True))
    norms = _sum(_dot(gradient, gradient) for gradient in (*first, *second))
    return signal, (norms + 2 * signal) / 4


class MomentumSignal:
    r"""Estimates the signal from an optimizer's momentum, just before each of its steps.

    .. math:: S_t = \frac{\langle g_t, m_{t-1} \rangle}{Z_{t-1}}

    Momentum m is a weighted sum of the gradients before, and Z the sum of its weights, so that m / Z is their mean:
    independent of this batch, and but a few steps old. SGD's buffers and the first moments of Adam and its like are
    used as they are; only Z is kept, a number for each parameter, since not every step has a gradient for each, and a
    one-cycle schedule changes the momentum. What weight decay adds to the buffers is taken out again, as if the
    parameters had not moved since. Parameters whose gradient is sparse are left out.

    Args:
        optimizer: SGD with momentum, or one that keeps first moments as Adam does.

    Raises:
        ValueError: the optimizer has no momentum, or one of another kind, as RMSprop and Muon have.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            if not 0 < _decay(optimizer, group) < 1:
                raise ValueError(
                    "`GainLR(signal='momentum')` needs SGD with momentum in (0, 1), or an optimizer with the first "
                    f"moments of Adam; got {type(optimizer).__name__} without. Set momentum, or pass signal=None and "
                    "report the signal of half batches yourself."
                )
        self._optimizer = optimizer
        self._weights: dict[nn.Parameter, float] = {}

    def measure(self) -> tuple[float, float] | None:
        """Return signal and squared norm of the gradients that are set, clipped perhaps, and not yet stepped on.

        Returns:
            The two; None if no parameter has both a gradient and momentum.
        """
        signals, norms = [], []
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                gradient, momentum, weight = parameter.grad, self._momentum(parameter), self._weight(parameter, group)
                if gradient is None or gradient.is_sparse or momentum is None or weight <= 0:
                    continue
                sign = -1.0 if group.get("maximize", False) else 1.0
                signal = _dot(gradient, momentum) * (sign / weight)
                if _adds_weight_decay(self._optimizer, group):
                    signal -= _dot(gradient, parameter) * (sign * float(group["weight_decay"]))
                signals.append(signal)
                norms.append(_dot(gradient, gradient))
        if not signals:
            return None
        scale = _loss_scale(self._optimizer)
        return _sum(signals) / scale, _sum(norms) / scale**2

    def count_step(self) -> None:
        """Keep account of the step that is about to be taken with these gradients."""
        found_infinite = getattr(self._optimizer, "found_inf", None)
        if found_infinite is not None and float(found_infinite) > 0:
            return  # a fused optimizer leaves out the step of a GradScaler that overflowed
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._weights[parameter] = self._next_weight(parameter, group)

    def state_dict(self) -> dict[str, Any]:
        """Return Z of each parameter's momentum, 0 where it has none yet."""
        return {"weights": [self._weights.get(parameter, 0.0) for parameter in self._parameters()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self._weights = dict(zip(self._parameters(), state["weights"], strict=True))

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "MomentumSignal.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        if min(state["weights"], default=0.0) < 0:
            raise ValueError(f"`{where}['weights']` must be at least 0; got {min(state['weights'])}.")

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def _momentum(self, parameter: nn.Parameter) -> Tensor | None:
        state = self._optimizer.state.get(parameter, {})
        momentum: Tensor | None = state.get("momentum_buffer", state.get("exp_avg"))
        return momentum

    def _weight(self, parameter: nn.Parameter, group: dict[str, Any]) -> float:
        if self._momentum(parameter) is None:
            return 0.0
        # of momentum that was restored without its account, Z is taken for what it is after many steps
        return self._weights.get(parameter) or _share(self._optimizer, group) / (1 - _decay(self._optimizer, group))

    def _next_weight(self, parameter: nn.Parameter, group: dict[str, Any]) -> float:
        if isinstance(self._optimizer, SGD) and self._momentum(parameter) is None:
            return 1.0  # dampening begins with the second gradient
        return _decay(self._optimizer, group) * self._weight(parameter, group) + _share(self._optimizer, group)


def _decay(optimizer: Optimizer, group: dict[str, Any]) -> float:
    if isinstance(optimizer, SGD):
        return float(group["momentum"])
    return float(group["betas"][0]) if "betas" in group else 0.0


def _share(optimizer: Optimizer, group: dict[str, Any]) -> float:
    """Return the weight of a new gradient in the momentum."""
    return 1 - (float(group["dampening"]) if isinstance(optimizer, SGD) else _decay(optimizer, group))


def _adds_weight_decay(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    # AdamW of older releases of torch has no flag in its groups
    is_decoupled = isinstance(optimizer, AdamW) or group.get("decoupled_weight_decay", False)
    return bool(group.get("weight_decay", 0)) and not is_decoupled


def _loss_scale(optimizer: Optimizer) -> float:
    # a fused optimizer unscales the gradients of a GradScaler within its step
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def _sum(products: Iterable[Tensor]) -> float:
    products = list(products)
    if not products:
        return 0.0
    device = products[0].device  # parameters may be spread over several
    return float(torch.stack([product.to(device) for product in products]).double().sum())


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return torch.dot(_vector(first), _vector(second))


def _vector(values: Tensor) -> Tensor:
    values = values.detach()
    if values.is_sparse:
        values = values.to_dense()
    if values.is_complex():
        values = torch.view_as_real(values)
    return values.flatten().float() if values.dtype.itemsize < 4 else values.flatten()
