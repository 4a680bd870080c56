"""The figure of the samples that a sampler drew least often and most often, class by class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from torch import Tensor

from plots import COLORS, STYLE
from tasks import Task

DPI = 160
MOST_CLASSES = 20
IMAGE, GAP, CAPTION = 0.7, 0.06, 0.17
"""Width and height of an image, the space right of it, and the one below for its caption, in inches."""

NAMES, MIDDLE, TITLE, HEADING, EDGE = 1.05, 0.35, 0.5, 0.26, 0.1
"""Width of the column of names and of the space between halves, height of title and headings, margin, in inches."""

WRONG, QUIET = COLORS[3], "0.45"


@dataclass(frozen=True, eq=False)
class Drawn:
    """What became of the training samples.

    Attributes:
        draws: how often each was drawn, int64 [N].
        importance: how likely each is to be drawn next, float [N].
        predicted: class that the network predicts for each, int64 [N].
    """

    draws: Tensor
    importance: Tensor
    predicted: Tensor


def are_images(task: Task) -> bool:
    """Return whether the task's samples can be shown, in grey or in colour."""
    return len(task.input_shape) == 3 and task.input_shape[0] in (1, 3)


def extremes(draws: Tensor, importance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the samples drawn least often and those drawn most often, the most extreme first.

    Many are not drawn at all: of those drawn equally often, the less important one counts as drawn less.

    Args:
        draws: how often each sample was drawn, int64 [N].
        importance: how likely each is to be drawn, float [N].
        count: of samples wanted, each; no more than half of all are returned, so that none is in both.

    Example:
        >>> extremes(torch.tensor([0, 7, 0, 0, 9]), torch.tensor([0.3, 0.5, 0.1, 0.2, 0.4]), 2)
        (tensor([2, 3]), tensor([4, 1]))
    """
    order = torch.from_numpy(np.lexsort((importance.numpy(), draws.numpy())))
    count = min(count, len(order) // 2)
    return order[:count], order.flip(0)[:count]


def shown_classes(draws: Tensor, labels: Tensor, num_classes: int, most: int = MOST_CLASSES) -> list[int]:
    """Return the classes to show, in order: all of them, or those whose samples were drawn most often on average.

    Example:
        >>> shown_classes(torch.tensor([1, 9, 5, 5]), torch.tensor([0, 2, 1, 1]), 3, most=2)
        [1, 2]
    """
    counts = labels.bincount(minlength=num_classes)
    means = labels.bincount(draws.double(), minlength=num_classes) / counts.clamp(min=1)
    return sorted(means.argsort(descending=True, stable=True)[:most].tolist())


def plot_gallery(task: Task, drawn: Drawn, columns: int, title: str, path: Path) -> None:
    """Draw the figure into a PNG: a row a class, on the left the least drawn samples, on the right the most drawn.

    Args:
        task: whose training samples are images in [0, 1].
        drawn: what became of them.
        columns: number of samples on either side.
        title: of the figure.
        path: the file.
    """
    classes = shown_classes(drawn.draws, task.train.targets, len(task.class_names))
    half = columns * (IMAGE + GAP) - GAP
    lefts = EDGE + NAMES, EDGE + NAMES + half + MIDDLE
    width, height = lefts[1] + half + EDGE, 2 * EDGE + TITLE + HEADING + len(classes) * (IMAGE + CAPTION)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
        page = figure.add_axes((0, 0, 1, 1))
        page.axis("off")
        _narrow(page.text(width / 2, EDGE, title, ha="center", va="top", fontsize=10.5), width - 2 * EDGE)
        for left, heading in zip(lefts, ("drawn least often", "drawn most often"), strict=True):
            page.text(left + half / 2, EDGE + TITLE, heading, ha="center", va="top", weight="bold")
        for row, label in enumerate(classes):
            _draw_class(page, EDGE + TITLE + HEADING + row * (IMAGE + CAPTION), lefts, task, drawn, label, columns)
        page.set(xlim=(0, width), ylim=(height, 0))  # in inches, downwards; after the images, which change it
        figure.savefig(path)


def _draw_class(
    page: Axes, top: float, lefts: tuple[float, float], task: Task, drawn: Drawn, label: int, columns: int
) -> None:
    """Show the name of a class and the extremes of its samples."""
    members = (task.train.targets == label).nonzero().squeeze(1)
    draws = drawn.draws[members]
    right, middle = EDGE + NAMES - 0.12, top + IMAGE / 2
    name = page.text(right, middle + 0.03, task.class_names[label], ha="right", va="bottom", fontsize=9.5)
    _narrow(name, right - EDGE)
    if len(draws):
        mean = f"mean {draws.double().mean():.1f}"
        page.text(right, middle + 0.06, mean, ha="right", va="top", color=QUIET, fontsize=7)
    for left, side in zip(lefts, extremes(draws, drawn.importance[members], columns), strict=True):
        for column, sample in enumerate(members[side].tolist()):
            _draw_sample(page, left + column * (IMAGE + GAP), top, task, drawn, sample)


def _draw_sample(page: Axes, left: float, top: float, task: Task, drawn: Drawn, sample: int) -> None:
    """Show one sample, below it how often it was drawn, and the predicted class if that is not its label."""
    pixels = task.train.inputs[sample].clamp(0, 1).permute(1, 2, 0).numpy()
    place = (left, left + IMAGE, top + IMAGE, top)
    page.imshow(pixels, extent=place, cmap="gray_r", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    predicted = int(drawn.predicted[sample])
    is_wrong = predicted != int(task.train.targets[sample])
    color, linewidth = (WRONG, 1.2) if is_wrong else ("0.8", 0.6)
    page.add_patch(Rectangle((left, top), IMAGE, IMAGE, fill=False, edgecolor=color, linewidth=linewidth))
    below = top + IMAGE + 0.03
    count = page.text(left, below, str(int(drawn.draws[sample])), va="top", color=QUIET, fontsize=6.5)
    if is_wrong:
        other = task.class_names[predicted]
        name = page.text(left + IMAGE, below, other, ha="right", va="top", color=WRONG, fontsize=6.5)
        _narrow(name, IMAGE - _width(count) - 0.04)


def _width(text: Text) -> float:
    """Return the width of a text, in inches."""
    return text.get_window_extent().width / DPI


def _narrow(text: Text, width: float) -> None:
    """Make the letters of a text smaller if it is wider than so many inches."""
    text.set_fontsize(float(text.get_fontsize()) * min(1, width / _width(text)))
