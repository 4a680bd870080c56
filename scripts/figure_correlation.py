"""Draw figure 2 of the 2018 paper: probabilities by loss and by upper bound against the ideal ones, by gradient norm.

Trains one network with uniform minibatches. At 16 moments after the first epoch, 1,024 random training images get
probabilities in proportion to their loss, upper bound and gradient norm, in eval mode: 16,384 points.

Reference:
    Katharopoulos & Fleuret (2018), §4.1 and figure 2.

Example:
    python scripts/figure_correlation.py --out runs/correlation
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from gradients import proportional, sample_scores
from plots import COLORS, STYLE
from runs import json_line, write_atomically
from tasks import load_task
from watched_training import LARGE_BATCH, WatchedTraining, add_figure_options, figure_config, setting

MOMENTS = 16
SCORES = {"loss": "by_loss", "upper bound": "by_upper_bound"}
"""What is compared with the ideal, and where a `Moment` has it."""


@dataclass(frozen=True)
class Moment:
    """The probabilities of the images at one moment, by what they are proportional to.

    Attributes:
        step: minibatches trained on.
        epoch: the same in epochs.
        images: positions in the training set.
        by_loss: one an image; they sum to 1.
        by_upper_bound: the same.
        by_gradient_norm: the same, the ideal.
    """

    step: int
    epoch: float
    images: list[int]
    by_loss: list[float]
    by_upper_bound: list[float]
    by_gradient_norm: list[float]


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    try:
        config = figure_config(arguments)
        training = WatchedTraining(config, load_task(config.dataset, arguments.data_dir))
        due = moments(training.steps_per_epoch, config.steps)
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"figure_correlation.py: error: {error}")
    rows = [measure(training) for step in tqdm(training.steps(), total=config.steps, unit="step") if step in due]
    write_atomically(arguments.out / "correlation.jsonl", "".join(map(json_line, rows)))
    plot(rows, training, arguments.out / "correlation.png")
    for name, total in errors(rows).items():
        print(f"{name}: sum of squared errors {total:.4f}")


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_figure_options(parser, out="runs/correlation")
    return parser.parse_args()


def moments(steps_per_epoch: int, steps: int) -> set[int]:
    """Return the steps to look at the network after: evenly spread, the first one epoch's end, the last one the last.

    Raises:
        ValueError: there are too few steps after the first epoch.

    Example:
        >>> sorted(moments(10, 40))
        [10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40]
    """
    if steps < steps_per_epoch + MOMENTS - 1:
        least = steps_per_epoch + MOMENTS - 1
        raise ValueError(f"`--steps` must be at least {least}, {MOMENTS} from the first epoch's end on; got {steps}.")
    return set(np.linspace(steps_per_epoch, steps, MOMENTS).round().astype(int).tolist())


def measure(training: WatchedTraining) -> Moment:
    """Return the probabilities of images chosen anew, on the network as it is now."""
    images = training.choose_images().tolist()
    scores, _ = sample_scores(training.model, *training.task.train.__getitems__(images))
    probabilities = {name: proportional(score).tolist() for name, score in scores.items()}
    return Moment(
        training.step,
        training.epoch,
        images,
        by_loss=probabilities["loss"],
        by_upper_bound=probabilities["upper-bound"],
        by_gradient_norm=probabilities["gradient-norm"],
    )


def all_points(rows: Sequence[Moment], field: str) -> np.ndarray:
    """Return the probabilities of all moments, float64 [moments * images]."""
    return np.concatenate([getattr(row, field) for row in rows])


def errors(rows: Sequence[Moment]) -> dict[str, float]:
    """Return the sum of squared differences from the ideal over all points, by the name of the score."""
    ideal = all_points(rows, "by_gradient_norm")
    return {name: float(((all_points(rows, field) - ideal) ** 2).sum()) for name, field in SCORES.items()}


def plot(rows: Sequence[Moment], training: WatchedTraining, path: Path) -> None:
    """Draw the figure into a PNG: a panel a score, on the same axes."""
    ideal = all_points(rows, "by_gradient_norm")
    with mpl.rc_context({**STYLE, "axes.axisbelow": True}):
        figure = Figure(figsize=(8.6, 5), dpi=160, layout="constrained")
        panels = figure.subplots(1, len(SCORES), sharex=True, sharey=True)
        sums = errors(rows)
        for axes, (name, field), color in zip(panels, SCORES.items(), (COLORS[3], COLORS[2]), strict=True):
            _draw(axes, ideal, all_points(rows, field), color)
            axes.set_title(f"{name}: sum of squared errors {sums[name]:.2g}")
        panels[0].set_ylabel("probability by loss or by upper bound")
        figure.supxlabel("probability by gradient norm", fontsize=10)
        figure.suptitle(
            f"{setting(training)}\n{LARGE_BATCH:,} random training images at each of {len(rows)} moments, "
            f"from the end of the first epoch to step {training.step:,}",
            fontsize=10.5,
        )
        figure.savefig(path)


def _draw(axes: Axes, ideal: np.ndarray, probabilities: np.ndarray, color: str) -> None:
    axes.scatter(ideal, probabilities, s=4, color=color, alpha=0.12, linewidths=0)
    axes.axline((1e-3, 1e-3), (1e-2, 1e-2), color="black", linewidth=1)
    axes.set(xscale="log", yscale="log", aspect="equal")
    axes.grid(visible=True)


if __name__ == "__main__":
    main()
