"""Command-line options that the scripts share."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from configuration import BASELINE, OPTIMIZERS, SCHEDULES, Config
from models import MODELS
from samples import CLASSIFICATION, LANGUAGE_MODEL
from tasks import DATASETS, DEFAULTS, TASKS, dataset_of


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run that do not depend on the method."""
    option = parser.add_argument
    option("--task", choices=DATASETS, help="lm: predict the next word (default: that of the data set)")
    option(
        "--dataset",
        choices=TASKS,
        help=f"(default: {DEFAULTS[CLASSIFICATION]}, with --task lm {DEFAULTS[LANGUAGE_MODEL]}; both are bundled)",
    )
    option("--data-dir", type=Path, metavar="DIR", help="where to look first for data that is not bundled")
    option(
        "--model",
        choices=MODELS,
        help="network; by default the 2017 paper's for images and for words, an MLP for Shuttle",
    )
    option(
        "--steps", type=int, default=Config.steps, metavar="N", help="minibatches to train on (default: %(default)s)"
    )
    option("--batch-size", type=int, default=Config.batch_size, metavar="B", help="(default: %(default)s)")
    option("--optimizer", choices=OPTIMIZERS, default=Config.optimizer, help="sgd: momentum 0.9 (default: %(default)s)")
    option("--lr", type=float, default=Config.lr, help="learning rate, at first (default: %(default)s)")
    option("--weight-decay", type=float, default=Config.weight_decay, help="decoupled, for adam (default: %(default)s)")
    option(
        "--schedule",
        choices=SCHEDULES,
        default=Config.schedule,
        help="step: a tenth of the rate after half the steps, a hundredth after three quarters (default: %(default)s)",
    )
    option("--workers", type=int, default=Config.workers, help="processes that load data (default: %(default)s)")
    option(
        "--smoothing",
        type=smoothing,
        default=Config.smoothing,
        metavar="S",
        help="adaptive (default) or a constant ≥ 0",
    )
    option(
        "--refresh",
        type=float,
        default=Config.refresh,
        metavar="E",
        help="largest age of a prediction, in epochs (default: %(default)s)",
    )
    option(
        "--update-every",
        type=positive,
        metavar="N",
        help="updates that the sampler learns from together (default: a 32nd of an epoch, 8 at most)",
    )
    option("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)")


def training_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the values of `add_training_options` as fields of `Config`.

    Raises:
        ValueError: the data set is for another kind of task.
    """
    names = (
        "model",
        "steps",
        "batch_size",
        "optimizer",
        "lr",
        "weight_decay",
        "schedule",
        "workers",
        "smoothing",
        "refresh",
        "update_every",
        "device",
    )
    dataset = dataset_of(arguments.task, arguments.dataset)
    return {"dataset": dataset, **{name: getattr(arguments, name) for name in names}}


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of scripts that train many times."""
    option = parser.add_argument
    option(
        "--seeds",
        type=positive,
        default=3,
        metavar="N",
        help="runs of each method, with seeds from 0 (default: %(default)s)",
    )
    option(
        "--jobs", type=positive, default=os.cpu_count(), metavar="J", help="runs at a time (default: number of cores)"
    )
    option("--predictor-options", type=json_object, default={}, metavar="JSON", help='such as {"lstm": {"option": 1}}')


def positive(text: str) -> int:
    """Parse a number of things."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number


def smoothing(text: str) -> str | float:
    """Parse `--smoothing`."""
    return text if text == "adaptive" else float(text)


def json_object(text: str) -> dict[str, Any]:
    """Parse an option that holds a JSON object."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error}): {text}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'must be a JSON object such as {{"name": 1}}; got {text}')
    return value


def options_of_predictors(options: dict[str, Any], predictors: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the options of each predictor, given those that `--predictor-options` names as an object of objects.

    Raises:
        ValueError: a key is not the name of one of the predictors, or its value is not an object.
    """
    by_predictor: dict[str, dict[str, Any]] = {predictor: {} for predictor in predictors if predictor != BASELINE}
    for name, value in options.items():
        if name not in by_predictor or not isinstance(value, dict):
            example, found = (json.dumps(value) for value in ({"lstm": {"hidden_size": 16}}, {name: value}))
            raise ValueError(f"`--predictor-options` must hold objects by predictor, as {example}; got {found}.")
        by_predictor[name] = value
    return {**by_predictor, BASELINE: {}}
