"""Batches observed and not learned from yet: several at once cost little more than one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from approx_is.checks import check_importance, check_indices
from approx_is.observation import Observation
from approx_is.state import check_at_least, check_like

__all__ = ["Backlog", "Lesson", "default_update_every"]

LARGEST_DEFAULT = 8
"""Updates learned from at once by default, at most: what they share costs next to nothing by then."""

PARTS_OF_EPOCH = 32
"""An epoch is learned from in as many parts at least: a sample's prediction is to be new when it is drawn again."""


def default_update_every(num_samples: int, batch_size: int) -> int:
    """Return how many updates are learned from at once by default: a 32nd of an epoch, in [1, 8].

    Example:
        >>> default_update_every(60_000, 128), default_update_every(1_000, 128)
        (8, 1)
    """
    return min(LARGEST_DEFAULT, max(1, num_samples // (PARTS_OF_EPOCH * batch_size)))


class Lesson:
    """What one update has to teach.

    Args:
        seen: what was observed, or a function that returns it once other ranks have told.
        step: training step.
        drawn_at: training step after which it was drawn.
    """

    def __init__(self, seen: Observation | Callable[[], Observation], step: int, drawn_at: int) -> None:
        self._seen = seen
        self.step = step
        self.drawn_at = drawn_at

    @property
    def seen(self) -> Observation:
        """What was observed; waits for other ranks."""
        if not isinstance(self._seen, Observation):
            self._seen = self._seen()
        return self._seen


@dataclass
class Backlog:
    """Collects lessons until there are enough to learn from at once.

    All of them are of one kind: lessons of another are to be learned from by themselves.

    Attributes:
        size: how many are enough.
        num_samples: N.
        device: where they live.
        lessons: those collected, in the order of their steps.
        uniform: whether these are of plain epochs.
        first: whether of the first.
    """

    size: int
    num_samples: int
    device: torch.device
    lessons: list[Lesson] = field(default_factory=list)
    uniform: bool = False
    first: bool = False

    @property
    def is_full(self) -> bool:
        """Whether there are enough."""
        return len(self.lessons) >= self.size

    def fits(self, *, uniform: bool, first: bool) -> bool:
        """Return whether lessons of this kind can join those collected."""
        return not self.lessons or (self.uniform, self.first) == (uniform, first)

    def add(self, lesson: Lesson, *, uniform: bool, first: bool) -> None:
        """Collect one that fits."""
        self.uniform, self.first = uniform, first
        self.lessons.append(lesson)

    def take(self) -> list[Lesson]:
        """Return what was collected and begin anew."""
        lessons, self.lessons = self.lessons, []
        return lessons

    def state_dict(self) -> dict[str, Any]:
        """Return what was collected, tensors not copied."""
        return {"lessons": [_state_of(lesson) for lesson in self.lessons], "uniform": self.uniform, "first": self.first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self.lessons = [self._lesson_of(entry) for entry in state["lessons"]]
        self.uniform, self.first = state["uniform"], state["first"]

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "Backlog.load_state_dict(state)"
        check_like(state, self.state_dict(), where, skip=("lessons",))
        if not isinstance(state["lessons"], list):
            raise ValueError(f"`{where}['lessons']` must be a list; got {type(state['lessons']).__name__}.")
        for entry in state["lessons"]:
            has_indices = isinstance(entry, Mapping) and isinstance(entry.get("indices"), Tensor)
            size = entry["indices"].numel() if has_indices else 0
            check_like(entry, _state_of(_blank(size)), f"{where}['lessons']")
            check_indices(entry["indices"], self.num_samples, f"{where}['lessons']['indices']")
            for name in ("importance", "weights", "unbiased"):
                check_importance(entry[name], entry["indices"].shape, f"{where}['lessons'][{name!r}]")
            check_at_least(entry, {"step": 0, "drawn_at": 0, "num_left_out": 0}, f"{where}['lessons']")

    def _lesson_of(self, entry: Mapping[str, Any]) -> Lesson:
        names = ("indices", "importance", "weights", "unbiased")
        indices, importance, weights, unbiased = (entry[name].to(self.device, copy=True) for name in names)
        seen = Observation(indices, importance, weights, unbiased, entry["num_left_out"])
        return Lesson(seen, entry["step"], entry["drawn_at"])


def _state_of(lesson: Lesson) -> dict[str, Any]:
    return {
        "indices": lesson.seen.indices,
        "importance": lesson.seen.importance,
        "weights": lesson.seen.weights,
        "unbiased": lesson.seen.unbiased,
        "num_left_out": int(lesson.seen.num_left_out),
        "step": lesson.step,
        "drawn_at": lesson.drawn_at,
    }


def _blank(size: int) -> Lesson:
    numbers, doubles = torch.zeros(size), torch.zeros(size, dtype=torch.float64)
    return Lesson(Observation(torch.zeros(size, dtype=torch.int64), numbers, numbers, doubles, 0), 0, 0)
