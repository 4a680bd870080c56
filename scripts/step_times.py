"""Time a step of each method beside one of uniform, for the comparisons in equal time; on a quiet machine.

All methods of a comparison take turns, so that all have the same machine. They train on the first samples only, since
what they do in the first epoch is not what they do later. What a gate does is a matter of the whole run, and of chance,
so one with a gate takes turns with uniform through all of it, with each of three seeds. What the file has already is
not measured again.

Example:
    python scripts/step_times.py --only shuttle
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

import machine
from approx_is.backlog import default_update_every
from comparisons import EVIDENCE, Comparison
from configuration import BASELINE, CHOOSERS, Config
from equal_time import STEP_TIMES, Costs, read_step_times
from runs import write_atomically
from samples import InMemoryDataset, Task
from tasks import load_task
from training import Training

FIRST_BATCHES, OF_CHOOSERS = 16, 160
"""Batches of the samples that are trained on, an epoch, of which the first is not timed. Choosers leave samples out,
RS2 nine in ten, and what they keep is to be many full batches."""

SETTLING, TURN, TURNS = 8, 16, 6
"""Steps after the first epoch before the timing, and of a turn: as many updates as are learned from together at most,
or a multiple."""

GATED_RUNS = 3
"""Runs of a method with a gate, a seed each."""

LONG_TURN = 149
"""Steps of a turn of a run with a gate. To its clock the first of them takes as long as all of the other's turn, and a
prime keeps those apart from the steps that it times: its medians do not see them."""


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--only", nargs="+", metavar="NAME", help="of the comparisons of compare.py --preset results these")
    option("--data-dir", type=Path, metavar="DIR", help="where to look first for data that is not bundled")
    option("--out", type=Path, default=STEP_TIMES, metavar="FILE", help="(default: %(default)s)")
    arguments = parser.parse_args()
    try:
        relative = read_step_times(arguments.out)
        for comparison in timed(arguments.only):
            costs = relative.setdefault(comparison.name, {})
            for own in measured(comparison, costs, arguments.data_dir):
                costs.update(own)
                text = json.dumps({"machine": machine.describe(), "relative": relative}, indent=1)
                write_atomically(arguments.out, f"{text}\n")
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


def measured(comparison: Comparison, known: Costs, data_dir: Path | None) -> Iterator[Costs]:
    """Yield the costs of the methods whose costs are not known, those without a gate together."""
    gated = [text for text, method in comparison.parsed.items() if method.gated]
    others = [text for text in comparison.parsed if text not in known and text not in gated]
    if not others and set(gated) <= set(known):
        return
    task = load_task(comparison.settings["dataset"], data_dir)
    if others:
        yield measure(comparison, list(dict.fromkeys([BASELINE, *others])), task)
    for text in gated:
        if text not in known:
            yield {text: measure_runs(comparison, text, task)}


def measure(comparison: Comparison, methods: list[str], task: Task) -> Costs:
    """Return the time of a step of each method over one of uniform, the median over turns."""
    trainings = {text: start(comparison, text, task) for text in methods}
    steps = {text: training.steps() for text, training in trainings.items()}
    ratios: dict[str, list[float]] = {text: [] for text in trainings}
    warm_up = {text: num_batches(comparison, text) + SETTLING for text in steps}
    total = sum(warm_up.values()) + len(steps) * TURN * TURNS
    with tqdm(total=total, unit="step", desc=comparison.name) as bar:
        for text, own in steps.items():
            take(own, warm_up[text], bar)
        for _ in range(TURNS):
            seconds = {}
            for text, training in trainings.items():
                before = training.seconds
                take(steps[text], TURN, bar)
                seconds[text] = training.seconds - before
            for text in ratios:
                ratios[text].append(seconds[text] / seconds[BASELINE])
    return {text: float(f"{median(own):.4g}") for text, own in ratios.items()}


def measure_runs(comparison: Comparison, text: str, task: Task) -> float:
    """Return the time of a whole run by a method with a gate over one of uniform, the median over seeds."""
    ratios = [measure_run(comparison, text, task, seed) for seed in range(GATED_RUNS)]
    return float(f"{median(ratios):.4g}")


def measure_run(comparison: Comparison, text: str, task: Task, seed: int) -> float:
    """Return the time of one such run over one of uniform, and print it with what its gate says in the end."""
    total = comparison.settings["steps"]
    runs = [Training(comparison.config(each, seed=seed), task) for each in (BASELINE, text)]
    steps = [run.steps() for run in runs]
    with tqdm(total=2 * total, unit="step", desc=f"{comparison.name}, {text}, seed {seed}") as bar:
        for done in range(0, total, LONG_TURN):
            for own in steps:
                take(own, min(LONG_TURN, total - done), bar)
    ratio = runs[1].seconds / runs[0].seconds
    print(f"{comparison.name}, {text}, seed {seed}: {ratio:.3f} times as long; {runs[1].sampler.gate.verdict}")
    return ratio


def start(comparison: Comparison, text: str, task: Task) -> Training:
    """Return a training by that method on the first samples, which learns as often as one on all of them."""
    batch_size = comparison.settings.get("batch_size", Config.batch_size)
    size = num_batches(comparison, text) * batch_size
    few = replace(task, train=InMemoryDataset(task.train.inputs[:size], task.train.targets[:size]), prepare=None)
    update_every = default_update_every(len(task.train), batch_size)
    return Training(comparison.config(text, update_every=update_every, steps=10**6), few)


def num_batches(comparison: Comparison, text: str) -> int:
    """Return how many batches of samples a method is timed on."""
    return OF_CHOOSERS if comparison.parsed[text].predictor in CHOOSERS else FIRST_BATCHES


def take(steps: Iterator[int], count: int, bar: tqdm) -> None:
    """Train for so many steps."""
    for _ in range(count):
        next(steps)
        bar.update()


if __name__ == "__main__":
    torch.set_num_threads(1)  # as runs of comparisons have it
    torch.set_flush_denormal(True)
    main()
