"""The tasks that the scripts train on: data sets that fit in memory, split into training and test samples."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

import cifar
import fashion_mnist
import idx
import kjv
import noise
import text
import variants
from samples import CLASSIFICATION, LANGUAGE_MODEL, InMemoryDataset, Task, keep_batch, split

__all__ = ["DATASETS", "DEFAULTS", "TASKS", "InMemoryDataset", "Task", "dataset_of", "keep_batch", "load_task"]

SHUTTLE_FILE = Path(__file__).parent / "data" / "shuttle.csv.gz"
SHUTTLE_CLASSES = ("Rad.Flow", "High", "Bypass", "Fpv.Open", "Fpv.Close", "Bpv.Open", "Bpv.Close")
SHUTTLE_TRAIN_ROWS = 43_500
DIGITS_TRAIN_ROWS = 1_437
DIGITS = tuple("0123456789")
KNOWN_CLASSES = 5


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
    return split("shuttle", "Shuttle", inputs, targets, SHUTTLE_TRAIN_ROWS, SHUTTLE_CLASSES)


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
    return split("digits", "Digits", inputs, targets[order].long(), DIGITS_TRAIN_ROWS, DIGITS)


def _load_fashion_mnist(data_dir: Path | None) -> Task:
    return _of_idx("fashion-mnist", "Fashion-MNIST", fashion_mnist.find(data_dir), fashion_mnist.CLASSES)


def _load_mnist(data_dir: Path | None) -> Task:
    return _of_idx("mnist", "MNIST", idx.find_mnist(data_dir), DIGITS)


def _of_idx(name: str, title: str, folder: Path, class_names: tuple[str, ...]) -> Task:
    train, test = (InMemoryDataset(*idx.read_split(folder, part)) for part in ("train", "t10k"))
    return Task(name, title, train, test, class_names)


def _load_cifar(name: str, which: cifar.Cifar, data_dir: Path | None) -> Task:
    train, test, class_names = cifar.read(which, cifar.find(which, data_dir))
    return Task(name, which.title, InMemoryDataset(*train), InMemoryDataset(*test), class_names)


def _load_long_tailed(data_dir: Path | None) -> Task:
    return variants.long_tailed(load_task("fashion-mnist", data_dir), largest=6_000, ratio=0.6)


def _load_noisy(name: str, percent: int, data_dir: Path | None) -> Task:
    return variants.noisy(load_task(name, data_dir), percent)


def _load_fine_tuning(data_dir: Path | None) -> Task:
    return variants.fine_tuning(load_task("fashion-mnist", data_dir), KNOWN_CLASSES)


TASKS: dict[str, Callable[[Path | None], Task]] = {
    "cifar-10": partial(_load_cifar, "cifar-10", cifar.CIFAR_10),
    "cifar-100": partial(_load_cifar, "cifar-100", cifar.CIFAR_100),
    "digits": _load_digits,
    "fashion-mnist": _load_fashion_mnist,
    "fashion-mnist-finetune": _load_fine_tuning,
    "fashion-mnist-lt": _load_long_tailed,
    "fashion-mnist-noisy-10": partial(_load_noisy, "fashion-mnist", 10),
    "fashion-mnist-noisy-20": partial(_load_noisy, "fashion-mnist", 20),
    "kjv": lambda _: kjv.load(),
    "kjv-small": lambda _: variants.thinned(kjv.load(), every=16, context=10),
    "mnist": _load_mnist,
    "noise": lambda _: noise.make_noise(),
    "outliers": lambda _: noise.make_outliers(),
    "ptb": text.penn_treebank,
    "shuttle-noisy-10": partial(_load_noisy, "shuttle", 10),
    "shuttle-noisy-20": partial(_load_noisy, "shuttle", 20),
    "shuttle": _load_shuttle,
}
"""Loaders by name; each takes the folder to look in first."""

LANGUAGE_TASKS = ("kjv", "kjv-small", "ptb")

DATASETS = {
    CLASSIFICATION: tuple(name for name in TASKS if name not in LANGUAGE_TASKS),
    LANGUAGE_MODEL: LANGUAGE_TASKS,
}
"""The data sets of each kind of task."""

DEFAULTS = {CLASSIFICATION: "shuttle", LANGUAGE_MODEL: "kjv"}
"""The data set of a kind of task where none is named; both are bundled."""


def dataset_of(kind: str | None, dataset: str | None) -> str:
    """Return the data set that `--task` and `--dataset` name, each of which may be left out.

    Raises:
        ValueError: the data set is for the other kind of task.

    Example:
        >>> dataset_of("lm", None)
        'kjv'
    """
    if dataset is None:
        return DEFAULTS[kind or CLASSIFICATION]
    if kind is not None and dataset not in DATASETS[kind]:
        raise ValueError(
            f"`--dataset` must be one of {', '.join(DATASETS[kind])} for `--task {kind}`; got {dataset!r}."
        )
    return dataset
