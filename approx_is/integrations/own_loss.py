"""What a model's own loss is made of, found by asking it once: no table of names knows all models."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from approx_is.integrations.sample_losses import IGNORED_LABEL, sample_losses

__all__ = ["OVERRIDE", "find_shift", "is_regression"]

TOLERANCE = 1e-3
"""Relative difference of two ways to compute a mean loss, in half precision perhaps."""

OVERRIDE = "Override `sample_losses(model, outputs, labels)` to return the loss of each sample, of shape [batch size]."
"""The remedy where it is made of something else."""


def is_regression(model: nn.Module, logits: Tensor, labels: Tensor) -> bool:
    """Return whether the model's loss is a squared error: by its config, or since there is one output."""
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    return problem == "regression" or (problem is None and logits.shape[1:] == (1,) and labels.ndim < 3)


def find_shift(
    model: nn.Module, inputs: dict[str, Any], logits: Tensor, labels: Tensor, *, is_regression: bool
) -> bool | None:
    """Return whether the model's own loss takes the label of a position for the next one; None if not known yet.

    It is asked for its loss, once, in eval mode and without a gradient; generators and modes are left as they were.

    Args:
        model: the model, without what wraps it.
        inputs: of a batch, with its labels.
        logits: what it returned for them.
        labels: the batch's.
        is_regression: see `sample_losses`.

    Raises:
        TypeError: its own loss is another one altogether, or it has none and positions have labels each.
    """
    outputs: Any = {}
    if _takes_labels(model, inputs, labels):
        with _in_evaluation(model), torch.no_grad(), torch.random.fork_rng(_devices(logits)):
            outputs = model(**inputs)
    own = outputs.get("loss") if isinstance(outputs, dict) else None
    if own is None and logits.ndim == 2:
        return False
    if own is None:
        raise TypeError(f"`{type(model).__name__}` must return a loss of its own to compare with. {OVERRIDE}")
    shifts = (False, True) if logits.ndim > 2 and not labels.is_floating_point() else (False,)
    means = [_own_mean(outputs["logits"], labels, is_regression=is_regression, is_shifted=shift) for shift in shifts]
    found = [(own.double().cpu() - mean.double().cpu()).abs().item() for mean in means]
    if math.isnan(own.item()):  # a batch without labels
        return None
    closest = min(range(len(found)), key=lambda number: math.inf if math.isnan(found[number]) else found[number])
    if not found[closest] <= TOLERANCE * max(abs(own.item()), TOLERANCE):
        raise TypeError(
            f"`{type(model).__name__}` has a loss of its own, {own.item():.4f}, that is not the mean over its labels, "
            f"{' or '.join(f'{mean.item():.4f}' for mean in means)}. {OVERRIDE}"
        )
    return shifts[closest]


def _own_mean(logits: Tensor, labels: Tensor, *, is_regression: bool, is_shifted: bool) -> Tensor:
    """Return the loss as models return it, in which all labels of a batch weigh the same."""
    losses = sample_losses(logits, labels, is_regression=is_regression, is_shifted=is_shifted)
    if logits.ndim == 2 or labels.is_floating_point() or is_regression:
        return losses.mean()
    counted = labels[:, 1:] if is_shifted else labels
    counts = (counted != IGNORED_LABEL).flatten(1).sum(1).to(losses.device)
    return (losses * counts).sum() / counts.sum()


def _takes_labels(model: nn.Module, inputs: dict[str, Any], labels: Tensor) -> bool:
    parameters = inspect.signature(model.forward).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return takes_all or any(name in parameters for name, value in inputs.items() if value is labels)


@contextlib.contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _devices(logits: Tensor) -> list[torch.device]:
    return [logits.device] if logits.device.type == "cuda" else []
