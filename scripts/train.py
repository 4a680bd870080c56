"""Train one network with one method; write its config, metrics, curves and checkpoints. Goes on where it was stopped.

Examples:
    python scripts/train.py --dataset shuttle --predictor lstm --k 0.5 --out runs/shuttle-lstm
    python scripts/train.py --resume runs/shuttle-lstm
    python scripts/train.py --task lm --dataset kjv --predictor lstm --k 0.5 --out runs/kjv-lstm --tensorboard
    torchrun --nproc-per-node 2 --max-restarts 3 scripts/train.py --dataset shuttle --out runs/two --resume runs/two
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from approx_is import available_predictors
from configuration import BASELINE, CHOOSERS, GATES, GRADIENT_METHODS, OBSERVATIONS, Config
from evaluation import Evaluation
from gain_plot import plot_gain
from journal import Journal
from methods import Method
from options import add_training_options, json_object, positive, training_options
from plots import plot_runs
from processes import is_first, joined, num_processes
from runs import CONFIG_FILE, GAIN_FILE, config_text, json_line, write_atomically
from tasks import load_task
from training import Training

LIVE_REFRESH_STEPS = 20


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    try:
        config = config_of(arguments)
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"train.py: error: {error}")
    with joined(config.device, timeout=arguments.timeout) as device:
        run(arguments, config, device)


def run(arguments: argparse.Namespace, config: Config, device: str) -> None:
    """Train on that device, and write what there is to know, if this is the first process."""
    folder = arguments.out or arguments.resume
    try:
        training = Training(config, load_task(config.dataset, arguments.data_dir), device=device)
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(
            training, folder, checkpoint_every=arguments.checkpoint_every, tensorboard=arguments.tensorboard
        )
        if arguments.resume is not None:
            journal.restore()
        journal.begin()
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.exit(f"train.py: error: {error}")
    try:
        with asked_to_stop() as is_asked:
            train(training, journal, is_asked)
        journal.end()
    except OSError as error:
        sys.exit(f"train.py: error: no checkpoint at step {training.step}: {error}")
    if is_first():
        report(training, journal.evaluations, folder)


def config_of(arguments: argparse.Namespace) -> Config:
    """Return the config of the command, or with `--resume` alone that of the run.

    Raises:
        ValueError: there is no such run, or it is of another config than the command's.
    """
    file = None if arguments.resume is None else arguments.resume / CONFIG_FILE
    if arguments.out is None:
        if file is None or not file.is_file():
            raise ValueError(f"`--resume {arguments.resume}` holds no run: there is no {CONFIG_FILE} in it.")
        return Config(**json.loads(file.read_text(encoding="utf-8")))
    config = Config(**training_options(arguments), **method_options(arguments))
    if file is None:
        return config
    if arguments.resume != arguments.out:
        raise ValueError(f"`--resume` must be the folder of `--out`, {arguments.out}; got {arguments.resume}.")
    if file.is_file() and file.read_text(encoding="utf-8") != config_text(config):
        raise ValueError(f"`--resume {arguments.resume}` holds a run with other options, see {CONFIG_FILE} in it.")
    return config


def report(training: Training, evaluations: list[Evaluation], folder: Path) -> None:
    """Write the figures, and print the result."""
    config = training.config
    if training.gain is not None and training.trace:
        write_atomically(folder / GAIN_FILE, "".join(map(json_line, training.trace)))
        plot_gain(training.trace, training.task, config, folder / "gain.png")
    if evaluations:
        print(summary(training, evaluations[-1]))
        plot_runs({Method.of(config).label: {config.seed: evaluations}}, training.task, config, folder / "curves.png")


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add_training_options(parser)
    option = parser.add_argument
    option(
        "--predictor",
        default=Config.predictor,
        help=f"{', '.join(available_predictors())}; {BASELINE}: plain training; "
        f"{', '.join((*CHOOSERS, *GRADIENT_METHODS))}: methods of others (default: %(default)s)",
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
    option("--shard", action="store_true", help="under torchrun: each process holds a shard of the samples")
    option("--persistent-workers", action="store_true", help="keep the processes that load data from epoch to epoch")
    option("--out", type=Path, metavar="DIR", help="folder for the results")
    option(
        "--resume", type=Path, metavar="DIR", help="go on with the run in that folder; with --out, begin it if need be"
    )
    option(
        "--checkpoint-every",
        type=positive,
        default=1_000,
        metavar="N",
        help="steps between checkpoints (default: 1000)",
    )
    option("--tensorboard", action="store_true", help="write the metrics for TensorBoard too, into the same folder")
    option(
        "--timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="under torchrun: seconds to wait for a process that may be gone (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.out is None and arguments.resume is None:
        parser.error("one of --out and --resume is required")
    return arguments


def method_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of this script as fields of `Config`."""
    names = ["predictor", "k", "observe", "gate", "equal_time", "predictor_options", "gain", "seed"]
    names += ["shard", "persistent_workers"]
    eval_every = min(100, max(1, arguments.steps // 10)) if arguments.eval_every is None else arguments.eval_every
    return {"eval_every": eval_every, **{name: getattr(arguments, name) for name in names}}


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C wait for the end of a step; yields what says whether it came. The second one does not wait.

    Several processes would end at different steps: they stop at once, and go on from the last checkpoint.
    """
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    previous = signal.signal(signal.SIGINT, ask) if num_processes() == 1 else None
    try:
        yield asked.is_set
    finally:
        if previous is not None:
            signal.signal(signal.SIGINT, previous)


def train(training: Training, journal: Journal, is_asked_to_stop: Callable[[], bool]) -> None:
    """Train to the end with a live progress bar, and keep the journal."""
    with tqdm(total=training.config.steps, unit="step", disable=not is_first()) as bar:
        for step in training.steps():
            bar.update(min(int(training.effective_steps), training.config.steps) - bar.n)
            journal.note()
            if step % LIVE_REFRESH_STEPS == 0 or training.evaluation_due:
                bar.set_postfix_str(live_line(training, journal.evaluations), refresh=False)
            if is_asked_to_stop():
                journal.save()  # here, since to leave the loop ends the sampler's epoch
                sys.exit(f"train.py: stopped at step {step}; --resume goes on")


def summary(training: Training, last: Evaluation) -> str:
    """Return the result of the run in one line."""
    worth = f" (worth {last.effective_steps:,.0f})" if training.gain is not None else ""
    errors = f"{training.task.score.text(last)}, training loss {last.train_loss:.4f}"
    gate = "" if training.sampler is None else f"; gate {training.sampler.gate.verdict}"
    return f"{errors} after {last.step:,} steps{worth} in {last.seconds:.0f} s{gate}"


def live_line(training: Training, evaluations: list[Evaluation]) -> str:
    """Return what the progress bar says beside the step and the time left."""
    overhead_ms, overhead_percent = training.overhead()
    parts = [f"loss {training.batch_loss:.4f}"]
    if evaluations:
        parts.append(training.task.score.text(evaluations[-1]))
    if training.gain is not None:
        parts.append(f"step {training.step}, gain {training.gain.ratio:.2f}")
    parts.append(f"overhead {overhead_ms:.2f} ms ({overhead_percent:.0f}%)")
    if evaluations and evaluations[-1].effective_sample_share is not None:
        parts.append(f"ESS {evaluations[-1].effective_sample_share:.0%} of batch")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
