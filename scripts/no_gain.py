"""Train where importance sampling cannot help, or anywhere, and print what a sampler with its gate costs there.

On `noise`, images of uniform noise with random labels, all losses stay about equal. On `outliers` they are as unequal
as on easy data, but nothing foretells whose is large. Each method takes turns with plain training, a few steps each, so
that both have the same machine; a plain run that takes turns with another one shows what is chance.

Example:
    python scripts/no_gain.py --model small-cnn --steps 900
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import mean, median, stdev

import torch

from approx_is import available_predictors, register_predictor
from approx_is.predictors import UniformPredictor
from configuration import BASELINE, PRESAMPLING, Config
from evaluation import mean_loss, probe
from models import MODELS
from options import positive
from samples import Task
from tasks import TASKS, load_task
from training import Training, check_runs

UNIFORM_PREDICTOR = "uniform-predictor"
"""What `uniform` is called here: to the scripts, `uniform` is plain training."""

TURN = 20
"""Steps before it is the other run's turn."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run and of the plain one that it took turns with.

    Attributes:
        ratio: its time over the plain one's.
        turn_ratio: median over turns of the same.
        loss: its training loss at the end, in nats.
        plain_loss: the plain one's.
        verdict: of the gate.
    """

    ratio: float
    turn_ratio: float
    loss: float
    plain_loss: float
    verdict: str


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    register_predictor(UNIFORM_PREDICTOR, UniformPredictor)
    predictors = arguments.predictors or [name for name in available_predictors() if name != BASELINE]
    try:
        configs, task = [config_of(name, arguments) for name in (BASELINE, *predictors)], load_task(arguments.dataset)
        check_runs(configs, task)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"no_gain.py: error: {error}")
    print(f"| method | time | median turn | loss | plain loss | gate of the last seed |\n|---|{'---:|' * 4}---|")
    for config in configs:
        outcomes = []
        for seed in range(arguments.seeds):
            print(f"{config.predictor}, seed {seed}", end="\r", file=sys.stderr, flush=True)
            outcomes.append(take_turns(replace(config, seed=seed), task))
        print(row(config.predictor, outcomes), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--predictors", nargs="+", metavar="NAME", help="(default: all)")
    option("--dataset", choices=TASKS, default="noise", help="(default: %(default)s)")
    option("--model", choices=MODELS, default="small-cnn", help="(default: %(default)s)")
    option("--steps", type=positive, default=900, metavar="N", help="of each run (default: %(default)s)")
    option("--seeds", type=positive, default=3, metavar="N", help="runs of each method (default: %(default)s)")
    option("--threads", type=positive, default=1, metavar="T", help="(default: %(default)s)")
    return parser.parse_args()


def config_of(method: str, arguments: argparse.Namespace) -> Config:
    """Return what the first run of a method does.

    Raises:
        ValueError: an option is out of bounds.
    """
    observe = PRESAMPLING.get(method, "loss" if method == BASELINE else "upper-bound")
    common = {"dataset": arguments.dataset, "model": arguments.model, "steps": arguments.steps}
    return Config(predictor=method, observe=observe, gate="auto", **common)


def take_turns(config: Config, task: Task) -> Outcome:
    """Train plainly and with a method, in turns, and compare."""
    runs = [Training(each, task) for each in (replace(config, predictor=BASELINE), config)]
    turns = [run.steps() for run in runs]
    ratios = []
    for _ in range(0, config.steps, TURN):
        before = [run.seconds for run in runs]
        for steps_of_run in turns:
            for _, _ in zip(range(TURN), steps_of_run, strict=False):
                pass
        plain_time, time = (run.seconds - start for run, start in zip(runs, before, strict=True))
        ratios.append(time / plain_time)
    plain, other = (mean_loss(run.model, probe(task.train).samples, run.device) for run in runs)
    sampler = runs[1].sampler
    verdict = "" if sampler is None else sampler.gate.verdict
    return Outcome(runs[1].seconds / runs[0].seconds, median(ratios), other, plain, verdict)


def row(method: str, outcomes: list[Outcome]) -> str:
    """Return a row of the table: means over seeds, the standard deviation behind ±, and the last seed's verdict."""
    losses = [spread(outcome.loss for outcome in outcomes), spread(outcome.plain_loss for outcome in outcomes)]
    times = [mean(outcome.ratio for outcome in outcomes), mean(outcome.turn_ratio for outcome in outcomes)]
    cells = [method, *(f"{time:.3f}" for time in times), *losses, outcomes[-1].verdict]
    return f"| {' | '.join(cells)} |"


def spread(values: Iterable[float]) -> str:
    """Return the mean of values and their standard deviation, if there is one."""
    values = list(values)
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
