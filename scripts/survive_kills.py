"""Kill trainings again and again, let them go on from their checkpoints, and compare them with one that nobody killed.

Kills come at random moments, and every third as soon as a checkpoint is being written. At the end the weights, the
sampler's state and every metric but times must be equal to the bit.

Example:
    python scripts/survive_kills.py --kills 50 --predictor rais --workers 2 --out runs/kills
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import train
from checkpoints import UNFINISHED, checkpoints_in, load_checkpoint
from options import positive
from runs import METRICS_FILE

TIMES = ("seconds", "overhead_ms", "overhead_percent", "overhead_seconds")
OPTIONS_OF = {"rais": {"observations": 512, "fit_size": 64}}
"""So that refits come every few steps."""

PRELOADED = ["train", "sklearn.datasets", "cvxpy", "torch._dynamo"]
"""What a training imports sooner or later, in some seconds."""

CHECKPOINT_EVERY = 7
SLOWEST_START = 120.0
"""Seconds after which a life is ended in any case."""


@dataclass
class Survival:
    """What became of trainings that were killed.

    Attributes:
        kills: how often one was.
        while_saving: how often of these a checkpoint was being written.
        trainings: how many came to their end.
        differences: where these differ from one that nobody killed.
    """

    kills: int = 0
    while_saving: int = 0
    trainings: int = 0
    differences: list[str] = field(default_factory=list)


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    command = command_of(arguments)
    whole = arguments.out / "whole"
    os.environ["OMP_NUM_THREADS"] = "1"  # sums depend on the number of threads
    end(start(["--help"]))  # loads what is loaded but once
    started = time.monotonic()
    end(start([*command, "--out", str(whole)]))
    lifetime = time.monotonic() - started
    survival = survive(command, whole, arguments, lifetime)
    result = {**asdict(survival), "predictor": arguments.predictor, "workers": arguments.workers}
    print(json.dumps({**result, "persistent_workers": arguments.persistent_workers}))
    if survival.differences:
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--kills", type=positive, default=50, metavar="N", help="(default: %(default)s)")
    option("--predictor", default="lstm", help="(default: %(default)s)")
    option("--steps", type=positive, default=150, metavar="N", help="(default: %(default)s)")
    option("--workers", type=int, default=0, metavar="N", help="processes that load data (default: %(default)s)")
    option("--persistent-workers", action="store_true")
    option("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    option("--out", type=Path, required=True, metavar="DIR", help="an empty folder")
    return parser.parse_args()


def command_of(arguments: argparse.Namespace) -> list[str]:
    """Return the command of a training, without its folder."""
    options = {"dataset": "digits", "model": "small-cnn", "predictor": arguments.predictor, "observe": "upper-bound"}
    options |= {"gate": "none", "steps": arguments.steps, "eval-every": 10, "checkpoint-every": CHECKPOINT_EVERY}
    options |= {"workers": arguments.workers, "device": "cpu", "batch-size": 64}
    options |= {"predictor-options": json.dumps(OPTIONS_OF.get(arguments.predictor, {}))}
    persistent = ["--persistent-workers"] if arguments.persistent_workers else []
    return [*(f"--{name}={value}" for name, value in options.items()), *persistent]


def survive(command: list[str], whole: Path, arguments: argparse.Namespace, lifetime: float) -> Survival:
    """Kill trainings until there were enough kills; compare each that comes to its end with one that nobody killed."""
    moments, survival = random.Random(arguments.seed), Survival()
    with tqdm(total=arguments.kills, unit="kill", leave=False) as bar:
        while True:
            folder = arguments.out / f"killed-{survival.trainings}"
            process = start([*command, "--out", str(folder), "--resume", str(folder)])
            while_saving = survival.kills % 3 == 2
            wait = wait_for_checkpoint if while_saving else wait_for_moment
            seconds = moments.uniform(0, lifetime * (1 - last_step(folder) / arguments.steps))
            if survival.kills < arguments.kills and wait(process, folder, seconds):
                kill(process)
                process.join()
                survival.kills += 1
                survival.while_saving += while_saving
                bar.update()
                continue
            end(process)
            survival.trainings += 1
            survival.differences += compare(last_checkpoint(whole), last_checkpoint(folder), folder.name)
            survival.differences += compare(rows_of(whole), rows_of(folder), f"{folder.name} metrics")
            if survival.kills == arguments.kills:
                return survival


def last_step(folder: Path) -> int:
    """Return the step of the last checkpoint in a folder; 0 if there is none."""
    return max((int(path.stem.rsplit("-", 1)[1]) for path in checkpoints_in(folder)), default=0)


def start(command: list[str]) -> BaseProcess:
    """Start a training in a process that has all modules loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=live, args=(command,))
    process.start()
    return process


def live(command: list[str]) -> None:
    """Train, with one's workers in a group of one's own, and in silence."""
    os.setsid()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
    sys.argv = ["train.py", *command]
    train.main()


def end(process: BaseProcess) -> None:
    """Let a training end.

    Raises:
        RuntimeError: it failed.
    """
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"A training that nobody killed ended with exit code {process.exitcode}.")


def wait_for_moment(process: BaseProcess, folder: Path, seconds: float) -> bool:
    """Return whether the training still goes on after so long."""
    process.join(seconds)
    return process.is_alive()


def wait_for_checkpoint(process: BaseProcess, folder: Path, seconds: float) -> bool:
    """Return whether the training goes on when, after so long, a checkpoint begins to be written."""
    if not wait_for_moment(process, folder, seconds):
        return False
    until = time.monotonic() + SLOWEST_START
    while process.is_alive() and time.monotonic() < until:
        if any(folder.glob(f"*{UNFINISHED}")):
            return True
        time.sleep(0.0005)
    return False


def kill(process: BaseProcess) -> None:
    """Kill a process and its workers."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has just begun, and has no group yet
        process.kill()


def last_checkpoint(folder: Path) -> Any:
    """Return the last checkpoint of a run."""
    return load_checkpoint(checkpoints_in(folder)[-1])


def rows_of(folder: Path) -> list[Any]:
    """Return the metrics of a run."""
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()]


def compare(expected: Any, found: Any, where: str) -> Iterator[str]:
    """Yield where two states differ, times left out."""
    if isinstance(expected, torch.Tensor):
        if not torch.equal(expected, found):
            yield where
    elif isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        for name, value in expected.items():
            if name not in TIMES:
                yield from compare(value, found[name], f"{where}.{name}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for position, value in enumerate(expected):
            yield from compare(value, found[position], f"{where}[{position}]")
    elif expected != found and not (expected != expected and found != found):  # NaN equals NaN
        yield where


if __name__ == "__main__":
    main()
