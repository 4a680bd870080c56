"""Compare methods at equal steps over several seeds; write a table and draw a figure.

The results of every run are kept in a folder of their own, so that the same command, run again, goes on where it was
stopped, and after a change of options repeats only the runs that it concerns.

Example:
    python scripts/compare.py --methods uniform last-loss:0.5 lstm:1:upper-bound --seeds 3 --out runs/shuttle
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configuration import BASELINE, Config
from evaluation import Evaluation
from methods import Method
from options import add_batch_options, add_training_options, options_of_predictors, training_options
from parallel import count_step, run_parallel
from plots import plot_runs
from runs import is_finished, load_run, save_run, write_atomically
from tables import comparison_table, notes
from tasks import Task, load_task
from training import Training, check_runs

PRESETS: dict[str, dict[str, Any]] = {
    "demo": {
        "dataset": "shuttle",
        "methods": ["uniform", "last-loss:0.5", "lstm:1:upper-bound", "lstm:0.5"],
        "seeds": 2,
        "steps": 3_000,
        "eval_every": 100,
    }
}
"""Defaults of options by the name of the preset."""


@dataclass(frozen=True)
class Job:
    """One run to do.

    Attributes:
        config: what to run.
        folder: where its results go.
        data_dir: where to look first for data that is not bundled.
    """

    config: Config
    folder: Path
    data_dir: Path | None


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    try:
        jobs = plan(arguments)
        task = load_task(jobs[0].config.dataset, arguments.data_dir)
        check_runs((job.config for job in jobs), task)
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"compare.py: error: {error}")
    try:
        run_unfinished(jobs, arguments.jobs)
    except (KeyboardInterrupt, BrokenProcessPool) as error:
        why = "stopped" if isinstance(error, KeyboardInterrupt) else "a run was killed, for lack of memory perhaps"
        sys.exit(f"compare.py: {why}; the same command goes on with what is not finished")
    report(jobs, task, arguments.out)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments; a preset changes their defaults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--preset", choices=PRESETS, help="defaults of the options below, for a comparison that is known to work")
    add_training_options(parser)
    add_batch_options(parser)
    option("--methods", nargs="+", metavar="METHOD", help=f"predictor[:k[:observe]], or {BASELINE} for plain training")
    option("--eval-every", type=int, default=Config.eval_every, metavar="N", help="steps between evaluations")
    option("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.set_defaults(**PRESETS.get(parser.parse_args().preset, {}))
    arguments = parser.parse_args()
    if not arguments.methods:
        parser.error("--methods is required without a --preset")
    return arguments


def plan(arguments: argparse.Namespace) -> list[Job]:
    """Return all runs of the comparison, seed by seed, so that no method has the quieter machine to itself.

    Raises:
        ValueError: an option is out of bounds or a method is not written as it should be.
    """
    methods = list(dict.fromkeys(map(Method.parse, arguments.methods)))
    options = options_of_predictors(arguments.predictor_options, [method.predictor for method in methods])
    common = {**training_options(arguments), "eval_every": arguments.eval_every}
    return [
        Job(
            Config(**common, **vars(method), predictor_options=options[method.predictor], seed=seed),
            arguments.out / method.folder / f"seed-{seed}",
            arguments.data_dir,
        )
        for seed in range(arguments.seeds)
        for method in methods
    ]


def run_unfinished(jobs: list[Job], processes: int) -> None:
    """Run what is not finished, several runs at a time."""
    unfinished = [job for job in jobs if not is_finished(job.folder, job.config)]
    if len(unfinished) < len(jobs):
        print(f"{len(jobs) - len(unfinished)} of {len(jobs)} runs were finished before", file=sys.stderr)
    total_steps = sum(job.config.steps for job in unfinished)
    for _ in run_parallel(run, unfinished, processes=processes, total_steps=total_steps):
        pass  # each run saves its own results


def run(job: Job) -> None:
    """Train and evaluate one run, and save it when it is finished."""
    training = Training(job.config, load_task(job.config.dataset, job.data_dir))
    evaluations: list[Evaluation] = []
    for _ in training.steps():
        count_step()
        if training.evaluation_due:
            evaluations.append(training.evaluate())
    save_run(job.folder, job.config, evaluations)


def report(jobs: list[Job], task: Task, out: Path) -> None:
    """Print the table, and write it and the figure."""
    runs: dict[str, list[list[Evaluation]]] = {}
    for job in jobs:
        runs.setdefault(Method.of(job.config).label, []).append(load_run(job.folder))
    table = f"{comparison_table(runs, task.score)}\n{notes(task.score)}"
    print(table)
    write_atomically(out / "table.md", table)
    plot_runs(runs, task, jobs[0].config, out / "comparison.png")


if __name__ == "__main__":
    main()
