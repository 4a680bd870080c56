"""Checking a saved state before any of it is loaded."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_at_least", "check_generator_state", "check_like"]


def check_like(state: Any, reference: Any, where: str, *, skip: Collection[str] = ()) -> None:
    """Raise `ValueError` unless `state` is finite and has the keys, types, tensor shapes and dtypes of `reference`.

    Args:
        state: what is to be loaded.
        reference: the state of the object that would load it.
        where: the argument, for the message.
        skip: keys that must be there, but whose values are checked elsewhere.
    """
    if isinstance(reference, Tensor):
        _check_tensor(state, reference, where)
    elif isinstance(reference, Mapping):
        _check_keys(state, reference, where)
        for key, value in reference.items():
            if key not in skip:
                check_like(state[key], value, f"{where}[{key!r}]")
    elif isinstance(reference, list):
        if not isinstance(state, list) or len(state) != len(reference):
            raise ValueError(f"`{where}` must be a list of {len(reference)} entries.")
        for position, value in enumerate(reference):
            check_like(state[position], value, f"{where}[{position}]")
    elif type(state) is not type(reference):
        raise ValueError(f"`{where}` must be of type {type(reference).__name__}; got {type(state).__name__}.")
    elif isinstance(state, float) and not math.isfinite(state):
        raise ValueError(f"`{where}` must be finite; got {state}. The state is damaged.")


def check_at_least(state: Mapping[str, Any], bounds: Mapping[str, float], where: str) -> None:
    """Raise `ValueError` unless the named entries, numbers or tensors, are nowhere below their bounds."""
    for name, bound in bounds.items():
        least = float(torch.as_tensor(state[name]).min())
        if least < bound:
            raise ValueError(f"`{where}[{name!r}]` must be at least {bound:g}; got {least:g}. The state is damaged.")


def check_generator_state(state: Tensor, device: torch.device, where: str) -> None:
    """Raise `ValueError` unless a random generator on `device` takes the state."""
    try:
        torch.Generator(device).set_state(state.cpu())
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"`{where}` is no state of a random generator: {error}. The state is damaged.") from None


def _check_keys(state: Any, reference: Mapping[Any, Any], where: str) -> None:
    if not isinstance(state, Mapping):
        raise ValueError(f"`{where}` must be a dict; got {type(state).__name__}.")
    if state.keys() != reference.keys():
        missing, unknown = sorted(reference.keys() - state.keys()), sorted(state.keys() - reference.keys())
        raise ValueError(f"`{where}` has not the expected entries: missing {missing}, unknown {unknown}.")


def _check_tensor(state: Any, reference: Tensor, where: str) -> None:
    if not isinstance(state, Tensor):
        raise ValueError(f"`{where}` must be a tensor; got {type(state).__name__}.")
    if state.shape != reference.shape or state.dtype != reference.dtype:
        raise ValueError(
            f"`{where}` must be {reference.dtype} {list(reference.shape)}; got {state.dtype} {list(state.shape)}. "
            "The state belongs to another data set or configuration."
        )
    if state.is_floating_point() and not bool(state.isfinite().all()):
        raise ValueError(f"`{where}` must be finite; the state is damaged.")
