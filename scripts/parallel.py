"""Run jobs in parallel worker processes, one torch thread each, under one live line of progress."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import Synchronized
from typing import TypeVar

import torch
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")

POLL_SECONDS = 0.5

_steps_done: Synchronized[int] | None = None
_parent = 0


def count_step() -> None:
    """Tell the parent's live line of a step done, from inside a job; end with a parent that was killed."""
    if _parent and os.getppid() != _parent:
        os._exit(1)  # nobody waits for what is running
    if _steps_done is not None:
        with _steps_done.get_lock():
            _steps_done.value += 1


def run_parallel(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, processes: int, total_steps: int
) -> Iterator[Result]:
    """Yield the results of `function` over `jobs`, in the order in which they finish.

    Args:
        function: a module-level function; it calls `count_step` at each of its steps.
        jobs: its arguments, which can be pickled.
        processes: how many run at a time.
        total_steps: steps of all jobs together.

    Raises:
        Exception: whatever a job raises; jobs not begun by then are dropped.
    """
    jobs = list(jobs)
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    with (
        ProcessPoolExecutor(processes, context, _start_worker, (counter,)) as pool,
        tqdm(total=total_steps, unit="step") as bar,
    ):
        running = {pool.submit(function, job) for job in jobs}
        finished, count = 0, len(running)
        try:
            while running:
                bar.set_description_str(f"{finished} of {count} runs done", refresh=False)
                done, running = wait(running, POLL_SECONDS, FIRST_COMPLETED)
                bar.update(counter.value - bar.n)
                finished += len(done)
                yield from (future.result() for future in done)
            bar.set_description_str(f"all {count} runs done")
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(counter: Synchronized[int]) -> None:
    global _steps_done, _parent
    _steps_done, _parent = counter, os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers silently; the parent says what happened
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # which are slow, and plenty once most samples are learned
