"""Kill a training again and again, let it go on from its checkpoints, and compare it with one that nobody killed.

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


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    command = command_of(arguments)
    whole, killed = arguments.out / "whole", arguments.out / "killed"
    os.environ["OMP_NUM_THREADS"] = "1"  # sums depend on the number of threads
    end(start(["--help"]))  # loads what is loaded but once
    started = time.monotonic()
    end(start([*command, "--out", str(whole)]))
    lifetime = time.monotonic() - started
    kills = survive([*command, "--out", str(killed), "--resume", str(killed)], killed, arguments, lifetime)
    differences = list(compare(last_checkpoint(whole), last_checkpoint(killed), "checkpoint"))
    differences += compare(rows_of(whole), rows_of(killed), "metrics")
    result = {"kills": kills, "differences": differences, "predictor": arguments.predictor}
    result |= {"workers": arguments.workers, "persistent_workers": arguments.persistent_workers}
    print(json.dumps(result))
    if differences:
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


def survive(command: list[str], folder: Path, arguments: argparse.Namespace, lifetime: float) -> dict[str, int]:
    """Kill a training so many times, then let it end; return how many kills came at what moment."""
    moments = random.Random(arguments.seed)
    kills = {"at random": 0, "while saving": 0}
    for number in tqdm(range(arguments.kills), unit="kill", leave=False):
        process = start(command)
        while_saving = number % 3 == 2
        wait = wait_for_checkpoint if while_saving else wait_for_moment
        if wait(process, folder, moments.uniform(0, lifetime)):
            kill(process)
            kills["while saving" if while_saving else "at random"] += 1
        process.join()
        forget_the_end(folder, arguments.steps)
    end(start(command))
    return kills


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
    return process.is_alive()


def kill(process: BaseProcess) -> None:
    """Kill a process and its workers."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has just begun, and has no group yet
        process.kill()


def forget_the_end(folder: Path, steps: int) -> None:
    """Remove the checkpoint of a training that was faster than its killer, for the next one to have work to do."""
    for path in checkpoints_in(folder):
        if path.stem.endswith(f"-{steps:09d}"):
            path.unlink()


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
