"""The figure of overheads: a panel for each workload, a bar for each predictor, stacked from the parts of its time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from overhead_measure import Measurement
from overhead_report import PARTS
from plots import COLORS, STYLE
from workloads import RECIPES

PART_COLORS = dict(zip(PARTS, (*COLORS[1:], "0.65", COLORS[0]), strict=True))

ROOM = 1.3
"""Length of the axis over that of the longest bar, for the label at its end."""

DEAR = "scoring"
"""Bars with this part are cut off where they are longer than all others: they take a forward pass by design."""


def plot_overheads(measurements: Mapping[str, Measurement], title: str, path: Path) -> None:
    """Draw the figure into a PNG.

    Args:
        measurements: by workload.
        title: of the figure.
        path: the file.
    """
    columns = min(2, len(measurements))
    rows = math.ceil(len(measurements) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6 * columns, 0.9 + 2.9 * rows), dpi=160, layout="constrained")
        for position, (model, measured) in enumerate(measurements.items(), start=1):
            _draw_panel(figure.add_subplot(rows, columns, position), model, measured)
        figure.suptitle(title, fontsize=11.5)
        handles = [Patch(color=PART_COLORS[part], label=part) for part in _shown(measurements)]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
        figure.savefig(path)


def end_of_axis(measured: Measurement) -> float:
    """Return the ms at which a panel ends: beyond the longest bar that is not cut off."""
    totals = [overhead.total for overhead in measured.overheads.values() if DEAR not in overhead.parts]
    return ROOM * max(totals or [overhead.total for overhead in measured.overheads.values()])


def _draw_panel(axes: Axes, model: str, measured: Measurement) -> None:
    end = end_of_axis(measured)
    for row, overhead in enumerate(measured.overheads.values()):
        left = 0.0
        for part in PARTS:
            width = overhead.parts.get(part, 0.0)
            axes.barh(row, width, left=left, color=PART_COLORS[part], height=0.7)
            left += width
        is_cut = overhead.total > end
        axes.annotate(
            f"{overhead.percent:.3g} %" + (" →" if is_cut else ""),
            (min(overhead.total, end), row),
            (-4, 0) if is_cut else (4, 0),
            textcoords="offset points",
            ha="right" if is_cut else "left",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5} if is_cut else None,
        )
    axes.set_yticks(range(len(measured.overheads)), list(measured.overheads))
    axes.set(xlim=(0, end), ylim=(len(measured.overheads) - 0.5, -0.5), xlabel="ms a step")
    axes.set_title(f"{RECIPES[model].title}, uniform step {measured.uniform_step:.3g} ms")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)


def _shown(measurements: Mapping[str, Measurement]) -> list[str]:
    overheads = [overhead for measured in measurements.values() for overhead in measured.overheads.values()]
    return [part for part in PARTS if any(part in overhead.parts for overhead in overheads)]
