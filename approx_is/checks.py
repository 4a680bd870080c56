"""Checks of what users pass in: an error names the argument, the value found and the remedy."""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor

__all__ = [
    "are_importances",
    "check_importance",
    "check_indices",
    "check_not_negative",
    "check_number",
    "check_positive",
    "check_seed",
]


def check_positive(value: int, argument: str, *, at_most: int | None = None) -> int:
    """Return `value` as an int, or raise unless it is an integer in [1, at_most]."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{argument}` must be an integer; got {value!r}.") from None
    if number < 1 or (at_most is not None and number > at_most):
        bounds = "at least 1" if at_most is None else f"in [1, {at_most}]"
        raise ValueError(f"`{argument}` must be {bounds}; got {number}.")
    return number


def check_importance(values: Tensor, shape: torch.Size, argument: str) -> None:
    """Raise unless `values` is a tensor of that shape, finite and non-negative."""
    if not isinstance(values, Tensor):
        raise TypeError(f"`{argument}` must be a tensor; got {type(values).__name__}.")
    if values.shape != shape:
        raise ValueError(f"`{argument}` must have shape {list(shape)}, one value each; got {list(values.shape)}.")
    if not are_importances(values):
        raise ValueError(f"`{argument}` must be finite and at least 0. Leave other entries out.")


def are_importances(values: Tensor, *, below: float = math.inf) -> bool:
    """Return whether all values, real [...], are in [0, below); waits for their device."""
    if values.numel() == 0:
        return True
    lowest, highest = values.detach().aminmax()  # NaN if any is
    return float(lowest) >= 0 and float(highest) < below


def check_number(value: float, argument: str) -> float:
    """Return `value` as a float, or raise unless it is a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"`{argument}` must be a number; got {value!r}.") from None


def check_seed(seed: int) -> int:
    """Return `seed` as an int, or raise unless it is an integer of at least 0."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"`seed` must be an integer; got {seed!r}.") from None
    if number < 0:
        raise ValueError(f"`seed` must be at least 0; got {number}.")
    return number


def check_indices(indices: Tensor, num_items: int, argument: str) -> Tensor:
    """Return `indices` as int64, or raise unless it is an integer tensor [B] with entries in [0, num_items)."""
    if (
        not isinstance(indices, Tensor)
        or indices.is_floating_point()
        or indices.dtype == torch.bool
        or indices.ndim != 1
    ):
        found = f"{indices.dtype} {list(indices.shape)}" if isinstance(indices, Tensor) else type(indices).__name__
        raise ValueError(f"`{argument}` must be an integer tensor of shape [B]; got {found}.")
    if len(indices):
        lowest, highest = (int(bound) for bound in indices.aminmax())
        if lowest < 0 or highest >= num_items:
            raise ValueError(f"`{argument}` must be in [0, {num_items}); got entries from {lowest} to {highest}.")
    return indices.long()


def check_not_negative(values: Tensor, argument: str) -> None:
    """Raise if a finite importance, real [B], is negative."""
    negative = (values < 0) & values.isfinite()
    if bool(negative.any()):
        raise ValueError(
            f"`{argument}` must be at least 0; got {float(values[negative].min())}. Where the loss can be negative, "
            "observe a gradient norm or another non-negative importance."
        )
