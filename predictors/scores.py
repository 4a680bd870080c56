"""Scores of a batch by one forward pass: the loss, the upper bound of the gradient norm, and the norm itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approx_is.gradient_norms import per_sample_gradient_norms
from approx_is.observe import upper_bound

__all__ = ["check_loss", "gradient_norm_score", "loss_score", "upper_bound_score"]


def loss_score(model: nn.Module, batch: Any, loss: str = "cross-entropy") -> Tensor:
    r"""Return the loss of each sample.

    ====================== ====================================== ===========================================
    loss                   of outputs z and targets y             over positions, or outputs
    ====================== ====================================== ===========================================
    "cross-entropy"        :math:`-\log \mathrm{softmax}(z)_y`    mean; positions to ignore (-100) count as 0
    "binary-cross-entropy" of :math:`\sigma(z)`                   mean
    "squared"              :math:`(z - y)^2`                      mean
    ====================== ====================================== ===========================================

    Args:
        model: takes the inputs and returns the outputs; it is run in the mode it is in.
        batch: pair of inputs, a tensor [B, ...], and targets, as `upper_bound` has them. Both are moved to the model's
            device.
        loss: one of the table's.

    Returns:
        Losses in nats, or squared units, float [B].

    Raises:
        ValueError: the batch is no pair of tensors, the model returns no tensor, the loss is unknown, or shapes differ.

    Example:
        >>> loss_score(nn.Identity(), (torch.zeros(2, 10), torch.tensor([3, 7])))
        tensor([2.3026, 2.3026])
    """
    check_loss(loss, "loss_score(loss=...)")
    inputs, targets = _inputs_and_targets(model, batch)
    return _LOSSES[loss](_tensor(model(inputs)), targets)


def upper_bound_score(model: nn.Module, batch: Any, loss: str = "cross-entropy") -> Tensor:
    """Return the norm of each sample's loss gradient at the outputs, see `approx_is.upper_bound`.

    Reference:
        Katharopoulos & Fleuret (2018), eq. 20.

    Args:
        model: see `loss_score`.
        batch: see `loss_score`.
        loss: see `loss_score`; here it is the sum over positions, or outputs.

    Returns:
        Upper bounds, float32 [B].

    Raises:
        ValueError: see `loss_score`.

    Example:
        >>> upper_bound_score(nn.Identity(), (torch.zeros(1, 10), torch.tensor([3])))
        tensor([0.9487])
    """
    check_loss(loss, "upper_bound_score(loss=...)")
    inputs, targets = _inputs_and_targets(model, batch)
    return upper_bound(_tensor(model(inputs)), targets, loss=loss)


def gradient_norm_score(model: nn.Module, batch: Any, loss: str = "cross-entropy") -> Tensor:
    """Return the norm of the gradient of each sample's loss, see `approx_is.per_sample_gradient_norms`.

    What the other scores stand for, at the price of a backward pass a sample: to compare with, not to train with.

    Reference:
        Katharopoulos & Fleuret (2018), eqs. 6 to 8.

    Args:
        model: see `loss_score`; only its trainable parameters count.
        batch: see `loss_score`.
        loss: see `loss_score`.

    Returns:
        Norms, float32 [B].

    Raises:
        ValueError: see `loss_score` and `per_sample_gradient_norms`.
    """
    check_loss(loss, "gradient_norm_score(loss=...)")
    inputs, targets = _inputs_and_targets(model, batch)

    def losses(outputs: Any, targets: Tensor) -> Tensor:
        return _LOSSES[loss](_tensor(outputs), targets)

    return per_sample_gradient_norms(model, losses, inputs, targets)


def check_loss(loss: str, argument: str) -> None:
    """Raise `ValueError` unless the built-in scores know the loss."""
    if loss not in _LOSSES:
        names = ", ".join(map(repr, _LOSSES))
        raise ValueError(
            f"`{argument}` must be one of {names}; got {loss!r}. For another, pass `score=`, a function of "
            "(model, batch) that returns one value a sample."
        )


def _inputs_and_targets(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2
    if not is_pair or not all(isinstance(value, Tensor) for value in batch):
        found = type(batch).__name__
        if isinstance(batch, tuple | list):
            found += f" of {', '.join(type(value).__name__ for value in batch) or 'nothing'}"
        raise ValueError(
            f"A built-in score takes a batch (inputs, targets) of two tensors; got {found}. Pass `score=`, a function "
            "of (model, batch) that returns one value a sample."
        )
    inputs, targets = batch
    parameter = next(model.parameters(), None)
    return (inputs, targets) if parameter is None else (_to(inputs, parameter), _to(targets, parameter))


def _to(values: Tensor, parameter: Tensor) -> Tensor:
    return values.to(parameter.device, non_blocking=values.is_pinned())


def _tensor(outputs: Any) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"A built-in score takes a model that returns a tensor; got {type(outputs).__name__}. Pass `score=`, a "
            "function of (model, batch) that returns one value a sample."
        )
    return outputs


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return _mean_of_each(F.cross_entropy(_precise(logits), targets, reduction="none"))


def _binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    logits = _precise(logits)
    _check_same_shape(logits, targets, "binary-cross-entropy")
    return _mean_of_each(F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none"))


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    outputs = _precise(outputs)
    _check_same_shape(outputs, targets, "squared")
    return _mean_of_each((outputs - targets).square())


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": _cross_entropy,
    "binary-cross-entropy": _binary_cross_entropy,
    "squared": _squared,
}


def _mean_of_each(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)


def _precise(outputs: Tensor) -> Tensor:
    # those of autocast are of half precision, too little for losses near 0
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def _check_same_shape(outputs: Tensor, targets: Tensor, loss: str) -> None:
    if outputs.shape != targets.shape:
        raise ValueError(
            f"Outputs and targets must have the same shape for loss={loss!r}; got {list(outputs.shape)} and "
            f"{list(targets.shape)}. Reshape one of them: nothing is broadcast."
        )
