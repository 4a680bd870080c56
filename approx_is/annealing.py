"""Numbers that move from a start to an end while training goes on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from approx_is.checks import check_number, check_positive

__all__ = ["GeometricAnnealing", "LinearAnnealing"]


@dataclass(frozen=True)
class _Annealing(ABC):
    """Calls `_between` with how much of the way is done; never leaves the interval of start and end."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in ("start", "end"):
            object.__setattr__(self, field, self._check_bound(getattr(self, field), f"{name}({field}=...)"))
        object.__setattr__(self, "steps", check_positive(self.steps, f"{name}(steps=...)"))

    def __call__(self, step: int) -> float:
        """Return the value at a step, an integer of at least 0; raise `ValueError` for a step below."""
        if step < 0:
            raise ValueError(f"`{type(self).__name__}(...)(step)` must be at least 0; got {step}.")
        value = self._between(min(int(step), self.steps) / self.steps)
        return min(max(value, min(self.start, self.end)), max(self.start, self.end))  # but for rounding, it is within

    @abstractmethod
    def _between(self, done: float) -> float:
        """Return the value after a share of the way, in [0, 1]."""

    def _check_bound(self, value: float, argument: str) -> float:
        number = check_number(value, argument)
        if not math.isfinite(number):
            raise ValueError(f"`{argument}` must be finite; got {number}.")
        return number


@dataclass(frozen=True)
class LinearAnnealing(_Annealing):
    r"""Moves from one number to another in equal steps, and stays there.

    .. math:: v_t = (1 - f) v_0 + f v_1, \quad f = \min(t / T, 1)

    For `k` of the sampler: Schaul et al. move from 0.4, where hard samples count for more, to the unbiased 1, since
    bias does most harm near the end.

    Reference:
        Schaul et al. (2015), *Prioritized Experience Replay*, §3.4.

    Args:
        start: :math:`v_0`, the value at step 0, finite.
        end: :math:`v_1`, the value from step `steps` on, finite.
        steps: :math:`T`, at least 1.

    Raises:
        TypeError: an argument is no number, or `steps` no integer.
        ValueError: an argument is out of bounds.

    Example:
        >>> k = LinearAnnealing(0.4, 1.0, steps=1000)
        >>> k(0), k(500), k(1000), k(5000)
        (0.4, 0.7, 1.0, 1.0)
    """

    def _between(self, done: float) -> float:
        return (1 - done) * self.start + done * self.end  # exact at both ends


@dataclass(frozen=True)
class GeometricAnnealing(_Annealing):
    r"""Moves from one positive number to another by equal factors, and stays there.

    .. math:: v_t = v_0^{1 - f} v_1^f, \quad f = \min(t / T, 1)

    For the selection pressure of `RankPredictor`: from 100 to 1, as Loshchilov & Hutter do it, draws end uniform.

    Reference:
        Loshchilov & Hutter (2015), *Online Batch Selection for Faster Training of Neural Networks*: the exponential
        change of the selection pressure.

    Args:
        start: :math:`v_0`, the value at step 0, finite, > 0.
        end: :math:`v_1`, the value from step `steps` on, finite, > 0.
        steps: :math:`T`, at least 1.

    Raises:
        TypeError: an argument is no number, or `steps` no integer.
        ValueError: an argument is out of bounds.

    Example:
        >>> pressure = GeometricAnnealing(100, 1, steps=1000)
        >>> pressure(0), pressure(500), pressure(1000), pressure(5000)
        (100.0, 10.0, 1.0, 1.0)
    """

    def _between(self, done: float) -> float:
        value: float = self.start ** (1 - done) * self.end**done  # exact at both ends
        return value

    def _check_bound(self, value: float, argument: str) -> float:
        number = super()._check_bound(value, argument)
        if number <= 0:
            raise ValueError(f"`{argument}` must be above 0; got {number}. Use `LinearAnnealing` to pass through 0.")
        return number
