"""The figure of all comparisons: for each workload how each method did beside uniform."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from configuration import BASELINE
from overview import OverviewRow
from plots import STYLE, style_of
from scores import TRAIN_LOSS
from tables import arrival, end_ratios

__all__ = ["plot_overview"]

LOWEST, HIGHEST = 0.1, 2.5
"""Quotients beyond are drawn at these."""


def plot_overview(rows: Sequence[OverviewRow], methods: Sequence[str], path: Path, *, in_time: bool) -> None:
    """Draw steps or time to uniform's best, the score at the end and the training loss, all over uniform's, into a PNG.

    Args:
        rows: of the figure.
        methods: labels of the methods to draw.
        path: the file.
        in_time: whether the rows are of comparisons in equal time.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 1.7 + 0.55 * len(rows)), dpi=160, layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        titles = (
            f"{'time' if in_time else 'steps'} to uniform's best",
            "test error or perplexity at the end",
            "training loss at the end",
        )
        for axes, title in zip(panels, titles, strict=True):
            axes.axvline(1, color=style_of(0)["color"], linewidth=1)
            axes.set(title=title, xlabel="over uniform's", ylim=(len(rows) - 0.5, -0.5))
            axes.set_xscale("log")
            axes.set_xlim(LOWEST / 1.1, HIGHEST * 1.1)
            ticks = (0.1, 0.2, 0.33, 0.5, 1, 1.5, 2.5)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
            axes.grid(visible=True, axis="x")
            for boundary in range(1, len(rows)):
                axes.axhline(boundary - 0.5, color="0.85", linewidth=0.8)
        panels[0].set_yticks(range(len(rows)), [row.title for row in rows])
        panels[0].tick_params(axis="y", length=0)
        for number, row in enumerate(rows):
            for position, label in enumerate(methods, start=1):
                if label in row.runs:
                    place = number + 0.7 * ((position - 0.5) / len(methods) - 0.5)
                    _mark(panels, row, label, (place, position))
        handles = [Line2D([], [], label=label, **_marker(place)) for place, label in enumerate(methods, start=1)]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)
        figure.savefig(path)


def _mark(
    panels: Sequence[Axes],
    row: OverviewRow,
    label: str,
    where: tuple[float, int],
) -> None:
    """Draw a method's runs beside uniform's, at a height and as the method of a position."""
    runs, baselines, (place, position) = row.runs[label], row.runs[BASELINE], where
    reached = arrival(runs, baselines, row.score)
    if reached is not None:
        arrived = _within(row.costs.get(label, 1.0) * fmean(reached.step_ratios))
        panels[0].plot(arrived, place, **_marker(position, filled=reached.is_everyone))
    for axes, shown in ((panels[1], row.score), (panels[2], TRAIN_LOSS)):
        ratios = end_ratios(runs, baselines, shown)
        if ratios:
            axes.plot(_within(fmean(ratios)), place, **_marker(position))


def _within(value: float) -> float:
    return min(max(value, LOWEST), HIGHEST)


def _marker(position: int, *, filled: bool = True) -> dict[str, object]:
    """Return how the method at that position is drawn; hollow where not all seeds got there."""
    return {**style_of(position), "linestyle": "", **({} if filled else {"markerfacecolor": "white"})}
