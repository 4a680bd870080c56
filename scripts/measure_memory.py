"""Measure the memory that a sampler takes a sample, and train one whose history is in memory-mapped files.

What counts is by how much the resident memory of a process grows while a sampler is built and used in it: history,
tree, the permutation of a plain epoch, and the sampler's copy of the labels. The caller's labels, int64, do not count,
nor what the first use of a sampler loads. Each sampler has a process of its own. Memory that was never written is not
resident: all of it is written, as if every sample had been observed.

Linux only. A sampler of 100,000,000 samples with its history on disk takes ten minutes and 7 GB of disk.

Example:
    python scripts/measure_memory.py --mapped 100000000 --out runs/bench
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from approx_is import ImportanceSampler
from machine import describe
from mapped_training import BATCH_SIZE, NUM_CLASSES, mapped_table, train_mapped
from options import positive
from resident_memory import Resident, reset_peak
from runs import write_atomically

Result = TypeVar("Result")

WINDOW = 10
PREDICTORS = ("last-loss", "lstm")
TARGETS = {"float32": 72.0, "float16": 48.0}
"""Bytes a sample at most."""

STEPS = 100
PARTS = ("history", "tree", "labels", "permutation", "other")


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": describe(), "window": WINDOW, "num_samples": arguments.num_samples}
    pairs = [(predictor, dtype) for dtype in TARGETS for predictor in arguments.predictors]
    report["samplers"] = [
        in_a_process(measure, predictor, dtype, arguments.num_samples)
        for predictor, dtype in tqdm(pairs, unit="sampler", leave=False)
    ]
    print(table(report["samplers"]))
    if arguments.mapped:
        with TemporaryDirectory(prefix="mapped-history-", dir=arguments.dir or arguments.out) as folder:
            report["mapped"] = in_a_process(train_mapped, arguments.mapped, arguments.steps, Path(folder))
        print(f"\n{mapped_table(report['mapped'])}")
    write_atomically(arguments.out / "memory.json", json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--num-samples", type=positive, default=10_000_000, metavar="N", help="(default: %(default)s)")
    option("--predictors", nargs="+", choices=PREDICTORS, default=PREDICTORS, help="(default: both)")
    option("--mapped", type=int, default=0, metavar="N", help="samples with a mapped history (default: do without)")
    option("--steps", type=positive, default=200, metavar="S", help="trained on those (default: %(default)s)")
    option("--dir", type=Path, metavar="DIR", help="where mapped files are for the time (default: that of --out)")
    option("--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="(default: %(default)s)")
    return parser.parse_args()


def in_a_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Return what a function returns in a new process, which ends after it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(predictor: str, history_dtype: str, num_samples: int) -> dict[str, Any]:
    """Return the bytes a sample by which this process grows while a sampler is built and used."""
    torch.set_num_threads(1)
    warm_up(predictor, history_dtype)
    labels = torch.arange(NUM_CLASSES).repeat(math.ceil(num_samples / NUM_CLASSES))[:num_samples]
    before = Resident.now().total
    reset_peak()
    sampler = build(predictor, history_dtype, labels)
    sampler.draw()  # makes the permutation
    grown = {"build_peak": Resident.now().peak}
    for tensor in tensors_in(sampler.state_dict()):
        tensor.add_(0)
    parts = parts_of(sampler)
    grown |= {"resident": Resident.now().total, "plain_peak": peak_of_steps(sampler)}
    sampler.draw(num_samples)  # what is left of the first epoch
    grown["importance_peak"] = peak_of_steps(sampler)
    return {
        "predictor": predictor,
        "history_dtype": history_dtype,
        "parts": {name: size / num_samples for name, size in parts.items()},
        **{name: (size - before) / num_samples for name, size in grown.items()},
    }


def warm_up(predictor: str, history_dtype: str) -> None:
    """Use a small sampler in all the ways that a large one will be."""
    sampler = build(predictor, history_dtype, torch.arange(2 * BATCH_SIZE) % NUM_CLASSES)
    tensors_in(sampler.state_dict())
    for _ in range(2):
        peak_of_steps(sampler)


def build(predictor: str, history_dtype: str, labels: Tensor) -> ImportanceSampler:
    """Return a sampler that draws by importance from its second epoch on."""
    return ImportanceSampler(
        len(labels),
        BATCH_SIZE,
        predictor=predictor,
        labels=labels,
        window=WINDOW,
        gate=None,
        history_dtype=getattr(torch, history_dtype),
    )


def peak_of_steps(sampler: ImportanceSampler) -> int:
    """Return the most bytes that this process has while it draws and updates."""
    observed = torch.rand(BATCH_SIZE, generator=torch.Generator().manual_seed(0))
    reset_peak()
    for _ in range(STEPS):
        draw = sampler.draw()
        sampler.update(draw, observed[: len(draw)])
    return Resident.now().peak


def parts_of(sampler: ImportanceSampler) -> dict[str, int]:
    """Return the bytes of a sampler's tensors by part. Labels and permutation are in no state: both are private."""
    state = sampler.state_dict()
    sizes = {
        "history": size_of(state["learner"]["history"]),
        "tree": size_of(state["drawer"]["proposal"]["tree"]),
        "labels": size_of(sampler._learner._labels),
        "permutation": size_of(sampler._drawer.epochs._permutation),
    }
    return sizes | {"other": size_of(state) - sizes["history"] - sizes["tree"]}


def size_of(state: Any) -> int:
    """Return the bytes of all tensors in a state."""
    return sum(tensor.nbytes for tensor in tensors_in(state))


def tensors_in(state: Any) -> Iterator[Tensor]:
    """Yield all tensors in a state."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list):
        for value in state.values() if isinstance(state, dict) else state:
            yield from tensors_in(value)


def verdict(figure: float, target: float) -> str:
    """Return whether a figure reaches its target, in words."""
    return "met" if figure <= target else "not met"


def table(samplers: list[dict[str, Any]]) -> str:
    """Return the bytes a sample of each sampler beside its target, in Markdown."""
    titles = ("history", "predictor", *PARTS, "sum", "resident", "peak", "building", "target", "")
    lines = [f"| {' | '.join(titles)} |", f"|---|---|{'---:|' * (len(titles) - 3)}---|"]
    for sampler in samplers:
        peak = max(sampler["plain_peak"], sampler["importance_peak"])
        target = TARGETS[sampler["history_dtype"]]
        parts = [sampler["parts"][name] for name in PARTS]
        figures = (*parts, sum(parts), sampler["resident"], peak, sampler["build_peak"])
        cells = (sampler["history_dtype"], sampler["predictor"], *(f"{figure:.1f}" for figure in figures))
        lines.append(f"| {' | '.join(cells)} | ≤ {target:.0f} | {verdict(peak, target)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
