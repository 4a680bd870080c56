"""Ranks in processes of their own, joined by gloo, for tests of what they do together."""

import contextlib
import datetime
import multiprocessing
import traceback

import torch
import torch.distributed as dist

SECONDS = 60
"""After which ranks that wait for each other give up."""


def run_on_ranks(size, function, folder, *arguments, seconds=SECONDS):
    """Call `function(*arguments)` on that many ranks; return what it returned, or the text of its error, of each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "approx_is", "scipy.stats", "hypothesis", "torch._dynamo"])
    call = (size, function, folder, arguments, seconds)
    processes = [context.Process(target=_run, args=(rank, *call)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(2 * seconds + SECONDS)
    assert all(process.exitcode is not None for process in processes), "a rank hangs"
    files = [folder / f"{rank}.pt" for rank in range(size)]
    return [torch.load(file, weights_only=False) if file.exists() else "died" for file in files]


def _run(rank, size, function, folder, arguments, seconds):
    torch.set_num_threads(1)
    try:
        with _group(rank, size, folder, seconds):
            result = function(*arguments)
    except Exception as error:  # the test is to see it
        result = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    torch.save(result, folder / f"{rank}.pt")


@contextlib.contextmanager
def _group(rank, size, folder, seconds):
    store = dist.FileStore(str(folder / "store"), size)
    timeout = datetime.timedelta(seconds=seconds)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()
