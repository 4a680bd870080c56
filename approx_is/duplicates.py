"""Samples that were drawn more than once into a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from approx_is import host

__all__ = ["average_duplicates"]


def average_duplicates(indices: Tensor, values: Tensor) -> Tensor:
    """Return `values` with every entry replaced by the mean over all entries of the same index.

    Deterministic on CPU and CUDA, sums in float64; applying it twice changes nothing.

    Args:
        indices: int64 [B].
        values: float [B].

    Returns:
        Means, dtype and shape of `values`.

    Example:
        >>> average_duplicates(torch.tensor([7, 2, 7]), torch.tensor([1.0, 5.0, 3.0]))
        tensor([2., 5., 2.])
    """
    if host.is_on_host(indices) and not _has_duplicates(indices):
        return values
    ordered, order = indices.sort()
    starts = ordered[1:] != ordered[:-1]
    groups = torch.zeros_like(order)
    groups[order[1:]] = starts.cumsum(0)
    # accumulating index_put sorts on CUDA, unlike index_add and scatter_add, whose order of summation varies
    sums = torch.zeros(values.shape, dtype=torch.float64, device=values.device)
    sizes = sums.index_put((groups,), torch.ones_like(sums), accumulate=True)
    sums = sums.index_put((groups,), values.double(), accumulate=True)
    return (sums / sizes)[groups].to(values.dtype)


def _has_duplicates(indices: Tensor) -> bool:
    ordered = np.sort(indices.numpy())
    return bool((ordered[1:] == ordered[:-1]).any())
