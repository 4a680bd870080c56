"""Measure predictors: the share of the ideal variance reduction that their probabilities capture during training.

Trains with each predictor at k = 1, observing the upper bound of the gradient norm, and compares the sampler's
probabilities with the true upper bounds of all training samples, in eval mode.

Example:
    python scripts/captured.py --dataset shuttle --predictors lstm last-loss --seeds 2
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch
from tqdm import tqdm

from approx_is import upper_bound
from approx_is.diagnostics import captured, variance_ratio
from configuration import PRESAMPLING, WITHOUT_SAMPLER, Config
from evaluation import logits_in_parts
from options import add_batch_options, add_training_options, options_of_predictors, training_options
from parallel import count_step, run_parallel
from runs import write_atomically
from tasks import load_task
from training import Training, check_runs

EVERY_STEPS = 500
FIRST_EPOCHS = 3
"""Left out of the mean: until then most samples were seen hardly more than once."""

Job = tuple[Config, Path | None]
"""A run, and where to look first for data."""


@dataclass(frozen=True)
class Measurement:
    """What a sampler's probabilities were worth at one step.

    Attributes:
        predictor: its name.
        seed: of the run.
        step: minibatches trained on.
        epoch: the same in epochs.
        rho: second moment of a uniform draw over that of the sampler's.
        rho_ideal: the same for draws in proportion to the true importance.
        captured: log rho / log rho_ideal.
    """

    predictor: str
    seed: int
    step: int
    epoch: float
    rho: float
    rho_ideal: float
    captured: float

    def __str__(self) -> str:
        """Return a line of the report."""
        where = f"{self.predictor}  seed {self.seed}  step {self.step:6,}  epoch {self.epoch:5.1f}"
        return f"{where}  captured {self.captured:6.3f}  rho {self.rho:9.3f} of {self.rho_ideal:9.3f}"


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    try:
        jobs = plan(arguments)
        check_runs((config for config, _ in jobs), load_task(jobs[0][0].dataset, arguments.data_dir))
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"captured.py: error: {error}")
    measurements: list[Measurement] = []
    for rows in run_parallel(run, jobs, processes=arguments.jobs, total_steps=sum(config.steps for config, _ in jobs)):
        tqdm.write("\n".join(map(str, rows)))
        measurements += rows
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(arguments.out, "".join(json.dumps(asdict(row)) + "\n" for row in measurements))
    for predictor in arguments.predictors:
        print(summary(predictor, [row for row in measurements if row.predictor == predictor]))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_training_options(parser)
    add_batch_options(parser)
    option = parser.add_argument
    option("--predictors", nargs="+", default=["lstm"], metavar="NAME", help="(default: lstm)")
    option("--out", type=Path, metavar="FILE", help="file for the measurements, JSON lines")
    return parser.parse_args()


def plan(arguments: argparse.Namespace) -> list[Job]:
    """Return all runs, a predictor's seeds one after the other.

    Raises:
        ValueError: an option is out of bounds, or a method predicts nothing.
    """
    others = [name for name in arguments.predictors if name in (*WITHOUT_SAMPLER, *PRESAMPLING)]
    if others:
        raise ValueError(
            f"`--predictors` must predict the importance of all samples, as lstm does; got {', '.join(others)}. Leave "
            "that out: what other methods capture is in the tables of compare.py."
        )
    options = options_of_predictors(arguments.predictor_options, arguments.predictors)
    common = {**training_options(arguments), "observe": "upper-bound", "eval_every": EVERY_STEPS}
    return [
        (Config(**common, predictor=predictor, predictor_options=options[predictor], seed=seed), arguments.data_dir)
        for predictor in arguments.predictors
        for seed in range(arguments.seeds)
    ]


def run(job: Job) -> list[Measurement]:
    """Train one network and measure its sampler at intervals."""
    config, data_dir = job
    training = Training(config, load_task(config.dataset, data_dir))
    rows = []
    for _ in training.steps():
        count_step()
        if training.evaluation_due:
            rows.append(measure(training))
    return rows


def measure(training: Training) -> Measurement:
    """Compare the probabilities of the next draw with the true importance of every training sample."""
    assert training.sampler is not None
    samples = training.task.train
    parts = logits_in_parts(training.model, samples, training.device)
    importance = torch.cat([upper_bound(logits, targets) for logits, targets in parts]).double()
    probabilities = training.sampler.probabilities().cpu()
    return Measurement(
        predictor=training.config.predictor,
        seed=training.config.seed,
        step=training.step,
        epoch=training.step * training.config.batch_size / len(samples),
        rho=variance_ratio(importance, probabilities),
        rho_ideal=((importance**2).mean() / importance.mean() ** 2).item(),
        captured=captured(importance, probabilities),
    )


def summary(predictor: str, rows: Sequence[Measurement]) -> str:
    """Return the predictor's mean over the measurements after the first epochs."""
    values = [row.captured for row in rows if row.epoch > FIRST_EPOCHS and not math.isnan(row.captured)]
    if not values:
        return f"{predictor}: nothing to average, training ended within the first {FIRST_EPOCHS} epochs"
    mean = f"captured {fmean(values):.3f} on average"
    return f"{predictor}: {mean}, over {len(values)} measurements after epoch {FIRST_EPOCHS}"


if __name__ == "__main__":
    main()
