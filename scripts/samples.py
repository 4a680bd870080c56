"""Samples in memory, and the tasks made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from scores import TEST_ERROR, Score

__all__ = ["CLASSIFICATION", "LANGUAGE_MODEL", "InMemoryDataset", "Task", "keep_batch", "split"]

CLASSIFICATION, LANGUAGE_MODEL = "classification", "lm"
"""Kinds of tasks, as `--task` takes them."""


class InMemoryDataset(Dataset[tuple[Tensor, Tensor]]):
    """Samples in two tensors, fetched a batch at a time.

    `__getitems__` indexes once for a whole batch and returns it already collated, so the loader's `collate_fn` must be
    `keep_batch`, which hands it on as it is.

    Args:
        inputs: float [N, ...], or words int64 [N, T]. May be a view in which samples share their memory.
        targets: class labels, int64 [N].
    """

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one sample and its label."""
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the batch of these samples: inputs [B, ...] and labels [B]."""
        positions = torch.as_tensor(indices)
        return self.inputs[positions], self.targets[positions]


def keep_batch(batch: Any) -> Any:
    """Collate nothing: `InMemoryDataset` returns batches."""
    return batch


@dataclass(frozen=True, eq=False)
class Task:
    """What a network is trained for: to name the class of a sample, which for a language model is the next word.

    Attributes:
        name: as in `--dataset`.
        title: as in figures.
        train: training samples.
        test: test samples.
        class_names: one a class, in the order of the labels.
        kind: one of `CLASSIFICATION` and `LANGUAGE_MODEL`.
        score: what methods are compared by.
        evaluated: how many samples an evaluation looks at, of the training and of the test ones each; None for all test
            samples and as many training ones as are cheap.
        flipped: whether the label of a training sample is a wrong one that it was given, bool [N]; None where none is.
        prepare: gives the network of a run, just built, what it is to start from, given the run's seed; None where that
            is its random weights.
    """

    name: str
    title: str
    train: InMemoryDataset
    test: InMemoryDataset
    class_names: tuple[str, ...]
    kind: str = CLASSIFICATION
    score: Score = TEST_ERROR
    evaluated: int | None = None
    flipped: Tensor | None = None
    prepare: Callable[[nn.Module, int], None] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def test_counts(self) -> list[int]:
        """Number of test samples of each class."""
        return self.test.targets.bincount(minlength=len(self.class_names)).tolist()


def split(
    name: str, title: str, inputs: Tensor, targets: Tensor, train_rows: int, class_names: tuple[str, ...]
) -> Task:
    """Return the task of classification whose first rows are for training and whose others are for testing."""
    train = InMemoryDataset(inputs[:train_rows], targets[:train_rows])
    test = InMemoryDataset(inputs[train_rows:], targets[train_rows:])
    return Task(name, title, train, test, class_names)
