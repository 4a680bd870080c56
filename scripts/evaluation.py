"""What a network does on a whole data set, and the row of metrics that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks import InMemoryDataset

EVALUATION_BATCH = 1_000
PROBE_VALUES = 8_000_000
"""Input values that the training loss is evaluated on: all of Shuttle, about 10,000 images of 28 by 28."""


@dataclass(frozen=True)
class Evaluation:
    """One row of metrics.

    Attributes:
        step: minibatches trained on so far.
        seconds: spent training so far, evaluations left out.
        test_error: share of test samples classified wrongly.
        balanced_error: mean over the classes of `class_errors`.
        class_errors: share of each class's test samples classified wrongly, None without samples.
        train_loss: mean cross-entropy over (a fixed part of) the training set in eval mode, in nats.
        batch_loss: moving average of the loss that was descended, in nats.
        overhead_ms: time a step spent getting the batch (drawing and fetching) and in `sampler.update`. The plain loop
            has some too, its loader's; with workers it includes waiting for them.
        overhead_percent: the same over the time of the rest of the step.
        effective_sample_share: effective sample size of the weights over the batch size; None for the plain loop.
        captured: the sampler's own estimate of the share of the ideal variance reduction; None where undefined.
        learning_rate: of the next step.
        effective_steps: uniform steps that the steps so far are worth; `step` itself without `--gain`.
        gain_ratio: what the next step is worth; 1 without `--gain`.
    """

    step: int
    seconds: float
    test_error: float
    balanced_error: float
    class_errors: list[float | None]
    train_loss: float
    batch_loss: float
    overhead_ms: float
    overhead_percent: float
    effective_sample_share: float | None
    captured: float | None
    learning_rate: float
    effective_steps: float
    gain_ratio: float


Run = Sequence[Evaluation]
"""The evaluations of one run."""

Runs = Mapping[str, Sequence[Run]]
"""The runs of each method, by label; the seeds of every method in the same order."""


@torch.no_grad()
def all_logits(model: nn.Module, dataset: InMemoryDataset, device: torch.device) -> Tensor:
    """Return the logits of all samples, [N, C] on the CPU, in eval mode; leaves the mode as it was."""
    was_training = model.training
    model.eval()
    logits = torch.cat([model(inputs.to(device)).cpu() for inputs in torch.split(dataset.inputs, EVALUATION_BATCH)])
    model.train(was_training)
    return logits


def class_errors(logits: Tensor, targets: Tensor) -> list[float | None]:
    """Return the share of wrong predictions in each class; None for a class without samples.

    Example:
        >>> class_errors(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 0, 1]))
        [0.5, 0.0, None]
    """
    num_classes = logits.shape[1]
    wrong = targets[logits.argmax(1) != targets].bincount(minlength=num_classes).tolist()
    counts = targets.bincount(minlength=num_classes).tolist()
    return [errors / count if count else None for errors, count in zip(wrong, counts, strict=True)]


def probe(dataset: InMemoryDataset) -> InMemoryDataset:
    """Return a fixed random part of the data set, small enough to be evaluated often; all of it where that is cheap."""
    size = PROBE_VALUES // max(1, dataset.inputs[0].numel())
    if size >= len(dataset):
        return dataset
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:size]
    return InMemoryDataset(dataset.inputs[chosen], dataset.targets[chosen])


def mean_loss(model: nn.Module, dataset: InMemoryDataset, device: torch.device) -> float:
    """Return the mean cross-entropy over the data set in eval mode, every sample weighing the same, in nats."""
    return F.cross_entropy(all_logits(model, dataset, device), dataset.targets).item()
