"""What turns observations into predictions: the history, the predictor that reads it, and the classes' means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from approx_is import host
from approx_is.backlog import Lesson
from approx_is.checks import are_importances
from approx_is.class_mean import ClassMean
from approx_is.history import LossHistory
from approx_is.labels import classes_of
from approx_is.observation import Observation
from approx_is.protocols import Predictor
from approx_is.reducible import reducible
from approx_is.state import check_like

__all__ = ["Learner"]

SWEEP = 8_192
"""Samples a step that are predicted anew at most after a predictor's revision."""

LARGEST_SWEPT = 2**20
"""Samples beyond which a sweep would take as long as the next revision: they are predicted anew by and by."""


class Learner:
    """Learns from observations, predicts with care, and says whose predictions are due.

    Whatever a predictor answers, an importance that leaves here is finite and non-negative, and a sample that was never
    observed has the mean of its class. Computes in float32, also within autocast.

    Args:
        history: of the sampler.
        predictor: reads the history.
        labels: class of each sample, integer [N], or None.
        num_classes: number of classes C.
        rolling: samples a step to predict anew beyond those just observed.
        reducible: whether to predict only what training can still reduce, see `reducible`.
    """

    def __init__(
        self,
        history: LossHistory,
        predictor: Predictor,
        labels: Tensor | None,
        num_classes: int,
        *,
        rolling: int,
        reducible: bool = False,
    ) -> None:
        self.history = history
        self.predictor = predictor
        self._labels = labels
        self._class_mean = ClassMean(num_classes, device=history.device)
        self._reducible = reducible
        self._rolling = min(rolling, history.num_samples)
        self._cursor = 0
        self.own_scale = getattr(predictor, "own_scale", False) or reducible
        self._is_local = getattr(predictor, "local", False)
        self._judges_unseen = getattr(predictor, "judges_unseen", False)
        self._knows_draws = getattr(predictor, "knows_draws", False)
        self._joins_batches = getattr(predictor, "joins_batches", False) and not self._knows_draws
        self._unsettled = history.num_samples  # samples that a local predictor has not been asked about since warm-up
        self._revision = getattr(predictor, "revision", 0)
        self._outdated = 0  # samples whose predictions are of an earlier revision
        self._rejected = torch.zeros((), dtype=torch.int64, device=history.device)

    def learn(self, lessons: Sequence[Lesson], seen: Observation) -> None:
        """Take in observations: the predictor batch by batch, the history all of them, as of the last one's step.

        Args:
            lessons: the batches.
            seen: the same, joined; its importance is the mean where a sample appears more than once.
        """
        try:
            with torch.autocast(self.history.device.type, enabled=False):
                if self._joins_batches:
                    joined: dict[str, Any] = {"num_batches": len(lessons)}
                    self.predictor.update(seen.indices, seen.importance, lessons[-1].step, **joined)
                else:
                    self._show_one_by_one(lessons, seen)
        finally:  # what a predictor fails at is remembered all the same
            self._store(seen.indices, seen.importance, seen.unbiased, lessons[-1].step, len(lessons))

    def _show_one_by_one(self, lessons: Sequence[Lesson], seen: Observation) -> None:
        averaged = torch.split(seen.importance, [len(lesson.seen) for lesson in lessons])
        for lesson, observed in zip(lessons, averaged, strict=True):
            draw = {"weights": lesson.seen.unbiased, "drawn_at": lesson.drawn_at} if self._knows_draws else {}
            self.predictor.update(lesson.seen.indices, observed, lesson.step, **draw)

    def remember(self, indices: Tensor, observed: Tensor, unbiased: Tensor, step: int) -> None:
        """Take in observations of a batch without the predictor, which finds them in the history."""
        self._store(indices, observed, unbiased, step)
        self._unsettled = self.history.num_samples  # they were not predicted anew

    def _store(self, indices: Tensor, observed: Tensor, unbiased: Tensor, step: int, num_batches: int = 1) -> None:
        self.history.append_averaged(indices, observed, step)
        self._class_mean.update(classes_of(self._labels, indices), observed, unbiased, num_batches)

    def last(self, indices: Tensor) -> Tensor:
        """Return the last observations of samples, int64 [B] → float [B], NaN where there is none."""
        return torch.where(self.history.counts(indices) > 0, self.history.last(indices), torch.nan)

    def predict(self, indices: Tensor) -> Tensor:
        """Return what samples are to be drawn in proportion to, int64 [B] → float32 [B], finite and ≥ 0.

        Raises:
            ValueError: the predictor returned another shape.
        """
        importance = self._importance(indices)
        return reducible(importance, self.history, indices) if self._reducible else importance

    def _importance(self, indices: Tensor) -> Tensor:
        with torch.autocast(self.history.device.type, enabled=False):
            importance = self.predictor.predict(indices).detach().to(self.history.device, torch.float32)
        if importance.shape != indices.shape:
            raise ValueError(
                f"`{type(self.predictor).__name__}.predict` must return one value a sample, {list(indices.shape)}; "
                f"got {list(importance.shape)}."
            )
        if host.is_on_host(importance) and are_importances(importance) and self._may_judge(indices):
            return importance
        valid = importance.isfinite() & (importance >= 0)
        if self._judges_unseen:
            self._rejected += (~valid).sum()
        else:
            seen = self.history.counts(indices) > 0
            self._rejected += (seen & ~valid).sum()
            valid &= seen
        return torch.where(valid, importance, self._class_mean.of(classes_of(self._labels, indices)))

    def _may_judge(self, indices: Tensor) -> bool:
        return self._judges_unseen or self.history.have_all_been_seen(indices)

    def expect(self, indices: Tensor) -> Tensor:
        """Return the last observations of samples, int64 [B] → float32 [B]; their class's mean where there is none."""
        mean = self._class_mean.of(classes_of(self._labels, indices))
        return torch.where(self.history.counts(indices) > 0, self.history.last(indices).float(), mean)

    def due(self, indices: Tensor, num_batches: int, *, warming_up: bool) -> Tensor:
        """Return whom to predict anew after so many batches of `indices` were observed: these, and the next in turn.

        A `local` predictor's other answers would be the same as before: one round after the warm-up, for samples that
        it left out, is enough. After a revision a sweep goes over all of them, many a step.
        """
        revision = getattr(self.predictor, "revision", 0)
        if revision != self._revision:
            self._revision = revision
            self._outdated = self.history.num_samples if self.history.num_samples <= LARGEST_SWEPT else 0
        count = min(self.history.num_samples, num_batches * max(self._rolling, min(self._outdated, SWEEP)))
        if count == 0 or (self._is_local and (warming_up or self._unsettled <= 0)):
            return indices
        if not warming_up:
            self._unsettled -= count
        self._outdated = max(0, self._outdated - count)
        others = torch.arange(self._cursor, self._cursor + count, device=self.history.device) % self.history.num_samples
        self._cursor = (self._cursor + count) % self.history.num_samples
        return torch.cat([indices, others])

    def metrics(self) -> dict[str, float]:
        """Return the predictor's own figures, if it has any."""
        own = getattr(self.predictor, "metrics", dict)
        return dict(own())

    @property
    def rejected(self) -> int:
        """Number of predictions so far that were negative or not finite."""
        return int(self._rejected)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of history, predictor and class means, tensors not copied."""
        return {
            "history": self.history.state_dict(),
            "predictor": self.predictor.state_dict(),
            "class_mean": self._class_mean.state_dict(),
            "cursor": self._cursor,
            "unsettled": self._unsettled,
            "revision": self._revision,
            "outdated": self._outdated,
            "rejected": self._rejected,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self.predictor.load_state_dict(state["predictor"])  # checks its own part, and so comes first
        self.history.load_state_dict(state["history"])
        self._class_mean.load_state_dict(state["class_mean"])
        self._cursor = state["cursor"]
        self._unsettled = state["unsettled"]
        self._revision, self._outdated = state["revision"], state["outdated"]
        self._rejected.copy_(state["rejected"])

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state, but for the predictor's part of it."""
        check_like(state, self.state_dict(), "Learner.load_state_dict(state)", skip=("predictor",))
