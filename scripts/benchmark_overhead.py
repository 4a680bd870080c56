"""Time what the sampler adds to a training step, part by part, beside the step itself, in one run.

The uniform step is that of a plain loop, loader and all. In turns with it, loops with a sampler take steps of the same
network from the same loader: histories are full, every draw is by importance, and caches are as cold as a step leaves
them. The parts of the sampler's time are timed within these loops:

- drawing: what is drawn, and its weights.
- scoring: the network's own scores of candidates, where the predictor takes them; that more samples are loaded then is
  in the figure of whole loops only.
- weighting: what the weighted loss takes beyond the mean loss, forward and backward.
- history: observations of one sample averaged and remembered.
- training and prediction of the predictor.
- tree: predictions made ready to be drawn by.
- rest: checks, diagnostics, gain and smoothing.
- refits: what `rais` does now and then, a step; it is timed apart.

The overhead is the sum of the medians over the median uniform step; on an accelerator, where to time a part is to wait
for it, that of whole loops. As a check, whole steps of loops without timers are
compared as well: the median of their ratio to the uniform step of the same round.

Left out are `oracle`, whose cost is that of `upper-bound`, and `gradient-norm`, which is several times dearer than
training.

Example:
    python scripts/benchmark_overhead.py --threads 2 --out runs/bench
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from machine import describe
from options import positive
from overhead_loops import measured_predictors
from overhead_measure import WARM_UP, Measurement, Rounds, closed_gate_percent, refit_time
from overhead_plot import plot_overheads
from overhead_report import as_json, percents_of, table, verdicts
from runs import write_atomically
from workloads import RECIPES, Workload

ROUNDS = 30
SHORT_ROUNDS = {"paper": 3, "lstm-lm": 3}
"""Of `--preset short`, where a round takes seconds."""

OTHER_SHORT_ROUNDS = 8
CLOSED_GATE_MODELS = ("small-cnn", "mlp")
CLOSED_GATE_STEPS = 64
REFITTING = ("rais",)


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        check_device(arguments.device, arguments.models)
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        sys.exit(f"benchmark_overhead.py: error: {error}")
    measurements, closed = measure_all(arguments)
    write_report(arguments, measurements, closed)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments; without `--models` all that the device is made for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--models", nargs="+", choices=RECIPES, help="(default: all, resnet-18 with --device cuda only)")
    predictors = measured_predictors()
    option("--predictors", nargs="+", choices=predictors, default=predictors, help="(default: all)")
    option("--batch-size", type=positive, default=128, metavar="B", help="(default: %(default)s)")
    option("--samples", type=positive, default=60_000, metavar="N", help="in the data set (default: %(default)s)")
    option(
        "--rounds",
        type=positive,
        metavar="R",
        help=f"rounds of eight steps of each (default: {ROUNDS}, or the preset's)",
    )
    option("--preset", choices=("short",), help="few rounds, for a look: some three minutes")
    option("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    option("--threads", type=positive, metavar="T", help="of torch (default: torch's own)")
    option("--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="(default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.models is None:
        is_cuda = arguments.device.startswith("cuda")
        arguments.models = [name for name, recipe in RECIPES.items() if is_cuda or not recipe.cuda_only]
    return arguments


def check_device(device: str, models: list[str]) -> None:
    """Raise `ValueError` if torch does not have the device, or a model is too dear for it."""
    try:
        torch.zeros(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`--device` must be one that torch has here; got {device!r}: {error}") from None
    for model in models:
        if RECIPES[model].cuda_only and torch.device(device).type != "cuda":
            raise ValueError(f"`--models {model}` needs `--device cuda`; got {device!r}.")


def rounds_of(model: str, rounds: int | None, preset: str | None) -> int:
    """Return how many rounds to time beside a model."""
    return rounds or (SHORT_ROUNDS.get(model, OTHER_SHORT_ROUNDS) if preset == "short" else ROUNDS)


def measure_all(arguments: argparse.Namespace) -> tuple[dict[str, Measurement], dict[str, float]]:
    """Return what was measured beside each model, and what a closed gate adds, in percent."""
    device = torch.device(arguments.device)
    sizes = {"num_samples": arguments.samples, "batch_size": arguments.batch_size}
    refits = {name: refit_time(name, **sizes, device=device) for name in REFITTING if name in arguments.predictors}
    measurements, closed = {}, {}
    for model in arguments.models:
        workload = Workload(model, **sizes, device=device)
        rounds = Rounds(workload, arguments.predictors)
        count = rounds_of(model, arguments.rounds, arguments.preset)
        for _ in tqdm(range(WARM_UP + count), desc=model, unit="round", leave=False):
            rounds.take()
        measurements[model] = rounds.result(refits)
        if model in CLOSED_GATE_MODELS:
            closed[model] = closed_gate_percent(workload, max(count, CLOSED_GATE_STEPS))
    return measurements, closed


def write_report(arguments: argparse.Namespace, measurements: dict[str, Measurement], closed: dict[str, float]) -> None:
    """Print tables and verdicts, and write JSON and figure."""
    device = torch.device(arguments.device).type
    judged = verdicts(percents_of(measurements, device), device)
    machine, threads = describe(), torch.get_num_threads()
    report = {
        "machine": machine,
        "device": arguments.device,
        "threads": threads,
        "batch_size": arguments.batch_size,
        "num_samples": arguments.samples,
        "models": {model: as_json(measured) for model, measured in measurements.items()},
        "closed_gate_percent": closed,
        "targets": [{**vars(verdict), "is_met": verdict.is_met} for verdict in judged],
    }
    write_atomically(arguments.out / "overhead.json", json.dumps(report, indent=2) + "\n")
    where = machine["cpu"] if arguments.device == "cpu" else machine["gpu"]
    title = f"What a sampler adds to a step of {arguments.batch_size} samples\n{where}, torch's threads: {threads}"
    plot_overheads(measurements, title, arguments.out / "overhead.png")
    for model, measured in measurements.items():
        print(table(model, measured))
    for model, percent in closed.items():
        print(f"A closed gate beside the {RECIPES[model].title}: {percent:.2f} % of a step")
    print("\n".join(map(str, judged)))


if __name__ == "__main__":
    main()
