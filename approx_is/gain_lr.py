"""A learning rate that follows the gain: a schedule in effective steps."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, LambdaLR, LRScheduler, ReduceLROnPlateau

from approx_is.checks import check_number, check_positive
from approx_is.gain import LARGEST_GAIN, GainRatio
from approx_is.gradient_signal import MomentumSignal
from approx_is.state import check_like

__all__ = ["GainLR"]


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

    `sampler.update` must get gradient norms, such as `upper_bound(logits, targets)`: from losses the ratio would be one
    of squared losses.

    The theory is of k = 1, where gradients are unbiased. With k < 1 the second moment of the gradient as it is weighed
    enters. At k = ½ that is uniform's, whatever the probabilities, and below it is larger: the ratio is 1. Between ½
    and 1 it is an indication, no more.

    Reference:
        Johnson & Guestrin (2018), "effective iteration number" and "adjusted learning rate".

    Args:
        schedule: a torch scheduler that has not been stepped yet, or a function of the step, counted from 0, that
            returns the factor of the initial rate, as `LambdaLR` takes it (then `optimizer` is needed). From now on it
            is this object's to step.
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
        ValueError: a bound is violated, the schedule was stepped, a function comes without `optimizer`, or the
            optimizer has no momentum.

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
        self._optimizer = _check_schedule(schedule, optimizer)
        if not isinstance(getattr(sampler, "gain", None), GainRatio):
            raise TypeError(f"`GainLR(sampler)` must be a sampler of approx_is; got {type(sampler).__name__}.")
        if signal not in ("momentum", None):
            raise ValueError(f'`GainLR(signal=...)` must be "momentum" or None; got {signal!r}.')
        self._gain = sampler.gain
        self._every = check_positive(every, "GainLR(every=...)")
        self._signal_every = check_positive(signal_every, "GainLR(signal_every=...)")
        self._scale_rate = isinstance(self._optimizer, SGD) if scale_rate is None else scale_rate
        self._signal = None if signal is None else MomentumSignal(self._optimizer)
        self._schedule = schedule if isinstance(schedule, LRScheduler) else LambdaLR(self._optimizer, schedule)
        self._effective_steps = 0.0
        self._ratio = 1.0
        self._scheduled = self.get_last_lr()  # without the gain
        self._steps = 0  # of the optimizer
        if self._signal is not None:
            measure = weakref.WeakMethod(self._measure_signal)  # the hook keeps nobody alive, and goes when we do
            handle = self._optimizer.register_step_pre_hook(lambda *_: (found := measure()) and found())
            weakref.finalize(self, handle.remove)

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
        self._gain.end_step()
        self._ratio = self._gain.agreed_value()
        self._set_rates(1.0)  # many a schedule computes a rate from the one it set before
        position = (math.floor(self._effective_steps + self._ratio) - 1) // self._every
        for _ in range(_position(self._schedule), min(position, _last_position(self._schedule))):
            self._schedule.step()
        self._scheduled = self.get_last_lr()
        self._set_rates(self._ratio if self._scale_rate else 1.0)

    def get_last_lr(self) -> list[float]:
        """Return the rate of each parameter group, with the gain in it."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the state with the schedule's: save it beside the optimizer's and the sampler's."""
        return {
            "effective_steps": self._effective_steps,
            "ratio": self._ratio,
            "scheduled": self._scheduled,
            "steps": self._steps,
            "signal": {} if self._signal is None else self._signal.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, and set the rates that it had; the optimizer's state is yours to load, before or after.

        Raises:
            ValueError: the state does not fit; nothing was changed.
        """
        where = "GainLR.load_state_dict(state)"
        reference = self.state_dict()
        check_like(state, reference, where, skip=("schedule",))
        _check_schedule_state(state["schedule"], reference["schedule"], f"{where}['schedule']")
        if not 1 <= state["ratio"] <= LARGEST_GAIN:
            raise ValueError(f"`{where}['ratio']` must be in [1, {LARGEST_GAIN:g}]; got {state['ratio']}.")
        for name in ("effective_steps", "steps"):
            if state[name] < 0:
                raise ValueError(f"`{where}[{name!r}]` must be at least 0; got {state[name]}.")
        if self._signal is not None:
            self._signal.check_state_dict(state["signal"])
        self._schedule.load_state_dict(dict(state["schedule"]))  # it may refuse, and so comes first
        if self._signal is not None:
            self._signal.load_state_dict(state["signal"])
        self._effective_steps = state["effective_steps"]
        self._ratio = state["ratio"]
        self._scheduled = state["scheduled"]
        self._steps = state["steps"]
        self._set_rates(self._ratio if self._scale_rate else 1.0)

    def _set_rates(self, factor: float) -> None:
        for group, rate in zip(self._optimizer.param_groups, self._scheduled, strict=True):
            if isinstance(group["lr"], Tensor):  # as compiled and capturable optimizers hold it
                group["lr"].fill_(rate * factor)
            else:
                group["lr"] = rate * factor

    def _measure_signal(self) -> None:
        assert self._signal is not None
        if self._steps % self._signal_every == 0:
            moments = self._signal.measure()
            if moments is not None:
                self._gain.observe_signal(*moments)
        self._signal.count_step()
        self._steps += 1


def _check_schedule(schedule: Any, optimizer: Optimizer | None) -> Optimizer:
    """Return whose rate the schedule sets, or raise unless it can be followed."""
    if isinstance(schedule, ReduceLROnPlateau):
        raise TypeError("`GainLR(schedule)` must follow steps; ReduceLROnPlateau follows a metric. Step it yourself.")
    if not isinstance(schedule, LRScheduler):
        if not callable(schedule):
            found = type(schedule).__name__
            raise TypeError(f"`GainLR(schedule)` must be a torch scheduler or a function of the step; got {found}.")
        if optimizer is None:
            raise ValueError("`GainLR(schedule)` is a function, which needs `optimizer=` beside it.")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"`GainLR(optimizer=...)` must be a torch optimizer; got {type(optimizer).__name__}.")
        return optimizer
    if optimizer is not None and optimizer is not schedule.optimizer:
        raise ValueError("`GainLR(optimizer=...)` must be the optimizer of the schedule. Leave it out.")
    if _position(schedule) != 0:
        raise ValueError(
            f"`GainLR(schedule)` must not have been stepped yet; it is at {_position(schedule)}. "
            "To resume, build it anew and load the state of `GainLR`."
        )
    return schedule.optimizer


def _position(schedule: LRScheduler) -> int:
    if isinstance(schedule, ChainedScheduler):  # has no position of its own
        return max(_position(each) for each in schedule._schedulers)
    return schedule.last_epoch


def _last_position(schedule: LRScheduler) -> int:
    # of its total steps a one-cycle schedule extrapolates the last one's rate, even to below 0, and beyond it raises;
    # effective steps may overshoot by what the last ratio is above 1
    total = getattr(schedule, "total_steps", None)
    return total - 1 if isinstance(total, int) else sys.maxsize


def _check_schedule_state(state: Any, reference: Any, where: str) -> None:
    """Raise `ValueError` unless a schedule's state has the entries and lengths of another, and finite numbers."""
    if isinstance(reference, Mapping):
        check_like(state, reference, where, skip=reference.keys())
        for name, value in reference.items():
            _check_schedule_state(state[name], value, f"{where}[{name!r}]")
    elif isinstance(reference, list):
        if not isinstance(state, list) or len(state) != len(reference):
            raise ValueError(f"`{where}` must be a list of {len(reference)} entries.")
        for position, value in enumerate(reference):
            _check_schedule_state(state[position], value, f"{where}[{position}]")
    elif isinstance(reference, Tensor):
        check_like(state, reference, where)
    elif isinstance(reference, int | float) and not (isinstance(state, int | float) and math.isfinite(state)):
        raise ValueError(f"`{where}` must be a finite number; got {state!r}.")
