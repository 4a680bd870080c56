"""The complete state of a training, of which it goes on bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from approx_is import reshard
from processes import gathered, gathered_by_first, num_processes, own_number
from runs import GainRow

if TYPE_CHECKING:
    from training import Training

__all__ = ["load_training_state", "training_state"]


def training_state(training: Training) -> dict[str, Any]:
    """Return the complete state, tensors and plain values only; with several processes all of them are to ask."""
    sampler = None if training.sampler is None else training.sampler.state_dict()
    return {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "schedule": (training.gain or training.schedule).state_dict(),
        "sampler": gathered_by_first(sampler) if training.config.shard else sampler,
        "plain": training.plain.state_dict(),
        "chooser": None if training.chooser is None else training.chooser.state_dict(),
        "step": training.step,
        "random": gathered(_random_state(training.device)),
        "seconds": training.seconds,
        "overhead_seconds": training.overhead_seconds,
        "batch_loss": training.batch_loss,
        "trace": [asdict(row) for row in training.trace],
    }


def load_training_state(training: Training, state: Mapping[str, Any]) -> None:
    """Let a training go on from a state.

    Raises:
        ValueError: it does not fit.
    """
    try:
        training.model.load_state_dict(state["model"])
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"the checkpoint is of another network: {error}") from error
    if training.sampler is not None:
        sampler = state["sampler"]
        training.sampler.load_state_dict(_own_shard(sampler) if training.config.shard else sampler)
    training.optimizer.load_state_dict(state["optimizer"])
    (training.gain or training.schedule).load_state_dict(state["schedule"])
    training.plain.load_state_dict(state["plain"])
    if training.chooser is not None:
        training.chooser.load_state_dict(state["chooser"])
    training.step = state["step"]
    training.seconds, training.overhead_seconds = state["seconds"], state["overhead_seconds"]
    training.batch_loss = state["batch_loss"]
    training.trace = [GainRow(**row) for row in state["trace"]]
    if own_number() < len(state["random"]):
        _set_random_state(state["random"][own_number()], training.device)


def _own_shard(states: Any) -> Any:
    if len(states) != num_processes():
        states = reshard(states, num_processes())
    return states[own_number()]


def _random_state(device: torch.device) -> dict[str, Any]:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": on_device}


def _set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
