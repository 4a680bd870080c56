"""The figure of all comparisons: for each workload how each method did beside uniform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from configuration import BASELINE
from evaluation import Run, Runs
from plots import STYLE, style_of
from scores import TRAIN_LOSS, Score
from tables import arrival, end_ratio

__all__ = ["plot_overview"]

LOWEST, HIGHEST = 0.1, 2.5
"""Quotients beyond are drawn at these."""


def plot_overview(
    comparisons: Mapping[str, tuple[Runs, Score]],
    methods: Sequence[str],
    path: Path,
    costs: Mapping[str, Mapping[str, float]],
) -> None:
    """Draw steps or time to uniform's best, the score at the end and the training loss, all over uniform's, into a PNG.

    Args:
        comparisons: the runs by label, and what they are compared by, by what the row is called.
        methods: labels of the methods to draw.
        path: the file.
        costs: as `overview_table` takes them.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 1.7 + 0.55 * len(comparisons)), dpi=160, layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        titles = (
            f"{'time' if costs else 'steps'} to uniform's best",
            "test error or perplexity at the end",
            "training loss at the end",
        )
        for axes, title in zip(panels, titles, strict=True):
            axes.axvline(1, color=style_of(0)["color"], linewidth=1)
            axes.set(title=title, xlabel="over uniform's", ylim=(len(comparisons) - 0.5, -0.5))
            axes.set_xscale("log")
            axes.set_xlim(LOWEST / 1.1, HIGHEST * 1.1)
            ticks = (0.1, 0.2, 0.33, 0.5, 1, 1.5, 2.5)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
            axes.grid(visible=True, axis="x")
            for boundary in range(1, len(comparisons)):
                axes.axhline(boundary - 0.5, color="0.85", linewidth=0.8)
        panels[0].set_yticks(range(len(comparisons)), list(comparisons))
        panels[0].tick_params(axis="y", length=0)
        for row, (name, (runs, score)) in enumerate(comparisons.items()):
            for position, label in enumerate(methods, start=1):
                if label in runs:
                    place = row + 0.7 * ((position - 0.5) / len(methods) - 0.5)
                    cost = costs.get(name, {}).get(label, 1.0)
                    _mark(panels, (runs[label], runs[BASELINE]), score, cost, (place, position))
        handles = [Line2D([], [], label=label, **_marker(place)) for place, label in enumerate(methods, start=1)]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)
        figure.savefig(path)


def _mark(
    panels: Sequence[Axes],
    pair: tuple[Mapping[int, Run], Mapping[int, Run]],
    score: Score,
    cost: float,
    where: tuple[float, int],
) -> None:
    """Draw a method's runs beside uniform's, the two of `pair`, at a height and as the method of a position."""
    (runs, baselines), (place, position) = pair, where
    reached = arrival(runs, baselines, score)
    if reached is not None:
        arrived = _within(cost * fmean(reached.step_ratios))
        panels[0].plot(arrived, place, **_marker(position, filled=reached.is_everyone))
    for axes, shown in ((panels[1], score), (panels[2], TRAIN_LOSS)):
        ratio = end_ratio(runs, baselines, shown)
        if ratio is not None:
            axes.plot(_within(ratio), place, **_marker(position))


def _within(value: float) -> float:
    return min(max(value, LOWEST), HIGHEST)


def _marker(position: int, *, filled: bool = True) -> dict[str, object]:
    """Return how the method at that position is drawn; hollow where not all seeds got there."""
    return {**style_of(position), "linestyle": "", **({} if filled else {"markerfacecolor": "white"})}
