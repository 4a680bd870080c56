"""Exact weighted draws from up to a billion items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.checks import check_importance, check_indices, check_positive
from approx_is.state import check_like

__all__ = ["SumTree"]

FAN_OUT = 64
"""Children a node: a draw reads one row of 64 a level, which costs little more than reading two."""

TOP_WIDTH = 4096
"""Nodes of the top level at most; it is searched whole."""

CHUNK = 65_536
"""Items handled at a time: each reads a row of FAN_OUT numbers."""

LARGEST_UNIFORM = 1 - 2**-52
"""Times a total, this is still below the total after rounding: an item of weight 0 at the end is never drawn."""


class SumTree:
    """Holds a non-negative weight for each of N items, and draws items in proportion to them with replacement.

    Leaves are float32, sums float64, recomputed from the children at each update, so that rounding errors do not
    accumulate. Four levels reach 1e9 items; a draw and an update of B items cost O(B log N) in a fixed number of calls.
    Takes 4.13 bytes an item.

    Args:
        num_items: number of items N.
        device: where the tree lives.

    Raises:
        ValueError: `num_items` is not positive.

    Example:
        >>> tree = SumTree(4)
        >>> tree.update(torch.tensor([1, 3]), torch.tensor([1.0, 3.0]))
        >>> tree.total
        tensor(4., dtype=torch.float64)
        >>> tree.draw(6, torch.Generator().manual_seed(0))
        tensor([1, 3, 3, 3, 3, 1])
    """

    def __init__(self, num_items: int, *, device: torch.device | str = "cpu") -> None:
        self.num_items = check_positive(num_items, "SumTree(num_items=...)")
        self.device = torch.device(device)
        rows = math.ceil(num_items / FAN_OUT)
        self._leaves = torch.zeros(rows, FAN_OUT, dtype=torch.float32, device=self.device)
        self._sums: list[
            Tensor
        ] = []  # from the parents of the leaves up to the top, [rows, FAN_OUT] but for the top, [≤ TOP_WIDTH]
        while rows > TOP_WIDTH:
            parents = math.ceil(rows / FAN_OUT)
            self._sums.append(torch.zeros(parents, FAN_OUT, dtype=torch.float64, device=self.device))
            rows = parents
        self._sums.append(torch.zeros(rows, dtype=torch.float64, device=self.device))

    def update(self, indices: Tensor, values: Tensor) -> None:
        """Set the weights of items.

        Args:
            indices: items, int64 [B] in [0, N); where one appears more than once, one of its values counts.
            values: their weights, float [B], finite and ≥ 0, stored as float32.

        Raises:
            ValueError: an index is out of range, the shapes differ, or a value is negative, not finite or above 3.4e38.
        """
        indices = check_indices(indices, self.num_items, "SumTree.update(indices)").to(self.device)
        values = torch.as_tensor(values).detach().to(self.device, torch.float32)
        check_importance(values, indices.shape, "SumTree.update(values)")
        self.set_values(indices, values)

    def set_values(self, indices: Tensor, values: Tensor) -> None:
        """Update without checks what is already on the device, float32, finite and non-negative, see `update`."""
        self._leaves.view(-1)[indices] = values
        children, rows = self._leaves, indices // FAN_OUT
        for sums in self._sums:
            for chunk in torch.split(rows, CHUNK):
                sums.view(-1)[chunk] = children[chunk].sum(1, dtype=torch.float64)
            children, rows = sums, rows // FAN_OUT

    def values(self, indices: Tensor) -> Tensor:
        """Return the weights of items, float32 [B]."""
        return self._leaves.view(-1)[indices]

    def all_values(self) -> Tensor:
        """Return the weights of all items, float32 [N]; a view, not a copy."""
        return self._leaves.view(-1)[: self.num_items]

    @property
    def total(self) -> Tensor:
        """Sum of all weights, a float64 scalar on the tree's device."""
        return self._sums[-1].sum()

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw items with replacement, each with probability weight / total.

        Args:
            count: number of draws B.
            generator: source of randomness, on the tree's device.

        Returns:
            Items, int64 [B]. One of weight 0 is never among them.

        Raises:
            ValueError: all weights are 0.
        """
        if not bool(self.total > 0):
            raise ValueError("`SumTree.draw` needs a positive weight; all are 0. Set some with `update`.")
        return self.descend(self.uniforms(count, generator))

    def uniforms(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return the random numbers that `count` draws consume, float64 [levels, B] in [0, 1)."""
        levels = len(self._sums) + 1
        random = torch.rand(levels, count, dtype=torch.float64, generator=generator, device=self.device)
        return random.clamp_(max=LARGEST_UNIFORM)

    def descend(self, uniforms: Tensor) -> Tensor:
        """Return the items that random numbers [levels, B] lead to, int64 [B]; arbitrary ones if all weights are 0."""
        if uniforms.shape[1] > CHUNK:
            return torch.cat([self.descend(chunk) for chunk in torch.split(uniforms, CHUNK, dim=1)])
        cumulative = self._sums[-1].cumsum(0)
        node = torch.searchsorted(cumulative, uniforms[0] * cumulative[-1], right=True)
        for uniform, children in zip(uniforms[1:], (*reversed(self._sums[:-1]), self._leaves), strict=True):
            node.clamp_(max=len(children) - 1)  # bites only if all weights are 0, and every sum is passed over
            cumulative = children[node].cumsum(1, dtype=torch.float64)
            target = uniform * cumulative[:, -1]
            node = node * FAN_OUT + (cumulative <= target.unsqueeze(1)).sum(1)
        return node.clamp_(max=self.num_items - 1)

    def state_dict(self) -> dict[str, Any]:
        """Return leaves and sums (not copied)."""
        return {"leaves": self.all_values(), "sums": list(self._sums)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a state into the tree; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self.all_values().copy_(state["leaves"])
        for sums, loaded in zip(self._sums, state["sums"], strict=True):
            sums.copy_(loaded)

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless the state fits and holds finite, non-negative weights."""
        check_like(state, self.state_dict(), "SumTree.load_state_dict(state)")
        check_importance(state["leaves"], self.all_values().shape, "SumTree.load_state_dict(state)['leaves']")
