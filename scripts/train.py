"""Train one network with one method; write its config, metrics, curves and a checkpoint.

Example:
    python scripts/train.py --dataset shuttle --predictor lstm --k 0.5 --out runs/shuttle-lstm
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from approx_is import available_predictors
from configuration import BASELINE, GATES, OBSERVATIONS, Config
from evaluation import Evaluation
from gain_plot import plot_gain
from methods import Method
from options import add_training_options, json_object, training_options
from plots import plot_runs
from runs import CONFIG_FILE, GAIN_FILE, METRICS_FILE, config_text, json_line, write_atomically
from tasks import load_task
from training import Training

LIVE_REFRESH_STEPS = 20


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    try:
        config = Config(**training_options(arguments), **method_options(arguments))
        training = Training(config, load_task(config.dataset, arguments.data_dir))
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"train.py: error: {error}")
    write_atomically(arguments.out / CONFIG_FILE, config_text(config))
    evaluations: list[Evaluation] = []
    try:
        train(training, evaluations, arguments.out / METRICS_FILE)
    except KeyboardInterrupt:
        print(f"train.py: stopped at step {training.step}; what there is was saved", file=sys.stderr)
    torch.save(training.state_dict(), arguments.out / "checkpoint.pt")
    if training.gain is not None and training.trace:
        write_atomically(arguments.out / GAIN_FILE, "".join(map(json_line, training.trace)))
        plot_gain(training.trace, training.task, config, arguments.out / "gain.png")
    if evaluations:
        print(summary(training, evaluations[-1]))
        plot_runs({Method.of(config).label: [evaluations]}, training.task, config, arguments.out / "curves.png")


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_training_options(parser)
    option = parser.add_argument
    option(
        "--predictor",
        default=Config.predictor,
        help=f"{', '.join(available_predictors())}; {BASELINE}: plain training (default: %(default)s)",
    )
    option("--k", type=float, default=Config.k, help="bias exponent, at most 1; 1 is unbiased (default: %(default)s)")
    option(
        "--observe",
        choices=OBSERVATIONS,
        default=Config.observe,
        help="what the sampler learns from (default: %(default)s)",
    )
    option(
        "--gate",
        choices=GATES,
        default="auto",
        help="auto: draw by importance only while it pays, at k = 1; none: always (default: %(default)s)",
    )
    option(
        "--equal-time",
        action="store_true",
        help="presample with a smaller batch, so that a step takes no longer than a uniform one",
    )
    option(
        "--predictor-options", type=json_object, default={}, metavar="JSON", help="keyword arguments of the predictor"
    )
    option(
        "--eval-every",
        type=int,
        metavar="N",
        help="steps between evaluations (default: a tenth of all, at most 100)",
    )
    option(
        "--gain",
        action="store_true",
        help="multiply the rate by the gain ratio (sgd) and count --steps and the schedule in effective steps",
    )
    option("--seed", type=int, default=Config.seed, help="(default: %(default)s)")
    option("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    return parser.parse_args()


def method_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of this script as fields of `Config`."""
    names = ("predictor", "k", "observe", "gate", "equal_time", "predictor_options", "gain", "seed")
    eval_every = min(100, max(1, arguments.steps // 10)) if arguments.eval_every is None else arguments.eval_every
    return {"eval_every": eval_every, **{name: getattr(arguments, name) for name in names}}


def train(training: Training, evaluations: list[Evaluation], metrics_file: Path) -> None:
    """Train to the end with a live progress bar; append to `evaluations`, and write them row by row."""
    with metrics_file.open("w", encoding="utf-8") as file, tqdm(total=training.config.steps, unit="step") as bar:
        for step in training.steps():
            bar.update(min(int(training.effective_steps), training.config.steps) - bar.n)
            if training.evaluation_due:
                evaluations.append(training.evaluate())
                file.write(json_line(evaluations[-1]))
                file.flush()
            if step % LIVE_REFRESH_STEPS == 0 or training.evaluation_due:
                bar.set_postfix_str(live_line(training, evaluations), refresh=False)


def summary(training: Training, last: Evaluation) -> str:
    """Return the result of the run in one line."""
    worth = f" (worth {last.effective_steps:,.0f})" if training.gain is not None else ""
    errors = f"test error {last.test_error:.2%}, training loss {last.train_loss:.4f}"
    gate = "" if training.sampler is None else f"; gate {training.sampler.gate.verdict}"
    return f"{errors} after {last.step:,} steps{worth} in {last.seconds:.0f} s{gate}"


def live_line(training: Training, evaluations: list[Evaluation]) -> str:
    """Return what the progress bar says beside the step and the time left."""
    overhead_ms, overhead_percent = training.overhead()
    parts = [f"loss {training.batch_loss:.4f}"]
    if evaluations:
        parts.append(f"test error {evaluations[-1].test_error:.2%}")
    if training.gain is not None:
        parts.append(f"step {training.step}, gain {training.gain.ratio:.2f}")
    parts.append(f"overhead {overhead_ms:.2f} ms ({overhead_percent:.0f}%)")
    if evaluations and evaluations[-1].effective_sample_share is not None:
        parts.append(f"ESS {evaluations[-1].effective_sample_share:.0%} of batch")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
