"""The figure of one run or of many: errors over steps and over time, and the errors of each class at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from configuration import Config
from evaluation import Evaluation, Run, Runs
from models import TITLES, default_model
from samples import CLASSIFICATION
from scores import BALANCED_ERROR, TEST_ERROR, TRAIN_LOSS, Score
from tasks import Task

COLORS = ("#000000", "#E69F00", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
"""Okabe & Ito's palette, which the colour-blind can tell apart; from the ninth method on with other dashes."""

DASHES = ("-", "--", ":", "-.")
MARKERS = "oDs^vP*X"
SHOWN_CLASSES = 30
"""The errors of each class are drawn where there are at most so many."""

LOG_SPAN = 20
"""Errors whose largest is more than this times their smallest are drawn on a logarithmic axis."""

UNEQUAL_DURATIONS = 4
"""Time is drawn on a logarithmic axis where the longest run took more than this times the shortest."""

OPTIMIZER_NAMES = {"adam": "Adam", "sgd": "SGD"}

Direction = Literal["x", "y"]
Quantity = Callable[[Evaluation], float]

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
}


def plot_runs(
    runs: Runs,
    task: Task,
    config: Config,
    path: Path,
    costs: Mapping[str, float] | None = None,
    *,
    in_time: bool = False,
    one_rate: bool = True,
) -> None:
    """Draw the runs of each method into a PNG.

    Args:
        runs: the runs of each method by label and seed; those of a method evaluated at the same steps.
        task: what they were trained on.
        config: of any of the runs; what the title says is common to all.
        path: the file.
        costs: a step's time over one of uniform, by label; a method without one is not drawn over time, and if none has
            one, the runs' own seconds are drawn.
        in_time: whether each method has as many steps as fit into the time of those in `config`, which is uniform's.
        one_rate: whether the learning rate in `config` is that of all methods that do not name another.
    """
    timed = {label: costs[label] for label in runs if label in costs} if costs else {}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 6.6), dpi=160, layout="constrained")
        shows_classes = task.kind == CLASSIFICATION and len(task.class_names) <= SHOWN_CLASSES
        grid = figure.add_gridspec(2, 3 if shows_classes else 2, width_ratios=(1, 1, 1.05) if shows_classes else None)
        for row, score in enumerate(drawn_scores(task)):
            over_steps, over_time = (figure.add_subplot(grid[row, column]) for column in (0, 1))
            _draw_curves(over_steps, runs, lambda label, evaluation: evaluation.step, score.of, only=runs)
            _draw_curves(over_time, runs, partial(_time, costs=timed), score.of, only=timed or runs)
            over_steps.set(xlabel="steps", ylabel=score.axis)
            over_steps.xaxis.set_major_formatter("{x:,.0f}")
            over_time.set(xlabel="time, in steps of uniform" if timed else "seconds of training")
            if timed:
                over_time.xaxis.set_major_formatter("{x:,.0f}")
        if shows_classes:
            _draw_classes(figure.add_subplot(grid[:, 2]), runs, task)
        figure.align_ylabels()
        seeds = [len(own) for own in runs.values()]
        figure.suptitle(_title(task, config, seeds, in_time=in_time, one_rate=one_rate), fontsize=11.5)
        unmarked = {} if shows_classes else {"marker": ""}
        handles = [
            Line2D([], [], label=label, **{**style_of(position), **unmarked}) for position, label in enumerate(runs)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
        figure.savefig(path)


def drawn_scores(task: Task) -> tuple[Score, Score]:
    """Return what is drawn over steps and time: the task's score, and what says something else."""
    has_rare_classes = max(task.test_counts) > 2 * min(task.test_counts)  # else it is nearly the error
    return task.score, BALANCED_ERROR if task.score == TEST_ERROR and has_rare_classes else TRAIN_LOSS


def _time(label: str, evaluation: Evaluation, costs: Mapping[str, float]) -> float:
    return evaluation.step * costs[label] if costs else evaluation.seconds


def _draw_curves(
    axes: Axes, runs: Runs, x: Callable[[str, Evaluation], float], y: Quantity, *, only: Container[str]
) -> None:
    places, errors = [], []
    for position, (label, seeds) in enumerate(runs.items()):
        if label not in only:
            continue  # what follows keep their positions, and with them their styles
        method_runs = _aligned(seeds)
        values = np.array([[y(evaluation) for evaluation in run] for run in method_runs])
        values[~np.isfinite(values)] = np.nan  # of a network that diverged
        places.append(np.mean([[x(label, evaluation) for evaluation in run] for run in method_runs], axis=0))
        errors.append(values.ravel())
        axes.plot(places[-1], values.mean(0), **{**style_of(position), "marker": ""})
        if len(values) > 1:
            band = {"color": style_of(position)["color"], "alpha": 0.15, "linewidth": 0}
            axes.fill_between(places[-1], values.min(0), values.max(0), **band)
    ends = [method_places[-1] for method_places in places]
    if max(ends) > UNEQUAL_DURATIONS * min(ends):
        _make_logarithmic(axes, "x", np.concatenate(places))
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))  # labels of five digits find room
    _scale(axes, "y", np.concatenate(errors))
    axes.grid(visible=True)


