"""Tasks without anything to learn, on which importance sampling can gain nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from samples import InMemoryDataset, Task, split

TRAIN_ROWS, TEST_ROWS = 60_000, 2_000
OUTLIER_SHARE = 0.05
CLASSES = tuple("0123456789")


class OutlierDataset(InMemoryDataset):
    """Samples of which one in twenty has a random label, another one each time it is fetched.

    Its loss is large then, and nothing foretells when.
    """

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        super().__init__(inputs, targets)
        self._generator = torch.Generator().manual_seed(0)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the batch of these samples: inputs [B, ...] and labels [B]."""
        inputs, targets = super().__getitems__(indices)
        is_outlier = torch.rand(len(targets), generator=self._generator) < OUTLIER_SHARE
        return inputs, torch.where(is_outlier, torch.randint(10, targets.shape, generator=self._generator), targets)


def make_noise() -> Task:
    """Return random images with random labels."""
    inputs, targets = _noise()
    return split("noise", "Uniform noise", inputs, targets, TRAIN_ROWS, CLASSES)


def make_outliers() -> Task:
    """Return random images of one class, whose labels are random now and then."""
    inputs, _ = _noise()
    targets = torch.zeros(len(inputs), dtype=torch.int64)
    train = OutlierDataset(inputs[:TRAIN_ROWS], targets[:TRAIN_ROWS])
    test = InMemoryDataset(inputs[TRAIN_ROWS:], targets[TRAIN_ROWS:])
    return Task("outliers", "Uniform noise, random outliers", train, test, CLASSES)


def _noise() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = TRAIN_ROWS + TEST_ROWS
    return torch.rand(rows, 1, 28, 28, generator=generator), torch.randint(10, (rows,), generator=generator)
