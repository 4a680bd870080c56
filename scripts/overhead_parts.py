"""Timers inside a sampler: how long each part of a draw and an update takes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch

from approx_is import ApproxSampler, ImportanceSampler

CALLS = (
    ("drawing", "_sampler", "request"),
    ("drawing", "_sampler", "choose"),
    ("scoring", "_sampler.scorer", "score"),
    ("update", "_sampler", "update"),
    ("history", "approx_is.feedback", "average_duplicates"),
    ("history", "_sampler._learner.history", "append_averaged"),
    ("training", "_sampler._learner.predictor", "update"),
    ("prediction", "_sampler._learner", "predict"),
    ("tree", "_sampler._feedback._proposal", "set_importance"),
)
"""What is timed, part by part: an attribute of `ApproxSampler`, or a module, and a function there.

No function of one part calls one of another, but for `update`, which calls those below it.
"""

WITHIN_UPDATE = ("history", "training", "prediction", "tree")

Times = dict[str, float]
Clock = Callable[[], float]


def clock_of(device: torch.device) -> Clock:
    """Return a function that returns the time in ms, when all that the device was given to do is done."""
    if device.type != "cuda":
        return lambda: 1e3 * perf_counter()

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return 1e3 * perf_counter()

    return synchronised


def inner_sampler(sampler: ApproxSampler) -> ImportanceSampler:
    """Return the sampler over indices that a sampler around a loader draws with."""
    return sampler._sampler


def fill_windows(sampler: ImportanceSampler) -> None:
    """Give every sample as many observations as are remembered: predictors are cheaper where there are fewer."""
    history = sampler._learner.history
    everyone = torch.arange(sampler.num_samples)
    for _ in range(history.window):
        history.append(everyone, 0.5 + torch.rand(sampler.num_samples), step=0)


def predicts_drawn_only(sampler: ImportanceSampler) -> bool:
    """Return whether a step, some time after the first epoch, predicts none but the samples drawn."""
    return getattr(sampler._learner.predictor, "local", False)


@contextmanager
def timers(sampler: ApproxSampler, clock: Clock) -> Iterator[Times]:
    """Time the calls inside the `with` block; yields the ms of each part that was called so far.

    Raises:
        RuntimeError: there is no such function.
    """
    times: Times = {}
    with ExitStack() as stack:
        for part, path, name in CALLS:
            if path == "_sampler.scorer" and sampler._sampler.scorer is None:
                continue
            try:
                owner = _owner(sampler, path)
                function = getattr(owner, name)
            except (AttributeError, ModuleNotFoundError) as error:
                raise RuntimeError(_missing(part, f"{path}.{name}")) from error
            stack.enter_context(patch.object(owner, name, _timed(function, part, times, clock)))
        yield times


def split_update(times: Mapping[str, float]) -> Times:
    """Return the times with that of `update` replaced by what it takes beside the parts within it, `rest`.

    Raises:
        RuntimeError: a part was never called.
    """
    for part in ("drawing", "update", *WITHIN_UPDATE):
        if part not in times:
            raise RuntimeError(_missing(part, ", ".join(f"{path}.{name}" for of, path, name in CALLS if of == part)))
    rest = times["update"] - sum(times[part] for part in WITHIN_UPDATE)
    return {part: ms for part, ms in times.items() if part != "update"} | {"rest": rest}


def _owner(sampler: ApproxSampler, path: str) -> Any:
    if path.startswith("approx_is."):
        return importlib.import_module(path)
    return attrgetter(path)(sampler)


def _timed(function: Callable[..., Any], part: str, times: Times, clock: Clock) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        started = clock()
        result = function(*arguments, **options)
        times[part] = times.get(part, 0.0) + clock() - started
        return result

    return call


def _missing(part: str, name: str) -> str:
    return (
        f"`{part}`, a part of a sampler's time, cannot be told: `{name}` is not what is called any more. Put what took "
        "its place into `overhead_parts.CALLS`."
    )
