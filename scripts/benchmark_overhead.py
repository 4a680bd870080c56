"""Time what the sampler adds to a training step, beside the step itself, in one run.

What `rais` does now and then, its refits and the sweeps after them, no median shows. It is timed over all updates from
one refit to the next, with the fit in the same thread, as if all of its time were lost to training, and divided by
their number.

Example:
    python scripts/benchmark_overhead.py --out runs/bench
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from approx_is import Draw, ImportanceSampler
from models import MODELS, TITLES, build_model
from options import positive
from runs import write_atomically

IMAGE_SHAPE = (1, 28, 28)
NUM_SAMPLES = 60_000
NUM_CLASSES = 10
PREDICTORS = ("last-loss", "class-gaussian", "lstm", "rais")
REFITTING = ("rais",)
OBSERVATIONS = 32_768
"""From one refit to the next."""


class Step:
    """A training step of a network on random images: what a sampler's overhead is measured against."""

    def __init__(self, model: str, batch_size: int) -> None:
        torch.manual_seed(0)
        self.model = build_model(model, IMAGE_SHAPE, NUM_CLASSES)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.inputs = torch.rand(batch_size, *IMAGE_SHAPE)
        self.targets = torch.randint(NUM_CLASSES, (batch_size,))

    def __call__(self) -> None:
        """Take the step."""
        loss = F.cross_entropy(self.model(self.inputs), self.targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Sampling:
    """What a sampler does in a step: a draw and an update, timed apart."""

    def __init__(self, predictor: str, batch_size: int, options: dict[str, Any] | None = None) -> None:
        labels = torch.randint(NUM_CLASSES, (NUM_SAMPLES,), generator=torch.Generator().manual_seed(0))
        self.sampler = ImportanceSampler(
            NUM_SAMPLES, batch_size, predictor=predictor, labels=labels, gate=None, predictor_options=options
        )
        self.observed = torch.rand(batch_size, generator=torch.Generator().manual_seed(1))
        draw = self.sampler.draw()
        while draw.probabilities[0] * NUM_SAMPLES == 1:  # the first epoch is uniform, and so cheaper
            self.sampler.update(draw, self.observed[: len(draw)])
            draw = self.sampler.draw()
        self.draws: list[Draw] = [draw]

    def draw(self) -> None:
        """Draw the next batch."""
        self.draws.append(self.sampler.draw())

    def update(self) -> None:
        """Update with the batch drawn before it, as after a step."""
        draw = self.draws.pop(0)
        self.sampler.update(draw, self.observed[: len(draw)])


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    times = {
        model: measure(model, arguments.batch_size, arguments.rounds)
        for model in tqdm(arguments.models, unit="model", leave=False)
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {"threads": torch.get_num_threads(), "batch_size": arguments.batch_size, "torch": torch.__version__}
    write_atomically(arguments.out / "overhead.json", json.dumps({**report, "median_ms": times}, indent=2) + "\n")
    print(table(times))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="(default: all)")
    parser.add_argument("--batch-size", type=positive, default=128, metavar="B", help="(default: %(default)s)")
    parser.add_argument(
        "--rounds", type=positive, default=100, metavar="N", help="steps timed of each (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="(default: %(default)s)")
    return parser.parse_args()


def measure(model: str, batch_size: int, rounds: int) -> dict[str, float]:
    """Return median milliseconds of a network's step and of each predictor's draw and update, taken in turns."""
    calls: dict[str, Callable[[], None]] = {"step": Step(model, batch_size)}
    for predictor in PREDICTORS:
        sampling = Sampling(predictor, batch_size)
        calls |= {f"{predictor} draw": sampling.draw, f"{predictor} update": sampling.update}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = perf_counter()
            call()
            times[name].append(1e3 * (perf_counter() - started))
    medians = {name: median(values) for name, values in times.items()}
    return medians | {f"{predictor} refits": refit_time(predictor, batch_size) for predictor in REFITTING}


def refit_time(predictor: str, batch_size: int) -> float:
    """Return the milliseconds an update that refits and sweeps add to its median, everything in this thread."""
    sampling = Sampling(predictor, batch_size, {"background": False})
    times, period = [], math.ceil(OBSERVATIONS / batch_size)
    for update in range(3 * period):  # by the third period as many observations are kept as will be
        sampling.draw()
        started = perf_counter()
        sampling.update()
        times += [1e3 * (perf_counter() - started)] if update >= 2 * period else []
    return fmean(times) - median(times)


def table(times: dict[str, dict[str, float]]) -> str:
    """Return the overhead of each predictor over each network's step, in Markdown."""
    lines = [f"| network | step ms | {' | '.join(PREDICTORS)} |", "|---|---:|" + "---:|" * len(PREDICTORS)]
    for model, medians in times.items():
        step = medians["step"]
        added = [_added(medians, predictor) for predictor in PREDICTORS]
        cells = " | ".join(f"{ms:.2f} ms, {100 * ms / step:.1f} %" for ms in added)
        lines.append(f"| {TITLES[model]} | {step:.1f} | {cells} |")
    return "\n".join(lines)


def _added(medians: dict[str, float], predictor: str) -> float:
    parts = ("draw", "update", "refits")
    return sum(medians.get(f"{predictor} {part}", 0.0) for part in parts)


if __name__ == "__main__":
    main()
