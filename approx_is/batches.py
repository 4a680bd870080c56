"""Samples of a batch that a DataLoader has collated already."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from approx_is.checks import check_indices, check_positive

__all__ = ["ScoreError", "select", "split"]

_REMEDY = (
    "Pass `predictor_options={'select': ...}`, a function of (batch, positions) that returns the batch of the samples "
    "at these positions, an int64 tensor."
)


class ScoreError(RuntimeError):
    """A score function failed, or returned what is no importance."""


def select(batch: Any, positions: Tensor) -> Any:
    """Return the batch of the samples at these positions, in the form of the batch given.

    What `default_collate` returns, and what collate functions of libraries usually do:

    - tensors and numpy arrays are indexed along their first dimension, wherever they are; pinned ones stay pinned;
    - mappings, named tuples, dataclasses, lists and tuples are gone through; of dataclasses, what `__init__` takes;
    - a list or tuple that holds no tensor, array or container, as one of strings or numbers, has a value a sample and
      is indexed itself. One of two tensors is a pair of inputs and targets also in a batch of two samples;
    - None stays None.

    Args:
        batch: of B samples.
        positions: int64 [b] in [0, B), on the CPU, repeated or not.

    Returns:
        The batch of b samples: copies, but for values that are no tensors or arrays. A mapping, list or tuple whose
        class cannot be built from its new content becomes a dict, list or tuple.

    Raises:
        ValueError: something in the batch does not belong to each of its samples, or a position is out of range.

    Example:
        >>> batch = {"x": torch.tensor([[0.0], [1.0], [2.0]]), "name": ["a", "b", "c"], "mask": None}
        >>> select(batch, torch.tensor([2, 0, 0]))
        {'x': tensor([[2.],
                [0.],
                [0.]]), 'name': ['c', 'a', 'a'], 'mask': None}
    """
    positions = check_indices(positions, _check_samples(batch), "select(positions)")
    return _map(batch, lambda leaf: _take(leaf, positions))


def split(batch: Any, size: int, chunk: int) -> Iterator[tuple[Any, int]]:
    """Iterate over a batch in chunks of consecutive samples, in order and without copying tensors.

    Args:
        batch: of `size` samples, see `select`.
        size: number of samples B.
        chunk: samples a chunk, at least 1; the last one may have fewer.

    Returns:
        Iterator of (chunk, number of its samples). The batch is checked before it is returned.

    Raises:
        ValueError: something in the batch does not belong to each of its `size` samples, or `chunk` is below 1.

    Example:
        >>> [(part.tolist(), count) for part, count in split(torch.arange(5), 5, 2)]
        [([0, 1], 2), ([2, 3], 2), ([4], 1)]
    """
    check_positive(chunk, "split(chunk=...)")
    _check_samples(batch, size)
    return ((_slice(batch, start, start + chunk), min(chunk, size - start)) for start in range(0, size, chunk))


def _slice(batch: Any, start: int, stop: int) -> Any:
    return _map(batch, lambda leaf: leaf[start:stop])


def _map(batch: Any, pick: Callable[[Any], Any]) -> Any:
    if batch is None:
        return None
    parts = _parts(batch)
    return pick(batch) if parts is None else _rebuild(batch, [_map(part, pick) for _, part in parts])


def _take(leaf: Any, positions: Tensor) -> Any:
    if isinstance(leaf, Tensor):
        taken = torch.index_select(leaf, 0, positions.to(leaf.device))
        return taken.pin_memory() if leaf.is_pinned() else taken
    if isinstance(leaf, np.ndarray):
        return leaf[positions.numpy()]
    return _rebuild(leaf, [leaf[position] for position in positions.tolist()])


def _check_samples(batch: Any, size: int | None = None) -> int:
    """Return the number of samples, or raise unless all of the batch has that many, `size` if it is given."""
    leaves = [(path, leaf, _shape(path, leaf)) for path, leaf in _leaves(batch, "batch")]
    if not leaves:
        raise ValueError(f"`batch` must have a value for each sample; got a {type(batch).__name__} of none. {_REMEDY}")
    for path, leaf, shape in leaves:
        size = shape[0] if size is None else size
        if shape[0] != size:
            raise ValueError(
                f"`{path}` must have the {size} samples of the batch as first dimension; got a {type(leaf).__name__} "
                f"of shape {shape}. {_REMEDY}"
            )
    return size or 0


def _shape(path: str, leaf: Any) -> list[int]:
    if not isinstance(leaf, Tensor | np.ndarray | list | tuple):
        raise ValueError(f"`{path}` must have a value for each sample; got {type(leaf).__name__}. {_REMEDY}")
    shape = list(leaf.shape) if isinstance(leaf, Tensor | np.ndarray) else [len(leaf)]
    if not shape:
        raise ValueError(f"`{path}` must have a value for each sample; got a single number. {_REMEDY}")
    return shape


def _leaves(batch: Any, path: str) -> Iterator[tuple[str, Any]]:
    parts = _parts(batch)
    if parts is not None:
        for name, part in parts:
            yield from _leaves(part, path + name)
    elif batch is not None:
        yield path, batch


def _parts(batch: Any) -> list[tuple[str, Any]] | None:
    """Return the parts of a container, with how one gets at them; None if it is not one."""
    if isinstance(batch, Mapping):
        return [(f"[{key!r}]", batch[key]) for key in batch]
    if _is_dataclass(batch):
        return [(f".{field.name}", getattr(batch, field.name)) for field in dataclasses.fields(batch) if field.init]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return [(f".{name}", part) for name, part in zip(batch._fields, batch, strict=True)]
    if isinstance(batch, list | tuple) and any(map(_is_container, batch)):
        return [(f"[{position}]", part) for position, part in enumerate(batch)]
    return None


def _rebuild(batch: Any, parts: list[Any]) -> Any:
    if isinstance(batch, Mapping):
        return _build(type(batch), dict(zip(batch, parts, strict=True)), dict)
    if _is_dataclass(batch):
        return _replace(batch, parts)
    if hasattr(batch, "_fields"):
        return batch._make(parts)
    return _build(type(batch), parts, list if isinstance(batch, list) else tuple)


def _replace(batch: Any, parts: list[Any]) -> Any:
    names = [field.name for field in dataclasses.fields(batch) if field.init]
    try:
        return dataclasses.replace(batch, **dict(zip(names, parts, strict=True)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"A {type(batch).__name__} could not be built from its samples: {error}. {_REMEDY}") from error


def _build(kind: type[Any], content: Any, otherwise: type[Any]) -> Any:
    try:
        return kind(content)
    except (TypeError, ValueError):
        return otherwise(content)


def _is_container(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray | Mapping | list | tuple) or _is_dataclass(value)


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
