"""What a user may write, for `mypy --strict`: every public name, with the types that it promises.

`make check` checks it; nothing runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer

from approx_is import (
    AdaptiveSmoothing,
    ApproxSampler,
    ConstantSmoothing,
    Draw,
    GainLR,
    GainRatio,
    GeometricAnnealing,
    ImportanceSampler,
    LinearAnnealing,
    LossHistory,
    Predictor,
    PredictorFactory,
    ScoreError,
    Stateful,
    SumTree,
    VarianceGate,
    available_predictors,
    batch_weights,
    convert_batch_norm,
    half_batch_signal,
    importance_weights,
    per_sample_gradient_norms,
    register_predictor,
    reshard,
    upper_bound,
)
from approx_is.integrations.lightning import ApproxCallback
from approx_is.integrations.transformers import ApproxTrainerMixin
from approx_is.predictors import LSTMPredictor


class Constant:
    """A predictor."""

    def __init__(
        self, history: LossHistory, labels: Tensor | None, num_classes: int, generator: torch.Generator
    ) -> None:
        self.history = history

    def predict(self, indices: Tensor) -> Tensor:
        """Return 1 for each."""
        return torch.ones(len(indices))

    def update(self, indices: Tensor, observed: Tensor, step: int) -> None:
        """Learn nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore nothing."""


factory: PredictorFactory = Constant
register_predictor("constant", factory)
names: list[str] = available_predictors()

dataset = TensorDataset(torch.zeros(8, 2), torch.zeros(8, dtype=torch.int64))
loader = DataLoader(dataset, batch_size=4, shuffle=True)
model: nn.Module = convert_batch_norm(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

sampler = ApproxSampler(
    loader,
    predictor=LSTMPredictor,
    k=LinearAnnealing(0.5, 1.0, 100),
    smoothing=AdaptiveSmoothing(0.5),
    gate=VarianceGate(),
    predictor_options={"num_layers": 1},
)
gain: GainRatio = sampler.gain
schedule = GainLR(MultiStepLR(optimizer, [10]), sampler)


def step(x: Tensor, y: Tensor, draw: Draw) -> None:
    """Take a step, as the README does."""
    with batch_weights(draw.weights):
        logits = model(x)
    losses = F.cross_entropy(logits, y, reduction="none")
    optimizer.zero_grad()
    loss: Tensor = draw.weighted_mean(losses)
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own
    optimizer.step()
    sampler.update(draw, lambda: upper_bound(logits, y))
    schedule.step()


def train() -> None:
    """Train, and look at what there is to look at."""
    try:
        for (x, y), draw in sampler:
            step(x, y, draw)
    except ScoreError:
        sampler.begin_epoch()
    metrics: dict[str, float] = sampler.metrics()
    state: dict[str, Any] = sampler.state_dict()
    sampler.load_state_dict(state)
    stateful: Stateful = sampler
    print(metrics, stateful, len(sampler), sampler.probabilities().sum())


def by_indices() -> Draw:
    """Draw without a loader."""
    alone = ImportanceSampler(
        8, 4, predictor="rais", k=GeometricAnnealing(0.5, 1.0, 100), smoothing=ConstantSmoothing(0.1)
    )
    draw: Draw = alone.draw()
    indices, probabilities, weights = draw
    weights = importance_weights(probabilities, 8, 1.0)
    alone.update(draw, weights)
    states: list[dict[str, Any]] = reshard([alone.state_dict()], 2)
    predictor: Predictor = LSTMPredictor(LossHistory(8), None, 1, torch.Generator())
    print(states, predictor.predict(indices), per_sample_gradient_norms, half_batch_signal)
    return draw.to("cpu")


def tree() -> Tensor:
    """Draw by weights alone."""
    weighted = SumTree(10)
    weighted.update(torch.arange(10), torch.ones(10))
    return weighted.draw(4, torch.Generator())


class Classifier(pl.LightningModule):
    """A module for Lightning."""

    def training_step(self, batch: tuple[list[Tensor], Draw], batch_idx: int) -> dict[str, Tensor]:
        """Return the loss, and those of the samples."""
        (x, y), draw = batch
        losses = F.cross_entropy(model(x), y, reduction="none")
        return {"loss": draw.weighted_mean(losses), "per_sample_loss": losses.detach()}


def with_lightning() -> None:
    """Train by Lightning."""
    callback = ApproxCallback(lambda: ApproxSampler(loader, predictor="last-loss"))
    pl.Trainer(callbacks=[callback]).fit(Classifier(), callback.batches)


class ImportanceTrainer(ApproxTrainerMixin, Trainer):
    """A trainer for Transformers."""

    def create_sampler(self, loader: DataLoader[Any]) -> ApproxSampler:
        """Return the sampler."""
        return ApproxSampler(loader, predictor="lstm", k=0.5)

    def importance(self, outputs: Any, labels: Tensor, losses: Tensor) -> Tensor:
        """Return the bound of the gradient's norm."""
        return upper_bound(outputs.logits, labels)
