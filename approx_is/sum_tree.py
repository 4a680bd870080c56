"""Exact weighted draws from up to a billion items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.checks import check_importance, check_indices, check_positive
from approx_is.state import check_like
from approx_is.tree_levels import descend, set_leaves

__all__ = ["SumTree"]

FAN_OUT = 32
"""Children a node: a draw reads one row of 32 a level, which costs little more than reading two."""

TOP_WIDTH = 16_384
"""Nodes of the top level at most; it is searched whole."""

CHUNK = 65_536
"""Items handled at a time: each reads a row of FAN_OUT numbers."""

LARGEST_UNIFORM = 1 - 2**-52
"""Times a total, this is still below the total after rounding: an item of weight 0 at the end is never drawn."""


class SumTree:
    """Holds a non-negative weight for each of N items, and draws items in proportion to them with replacement.

    Leaves are float32, sums float64, recomputed from the children at each update, so that rounding errors do not
    accumulate. Four levels reach 5e8 items; a draw and an update of B items cost O(B log N) in a fixed number of calls.
    Takes 4.26 bytes an item.

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
        self._levels = [torch.zeros(rows, FAN_OUT, dtype=torch.float32, device=self.device)]  # the leaves, see below
        while rows > TOP_WIDTH:
            rows = math.ceil(rows / FAN_OUT)
            self._levels.append(torch.zeros(rows, FAN_OUT, dtype=torch.float64, device=self.device))
        self._levels.append(torch.zeros(rows, dtype=torch.float64, device=self.device))

    def update(self, indices: Tensor, values: Tensor) -> None:
        """Set the weights of items.

        Args:
            indices: items, int64 [B] in [0, N); where one appears more than once, one of its values counts.
            values: their weights, float [B], finite and ≥ 0, stored as float32.

        Raises:
            ValueError: an index is out of range, the shapes differ, or a value is negative, not finite or above 3.4e38.
        """
        indices = check_indices(indices, self.num_items, "SumTree.update(indices)").to(self.device)
        values = torch.as_tensor(values).detach().resolve_neg().to(self.device, torch.float32)
        check_importance(values, indices.shape, "SumTree.update(values)")
        self.set_values(indices, values)

    def set_values(self, indices: Tensor, values: Tensor) -> None:
        """Update without checks what is already on the device, float32, finite and non-negative, see `update`."""
        for start in range(0, len(indices), CHUNK):
            set_leaves(self._levels, indices[start : start + CHUNK], values[start : start + CHUNK])

    def values(self, indices: Tensor) -> Tensor:
        """Return the weights of items, float32 [B]."""
        return self._levels[0].view(-1).index_select(0, indices)

    def all_values(self) -> Tensor:
        """Return the weights of all items, float32 [N]; a view, not a copy."""
        return self._levels[0].view(-1)[: self.num_items]

    @property
    def total(self) -> Tensor:
        """Sum of all weights, a float64 scalar on the tree's device."""
        return self._levels[-1].sum()

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
        if not float(self.total) > 0:
            raise ValueError("`SumTree.draw` needs a positive weight; all are 0. Set some with `update`.")
        return self.descend(self.uniforms(count, generator))

    def uniforms(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return the random numbers that `count` draws consume, float64 [levels, B] in [0, 1)."""
        random = torch.rand(len(self._levels), count, dtype=torch.float64, generator=generator, device=self.device)
        return random.clamp_(max=LARGEST_UNIFORM)

    def descend(self, uniforms: Tensor) -> Tensor:
        """Return the items that random numbers [levels, B] lead to, int64 [B]; arbitrary ones if all weights are 0."""
        if uniforms.shape[1] > CHUNK:
            return torch.cat([self.descend(chunk) for chunk in torch.split(uniforms, CHUNK, dim=1)])
        return descend(self._levels, uniforms).clamp_(max=self.num_items - 1)

    def state_dict(self) -> dict[str, Any]:
        """Return leaves and sums (not copied)."""
        return {"leaves": self.all_values(), "sums": self._levels[1:]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a state into the tree; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self.all_values().copy_(state["leaves"])
        for sums, loaded in zip(self._levels[1:], state["sums"], strict=True):
            sums.copy_(loaded)

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless the state fits and holds finite, non-negative weights."""
        check_like(state, self.state_dict(), "SumTree.load_state_dict(state)")
        check_importance(state["leaves"], self.all_values().shape, "SumTree.load_state_dict(state)['leaves']")