def _aligned(runs: Mapping[int, Run]) -> list[Run]:
    """Return the runs cut to the length of the shortest: with a gain they end at different steps."""
    shortest = min(map(len, runs.values()))
    return [run[:shortest] for run in runs.values()]


def _draw_classes(axes: Axes, runs: Runs, task: Task) -> None:
    num_classes = len(task.class_names)
    errors = []
    for position, method_runs in enumerate(runs.values()):
        values = np.array([_class_percentages(run) for run in method_runs.values()])
        rows = np.arange(num_classes) + 0.7 * ((position + 0.5) / len(runs) - 0.5)
        style = style_of(position)
        axes.hlines(rows, values.min(0), values.max(0), color=style["color"], linewidth=1.2, alpha=0.6)
        axes.plot(values.mean(0), rows, **{**style, "linestyle": ""})
        errors.append(values.ravel())
    for boundary in range(1, num_classes):
        axes.axhline(boundary - 0.5, color="0.85", linewidth=0.8)
    counted = zip(task.class_names, task.test_counts, strict=True)
    axes.set_yticks(range(num_classes), [f"{name} ({count:,})" for name, count in counted])
    axes.set_ylim(num_classes - 0.5, -0.5)
    axes.set(xlabel="error after the last step, %", title="each class (its test samples)")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=-0.03 * axes.get_xlim()[1])
    _scale(axes, "x", np.concatenate(errors))
    axes.grid(visible=True, axis="x")


def _class_percentages(run: Run) -> list[float]:
    return [np.nan if error is None else 100 * error for error in run[-1].class_errors or []]


def style_of(position: int) -> dict[str, Any]:
    """Return how the method at that position in the legend is drawn."""
    return {
        "color": COLORS[position % len(COLORS)],
        "linestyle": DASHES[position // len(COLORS) % len(DASHES)],
        "marker": MARKERS[position % len(MARKERS)],
        "linewidth": 1.4,
        "markersize": 5,
    }


def _scale(axes: Axes, direction: Direction, values: np.ndarray) -> None:
    """Make the axis logarithmic where the values span decades."""
    positive = values[values > 0]
    if len(positive) and positive.max() > LOG_SPAN * positive.min():
        _make_logarithmic(axes, direction, values)


def _make_logarithmic(axes: Axes, direction: Direction, values: np.ndarray) -> None:
    """Make the axis logarithmic, with room for 0 where there are zeros."""
    set_scale, set_limits, set_ticks = (getattr(axes, f"set_{direction}{what}") for what in ("scale", "lim", "ticks"))
    smallest, largest = values[values > 0].min(), np.nanmax(values)
    ticks = _log_ticks(smallest, largest)
    if (values == 0).any():
        set_scale("symlog", linthresh=ticks[0], linscale=0.8)
        lowest, ticks = -0.3 * ticks[0], [0.0, *ticks]
    else:
        set_scale("log")
        lowest = smallest / 1.2
    set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    set_ticks([], minor=True)
    set_limits(lowest, largest * 1.2)  # after the ticks, which widen the limits


def _log_ticks(smallest: float, largest: float) -> list[float]:
    """Return round numbers from just below the smallest value to the largest, few enough to be labelled."""
    decades = range(math.floor(math.log10(smallest)), math.ceil(math.log10(largest)) + 1)
    factors = (1, 2, 5) if largest < 150 * smallest else (1,)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    first = max(position for position, tick in enumerate(ticks) if tick <= smallest)
    return [tick for tick in ticks[first:] if tick <= largest * 1.2]


def _title(task: Task, config: Config, seeds: Sequence[int], *, in_time: bool, one_rate: bool) -> str:
    network = TITLES[config.model or default_model(task.input_shape, task.kind)]
    optimizer = OPTIMIZER_NAMES[config.optimizer] + (f" {config.lr:g}" if one_rate else "")
    length = f"the time of {config.steps:,} steps of uniform" if in_time else f"{config.steps:,} steps"
    setting = f"{task.title}, {network}, {optimizer}, batches of {config.batch_size}, {length}"
    if max(seeds) == 1:
        return f"{setting}, one seed"
    counted = str(min(seeds)) if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    return f"{setting}\nmean of {counted} seeds; shaded, the lowest to the highest"
