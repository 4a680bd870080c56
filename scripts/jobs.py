"""The runs of comparisons: planned, done in parallel, and found again among the results."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparisons import FIRST_SEEDS, Comparison
from configuration import Config
from equal_time import Costs, steps_in_time
from evaluation import Evaluation, Run
from parallel import count_step, run_parallel
from results_file import ResultsFile, RunKey, digest
from tasks import load_task
from training import Training, check_runs

__all__ = ["Job", "check", "finished_runs", "plan", "run_unfinished"]

EVALUATIONS = 20
"""Of a run whose number of steps is a matter of time."""


@dataclass(frozen=True)
class Job:
    """One run to do.

    Attributes:
        key: what its results are known by.
        config: what to run.
        label: the method's name in tables.
        is_urgent: whether it goes before those that are not.
        results: where they go.
        data_dir: where to look first for data that is not bundled.
    """

    key: RunKey
    config: Config
    label: str
    is_urgent: bool
    results: ResultsFile
    data_dir: Path | None


def plan(comparison: Comparison, results: ResultsFile, data_dir: Path | None, costs: Costs | None = None) -> list[Job]:
    """Return all runs of a comparison, seed by seed.

    Args:
        comparison: to plan.
        results: where they go.
        data_dir: where to look first for data that is not bundled.
        costs: for a comparison in equal time, a step's time over one of uniform by method; one that was not timed has
            no run.

    Raises:
        ValueError: an option is out of bounds or a method is not written as it should be.
    """
    in_time = {} if comparison.like is None else steps_in_time(comparison.settings["steps"], costs or {})
    jobs = []
    for seed in range(comparison.seeds):
        for text, method in comparison.parsed.items():
            changes: dict[str, Any] = {"seed": seed}
            if comparison.like is not None:
                if text not in in_time:
                    continue
                changes.update(steps=in_time[text], eval_every=math.ceil(in_time[text] / EVALUATIONS))
            config = comparison.config(text, **changes)
            key = RunKey(comparison.name, text, seed, digest(config))
            is_urgent = text in comparison.drawn and seed < FIRST_SEEDS
            jobs.append(Job(key, config, method.label, is_urgent, results, data_dir))
    return jobs


def finished_runs(jobs: Iterable[Job], results: ResultsFile) -> dict[str, dict[int, Run]]:
    """Return the finished ones of these runs by method, as it is written, and seed."""
    finished = results.runs()
    runs: dict[str, dict[int, Run]] = {}
    for job in jobs:
        if job.key in finished:
            runs.setdefault(job.key.method, {})[job.key.seed] = finished[job.key]
    return runs


def check(jobs: Iterable[Job], results: ResultsFile) -> None:
    """Prepare a run of each method whose first is not finished, so that what is wrong is said before any training.

    Raises:
        ValueError: see `Training`.
    """
    finished = results.runs()
    for job in jobs:
        if job.key not in finished:
            check_runs([job.config], load_task(job.config.dataset, job.data_dir))


def run_unfinished(jobs: Sequence[Job], results: ResultsFile, processes: int) -> None:
    """Run what is not finished, the urgent ones first, several runs at a time."""
    finished, wanted = results.runs(), {}
    for job in sorted(jobs, key=lambda job: not job.is_urgent):
        wanted.setdefault(job.key, job)
    unfinished = [job for key, job in wanted.items() if key not in finished]
    if len(unfinished) < len(wanted):
        print(f"{len(wanted) - len(unfinished)} of {len(wanted)} runs were finished before", file=sys.stderr)
    total_steps = sum(job.config.steps for job in unfinished)
    for _ in run_parallel(run, unfinished, processes=processes, total_steps=total_steps):
        pass  # each run saves its own results
    finished = results.runs()
    if num_left := sum(job.key not in finished for job in unfinished):
        print(f"{num_left} runs are left to other processes, which are at them", file=sys.stderr)


def run(job: Job) -> None:
    """Train and evaluate one run, and save it when it is finished; nothing if another process has or does."""
    with job.results.claim(job.key) as is_ours:
        if not is_ours:
            return
        training = Training(job.config, load_task(job.config.dataset, job.data_dir))
        evaluations: list[Evaluation] = []
        for _ in training.steps():
            count_step()
            if training.evaluation_due:
                evaluations.append(training.evaluate())
        job.results.append(job.key, evaluations)
