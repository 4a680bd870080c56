"""How a sum tree is searched and kept up to date, level by level.

Twice: with numpy, whose calls on few numbers cost less than torch's, and with torch, for tensors that are not in the
CPU's memory. Levels are what `SumTree` holds: leaves [rows, F] first, then sums of their rows as [rows / F, F], …,
and the sums of the last of these as the top, [R].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from approx_is import host

__all__ = ["descend", "set_leaves"]

Array = NDArray[np.floating]


def set_leaves(levels: Sequence[Tensor], indices: Tensor, values: Tensor) -> None:
    """Set leaves, and recompute the sums above them from their children.

    Args:
        levels: changed in place.
        indices: leaves, int64 [B], on the levels' device.
        values: their weights, float32 [B]; of an index that appears more than once one counts.
    """
    if host.is_on_host(levels[0]):
        _set_leaves_with_numpy([level.numpy() for level in levels], indices.numpy(), values.numpy())
    else:
        set_leaves_with_torch(levels, indices, values)


def descend(levels: Sequence[Tensor], uniforms: Tensor) -> Tensor:
    """Return the leaves that random numbers lead to, int64 [B]; arbitrary ones if all weights are 0.

    Args:
        levels: of the tree.
        uniforms: a row for each level, from the top, float64 [levels, B] in [0, 1 − 2^-52]: times a total such a number
            is still below the total after rounding, so that no leaf of weight 0 is found.
    """
    if host.is_on_host(levels[0]):
        return torch.from_numpy(_descend_with_numpy([level.numpy() for level in levels], uniforms.numpy()))
    return descend_with_torch(levels, uniforms)


def _set_leaves_with_numpy(levels: Sequence[Array], indices: NDArray[np.int64], values: NDArray[np.float32]) -> None:
    levels[0].reshape(-1)[indices] = values
    nodes = indices
    for children, sums in pairwise(levels):
        nodes = nodes // children.shape[1]
        sums.reshape(-1)[nodes] = np.add.reduce(children.take(nodes, 0), 1, dtype=np.float64)


def _descend_with_numpy(levels: Sequence[Array], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    cumulative = _cumulative(levels[-1])
    nodes: NDArray[np.int64] = cumulative.searchsorted(uniforms[0] * cumulative[-1], "right")
    np.minimum(nodes, len(cumulative) - 1, out=nodes)  # bites only if all weights are 0
    for uniform, children in zip(uniforms[1:], levels[-2::-1], strict=True):
        cumulative = _cumulative(children.take(nodes, 0))
        targets = uniform * cumulative[:, -1]
        nodes = nodes * children.shape[1] + (cumulative > targets[:, np.newaxis]).argmax(1)
    return nodes


def _cumulative(values: Array) -> NDArray[np.float64]:
    # numpy's is slow along short rows
    sums: NDArray[np.float64] = torch.from_numpy(values).cumsum(-1, dtype=torch.float64).numpy()
    return sums


def set_leaves_with_torch(levels: Sequence[Tensor], indices: Tensor, values: Tensor) -> None:
    """Do the same as `set_leaves` on any device, without waiting for it."""
    levels[0].view(-1).index_copy_(0, indices, values)
    nodes = indices
    for children, sums in pairwise(levels):
        nodes = nodes // children.shape[1]
        sums.view(-1).index_copy_(0, nodes, children.index_select(0, nodes).sum(1, dtype=torch.float64))


def descend_with_torch(levels: Sequence[Tensor], uniforms: Tensor) -> Tensor:
    """Do the same as `descend` on any device, without waiting for it."""
    cumulative = levels[-1].cumsum(0)
    nodes = torch.searchsorted(cumulative, uniforms[0] * cumulative[-1], right=True)
    for uniform, children in zip(uniforms[1:], reversed(levels[:-1]), strict=True):
        nodes.clamp_(max=len(children) - 1)  # bites only if all weights are 0, and every sum is passed over
        cumulative = children.index_select(0, nodes).cumsum(1, dtype=torch.float64)
        before = torch.searchsorted(cumulative, uniform.unsqueeze(1) * cumulative[:, -1:], right=True).squeeze(1)
        nodes = before.add_(nodes, alpha=children.shape[1])
    return nodes.clamp_(max=levels[0].numel() - 1)
