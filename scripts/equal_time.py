"""What a step of each method takes beside one of uniform, as `step_times.py` measured it, and how many fit in a time.

The file is kept with the results, since what fits into a time is a matter of the machine, and a comparison is to be of
one machine's times.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from evaluation import Run
from runs import write_atomically

__all__ = [
    "STEP_TIMES",
    "Costs",
    "StepTimes",
    "WholeRun",
    "read_step_times",
    "recorded",
    "relative_cost",
    "steps_in_time",
]

STEP_TIMES = Path(__file__).parent.parent / "docs" / "step_times.json"

Costs = Mapping[str, float]
"""A step's time over one of uniform, by method as it is written."""


@dataclass(frozen=True)
class WholeRun:
    """A whole run of a method with a gate or a thread beside one of uniform, from the same seed.

    Attributes:
        ratio: its time over that of uniform's run.
        step_ms: time of a step of uniform, in milliseconds.
        is_open: whether its gate is, in the end; None without one.
        variance_ratio: by which its draws reduce the second moment, or would, as its gate reckons; None if not known.
    """

    ratio: float
    step_ms: float
    is_open: bool | None
    variance_ratio: float | None


@dataclass(frozen=True)
class StepTimes:
    """Of one comparison.

    Attributes:
        machine: that all of them were measured on, see `machine.describe`.
        steps: time of a step over one of uniform, by method as it is written, of those that are timed by steps.
        runs: of those with a gate or a thread, one a seed.
    """

    machine: dict[str, str]
    steps: dict[str, float] = field(default_factory=dict)
    runs: dict[str, list[WholeRun]] = field(default_factory=dict)

    @property
    def costs(self) -> dict[str, float]:
        """A step's time over one of uniform, of all methods; the median over runs where whole runs were timed."""
        return {**self.steps, **{text: median(run.ratio for run in runs) for text, runs in self.runs.items()}}


def read_step_times(path: Path = STEP_TIMES) -> dict[str, StepTimes]:
    """Return what was measured, by comparison; none where there is no file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return {
            name: StepTimes(
                own["machine"],
                own["steps"],
                {text: [WholeRun(**run) for run in runs] for text, runs in own["runs"].items()},
            )
            for name, own in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). Delete it, and run step_times.py.") from error


@contextmanager
def recorded(name: str, machine: dict[str, str], path: Path = STEP_TIMES) -> Iterator[StepTimes]:
    """Yield the times of a comparison, to be added to, and write the file when the block is left without an error.

    Processes that do so at once wait for one another.

    Raises:
        ValueError: the file is damaged, or has times of the comparison that another machine took.
    """
    with _locked(path.parent):
        times = read_step_times(path)
        own = times.setdefault(name, StepTimes(machine))
        if own.machine != machine:
            raise ValueError(
                f"{path} has times of {name} from another machine, {own.machine}; this one is {machine}. Give another "
                "--out, or delete what it has of the comparison."
            )
        yield own
        write_atomically(path, json.dumps({each: asdict(found) for each, found in times.items()}, indent=1) + "\n")


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


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
