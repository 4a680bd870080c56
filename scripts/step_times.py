"""Time a step of each method beside one of uniform, for the comparisons in equal time.

All methods of a comparison take turns, so that all have the same machine. What counts is processor time of the thread
that trains, so that what else runs does not. They train on the first samples only, since what they do in the first
epoch is not what they do later. What a gate does is a matter of the whole run, and of chance, so those with a gate take
turns with uniform through all of it, with each of three seeds, by the clock. So do those that fit in a thread, but one
run after the other: training waits for a fit that is late, and others' turns would give it time. The machine is to have
nothing else to do then. What the file has already is not measured again.

Example:
    python scripts/step_times.py --only shuttle
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import stdev
from time import process_time, sleep, thread_time

import torch
from tqdm import tqdm

import machine
from approx_is.backlog import default_update_every
from comparisons import EVIDENCE, Comparison
from configuration import BASELINE, CHOOSERS, Config
from equal_time import STEP_TIMES, WholeRun, recorded
from samples import InMemoryDataset, Task
from tasks import load_task
from training import Training

FIRST_BATCHES, OF_CHOOSERS = 16, 160
"""Batches of the samples that are trained on, an epoch, of which the first is not timed. Choosers leave samples out,
RS2 nine in ten, and what they keep is to be many full batches."""

SETTLING, TURN, TURNS = 8, 32, 5
"""Steps after the first epoch before the timing, and of a turn: as many updates as are learned from together at most,
or a multiple. All turns together are two stages of SVRG and five of Katyusha, of 5 and 2 epochs, a snapshot each."""

ROUNDS = 4
"""Of these turns, each with trainings of its own: two of the same code differ by up to a tenth as long as they last."""

QUIET = 0.01
"""Seconds without work before a turn."""

WITH_THREADS = ("rais",)
"""Predictors that fit in a thread."""

WHOLE_RUNS = 3
"""Runs of a method with a gate or a thread, a seed each."""

LONG_TURN = 149
"""Steps of a turn of a run with a gate. To its clock the first of them takes as long as the turns of all others, and a
prime keeps those apart from the steps that it times: its medians do not see them."""


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--only", nargs="+", metavar="NAME", help="of the comparisons of compare.py --preset results these")
    option("--data-dir", type=Path, metavar="DIR", help="where to look first for data that is not bundled")
    option("--steps-only", action="store_true", help="leave out methods with a gate or a thread, which take whole runs")
    option("--out", type=Path, default=STEP_TIMES, metavar="FILE", help="(default: %(default)s)")
    arguments = parser.parse_args()
    try:
        for comparison in timed(arguments.only):
            measure_missing(comparison, arguments.out, arguments.data_dir, whole_runs=not arguments.steps_only)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"step_times.py: error: {error}")


def timed(names: list[str] | None) -> list[Comparison]:
    """Return the comparisons at equal steps, of these names where there are any.

    Raises:
        ValueError: there is no such comparison.
    """
    known = {each.name: each for each in EVIDENCE if each.like is None and BASELINE in each.parsed}
    if unknown := set(names or ()) - set(known):
        raise ValueError(f"`--only` must name some of {', '.join(known)}; got {', '.join(sorted(unknown))}.")
    return [known[name] for name in names or known]


def measure_missing(comparison: Comparison, path: Path, data_dir: Path | None, *, whole_runs: bool = True) -> None:
    """Measure what the file has not yet, the methods of a kind together, and add it.

    Args:
        comparison: to measure the methods of.
        path: of the file.
        data_dir: where to look first for data that is not bundled.
        whole_runs: whether to measure methods too that take some.

    Raises:
        ValueError: see `recorded`.
    """
    description = machine.describe()
    with recorded(comparison.name, description, path) as known:
        missing = [text for text in comparison.parsed if text not in known.costs]
    gated = [text for text in missing if comparison.parsed[text].gated]
    threaded = [text for text in missing if comparison.parsed[text].predictor in WITH_THREADS and text not in gated]
    others = [text for text in missing if text not in gated + threaded]
    turns = ((gated, LONG_TURN), (threaded, comparison.settings["steps"]))
    whole = [(methods, turn) for methods, turn in turns if methods and whole_runs]
    if not (whole or others):
        return
    task = load_task(comparison.settings["dataset"], data_dir)
    if others:
        costs = measure(comparison, list(dict.fromkeys([BASELINE, *others])), task)
        with recorded(comparison.name, description, path) as known:
            known.steps.update(costs)
    for methods, turn in whole:
        runs = measure_runs(comparison, methods, task, turn)
        with recorded(comparison.name, description, path) as known:
            known.runs.update(runs)


def measure(comparison: Comparison, methods: list[str], task: Task) -> dict[str, float]:
    """Return the time of a step of each method over one of uniform, and print it with its standard error over turns."""
    warm_up = {text: num_batches(comparison, text) + SETTLING for text in methods}
    total = ROUNDS * (sum(warm_up.values()) + len(methods) * TURN * TURNS)
    seconds: dict[str, list[float]] = {text: [] for text in methods}
    rounds = []  # all of them are kept, so that the next are elsewhere in memory
    with tqdm(total=total, unit="step", desc=comparison.name) as bar:
        for _ in range(ROUNDS):
            trainings = {text: start(comparison, text, task).steps() for text in methods}
            rounds.append(trainings)
            for text, steps in trainings.items():
                take(steps, warm_up[text], bar)
            for _ in range(TURNS):
                for text, steps in trainings.items():
                    wait_for_threads()
                    before = thread_time()
                    take(steps, TURN, bar)
                    seconds[text].append(thread_time() - before)
    costs = {}
    for text, own in seconds.items():
        costs[text] = float(f"{sum(own) / sum(seconds[BASELINE]):.4g}")
        ratios = [turn / baseline for turn, baseline in zip(own, seconds[BASELINE], strict=True)]
        error = stdev(ratios) / math.sqrt(len(ratios))
        print(f"{comparison.name}, {text}: {costs[text]:.3f} ± {error:.3f} times as long")
    return costs


def measure_runs(comparison: Comparison, methods: list[str], task: Task, turn: int) -> dict[str, list[WholeRun]]:
    """Return whole runs by methods beside one of uniform, one a seed, in turns of so many steps."""
    runs: dict[str, list[WholeRun]] = {text: [] for text in methods}
    for seed in range(WHOLE_RUNS):
        for text, run in measure_run(comparison, methods, task, seed, turn).items():
            runs[text].append(run)
    return runs


def measure_run(comparison: Comparison, methods: list[str], task: Task, seed: int, turn: int) -> dict[str, WholeRun]:
    """Return a run by each method beside one of uniform with that seed, and print what a gate says in the end."""
    total = comparison.settings["steps"]
    trainings = {text: Training(comparison.config(text, seed=seed), task) for text in (BASELINE, *methods)}
    steps = [training.steps() for training in trainings.values()]
    with tqdm(total=len(steps) * total, unit="step", desc=f"{comparison.name}, seed {seed}") as bar:
        for done in range(0, total, turn):
            for own in steps:
                wait_for_threads()
                take(own, min(turn, total - done), bar)
    plain = step_time(trainings.pop(BASELINE))
    runs = {}
    for text, training in trainings.items():
        gate, ratio = training.sampler.gate, step_time(training) / plain
        print(f"{comparison.name}, {text}, seed {seed}: {ratio:.3f} times as long; {gate.verdict}")
        gain = gate.metrics().get("gate_variance_ratio", math.nan)  # presampling's has no such figure
        runs[text] = WholeRun(
            ratio=float(f"{ratio:.4g}"),
            step_ms=float(f"{1e3 * plain:.3g}"),
            is_open=gate.is_open if comparison.parsed[text].gated else None,
            variance_ratio=float(f"{gain:.3g}") if math.isfinite(gain) else None,
        )
    return runs


def step_time(training: Training) -> float:
    """Return the mean time of the steps so far, in seconds. With the gain there are fewer than were asked for."""
    return training.seconds / training.step


def start(comparison: Comparison, text: str, task: Task) -> Training:
    """Return a training by that method on the first samples, which learns as often as one on all of them."""
    batch_size = comparison.settings.get("batch_size", Config.batch_size)
    size = num_batches(comparison, text) * batch_size
    few = replace(task, train=InMemoryDataset(task.train.inputs[:size], task.train.targets[:size]), prepare=None)
    update_every = default_update_every(len(task.train), batch_size)
    return Training(comparison.config(text, update_every=update_every, steps=10**6), few)


def wait_for_threads() -> None:
    """Wait until nothing is left of what another training does in a thread, which would slow this one."""
    while True:
        before = process_time()
        sleep(QUIET)
        if process_time() - before < QUIET / 4:
            return


def num_batches(comparison: Comparison, text: str) -> int:
    """Return how many batches of samples a method is timed on."""
    return OF_CHOOSERS if comparison.parsed[text].predictor in CHOOSERS else FIRST_BATCHES


def take(steps: Iterator[int], count: int, bar: tqdm) -> None:
    """Train for so many steps, or as many as are left."""
    for _ in islice(steps, count):
        bar.update()


if __name__ == "__main__":
    torch.set_num_threads(1)  # as runs of comparisons have it
    torch.set_flush_denormal(True)
    main()
