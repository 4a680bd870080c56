"""The norm of every sample's gradient: exact, and too costly to train with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from approx_is.checks import check_positive
from approx_is.observe import norm_dtype

__all__ = ["per_sample_gradient_norms"]

Tensors = dict[str, Tensor]


def per_sample_gradient_norms(
    model: nn.Module,
    loss_fn: Callable[[Any, Tensor], Tensor],
    inputs: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor],
    targets: Tensor,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the norm of each sample's gradient with respect to all trainable parameters together.

    .. math:: \| \nabla_\theta \, \ell(f_\theta(x_i), y_i) \|_2

    The importance that `upper_bound` stands for: with it the variance of an unbiased gradient is least. It costs a
    backward pass a sample and the memory of `chunk_size` gradients, so use it to check what is observed or predicted,
    not in training.

    Parameters, their gradients and buffers stay as they are, and the model in its mode. In train mode dropout draws
    from torch's global generator, another mask for each sample.

    Reference:
        Katharopoulos & Fleuret (2018), eqs. 6 to 8 and §4.1.

    Args:
        model: whose parameters with `requires_grad` count, tied ones once. `torch.func.vmap` runs it, which allows no
            control flow that depends on values.
        loss_fn: takes the model's outputs and the targets of a batch of *one* sample and returns its loss: a scalar, or
            one of shape [1]. The reductions "mean", "sum" and "none" of one sample are all the same.
        inputs: of the samples, a tensor [B, ...], a tuple of tensors to pass by position or a mapping to pass by name.
        targets: of the samples, [B, ...].
        chunk_size: how many samples to take at a time, at least 1; None takes all.

    Returns:
        Norms, float32 [B], detached, for parameters of any precision; the gradients have the parameters' own.

    Raises:
        TypeError: the inputs are not tensors, or `chunk_size` is not an integer.
        ValueError: nothing is trainable, sizes differ, the loss is not one number, or batch normalisation takes its
            statistics from the batch, so that no sample has a gradient of its own.

    Example:
        >>> model = torch.nn.Linear(2, 3)
        >>> _ = torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
        >>> inputs, targets = torch.tensor([[0.0, 0.0], [2.0, 2.0]]), torch.tensor([0, 1])
        >>> per_sample_gradient_norms(model, torch.nn.functional.cross_entropy, inputs, targets)
        tensor([0.8165, 2.4495])
    """
    arguments, keywords = _split(inputs)
    _check_samples([*arguments, *keywords.values()], targets)
    _check_batch_norm(model)
    parameters = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    if not parameters:
        raise ValueError("`per_sample_gradient_norms(model)` must have a trainable parameter; got none.")
    if chunk_size is not None:
        check_positive(chunk_size, "per_sample_gradient_norms(chunk_size=...)")
    if len(targets) == 0:
        return targets.new_zeros(0, dtype=torch.float32)

    def loss_of_one(
        parameters: Tensors, buffers: Tensors, arguments: tuple[Tensor, ...], keywords: Tensors, target: Tensor
    ) -> Tensor:
        arguments = tuple(value.unsqueeze(0) for value in arguments)
        keywords = {name: value.unsqueeze(0) for name, value in keywords.items()}
        outputs = functional_call(model, (parameters, buffers), arguments, keywords)
        return _one_number(loss_fn(outputs, target.unsqueeze(0)))

    def norm_of_one(*sample: Any) -> Tensor:
        return _joint_norm(grad(loss_of_one)(parameters, *sample))

    # copies: a module that updates a buffer as it runs updates these
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    norms = vmap(norm_of_one, (None, 0, 0, 0), randomness="different", chunk_size=chunk_size)
    with torch.no_grad():
        result: Tensor = norms(buffers, arguments, keywords, targets)
    return result


def _split(inputs: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensors]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _joint_norm(gradients: Tensors) -> Tensor:
    norms = [torch.linalg.vector_norm(gradient, dtype=norm_dtype(gradient)) for gradient in gradients.values()]
    joint: Tensor = torch.linalg.vector_norm(torch.stack(norms)).float()
    return joint


def _one_number(loss: Tensor) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"`per_sample_gradient_norms(loss_fn)` must return a scalar or a tensor of shape [1] for one sample; got "
            f"{found}. Sum or average over positions."
        )
    return loss.reshape(())


def _check_samples(inputs: list[Tensor], targets: Tensor) -> None:
    values = [*inputs, targets]
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(
                "`per_sample_gradient_norms(inputs, targets)` must be tensors, inputs also a tuple or mapping of them; "
                f"got {type(value).__name__}."
            )
    if not inputs or any(value.ndim == 0 or value.shape[:1] != targets.shape[:1] for value in values):
        raise ValueError(
            "`per_sample_gradient_norms(inputs, targets)` must have the samples as first dimension, equally many; got "
            f"shapes {[list(value.shape) for value in inputs]} and {list(targets.shape)}."
        )


def _check_batch_norm(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"`per_sample_gradient_norms(model)` must treat samples apart; got {type(module).__name__} {name!r}, "
                "which normalises by the batch. Call model.eval() with running statistics kept, or use GroupNorm."
            )
