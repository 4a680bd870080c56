r"""Samples that look mislabelled: whenever they were drawn, the network was sure of another class.

They are judged by what is remembered of :math:`u = \lVert p - \mathrm{onehot}(y) \rVert`, with p the softmax, the upper
bound that `rais` observes. It says more here than the loss. A large loss says that the label y is improbable; a large u
says as well that the rest is not spread but lies on one other class, which has at least the probability

.. math:: \max_{j \ne y} p_j \ge u^2 - 1

since :math:`\sum_{j \ne y} p_j^2 \le (1 - p_y) \max_{j \ne y} p_j` and so :math:`u^2 \le 1 + \max_{j \ne y} p_j`. Above
1 the predicted class is not the label, and at √2 the network is certain of another. Which one, u does not say: the
prediction in the end does.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

CONFIDENCE = 0.5
"""Least probability of another class, at every remembered draw, that makes a sample suspicious."""

LEAST_OBSERVATIONS = 3
"""Remembered draws below which nothing is said of a sample."""


@dataclass(frozen=True)
class Suspect:
    """A sample whose label looks wrong.

    Attributes:
        index: position in the training set.
        label: name of its class.
        predicted: name of the class that the network predicts in the end.
        probability: that the network gives this class.
        confidence: probability that another class than the label had at least, whenever the sample was drawn.
        draws: how often it was, since the first epoch.
        losses: the remembered ones, in nats, oldest first.
        norms: the remembered upper bounds, oldest first.
        is_flipped: whether the label is one that `flip_labels` changed.
    """

    index: int
    label: str
    predicted: str
    probability: float
    confidence: float
    draws: int
    losses: list[float]
    norms: list[float]
    is_flipped: bool


def steady_confidence(norms: Tensor, counts: Tensor) -> Tensor:
    """Return the probability that a class other than the label had at least, whenever the sample was observed.

    That is the smallest remembered norm's square less 1, see the module; not below 0.

    Args:
        norms: remembered upper bounds of the gradient norm, float [N, T] in [0, √2], as `LossHistory.recent` has them.
        counts: how many of them there are, int64 [N]. Below `LEAST_OBSERVATIONS` nothing is steady: 0.

    Returns:
        Probabilities, [N] in [0, 1].

    Example:
        >>> norms = torch.tensor([[1.4, 1.3, 1.35], [1.4, 0.2, 1.4], [1.4, 0.0, 0.0]])
        >>> steady_confidence(norms, counts=torch.tensor([3, 3, 1]))
        tensor([0.6900, 0.0000, 0.0000])
    """
    is_missing = torch.arange(norms.shape[1]) >= counts.unsqueeze(1)
    smallest = norms.masked_fill(is_missing, torch.inf).amin(1)
    return torch.where(counts >= LEAST_OBSERVATIONS, smallest.square() - 1, 0).clamp(0, 1)


def find_suspects(confidence: Tensor, labels: Tensor, predicted: Tensor) -> Tensor:
    """Return the samples that look mislabelled, the most suspicious first, int64.

    Those with a confidence of at least `CONFIDENCE`, if the network in the end still predicts another class.

    Args:
        confidence: from `steady_confidence`, float [N].
        labels: class of each sample, int64 [N].
        predicted: that the network predicts now, int64 [N].

    Example:
        >>> confidence = torch.tensor([0.6, 0.9, 0.8, 0.3])
        >>> find_suspects(confidence, torch.tensor([0, 0, 0, 0]), torch.tensor([1, 2, 0, 1]))
        tensor([1, 0])
    """
    order = confidence.argsort(descending=True, stable=True)
    return order[((confidence >= CONFIDENCE) & (predicted != labels))[order]]


def flip_labels(labels: Tensor, share: float, num_classes: int, seed: int) -> Tensor:
    """Return labels of which a share, chosen at random, is another class, each other one as likely.

    Args:
        labels: int64 [N], left as they are.
        share: of the labels to change, in [0, 1].
        num_classes: number of classes C, at least 2.
        seed: of the choice.

    Example:
        >>> flip_labels(torch.zeros(8, dtype=torch.int64), 0.25, num_classes=2, seed=0).sum()
        tensor(2)
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    flipped = labels.clone()
    flipped[chosen] += torch.randint(1, num_classes, chosen.shape, generator=generator)
    return flipped % num_classes


def table(suspects: Sequence[Suspect], most: int) -> str:
    """Return the first of them in Markdown."""
    header = "| index | label | predicted | probability | always at least | draws | remembered losses, oldest first |"
    lines = [
        f"| {row.index} | {row.label} | {row.predicted} | {row.probability:.3f} | {row.confidence:.3f} | {row.draws} | "
        f"{_spaced(row.losses, 1)} |"
        for row in suspects[:most]
    ]
    return "\n".join([header, "|---:|---|---|---:|---:|---:|---|", *lines]) + "\n"


def as_csv(suspects: Sequence[Suspect]) -> str:
    """Return all of them as the text of a CSV file; what is remembered is separated by spaces."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [field.name for field in fields(Suspect)], lineterminator="\n")
    writer.writeheader()
    for row in suspects:
        writer.writerow(asdict(row) | {"losses": _spaced(row.losses, 4), "norms": _spaced(row.norms, 4)})
    return file.getvalue()


def verdict(suspects: Sequence[Suspect], num_flipped: int, most: int) -> str:
    """Return in one line how many of the suspects carry a flipped label, and how many of those are among them."""
    top = suspects[:most]
    found, first = (sum(row.is_flipped for row in rows) for rows in (suspects, top))
    return (
        f"flipped: {first} of the first {len(top)}, {found:,} of all {len(suspects):,} suspects; "
        f"{found:,} of {num_flipped:,} flipped labels are found"
    )


def _spaced(values: Sequence[float], decimals: int) -> str:
    return " ".join(f"{value:.{decimals}f}" for value in values)
