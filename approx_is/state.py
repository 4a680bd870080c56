"""Checking a saved state before any of it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["check_like"]


def check_like(state: Any, reference: Any, where: str) -> None:
    """Raise `ValueError` unless `state` has the keys, types, tensor shapes and dtypes of `reference`.

    Args:
        state: what is to be loaded.
        reference: the state of the object that would load it.
        where: the argument, for the message.
    """
    if isinstance(reference, Tensor):
        _check_tensor(state, reference, where)
    elif isinstance(reference, Mapping):
        if not isinstance(state, Mapping):
            raise ValueError(f"`{where}` must be a dict; got {type(state).__name__}.")
        if state.keys() != reference.keys():
            missing, unknown = sorted(reference.keys() - state.keys()), sorted(state.keys() - reference.keys())
            raise ValueError(f"`{where}` has not the expected entries: missing {missing}, unknown {unknown}.")
        for key, value in reference.items():
            check_like(state[key], value, f"{where}[{key!r}]")
    elif isinstance(reference, list):
        if not isinstance(state, list) or len(state) != len(reference):
            raise ValueError(f"`{where}` must be a list of {len(reference)} entries.")
        for position, value in enumerate(reference):
            check_like(state[position], value, f"{where}[{position}]")
    elif type(state) is not type(reference):
        raise ValueError(f"`{where}` must be of type {type(reference).__name__}; got {type(state).__name__}.")


def _check_tensor(state: Any, reference: Tensor, where: str) -> None:
    if not isinstance(state, Tensor):
        raise ValueError(f"`{where}` must be a tensor; got {type(state).__name__}.")
    if state.shape != reference.shape or state.dtype != reference.dtype:
        raise ValueError(
            f"`{where}` must be {reference.dtype} {list(reference.shape)}; got {state.dtype} {list(state.shape)}. "
            "The state belongs to another data set or configuration."
        )
