"""The processes of one run under torchrun: who this one is, and what all of them say."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["gathered", "gathered_by_first", "is_first", "joined", "num_processes", "own_number"]


@contextmanager
def joined(device: str, *, timeout: float) -> Iterator[str]:
    """Join the other processes, if torchrun started this one; yields the device to train on.

    Args:
        device: cpu, or cuda for the one with this process's number.
        timeout: seconds after which processes that wait for one that is gone fail.
    """
    if "LOCAL_RANK" not in os.environ:
        yield device
        return
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    store, rank, size = next(dist.rendezvous("env://"))
    # torchrun keeps its store when it restarts: in it are the addresses of processes that are no more
    store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(
        "nccl" if is_cuda else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=timeout),
    )
    try:
        yield device
    finally:
        dist.destroy_process_group()


def num_processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_number() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Return whether this is the process that writes files and prints."""
    return own_number() == 0


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes, in order; all of them are to ask."""
    values = [value]
    if dist.is_initialized():
        values = [None] * num_processes()
        dist.all_gather_object(values, value)
    return values


def gathered_by_first(value: Any) -> list[Any]:
    """Return the values of all processes, in order, in the first one, and nothing in others; all of them are to ask."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * num_processes() if is_first() else []
    dist.gather_object(value, values if is_first() else None)
    return values
