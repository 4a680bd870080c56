"""Draw figure 1 of the 2018 paper: how far a minibatch's gradient is from a large batch's, by how it was drawn.

Trains one network with uniform minibatches. At intervals, minibatches are drawn from 1,024 random training images with
probabilities proportional to the images' exact losses, upper bounds and gradient norms, and to what predictors that
watched the training expect. Gradients are taken in eval mode and weighted by 1 / (1024 p).

Reference:
    Katharopoulos & Fleuret (2018), §4.1 and figure 1.

Example:
    python scripts/figure_variance.py --out runs/variance
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression
from tqdm import tqdm

from configuration import BASELINE
from gradients import mean_distance, proportional, sample_scores
from options import positive
from plots import COLORS, STYLE
from runs import json_line, write_atomically
from tasks import load_task
from watched_training import LARGE_BATCH, WatchedTraining, add_figure_options, figure_config, setting

STYLES: dict[str, dict[str, Any]] = {
    "gradient-norm": {"color": COLORS[0], "linestyle": "-"},
    "upper-bound": {"color": COLORS[2], "linestyle": "-"},
    "loss": {"color": COLORS[3], "linestyle": "-"},
    BASELINE: {"color": "0.5", "linestyle": "-", "linewidth": 1.2, "marker": ""},
}
"""Of what is not predicted."""

LABEL_GAP = 0.042
"""Least distance of labels, as a share of the axis."""


@dataclass(frozen=True)
class Distance:
    """How well one method drew at one moment.

    Attributes:
        method: what probabilities were proportional to: a score of the images, or what a predictor expects.
        step: minibatches trained on.
        epoch: the same in epochs.
        distance: of a minibatch's gradient from that of the large batch, L2, mean over resamples.
        of_uniform: the same over that of uniform draws.
    """

    method: str
    step: int
    epoch: float
    distance: float
    of_uniform: float


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    try:
        config = figure_config(arguments)
        training = WatchedTraining(config, load_task(config.dataset, arguments.data_dir), arguments.predictors)
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"figure_variance.py: error: {error}")
    rows: list[Distance] = []
    for step in tqdm(training.steps(), total=config.steps, unit="step"):
        if step % arguments.every == 0 or step == config.steps:
            rows += measure(training, arguments.resamples)
    write_atomically(arguments.out / "variance.jsonl", "".join(map(json_line, rows)))
    plot(rows, training, arguments.out / "variance.png")
    print(table(rows))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_figure_options(parser, out="runs/variance")
    option = parser.add_argument
    option("--every", type=positive, default=250, metavar="N", help="steps between moments (default: %(default)s)")
    option("--resamples", type=positive, default=1_000, metavar="R", help="minibatches drawn (default: %(default)s)")
    option(
        "--predictors",
        nargs="*",
        default=["class-gaussian", "lstm", "rais"],
        metavar="NAME",
        help="that watch the training (default: class-gaussian lstm rais)",
    )
    return parser.parse_args()


def measure(training: WatchedTraining, resamples: int) -> list[Distance]:
    """Compare all methods on the network as it is now, on images chosen anew."""
    images = training.choose_images()
    scores, gram = sample_scores(training.model, *training.task.train.__getitems__(images.tolist()))
    scores |= {
        name: sampler.probabilities(images, gated=training.epoch < 1)  # in the first epoch there is no choice
        for name, sampler in training.samplers.items()
    }
    options = {"batch_size": training.config.batch_size, "resamples": resamples, "seed": training.step}
    means = {name: mean_distance(gram, proportional(score), **options) for name, score in scores.items()}
    return [Distance(name, training.step, training.epoch, mean, mean / means[BASELINE]) for name, mean in means.items()]


def table(rows: Sequence[Distance]) -> str:
    """Return each method's mean over the second half of the training, in Markdown, the best first."""
    half = rows[-1].step / 2
    means = {
        name: fmean(row.of_uniform for row in method if row.step > half) for name, method in by_method(rows).items()
    }
    lines = [f"| {name} | {means[name]:.2f} |" for name in sorted(means, key=means.__getitem__)]
    return "\n".join(["| drawn by | distance over uniform's, second half |", "|---|---:|", *lines])


def plot(rows: Sequence[Distance], training: WatchedTraining, path: Path) -> None:
    """Draw the figure into a PNG: one line a method, its name at the end."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
        axes = figure.add_subplot(xlim=(0, training.step), ylim=(0, 1.08 * max(row.of_uniform for row in rows)))
        _mark_first_epoch(axes, training.steps_per_epoch)
        lines: dict[str, Line2D] = {}
        for position, (name, method) in enumerate(by_method(rows).items()):
            style: dict[str, Any] = {
                "color": COLORS[position % len(COLORS)],
                "linestyle": "--",
                "linewidth": 1.6,
                "marker": ".",
                "markersize": 5,
            }
            style |= STYLES.get(name, {})
            (lines[name],) = axes.plot([row.step for row in method], [row.of_uniform for row in method], **style)
        _label_ends(axes, lines)
        axes.set(xlabel="steps", ylabel=r"$\Vert G_B - G_b \Vert$ over that of uniform draws")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(visible=True)
        axes.set_title(
            f"{setting(training)}\ngradient of {training.config.batch_size} draws against that of all "
            f"{LARGE_BATCH:,} images; dashed: predicted from history"
        )
        figure.savefig(path)


def by_method(rows: Sequence[Distance]) -> dict[str, list[Distance]]:
    """Return the rows of each method, in the order in which methods first come."""
    names = dict.fromkeys(row.method for row in rows)
    return {name: [row for row in rows if row.method == name] for name in names}


def spread(heights: Sequence[float], gap: float) -> np.ndarray:
    """Return heights moved as little as makes them lie at least `gap` apart, in the same order.

    Example:
        >>> spread([0.5, 0.1, 0.5], gap=0.2)
        array([0.4, 0.1, 0.6])
    """
    order = np.argsort(heights, kind="stable")
    offsets = gap * np.arange(len(order))
    moved = np.empty(len(order))
    moved[order] = isotonic_regression(np.asarray(heights)[order] - offsets).x + offsets
    return moved


def _mark_first_epoch(axes: Axes, steps: int) -> None:
    axes.axvline(steps, color="0.5", linewidth=0.8, linestyle=":")
    axes.annotate("end of the first epoch", (steps, 0), (4, 5), textcoords="offset points", color="0.4", fontsize=9)


def _label_ends(axes: Axes, lines: Mapping[str, Line2D]) -> None:
    """Write each line's name beside its end, in its colour, moved apart where ends are close."""
    to_axes = axes.transScale + axes.transLimits
    ends = [to_axes.transform(np.asarray(line.get_xydata())[-1])[1] for line in lines.values()]
    for (name, line), height in zip(lines.items(), spread(ends, LABEL_GAP), strict=True):
        axes.annotate(name, (1, height), (6, 0), "axes fraction", "offset points", color=line.get_color(), va="center")


if __name__ == "__main__":
    main()
