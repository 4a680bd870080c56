"""A learning rate that follows the gain: a schedule in effective steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from approx_is.checks import check_number, check_positive
from approx_is.gain import LARGEST_GAIN, GainRatio
from approx_is.gradient_signal import MomentumSignal
from approx_is.state import check_like

__all__ = ["GainLR"]

LONG_AGO = 100_000
"""Steps after which momentum has forgotten how it began."""


class HasGain(Protocol):
    """A sampler."""

    @property
    def gain(self) -> GainRatio:
        """What it gains over uniform draws."""
        ...


class GainLR:
    r"""Multiplies the learning rate by the gain ratio, and advances a schedule by it.

    A step whose gradient has a second moment r times smaller can be r times as long at the same noise, and is worth r
    uniform steps then. So the schedule that was made for uniform steps is followed in *effective* steps, and training
    ends when enough of those are done:

    .. math:: \hat t = \sum_{t'=1}^t r^{(t'-1)}, \quad \eta^{(t)} = r^{(t-1)} \, \mathrm{schedule}(\hat t)

    As long as nothing is gained, as in the first epoch, r is 1, and the rates are those of the schedule alone, to the
    bit. Call `step` after each `optimizer.step` and `sampler.update`, in place of the schedule's own `step`.

    For SGD the ratio multiplies the rate. For Adam and its like it only advances the schedule by default: Adam divides
    by the root of its gradients' second moment, which noise is part of, so that less noise already means longer steps;
    multiplying would count the gain twice.

    The theory is of k = 1, where gradients are unbiased. With k < 1 the second moment of the gradient as it is weighed
    enters, which is not smaller than uniform's as a rule: expect ratios of 1.

    Reference:
        Johnson & Guestrin (2018), "effective iteration number" and "adjusted learning rate".

    Args:
        schedule: a torch scheduler that has not been stepped yet, or a function of the step, counted from 0, that
            returns the factor of the initial rate, as `LambdaLR` takes it (then `optimizer` is needed).
        sampler: an `ApproxSampler` or `ImportanceSampler`; its `gain` is followed.
        optimizer: for a function; a scheduler has its own.
        scale_rate: whether the ratio multiplies the rate; None for yes with SGD, no with other optimizers.
        signal: "momentum" to measure the signal share of the gradient by the optimizer's momentum, see
            `MomentumSignal`; None if you report it to `sampler.gain` yourself, as from `half_batch_signal`, or are
            content with the ratio's upper bound.
        every: effective steps between two steps of the schedule: `len(sampler)` for a schedule in epochs.
        signal_every: optimizer steps between two measurements of the signal, which read all gradients once.

    Raises:
        TypeError: `schedule` is neither of the two, or follows a metric; `sampler` has no gain.
        ValueError: a bound is violated, a function comes without `optimizer`, or the optimizer has no momentum.

    Example:
        >>> import torch
        >>> from approx_is import ImportanceSampler
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        >>> sampler = ImportanceSampler(num_samples=8, batch_size=4, predictor="rais")
        >>> gain = GainLR(lambda step: 0.1 ** (step // 2), sampler, optimizer=optimizer)
        >>> rates = []
        >>> while not gain.done(4):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step()
        ...     gain.step()
        >>> rates
        [0.1, 0.1, 0.01, 0.01]
    """

    def __init__(
        self,
        schedule: LRScheduler | Callable[[int], float],
        sampler: HasGain,
        *,
        optimizer: Optimizer | None = None,
        scale_rate: bool | None = None,
        signal: str | None = "momentum",
        every: int = 1,
        signal_every: int = 4,
    ) -> None:
        self._schedule = _make_scheduler(schedule, optimizer)
        if not isinstance(getattr(sampler, "gain", None), GainRatio):
            raise TypeError(f"`GainLR(sampler)` must be a sampler of approx_is; got {type(sampler).__name__}.")
        if signal not in ("momentum", None):
            raise ValueError(f'`GainLR(signal=...)` must be "momentum" or None; got {signal!r}.')
        self._gain = sampler.gain
        self._optimizer = self._schedule.optimizer
        self._every = check_positive(every, "GainLR(every=...)")
        self._signal_every = check_positive(signal_every, "GainLR(signal_every=...)")
        self._scale_rate = isinstance(self._optimizer, SGD) if scale_rate is None else scale_rate
        self._effective_steps = 0.0
        self._ratio = 1.0
        self._scheduled = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._steps = LONG_AGO if self._optimizer.state else 0  # of the optimizer, that its momentum has seen
        if signal is not None:
            self._signal = MomentumSignal(self._optimizer)
            self._optimizer.register_step_pre_hook(self._measure_signal)

    @property
    def effective_steps(self) -> float:
        r"""Uniform steps that the steps so far are worth, :math:`\hat t`."""
        return self._effective_steps

    @property
    def ratio(self) -> float:
        """The gain ratio that the next step has, and its rate if that is scaled."""
        return self._ratio

    def done(self, effective_steps: float) -> bool:
        """Return whether so many effective steps are done."""
        return self._effective_steps >= check_number(effective_steps, "GainLR.done(effective_steps)")

    def step(self) -> None:
        """Count the step just taken, and set the rate of the next."""
        self._effective_steps += self._ratio
        self._ratio = self._gain.value
        for group, rate in zip(self._optimizer.param_groups, self._scheduled, strict=True):
            _set_rate(group, rate)  # a schedule goes on from the rate it set
        position = (math.floor(self._effective_steps + self._ratio) - 1) // self._every
        for _ in range(self._schedule.last_epoch, min(position, _last_position(self._schedule))):
            self._schedule.step()
        self._scheduled = [float(group["lr"]) for group in self._optimizer.param_groups]
        if self._scale_rate:
            for group, rate in zip(self._optimizer.param_groups, self._scheduled, strict=True):
                _set_rate(group, rate * self._ratio)

    def get_last_lr(self) -> list[float]:
        """Return the rate of each parameter group, with the gain in it."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the state with the schedule's: save it beside the optimizer's and the sampler's."""
        return {
            "effective_steps": self._effective_steps,
            "ratio": self._ratio,
            "scheduled": list(self._scheduled),
            "steps": self._steps,
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, after that of the optimizer, which holds the rate.

        Raises:
            ValueError: the state does not fit; nothing was changed.
        """
        where = "GainLR.load_state_dict(state)"
        check_like(state, self.state_dict(), where, skip=("schedule",))
        if not isinstance(state["schedule"], Mapping):
            raise ValueError(f"`{where}['schedule']` must be a dict; got {type(state['schedule']).__name__}.")
        if not 1 <= state["ratio"] <= LARGEST_GAIN:
            raise ValueError(f"`{where}['ratio']` must be in [1, {LARGEST_GAIN:g}]; got {state['ratio']}.")
        self._schedule.load_state_dict(dict(state["schedule"]))
        self._effective_steps = state["effective_steps"]
        self._ratio = state["ratio"]
        self._scheduled = list(state["scheduled"])
        self._steps = state["steps"]

    def _measure_signal(self, optimizer: Optimizer, *_: Any) -> None:
        if self._steps % self._signal_every == 0:
            moments = self._signal(optimizer, self._steps)
            if moments is not None:
                self._gain.observe_signal(*moments)
        self._steps += 1


def _make_scheduler(schedule: Any, optimizer: Optimizer | None) -> LRScheduler:
    if isinstance(schedule, ReduceLROnPlateau):
        raise TypeError("`GainLR(schedule)` must follow steps; ReduceLROnPlateau follows a metric. Step it yourself.")
    if not isinstance(schedule, LRScheduler):
        if not callable(schedule):
            raise TypeError(
                "`GainLR(schedule)` must be a torch scheduler or a function of the step; got "
                f"{type(schedule).__name__}."
            )
        if optimizer is None:
            raise ValueError("`GainLR(schedule)` is a function, which needs `optimizer=` beside it.")
        return LambdaLR(optimizer, schedule)
    if optimizer is not None and optimizer is not schedule.optimizer:
        raise ValueError("`GainLR(optimizer=...)` must be the optimizer of the schedule. Leave it out.")
    if schedule.last_epoch != 0:
        raise ValueError(
            f"`GainLR(schedule)` must not have been stepped yet; it is at {schedule.last_epoch}. "
            "To resume, build it anew and load the state of `GainLR`."
        )
    return schedule


def _last_position(schedule: LRScheduler) -> int:
    # beyond its last step a one-cycle schedule raises; effective steps may overshoot it by a fraction
    total = getattr(schedule, "total_steps", None)
    return total if isinstance(total, int) else 2**63


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if hasattr(group["lr"], "fill_"):  # a tensor, which compiled and capturable optimizers hold
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
