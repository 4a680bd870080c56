"""What a step of each method takes beside one of uniform, as `step_times.py` measured it, and how many fit in a time.

The file is kept with the results, since what fits into a time is a matter of the machine, and a comparison is to be of
one machine's times.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from evaluation import Run

__all__ = ["STEP_TIMES", "Costs", "read_step_times", "relative_cost", "steps_in_time"]

STEP_TIMES = Path(__file__).parent.parent / "docs" / "step_times.json"

Costs = Mapping[str, float]
"""A step's time over one of uniform, by method as it is written."""


def read_step_times(path: Path = STEP_TIMES) -> dict[str, dict[str, float]]:
    """Return the relative costs of methods by comparison; none where there is no file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["relative"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). Delete it, and run step_times.py.") from error


def steps_in_time(steps: int, costs: Costs) -> dict[str, int]:
    """Return how many steps each method has time for, one at least.

    Args:
        steps: that uniform has time for.
        costs: of the methods.

    Example:
        >>> steps_in_time(1_000, {"uniform": 1.0, "slow": 2.5})
        {'uniform': 1000, 'slow': 400}
    """
    return {method: max(1, math.floor(steps / cost)) for method, cost in costs.items()}


def relative_cost(runs: Mapping[int, Run], baselines: Mapping[int, Run]) -> float | None:
    """Return how long a step took over one of uniform, the median over the seeds that both have; None for none.

    As good as the machine was quiet and both ran at about the same time.
    """
    ratios = [
        (run[-1].seconds / run[-1].step) / (baselines[seed][-1].seconds / baselines[seed][-1].step)
        for seed, run in runs.items()
        if seed in baselines
    ]
    return median(ratios) if ratios else None
