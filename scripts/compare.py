"""Compare methods over several seeds, at equal steps and in equal time; write tables and draw figures.

Every finished run goes into one file of results, so that the same command, run again, goes on where it was stopped, and
after a change repeats only the runs that it concerns. Several processes may work on the same results at once.

Example:
    python scripts/compare.py --methods uniform last-loss:0.5 lstm:1:upper-bound --seeds 3 --out runs/shuttle
    python scripts/compare.py --preset results --only shuttle --out runs/results
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from comparisons import DEMO, EVIDENCE, FIRST_SEEDS, Comparison
from configuration import Config
from equal_time import steps_in_time
from evaluation import Evaluation, Run
from methods import FORM
from options import add_batch_options, add_training_options, options_of_predictors, training_options
from parallel import count_step, run_parallel
from plots import plot_runs
from results_file import ResultsFile, RunKey, digest
from runs import write_atomically
from tables import comparison_table, notes
from tasks import load_task
from training import Training, check_runs

PRESETS: dict[str, tuple[Comparison, ...]] = {"demo": (DEMO,), "results": EVIDENCE}
RESULTS_FILE = "results.jsonl"
EVALUATIONS = 20
"""Of a run whose number of steps is a matter of time."""


@dataclass(frozen=True)
class Job:
    """One run to do.

    Attributes:
        key: what its results are known by.
        config: what to run.
        label: the method's name in tables.
        is_urgent: whether figures need it.
        results: where they go.
        data_dir: where to look first for data that is not bundled.
    """

    key: RunKey
    config: Config
    label: str
    is_urgent: bool
    results: ResultsFile
    data_dir: Path | None


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    results = ResultsFile(arguments.out / RESULTS_FILE, arguments.known)
    try:
        comparisons = chosen(arguments)
        arguments.out.mkdir(parents=True, exist_ok=True)
        at_once = [job for each in comparisons if each.like is None for job in plan(each, results, arguments.data_dir)]
        at_once.sort(key=lambda job: not job.is_urgent)
        check(at_once, results)
        run_unfinished(at_once, results, arguments.jobs)
        in_time = [
            job for each in comparisons if each.like is not None for job in plan(each, results, arguments.data_dir)
        ]
        run_unfinished(in_time, results, arguments.jobs)
        for comparison in comparisons:
            report(comparison, plan(comparison, results, arguments.data_dir), results, arguments.out / comparison.name)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"compare.py: error: {error}")
    except (KeyboardInterrupt, BrokenProcessPool) as error:
        why = "stopped" if isinstance(error, KeyboardInterrupt) else "a run was killed, for lack of memory perhaps"
        sys.exit(f"compare.py: {why}; the same command goes on with what is not finished")
    if arguments.publish is not None:
        results.publish((job.key for job in at_once + in_time), arguments.publish)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--preset", choices=PRESETS, help="comparisons to run, in place of the options up to --eval-every")
    option("--only", nargs="+", metavar="NAME", help="of the preset's comparisons these")
    add_training_options(parser)
    add_batch_options(parser)
    option("--methods", nargs="+", metavar="METHOD", help=f"{FORM}, or uniform")
    option("--eval-every", type=int, default=Config.eval_every, metavar="N", help="steps between evaluations")
    option("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    option("--known", type=Path, metavar="FILE", help="results of before, whose runs are not repeated")
    option("--publish", type=Path, metavar="FILE", help="write the results that were asked for into this file too")
    arguments = parser.parse_args()
    if not arguments.methods and arguments.preset is None:
        parser.error("--methods is required without a --preset")
    return arguments


def chosen(arguments: argparse.Namespace) -> Sequence[Comparison]:
    """Return the comparisons that the command asks for.

    Raises:
        ValueError: there is no such comparison, or an option is out of bounds.
    """
    if arguments.preset is not None:
        known = {comparison.name: comparison for comparison in PRESETS[arguments.preset]}
        names = arguments.only or known
        if unknown := set(names) - set(known):
            raise ValueError(f"`--only` must name some of {', '.join(known)}; got {', '.join(sorted(unknown))}.")
        return [known[name] for name in names]
    settings = {**training_options(arguments), "eval_every": arguments.eval_every}
    name, methods = "comparison", tuple(arguments.methods)
    comparison = Comparison(name, methods, settings, arguments.seeds, drawn=())
    predictors = [method.predictor for method in comparison.parsed.values()]
    options = options_of_predictors(arguments.predictor_options, predictors)
    return [Comparison(name, methods, settings, arguments.seeds, drawn=(), options=options)]


def plan(comparison: Comparison, results: ResultsFile, data_dir: Path | None) -> list[Job]:
    """Return all runs of a comparison, seed by seed, so that no method has the quieter machine to itself.

    Raises:
        ValueError: an option is out of bounds, a method is not written as it should be, or it is not known yet how long
            a method's steps take.
    """
    in_time = None if comparison.like is None else _steps_in_time(comparison, results, data_dir)
    without = () if in_time is None else ("steps", "eval_every")  # a new timing is no reason for new runs
    jobs = []
    for seed in range(comparison.seeds):
        for text, method in comparison.parsed.items():
            if in_time is not None and text not in in_time:
                continue
            own_steps = (
                {}
                if in_time is None
                else {"steps": in_time[text], "eval_every": math.ceil(in_time[text] / EVALUATIONS)}
            )
            settings = {**comparison.settings, **method.settings, **own_steps}
            config = Config(**settings, predictor_options=comparison.options.get(method.predictor, {}), seed=seed)
            key = RunKey(comparison.name, text, seed, digest(config, without))
            is_urgent = text in comparison.drawn and seed < FIRST_SEEDS
            jobs.append(Job(key, config, method.label, is_urgent, results, data_dir))
    return jobs


def _steps_in_time(comparison: Comparison, results: ResultsFile, data_dir: Path | None) -> dict[str, int]:
    """Return how many steps each method has time for, of those whose time is known."""
    timed = next(each for each in EVIDENCE if each.name == comparison.like)
    runs = by_method(plan(timed, results, data_dir), results)
    return steps_in_time(comparison.settings["steps"], runs)


def by_method(jobs: Iterable[Job], results: ResultsFile) -> dict[str, dict[int, Run]]:
    """Return the finished ones of these runs by method and seed."""
    finished, runs = results.runs(), {}
    for job in jobs:
        if job.key in finished:
            runs.setdefault(job.key.method, {})[job.key.seed] = finished[job.key]
    return runs


def check(jobs: Iterable[Job], results: ResultsFile) -> None:
    """Prepare one run of each method that is not finished, so that what is wrong is said before anything is trained.

    Raises:
        ValueError: see `Training`.
    """
    finished = results.runs()
    for job in jobs:
        if job.key not in finished:
            check_runs([job.config], load_task(job.config.dataset, job.data_dir))


def run_unfinished(jobs: list[Job], results: ResultsFile, processes: int) -> None:
    """Run what is not finished, several runs at a time."""
    finished = results.runs()
    unfinished = [job for job in jobs if job.key not in finished]
    if len(unfinished) < len(jobs):
        print(f"{len(jobs) - len(unfinished)} of {len(jobs)} runs were finished before", file=sys.stderr)
    total_steps = sum(job.config.steps for job in unfinished)
    for _ in run_parallel(run, unfinished, processes=processes, total_steps=total_steps):
        pass  # each run saves its own results


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


def report(comparison: Comparison, jobs: Sequence[Job], results: ResultsFile, path: Path) -> None:
    """Print the table of a comparison, and write it and the figure; nothing where no run is finished.

    Args:
        comparison: whose runs they are.
        jobs: the runs.
        results: where they are.
        path: of both files, without their endings.
    """
    runs, labels = by_method(jobs, results), {job.key.method: job.label for job in jobs}
    if not runs:
        return
    task = load_task(jobs[0].config.dataset, jobs[0].data_dir)
    epoch = len(task.train) / jobs[0].config.batch_size
    table = comparison_table({labels[method]: own for method, own in runs.items()}, task.score, epoch)
    print(f"{comparison.name}\n\n{table}\n{notes(task.score)}")
    write_atomically(path.with_suffix(".md"), f"{table}\n{notes(task.score)}")
    drawn = [method for method in comparison.drawn if method in runs] or list(runs)
    plot_runs({labels[method]: runs[method] for method in drawn}, task, jobs[0].config, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
