"""What draws items by weight: the sum tree, and what else one may take for it. Each through its public interface."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from approx_is import SumTree
from resident_memory import PROCESS, Resident, give_back


class Contender(ABC):
    """N items with random weights in (0, 1], some of which are drawn with replacement or get new weights.

    Args:
        num_items: number of items N.
    """

    title: ClassVar[str]
    largest: ClassVar[int] = 2**28
    """Most items that it is asked to hold."""

    @abstractmethod
    def __init__(self, num_items: int) -> None: ...

    @abstractmethod
    def draw(self, count: int) -> Any:
        """Draw items in proportion to their weights."""

    @abstractmethod
    def update(self, indices: Any, values: Any) -> None:
        """Set weights of items, given as `prepare` returns them."""

    @staticmethod
    def prepare(indices: Tensor, values: Tensor) -> tuple[Any, Any]:
        """Return indices, int64 [B], and values, float32 [B], in the types that are the contender's own."""
        return indices, values


class Tree(Contender):
    """The sum tree of this package."""

    title = "SumTree"
    largest = 10**9

    def __init__(self, num_items: int) -> None:
        self.tree = SumTree(num_items)
        self.generator = torch.Generator().manual_seed(0)
        for items in torch.split(torch.arange(num_items), 4096):
            self.tree.update(items, _weights(len(items), self.generator))

    def draw(self, count: int) -> Tensor:
        """Draw items in proportion to their weights."""
        return self.tree.draw(count, self.generator)

    def update(self, indices: Tensor, values: Tensor) -> None:
        """Set weights of items."""
        self.tree.update(indices, values)


class Multinomial(Contender):
    """`torch.multinomial` in float32, which sums all weights at each draw."""

    title = "torch.multinomial"
    largest = 2**24

    def __init__(self, num_items: int) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.weights = _weights(num_items, self.generator)

    def draw(self, count: int) -> Tensor:
        """Draw items in proportion to their weights."""
        return torch.multinomial(self.weights, count, replacement=True, generator=self.generator)

    def update(self, indices: Tensor, values: Tensor) -> None:
        """Set weights of items."""
        self.weights[indices] = values


class CumulativeSum(Contender):
    """Numpy's `cumsum` and `searchsorted` in float64, the sums anew at each draw, into memory that is kept."""

    title = "numpy cumsum + searchsorted"

    def __init__(self, num_items: int) -> None:
        self.random = np.random.default_rng(0)
        self.weights = 1 - self.random.random(num_items)
        self.cumulative = np.empty(num_items)

    def draw(self, count: int) -> np.ndarray:
        """Draw items in proportion to their weights."""
        self.weights.cumsum(out=self.cumulative)
        targets: np.ndarray = self.random.random(count) * self.cumulative[-1]
        return np.searchsorted(self.cumulative, targets, side="right")

    def update(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Set weights of items."""
        self.weights[indices] = values

    @staticmethod
    def prepare(indices: Tensor, values: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return arrays."""
        return indices.numpy(), values.double().numpy()


class ReplayBuffer(Contender):
    """cpprb's `PrioritizedReplayBuffer`, by priorities as they are, around the least that it can store: a byte each."""

    title = "cpprb"

    def __init__(self, num_items: int) -> None:
        buffer = importlib.import_module("cpprb").PrioritizedReplayBuffer
        self.buffer = buffer(num_items, {"sample": {"dtype": np.uint8}}, alpha=1.0, eps=0.0)
        for priorities in torch.split(_weights(num_items, torch.Generator().manual_seed(0)), 2**20):
            self.buffer.add(sample=np.zeros(len(priorities), np.uint8), priorities=priorities.numpy())

    def draw(self, count: int) -> dict[str, np.ndarray]:
        """Draw items in proportion to their weights; they come with the weights of their losses."""
        samples: dict[str, np.ndarray] = self.buffer.sample(count)
        return samples

    def update(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Set weights of items."""
        self.buffer.update_priorities(indices, values)

    @staticmethod
    def prepare(indices: Tensor, values: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return arrays of the types that cpprb does not convert."""
        return indices.numpy().astype(np.uint64), values.numpy()


CONTENDERS: tuple[type[Contender], ...] = (Tree, Multinomial, CumulativeSum, ReplayBuffer)


def installed() -> list[type[Contender]]:
    """Return the contenders that can be had here."""
    has_cpprb = importlib.util.find_spec("cpprb") is not None
    return [contender for contender in CONTENDERS if has_cpprb or contender is not ReplayBuffer]


def resident_bytes() -> int | None:
    """Return the memory that this process holds and needs, not counting files; None where the system does not tell."""
    if not PROCESS.is_dir():
        return None
    give_back()
    return Resident.now().anonymous


def _weights(count: int, generator: torch.Generator) -> Tensor:
    return 1 - torch.rand(count, generator=generator)
