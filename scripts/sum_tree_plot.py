"""The figure of the sum tree's benchmark: time over the number of items, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from contenders import CONTENDERS
from plots import COLORS, MARKERS, STYLE
from sum_tree_report import AIM, COMPARED_SIZE, PUBLISHED, Measurement, short

ORDER = (2, 3, 4, 1)
"""The contenders' places among the colours and markers."""

ELSEWHERE: dict[str, Any] = {
    "linestyle": "",
    "marker": "X",
    "color": "0.4",
    "label": "TorchRL, measured elsewhere",
}


def plot(measurements: Sequence[Measurement], title: str, path: Path) -> None:
    """Draw the time of draw + update of each contender into a PNG; shaded, the quartiles.

    Args:
        measurements: on any number of threads; those on the fewest are drawn.
        title: what was measured, and on what.
        path: the file.
    """
    threads = min(row.threads for row in measurements)
    rows = [row for row in measurements if row.threads == threads]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
        axes = figure.add_subplot(xscale="log", yscale="log")
        for place, contender in zip(ORDER, CONTENDERS, strict=True):
            if not (own := [row for row in rows if row.contender == contender.title]):
                continue
            sizes, times, color = [row.size for row in own], [row.both for row in own], COLORS[place]
            medians, label = [time.median for time in times], contender.title
            axes.plot(sizes, medians, color=color, marker=MARKERS[place], label=label)
            quartiles = [time.lower for time in times], [time.upper for time in times]
            axes.fill_between(sizes, *quartiles, color=color, alpha=0.2, linewidth=0)
        if any(row.size == COMPARED_SIZE for row in rows):
            axes.plot(COMPARED_SIZE, PUBLISHED["TorchRL"], **ELSEWHERE)
        axes.axhline(AIM, color="0.4", linestyle="--", linewidth=1)
        axes.annotate(
            f"aim: {AIM} ns at N = {short(COMPARED_SIZE)}",
            xy=(1, AIM),
            xytext=(0, -4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="top",
        )
        axes.set_ylim(bottom=AIM / 2)
        axes.set(xlabel="items N", ylabel=f"draw + update, ns per item, {threads} thread{'s' * (threads > 1)}")
        axes.set_title(title)
        axes.grid(visible=True)
        axes.legend(frameon=False)
        figure.savefig(path)
