"""Entries of a random order of the samples, as tensors or as numbers."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Entries", "Stretch"]


class Entries:
    """Entries that are made together, and numbers at once when one of them is to be: loaders want numbers.

    Args:
        tensor: int64 [M], on the CPU.
    """

    __slots__ = ("_numbers", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._numbers: list[int] | None = None

    def __len__(self) -> int:
        """Return how many there are, M."""
        return self.tensor.shape[0]

    def numbers(self) -> list[int]:
        """Return them as numbers; not to be changed."""
        if self._numbers is None:
            self._numbers = self.tensor.tolist()
        return self._numbers


class Stretch:
    """Consecutive ones of some entries, for one draw: numbers, or a tensor, whichever is asked for.

    Args:
        entries: of which these are some.
        start: the first of these.
        size: how many these are.
    """

    __slots__ = ("_entries", "_size", "_start")

    def __init__(self, entries: Entries, start: int, size: int) -> None:
        self._entries = entries
        self._start = start
        self._size = size

    def __len__(self) -> int:
        """Return how many there are."""
        return self._size

    def __reduce__(self) -> tuple[object, tuple[Tensor]]:
        """Return a copy of these alone, for pickle."""
        return _whole, (self.tensor(torch.device("cpu")),)

    def tolist(self) -> list[int]:
        """Return a list of one's own."""
        return self._entries.numbers()[self._start : self._start + self._size]

    def tensor(self, device: torch.device) -> Tensor:
        """Return a tensor of one's own, int64 [size], without waiting for the device."""
        entries = self._entries.tensor[self._start : self._start + self._size]
        return entries.to(device, non_blocking=device.type != "cpu", copy=True)


def _whole(tensor: Tensor) -> Stretch:
    return Stretch(Entries(tensor), 0, len(tensor))
