"""A stretch of a random order of the samples, as a tensor or as numbers."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Stretch"]


class Stretch:
    """Consecutive entries of some that were made together: for loaders as numbers, as a tensor if somebody asks for it.

    Args:
        entries: int64 [M], that others take stretches of too; on the CPU.
        numbers: the same as a list.
        start: the first of these.
        size: how many these are.
    """

    __slots__ = ("_entries", "_numbers", "_size", "_start")

    def __init__(self, entries: Tensor, numbers: list[int], start: int, size: int) -> None:
        self._entries = entries
        self._numbers = numbers
        self._start = start
        self._size = size

    def __len__(self) -> int:
        """Return how many there are."""
        return self._size

    def __reduce__(self) -> tuple[type[Stretch], tuple[Tensor, list[int], int, int]]:
        """Return a copy of these alone, for pickle."""
        return Stretch, (self.tensor(torch.device("cpu")), self.tolist(), 0, self._size)

    def tolist(self) -> list[int]:
        """Return a list of one's own."""
        return self._numbers[self._start : self._start + self._size]

    def tensor(self, device: torch.device) -> Tensor:
        """Return a tensor of one's own, int64 [size], without waiting for the device."""
        entries = self._entries[self._start : self._start + self._size]
        return entries.to(device, non_blocking=device.type != "cpu", copy=True)
