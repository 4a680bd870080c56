"""How many steps of a method fit into the time of uniform's, by runs of both that were timed beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from configuration import BASELINE
from evaluation import Run

__all__ = ["relative_cost", "steps_in_time"]


def relative_cost(runs: Mapping[int, Run], baselines: Mapping[int, Run]) -> float | None:
    """Return how long a step takes over one of uniform, the median over the seeds that both have; None for none.

    Runs of one seed are run one after the other, so that what else the machine did is much the same for both.
    """
    ratios = [
        (run[-1].seconds / run[-1].step) / (baselines[seed][-1].seconds / baselines[seed][-1].step)
        for seed, run in runs.items()
        if seed in baselines
    ]
    return median(ratios) if ratios else None


def steps_in_time(steps: int, runs: Mapping[str, Mapping[int, Run]]) -> dict[str, int]:
    """Return the steps that each method has time for, one at least.

    Args:
        steps: that uniform has time for.
        runs: runs by method and seed; methods without any are left out.

    Raises:
        ValueError: uniform itself has no run.
    """
    if not runs.get(BASELINE):
        raise ValueError(f"how many steps take as long as {steps:,} of {BASELINE} is not known: it has no finished run")
    costs = {method: relative_cost(own, runs[BASELINE]) for method, own in runs.items()}
    return {method: max(1, math.floor(steps / cost)) for method, cost in costs.items() if cost is not None}
