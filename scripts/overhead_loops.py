"""Training loops that go on a step at a time: a plain one, and one with a sampler, as in a training under way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch

from approx_is import ApproxSampler, Draw, ImportanceSampler, available_predictors
from overhead_parts import Clock, Times, fill_windows, inner_sampler, predicts_drawn_only, split_update, timers
from workloads import Batch, Workload

LEFT_OUT = ("oracle", "gradient-norm")
"""Predictors that cost about what `upper-bound` costs, a forward pass, or several times as much as training itself."""

SETTLE_STEPS = 16
"""Updates after which the sweep that follows a refit of `rais` is over."""

FILLED_AT_ONCE = 2_000
"""Samples of an update while the first epoch is hurried through."""

T = TypeVar("T")


class PlainLoop:
    """The loop that users have today.

    Args:
        workload: what it trains; loops share the network.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._batches: Iterator[Batch] = endless(workload.loader)

    def fetch(self) -> Batch:
        """Return the next batch."""
        return next(self._batches)

    def train(self, batch: Batch) -> None:
        """Take a step."""
        self._workload.uniform_step(batch)


class SampledLoop:
    """The loop with a sampler.

    Args:
        workload: what it trains.
        predictor: name of the sampler's.
        gate: "auto", or None to draw by importance always.
        losses_are_equal: whether all losses that the sampler observes are 1, so that its gate never opens.
    """

    def __init__(
        self, workload: Workload, predictor: str, *, gate: str | None = None, losses_are_equal: bool = False
    ) -> None:
        self._workload = workload
        self._losses_are_equal = losses_are_equal
        self.sampler = ApproxSampler(
            workload.loader,
            predictor=predictor,
            labels=workload.labels,
            gate=gate,
            device=workload.device,
            predictor_options=predictor_options(predictor, workload),
        )
        self._batches: Iterator[tuple[Batch, Draw]] = endless(self.sampler)

    def step(self) -> Draw:
        """Take a step, from the draw to the update; return the draw."""
        batch, draw = next(self._batches)
        losses = self._workload.weighted_step(batch, draw)
        self.sampler.update(draw, torch.ones_like(losses) if self._losses_are_equal else losses)
        return draw

    def steps_by_part(self, clock: Clock) -> tuple[Draw, float, Times]:
        """Take as many steps as are learned from together.

        Returns:
            The last draw, the mean ms of a step, and those of each part of the sampler's time in it.
        """
        started = clock()
        with timers(self.sampler, clock) as times:
            for _ in range(self.period):
                draw = self.step()
        whole = (clock() - started) / self.period
        return draw, whole, {part: ms / self.period for part, ms in split_update(times).items()}

    @property
    def period(self) -> int:
        """Steps that are learned from together."""
        return inner_sampler(self.sampler).update_every

    def settle(self) -> None:
        """Bring the sampler to where it is after many epochs, without training."""
        settle(inner_sampler(self.sampler))


def settle(sampler: ImportanceSampler) -> None:
    """Fill all windows, go through the first epoch, and predict everyone: later steps cost less than those, or more."""
    fill_windows(sampler)
    if sampler.scorer is not None:  # has no first epoch, and predicts nothing
        return
    draw = sampler.draw(FILLED_AT_ONCE)
    while draw.is_uniform:
        sampler.update(draw, random_losses(draw))
        draw = sampler.draw(FILLED_AT_ONCE)
    epoch = math.ceil(sampler.num_samples / sampler.batch_size)
    for _ in range(max(SETTLE_STEPS, epoch if predicts_drawn_only(sampler) else 0)):
        draw = sampler.draw()
        sampler.update(draw, random_losses(draw))


def random_losses(draw: Draw) -> torch.Tensor:
    """Return something to observe, float32 [B]."""
    return 0.5 + torch.rand(len(draw))


def measured_predictors() -> list[str]:
    """Return the names of the predictors that overheads are measured of."""
    return [name for name in available_predictors() if name not in LEFT_OUT]


def predictor_options(predictor: str, workload: Workload) -> dict[str, Any]:
    """Return what a predictor needs to run beside that workload."""
    if predictor == "rais":
        return {"background": False}  # a refit is to slow down its own step, which no median shows, and no other's
    if predictor == "upper-bound":
        return {"model": workload.model, "score": workload.upper_bounds}
    return {}


def endless(batches: Iterable[T]) -> Iterator[T]:
    """Iterate epoch after epoch."""
    while True:
        yield from batches
