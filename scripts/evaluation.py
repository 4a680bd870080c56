"""What a network does on a whole data set, and the row of metrics that says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from approx_is import upper_bound
from samples import LANGUAGE_MODEL, InMemoryDataset, Task

EVALUATION_BATCH = 1_000
PROBE_VALUES = 4_000_000
"""Input values that the training loss is evaluated on: all of Shuttle, about 5,000 images of 28 by 28."""

PROBE_SEED = 192_837_465
"""No run has this one: with 0 the first epoch of that run would visit the probe first."""

PART_VALUES = 20_000_000
"""Logits that are held at a time: 80 MB."""


@dataclass(frozen=True)
class Evaluation:
    """One row of metrics.

    Attributes:
        step: minibatches trained on so far.
        seconds: spent training so far, evaluations left out.
        test_error: share of test samples classified wrongly.
        balanced_error: mean over the classes of `class_errors`; None for a language model.
        class_errors: share of each class's test samples classified wrongly, None without samples; None for a language
            model, whose classes are thousands of words.
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
        perplexity: of the test words, the exponential of their mean cross-entropy; None but for a language model.
        captured_of_probe: the share of the ideal variance reduction, over the samples that `train_loss` is the mean of,
            see `capture`; None where undefined.
    """

    step: int
    seconds: float
    test_error: float
    balanced_error: float | None
    class_errors: list[float | None] | None
    train_loss: float
    batch_loss: float
    overhead_ms: float
    overhead_percent: float
    effective_sample_share: float | None
    captured: float | None
    learning_rate: float
    effective_steps: float
    gain_ratio: float
    perplexity: float | None = None
    captured_of_probe: float | None = None


Run = Sequence[Evaluation]
"""The evaluations of one run."""

Runs = Mapping[str, Mapping[int, Run]]
"""The runs of each method, by label and seed."""


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Have the network in eval mode, and leave the mode as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def logits_in_parts(
    model: nn.Module, dataset: InMemoryDataset, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits, [n, C], and labels, [n], of part after part of the data set, on the CPU, in eval mode.

    A part holds as many samples as make `PART_VALUES` logits: few of many classes, all of few. Leaves the mode as it
    was.
    """
    with in_eval_mode(model):
        num_classes = model(dataset.inputs[:1].to(device)).shape[1]
        batch = max(1, min(EVALUATION_BATCH, PART_VALUES // num_classes))
        part = batch * max(1, PART_VALUES // (num_classes * batch))
        for inputs, targets in zip(torch.split(dataset.inputs, part), torch.split(dataset.targets, part), strict=True):
            yield torch.cat([model(some.to(device)).cpu() for some in torch.split(inputs, batch)]), targets


def loss_and_predictions(model: nn.Module, dataset: InMemoryDataset, device: torch.device) -> tuple[float, Tensor]:
    """Return the mean cross-entropy over the data set in eval mode, in nats, and the predicted classes, [N]."""
    total, predictions = 0.0, []
    for logits, targets in logits_in_parts(model, dataset, device):
        total += len(targets) * F.cross_entropy(logits, targets).item()
        predictions.append(logits.argmax(1))
    return total / len(dataset), torch.cat(predictions)


def mean_loss(model: nn.Module, dataset: InMemoryDataset, device: torch.device) -> float:
    """Return the mean cross-entropy over the data set in eval mode, every sample weighing the same, in nats."""
    return loss_and_predictions(model, dataset, device)[0]


def probe_results(model: nn.Module, samples: InMemoryDataset, device: torch.device) -> tuple[float, Tensor, Tensor]:
    """Return the mean cross-entropy, in nats, and of each sample the cross-entropy and the upper bound, float32 [N]."""
    losses, bounds = [], []
    for logits, targets in logits_in_parts(model, samples, device):
        losses.append(F.cross_entropy(logits, targets, reduction="none"))
        bounds.append(upper_bound(logits, targets))
    together = torch.cat(losses)
    return together.double().mean().item(), together, torch.cat(bounds)


def test_results(model: nn.Module, samples: InMemoryDataset, task: Task, device: torch.device) -> dict[str, Any]:
    """Return what an `Evaluation` says about test samples, by the names of its fields."""
    loss, predictions = loss_and_predictions(model, samples, device)
    results = {"test_error": (predictions != samples.targets).double().mean().item()}
    if task.kind == LANGUAGE_MODEL:
        return {**results, "balanced_error": None, "class_errors": None, "perplexity": perplexity(loss)}
    errors = class_errors(predictions, samples.targets, len(task.class_names))
    known = [error for error in errors if error is not None]
    return {**results, "balanced_error": sum(known) / len(known), "class_errors": errors}


def class_errors(predictions: Tensor, targets: Tensor, num_classes: int) -> list[float | None]:
    """Return the share of wrong predictions in each class; None for a class without samples.

    Example:
        >>> class_errors(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 3)
        [0.5, 0.0, None]
    """
    wrong = targets[predictions != targets].bincount(minlength=num_classes).tolist()
    counts = targets.bincount(minlength=num_classes).tolist()
    return [errors / count if count else None for errors, count in zip(wrong, counts, strict=True)]


def perplexity(loss: float) -> float:
    """Return the perplexity of a mean cross-entropy in nats, infinite where it is too large for a float.

    Example:
        >>> perplexity(0.0), perplexity(1e9)
        (1.0, inf)
    """
    return torch.tensor(loss, dtype=torch.float64).exp().item()


@dataclass(frozen=True, eq=False)
class Probe:
    """A part of a data set.

    Attributes:
        indices: of its samples, int64 [n].
        samples: themselves.
    """

    indices: Tensor
    samples: InMemoryDataset


def probe(dataset: InMemoryDataset, size: int | None = None) -> Probe:
    """Return a fixed random part of the data set, small enough to be evaluated often; all of it where that is cheap.

    Args:
        dataset: to choose from.
        size: of the part; by default so many samples that their inputs are `PROBE_VALUES`.
    """
    if size is None:
        size = PROBE_VALUES // max(1, dataset.inputs[0].numel())
    if size >= len(dataset):
        return Probe(torch.arange(len(dataset)), dataset)
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(PROBE_SEED))[:size]
    return Probe(chosen, InMemoryDataset(dataset.inputs[chosen], dataset.targets[chosen]))
