"""The tasks that the scripts train on: data sets that fit in memory, split into training and test samples."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import fashion_mnist

SHUTTLE_FILE = Path(__file__).parent / "data" / "shuttle.csv.gz"
SHUTTLE_CLASSES = ("Rad.Flow", "High", "Bypass", "Fpv.Open", "Fpv.Close", "Bpv.Open", "Bpv.Close")
SHUTTLE_TRAIN_ROWS = 43_500
DIGITS_TRAIN_ROWS = 1_437
NOISE_TRAIN_ROWS, NOISE_TEST_ROWS = 60_000, 2_000
OUTLIER_SHARE = 0.05


class InMemoryDataset(Dataset[tuple[Tensor, Tensor]]):
    """Samples in two tensors, fetched a batch at a time.

    `__getitems__` indexes once for a whole batch and returns it already collated, so the loader's `collate_fn` must be
    `keep_batch`, which hands it on as it is.

    Args:
        inputs: float [N, ...].
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
    """A classification task.

    Attributes:
        name: as in `--dataset`.
        title: as in figures.
        train: training samples.
        test: test samples.
        class_names: one a class, in the order of the labels.
    """

    name: str
    title: str
    train: InMemoryDataset
    test: InMemoryDataset
    class_names: tuple[str, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def test_counts(self) -> list[int]:
        """Number of test samples of each class."""
        return self.test.targets.bincount(minlength=len(self.class_names)).tolist()


@cache
def load_task(name: str, data_dir: Path | None = None) -> Task:
    """Load a task by its name, once a process.

    Args:
        name: one of `TASKS`.
        data_dir: folder to look in first, for data sets that are not bundled.

    Raises:
        ValueError: there is no such task, or its files are damaged.
        FileNotFoundError: the data is neither here nor to be had; the message says how to get it.
        ModuleNotFoundError: the task needs a package that is not installed.
    """
    if name not in TASKS:
        raise ValueError(f"`--dataset` must be one of {', '.join(TASKS)}; got {name!r}.")
    return TASKS[name](data_dir)


def _load_shuttle(_: Path | None) -> Task:
    with gzip.open(SHUTTLE_FILE, "rt", encoding="utf-8") as file:
        rows = np.loadtxt(file, delimiter=",", skiprows=1, converters={9: SHUTTLE_CLASSES.index}, encoding=None)
    features, targets = torch.from_numpy(rows[:, :9]), torch.from_numpy(rows[:, 9]).long()
    standard_deviation, mean = torch.std_mean(features[:SHUTTLE_TRAIN_ROWS], dim=0)
    inputs = ((features - mean) / standard_deviation).float()
    return _split("shuttle", "Shuttle", inputs, targets, SHUTTLE_TRAIN_ROWS, SHUTTLE_CLASSES)


def _load_digits(_: Path | None) -> Task:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "`--dataset digits` comes with scikit-learn; install it with: pip install scikit-learn"
        ) from None
    images, targets = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    inputs = (images[order] / 16).float().view(-1, 1, 8, 8)
    return _split("digits", "Digits", inputs, targets[order].long(), DIGITS_TRAIN_ROWS, tuple("0123456789"))


def _load_fashion_mnist(data_dir: Path | None) -> Task:
    folder = fashion_mnist.find(data_dir)
    train, test = (InMemoryDataset(*fashion_mnist.read_split(folder, split)) for split in ("train", "t10k"))
    return Task("fashion-mnist", "Fashion-MNIST", train, test, fashion_mnist.CLASSES)


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


def _make_noise(_: Path | None) -> Task:
    inputs, targets = _noise()
    return _split("noise", "Uniform noise", inputs, targets, NOISE_TRAIN_ROWS, tuple("0123456789"))


def _make_outliers(_: Path | None) -> Task:
    inputs, _targets = _noise()
    targets = torch.zeros(len(inputs), dtype=torch.int64)
    train = OutlierDataset(inputs[:NOISE_TRAIN_ROWS], targets[:NOISE_TRAIN_ROWS])
    test = InMemoryDataset(inputs[NOISE_TRAIN_ROWS:], targets[NOISE_TRAIN_ROWS:])
    return Task("outliers", "Uniform noise, random outliers", train, test, tuple("0123456789"))


def _noise() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = NOISE_TRAIN_ROWS + NOISE_TEST_ROWS
    return torch.rand(rows, 1, 28, 28, generator=generator), torch.randint(10, (rows,), generator=generator)


def _split(
    name: str, title: str, inputs: Tensor, targets: Tensor, train_rows: int, class_names: tuple[str, ...]
) -> Task:
    train = InMemoryDataset(inputs[:train_rows], targets[:train_rows])
    test = InMemoryDataset(inputs[train_rows:], targets[train_rows:])
    return Task(name, title, train, test, class_names)


TASKS: dict[str, Callable[[Path | None], Task]] = {
    "digits": _load_digits,
    "fashion-mnist": _load_fashion_mnist,
    "noise": _make_noise,
    "outliers": _make_outliers,
    "shuttle": _load_shuttle,
}
"""Loaders by name; each takes the folder to look in first."""
