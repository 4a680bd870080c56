"""Checks of arguments, whose errors name the argument, its value, and what to do."""

from __future__ import annotations

from torch import Tensor

__all__ = ["check", "check_observed", "check_sizes"]


def check(holds: bool, argument: str, rule: str, value: object, remedy: str) -> None:
    """Refuse an argument unless a rule holds.

    Raises:
        ValueError: it does not.
    """
    if not holds:
        raise ValueError(f"`{argument}` must be {rule}; got {value!r}. {remedy}")


def check_sizes(owner: str, num_samples: int, batch_size: int) -> None:
    """Refuse an empty data set and empty batches."""
    check(num_samples >= 1, f"{owner}(num_samples=...)", "at least 1", num_samples, "Pass len(dataset).")
    check(batch_size >= 1, f"{owner}(batch_size=...)", "at least 1", batch_size, "128 is usual.")


def check_observed(owner: str, indices: Tensor, losses: Tensor) -> None:
    """Refuse losses that are not one a sample."""
    check(
        losses.shape == indices.shape,
        f"{owner}: losses",
        f"one a sample, of shape {list(indices.shape)}",
        list(losses.shape),
        'Compute them with reduction="none".',
    )
