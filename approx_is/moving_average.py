"""An exponential moving average that is unbiased from its first value on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.state import check_like

__all__ = ["MovingAverage"]


class MovingAverage:
    r"""Averages values, the latest weighing most, without leaning towards the 0 it starts from.

    .. math:: \hat m_t = \frac{m_t}{1 - (1 - \alpha)^t}, \quad m_t = (1 - \alpha) m_{t-1} + \alpha x_t

    Reference:
        Kingma & Ba (2015), §3: the correction of the start at 0.

    Args:
        rate: :math:`\alpha`, the share of a new value in the average, in (0, 1].
        size: how many numbers are averaged side by side.
        device: where they live.

    Raises:
        ValueError: `rate` is out of bounds.

    Example:
        >>> average = MovingAverage(rate=0.1)
        >>> for value in (1.0, 2.0, 3.0):
        ...     average.update(torch.tensor([value]))
        >>> average.value
        tensor([2.0701], dtype=torch.float64)
    """

    def __init__(self, rate: float, size: int = 1, *, device: torch.device | str = "cpu") -> None:
        if not 0 < rate <= 1:
            raise ValueError(f"`MovingAverage(rate=...)` must be in (0, 1]; got {rate}.")
        self._rate = rate
        self._sums = torch.zeros(size, dtype=torch.float64, device=device)
        self._share = 0.0  # of the sums that values make up

    def update(self, values: Tensor, count: int = 1) -> None:
        """Take in values, float64 [size] on the device, as often as `count` says."""
        rate = self._rate if count == 1 else 1 - (1 - self._rate) ** count
        self._sums.lerp_(values.double(), rate)
        self._share += rate * (1 - self._share)

    @property
    def value(self) -> Tensor:
        """The average, float64 [size]; 0 before the first value."""
        return self._sums / (self._share or 1.0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was averaged yet."""
        return self._share == 0

    def reset(self) -> None:
        """Forget everything."""
        self._sums.zero_()
        self._share = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the sums (not copied) and their share."""
        return {"sums": self._sums, "share": self._share}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self._sums.copy_(state["sums"])
        self._share = state["share"]

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "MovingAverage.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        if not 0 <= state["share"] <= 1:
            raise ValueError(f"`{where}['share']` must be in [0, 1]; got {state['share']}. The state is damaged.")
