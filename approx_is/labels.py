"""The class of each sample, from the user or from the data set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from approx_is.checks import check_positive

__all__ = ["check_labels", "classes_of", "find_labels"]


def find_labels(dataset: Any) -> Any | None:
    """Return the data set's `targets` or `labels`, through `Subset` too; None if it has neither for every sample."""
    if isinstance(dataset, Subset):
        labels = find_labels(dataset.dataset)
        return None if labels is None else torch.as_tensor(labels)[torch.as_tensor(dataset.indices)]
    for name in ("targets", "labels"):
        labels = getattr(dataset, name, None)
        if labels is not None and _are_classes(labels, len(dataset)):
            return labels
    return None


def check_labels(labels: Any, num_samples: int, num_classes: int | None) -> tuple[Tensor | None, int]:
    """Return labels [N] in the smallest integer dtype, and the number of classes C.

    Args:
        labels: integer class of each sample, [N] or [N, 1], tensor or array-like; None for a single class.
        num_samples: N.
        num_classes: C; None for the largest label + 1.

    Raises:
        ValueError: labels are not integers, negative, not below `num_classes`, or not N of them.
    """
    if labels is None:
        return None, 1
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"`labels` must be integer classes, one a sample; got {type(labels).__name__}: {error}."
        ) from None
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"`labels` must be integer classes; got {labels.dtype}. For regression pass labels=None.")
    if labels.shape == (num_samples, 1):
        labels = labels.squeeze(1)
    if labels.shape != (num_samples,):
        raise ValueError(f"`labels` must have shape [{num_samples}], one a sample; got {list(labels.shape)}.")
    # int64 labels are not copied: of a hundred million that would show
    comparable = labels.long() if labels.dtype in (torch.uint16, torch.uint32, torch.uint64) else labels
    lowest, highest = (int(bound) for bound in comparable.aminmax())
    if lowest < 0:
        raise ValueError(f"`labels` must be at least 0; got {lowest}. Give unlabelled samples a class of their own.")
    num_classes = highest + 1 if num_classes is None else check_positive(num_classes, "num_classes", at_most=2**31 - 1)
    if highest >= min(num_classes, 2**31 - 1):
        raise ValueError(f"`labels` must be below `num_classes` = {num_classes}; got {highest}.")
    smallest = torch.uint8 if num_classes <= 256 else torch.int32
    return labels.to(smallest), num_classes


def classes_of(labels: Tensor | None, indices: Tensor) -> Tensor:
    """Return the classes of samples, int64 [B]; 0 for all without labels."""
    return torch.zeros_like(indices) if labels is None else labels.index_select(0, indices).long()


def _are_classes(labels: Any, num_samples: int) -> bool:
    # what a data set happens to call `labels` may be texts, boxes or regression targets: those are not for us
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        return False
    if labels.is_floating_point() or labels.is_complex() or labels.shape not in ((num_samples,), (num_samples, 1)):
        return False
    # whole numbers beyond the number of samples are no classes, but identities or a regression
    return num_samples > 0 and bool((labels >= 0).all()) and bool((labels < num_samples).all())
