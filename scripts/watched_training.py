"""Plain uniform training that samplers watch: they learn from every minibatch and choose none.

What the figures of gradients have in common: their options, their network, and the images that they look at.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from approx_is import ImportanceSampler, VarianceGate, upper_bound
from configuration import BASELINE, Config
from models import MODELS, TITLES, default_model, initial_network
from optimization import build_optimizer
from options import positive
from plots import OPTIMIZER_NAMES
from samples import CLASSIFICATION
from tasks import DATASETS, Task

LARGE_BATCH = 1_024
"""Images whose gradients are compared at a time."""


class WatchedTraining:
    """One network trained with plain uniform minibatches, and a sampler of each predictor that watches.

    Every epoch visits each sample once. What the samplers are told of a minibatch is the upper bound of its gradients'
    norms. Runs of one seed train the same network, whoever watches.

    Args:
        config: what to run; its predictor is `uniform`.
        task: the data of `config.dataset`.
        predictors: names of those that watch.

    Raises:
        ValueError: the network does not fit, there is no such predictor, or too few images.
    """

    def __init__(self, config: Config, task: Task, predictors: Iterable[str] = ()) -> None:
        if len(task.train) < LARGE_BATCH:
            raise ValueError(f"`--dataset` must have at least {LARGE_BATCH:,} samples; got {len(task.train):,}.")
        self.config = config
        self.task = task
        self.model = initial_network(task, config.model, seed=config.seed, device=torch.device("cpu"))
        self.optimizer = build_optimizer(config, self.model)
        self.samplers = {name: watching_sampler(name, config, task) for name in (BASELINE, *predictors)}
        self.step = 0
        self._images = torch.Generator().manual_seed(config.seed)

    def steps(self) -> Iterator[int]:
        """Train to the end; yield the number of each step when it is done."""
        while self.step < self.config.steps:
            draws = {name: sampler.draw() for name, sampler in self.samplers.items()}
            inputs, targets = self.task.train.__getitems__(draws[BASELINE].indices.tolist())
            logits = self.model(inputs)
            self.optimizer.zero_grad()
            F.cross_entropy(logits, targets).backward()
            self.optimizer.step()
            observed = upper_bound(logits, targets)
            for name, draw in draws.items():
                self.samplers[name].update(draw, observed)
            self.step += 1
            yield self.step

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.step / self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in which every sample is visited once."""
        return math.ceil(len(self.task.train) / self.config.batch_size)

    def choose_images(self) -> Tensor:
        """Return the next images to look at, uniformly at random without replacement, int64 [LARGE_BATCH]."""
        return torch.randperm(len(self.task.train), generator=self._images)[:LARGE_BATCH]


def watching_sampler(predictor: str, config: Config, task: Task) -> ImportanceSampler:
    """Return a sampler that learns, but whose gate never lets it draw otherwise than uniformly.

    Those of one seed draw alike, so that one minibatch serves all.
    """
    return ImportanceSampler(
        len(task.train),
        config.batch_size,
        predictor=predictor,
        labels=task.train.targets,
        num_classes=len(task.class_names),
        gate=VarianceGate(relative_cost=1.0, margin=math.inf),
        seed=config.seed,
    )


def add_figure_options(parser: argparse.ArgumentParser, out: str) -> None:
    """Add the options that the figures of gradients share."""
    option = parser.add_argument
    option("--dataset", choices=DATASETS[CLASSIFICATION], default="fashion-mnist", help="(default: %(default)s)")
    option("--data-dir", type=Path, metavar="DIR", help="where to look first for data that is not bundled")
    option("--model", choices=MODELS, default="small-cnn", help="network (default: %(default)s)")
    option("--steps", type=positive, default=Config.steps, metavar="N", help="to train (default: %(default)s)")
    option("--seed", type=int, default=Config.seed, help="(default: %(default)s)")
    option("--out", type=Path, default=Path(out), metavar="DIR", help="folder for the results (default: %(default)s)")


def figure_config(arguments: argparse.Namespace) -> Config:
    """Return what `add_figure_options` says as a config: otherwise plain training with the defaults."""
    names = ("dataset", "model", "steps", "seed")
    values: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    return Config(predictor=BASELINE, observe="upper-bound", **values)


def setting(training: WatchedTraining) -> str:
    """Return what was trained and how, for a figure's title."""
    config, task = training.config, training.task
    network = TITLES[config.model or default_model(task.input_shape, task.kind)]
    optimizer = f"{OPTIMIZER_NAMES[config.optimizer]} {config.lr:g}"
    return f"{task.title}, {network}, {optimizer}, uniform batches of {config.batch_size}, seed {config.seed}"
