"""The figure of a run whose learning rate follows the gain: the ratio, effective steps and the rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from configuration import Config
from optimization import Schedule
from plots import COLORS, STYLE
from runs import GainRow
from tasks import Task

OWN = {"color": COLORS[2], "linewidth": 1.4}
WITHOUT = {"color": "0.6", "linewidth": 1.2, "linestyle": "--"}


def plot_gain(trace: Sequence[GainRow], task: Task, config: Config, path: Path) -> None:
    """Draw the three into a PNG.

    Args:
        trace: one row a step.
        task: what was trained on.
        config: of the run.
        path: the file.
    """
    steps = np.array([row.step for row in trace])
    plain_steps = np.arange(config.steps)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.4), dpi=160, layout="constrained")
        ratio, effective, rate = figure.subplots(1, 3)
        ratio.plot(steps, [row.ratio for row in trace], **OWN)
        ratio.axhline(1, **WITHOUT)
        ratio.set(title="gain ratio r", ylim=(0.9, None))
        effective.plot(steps, [row.effective_steps for row in trace], **OWN)
        effective.plot(plain_steps, plain_steps, **WITHOUT)
        effective.set(title="effective steps")
        rate.plot(steps, [row.learning_rate for row in trace], label="with the gain", **OWN)
        factors = np.array([Schedule(config.schedule, config.steps)(step) for step in plain_steps.tolist()])
        rate.plot(plain_steps, config.lr * factors, label="without", **WITHOUT)
        rate.set(title="learning rate", yscale="log")
        rate.legend(frameon=False)
        for axes in (ratio, effective, rate):
            axes.set(xlabel="steps", xlim=(0, config.steps))
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.grid(visible=True)
        effective.yaxis.set_major_formatter("{x:,.0f}")
        figure.suptitle(
            f"{task.title}, {config.predictor}, {config.steps:,} effective steps in {len(trace):,} steps", fontsize=11.5
        )
        figure.savefig(path)
