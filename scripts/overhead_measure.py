"""Measure what samplers add to the steps of one workload, all of them in turns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch

from approx_is import Draw, ImportanceSampler
from overhead_loops import PlainLoop, SampledLoop, random_losses, settle
from overhead_parts import Times, clock_of, timers
from workloads import NUM_CLASSES, Batch, Workload, mean_loss, sample_losses

WARM_UP = 1
"""Rounds that do not count: they allocate."""

OBSERVATIONS = 32_768
"""From one refit of `rais` to the next."""

CLOSED_PERIOD = 32
"""Steps of which a closed gate looks at one."""


@dataclass(frozen=True)
class Overhead:
    """What a sampler adds to a step.

    Attributes:
        parts: median ms of each part of its time.
        percent: their sum, of a uniform step.
        loop_percent: by how much the median step of the whole loop is longer than the median uniform one.
    """

    parts: Times
    percent: float
    loop_percent: float

    @property
    def total(self) -> float:
        """The sum of the parts in ms."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Measurement:
    """What was measured beside one workload.

    Attributes:
        rounds: number of them.
        uniform_step: median ms of a step of the plain loop.
        loading: median ms of it in which its batch is fetched.
        overheads: by predictor.
    """

    rounds: int
    uniform_step: float
    loading: float
    overheads: dict[str, Overhead]


class Rounds:
    """A step of the plain loop, then as many with a sampler as are learned from together; so for each, and so on.

    Args:
        workload: what all of them train.
        predictors: one loop each.
    """

    def __init__(self, workload: Workload, predictors: Iterable[str]) -> None:
        self._workload = workload
        self._clock = clock_of(workload.device)
        self._plain = PlainLoop(workload)
        self._loops = {name: SampledLoop(workload, name) for name in predictors}
        for loop in self._loops.values():
            loop.settle()
        self._parts: dict[str, list[Times]] = {name: [] for name in self._loops}
        self._whole: dict[str, list[float]] = {name: [] for name in self._loops}
        self._uniform: list[float] = []
        self._loading: list[float] = []
        self._weighting: list[float] = []

    def take(self) -> None:
        """Take a round."""
        for name, loop in self._loops.items():
            batch = self.plain_step()
            draw, whole, parts = loop.steps_by_part(self._clock)
            self._whole[name].append(whole)
            self._parts[name].append(parts)
        self._weighting.append(weighting(self._workload, batch, draw, weighted_first=len(self._weighting) % 2 == 1))

    def plain_step(self) -> Batch:
        """Take a step of the plain loop; return its batch."""
        started = self._clock()
        batch = self._plain.fetch()
        fetched = self._clock()
        self._plain.train(batch)
        self._uniform.append(self._clock() - started)
        self._loading.append(fetched - started)
        return batch

    def result(self, refits: Mapping[str, float]) -> Measurement:
        """Return the medians over all rounds but the first.

        Args:
            refits: ms a step that some predictors take now and then, which no median shows.
        """
        uniform = self._uniform[WARM_UP * len(self._loops) :]
        overheads = {}
        for name in self._loops:
            parts = _medians(self._parts[name][WARM_UP:])
            parts["weighting"] = max(0.0, median(self._weighting[WARM_UP:]))
            parts |= {"refits": refits[name]} if name in refits else {}
            percent = 100 * sum(parts.values()) / median(uniform)
            ratio = median(self._whole[name][WARM_UP:]) / median(uniform)
            overheads[name] = Overhead(parts, percent, loop_percent=100 * (ratio - 1))
        loading = self._loading[WARM_UP * len(self._loops) :]
        return Measurement(len(self._weighting) - WARM_UP, median(uniform), median(loading), overheads)


def weighting(workload: Workload, batch: Batch, draw: Draw, *, weighted_first: bool) -> float:
    """Return by how many ms a weighted loss, forward and backward to the logits, takes longer than the mean loss."""
    clock = clock_of(workload.device)
    inputs, targets = workload.to_device(batch)
    logits = workload.outputs(inputs).detach().requires_grad_()
    times = {}
    mean_loss(logits, targets).backward()  # neither of the two is to come first
    for is_weighted in (weighted_first, not weighted_first):
        logits.grad = None
        started = clock()
        loss = draw.weighted_mean(sample_losses(logits, targets)) if is_weighted else mean_loss(logits, targets)
        loss.backward()
        times[is_weighted] = clock() - started
    return times[True] - times[False]


def refit_time(predictor: str, *, num_samples: int, batch_size: int, device: torch.device) -> float:
    """Return the ms that refits, and the sweeps after them, add to the median of an update.

    They are timed over all updates from one refit to the next, with the fit in the same thread, as if all of its time
    were lost to training, and divided by the number of updates; those learned from together count as one.
    """
    sampler = ImportanceSampler(
        num_samples,
        batch_size,
        predictor=predictor,
        labels=torch.randint(NUM_CLASSES, (num_samples,)),
        gate=None,
        device=device,
        predictor_options={"background": False, "observations": OBSERVATIONS, "fit_size": min(2_048, OBSERVATIONS)},
    )
    settle(sampler)
    clock = clock_of(device)
    times, period = [], math.ceil(OBSERVATIONS / batch_size)
    for update in range(3 * period):  # by the third period as many observations are kept as will be
        draw = sampler.draw()
        observed = random_losses(draw).to(device)
        started = clock()
        sampler.update(draw, observed)
        ended = clock()
        times += [ended - started] if update >= 2 * period else []
    together = sampler.update_every
    return fmean(times) - median(fmean(times[start : start + together]) for start in range(0, len(times), together))


def closed_gate_percent(workload: Workload, rounds: int) -> float:
    """Return what a sampler with a closed gate adds, in percent of a uniform step: the mean, as most steps add nothing.

    Args:
        workload: what is trained, in turns with a plain loop.
        rounds: least number of steps; whole periods are taken.
    """
    clock = clock_of(workload.device)
    plain, loop = PlainLoop(workload), SampledLoop(workload, "lstm", gate="auto", losses_are_equal=True)
    for _ in range(CLOSED_PERIOD):
        loop.step()
    calls, weightings, steps = [], [], []
    for turn in range(CLOSED_PERIOD * math.ceil(rounds / CLOSED_PERIOD)):
        started = clock()
        batch = plain.fetch()
        plain.train(batch)
        steps.append(clock() - started)
        with timers(loop.sampler, clock) as times:
            draw = loop.step()
        calls.append(times["drawing"] + times["update"])
        weightings.append(weighting(workload, batch, draw, weighted_first=turn % 2 == 1))
    return 100 * (fmean(calls) + max(0.0, median(weightings))) / median(steps)


def _medians(rows: Sequence[Times]) -> Times:
    return {part: median(row[part] for row in rows) for part in rows[0]}
