"""What an update is given, read: with care, on the right device, and on all ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from approx_is.backlog import Lesson
from approx_is.draw import Draw, check_per_sample
from approx_is.gate import Look
from approx_is.observation import Observation, check_observed
from approx_is.ranks import Ranks

__all__ = ["Reader"]


class Reader:
    """Makes a lesson of what was observed of a draw.

    Args:
        ranks: those that draw together also observe together.
        device: where observations are to live.
        expected: see `Observation.read`.
    """

    def __init__(self, ranks: Ranks, device: torch.device, *, expected: Callable[[Tensor], Tensor]) -> None:
        self._ranks = ranks
        self._device = device
        self._expected = expected

    def read(self, draw: Draw, observed: Tensor | Callable[[], Tensor], look: Look, step: int) -> Lesson | None:
        """Return what is to be learned, at a training step, from what was observed; None if nobody is to look.

        Raises:
            TypeError: `observed` is no tensor.
            ValueError: its shape is wrong, or a value is negative.
        """
        if look is Look.AWAY:
            if not callable(observed):
                check_per_sample(observed, len(draw), "update(observed)")
            return None
        observed = observed() if callable(observed) else observed
        whole = draw.whole
        if self._ranks.num_drawing_together == 1:
            return Lesson(self._observation(whole, observed), step, draw.drawn_at)
        check_observed(observed, len(draw))
        gathered = self._ranks.gather(observed.detach().to(self._device), whole)
        return Lesson(lambda: self._observation(whole, gathered()), step, draw.drawn_at)

    def _observation(self, whole: Draw, observed: Tensor) -> Observation:
        return Observation.read(whole, observed, self._ranks.num_held, self._device, expected=self._expected)
