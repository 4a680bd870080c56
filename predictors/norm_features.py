"""What RAIS knows of a sample before it sees it again: six features, kept up to date a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.history import LossHistory
from approx_is.labels import classes_of
from approx_is.moving_average import MovingAverage
from approx_is.state import check_at_least, check_like

__all__ = ["FEATURES", "LARGEST_NORM", "NormFeatures"]

FEATURES = ("mean of all", "last", "decayed mean", "window mean", "class mean", "age")
"""Their names, in the order of the columns."""

LARGEST_NORM = 1e30
"""Observations above count as this much: sums and squares of features stay finite."""

OLDEST_AGE = 3.0
CHUNK = 1_048_576
LAST, DECAYED, WINDOW, DECAYED_WEIGHT = range(4)


class NormFeatures:
    r"""Describes every sample by six numbers in the unit of the observed norms.

    With :math:`\bar g` the moving average of :math:`w v`, an estimate of the mean norm of all samples, these are

    - :math:`\bar g`: a bias;
    - the latest observation;
    - :math:`\sum e^{-a} v / \sum e^{-a}` over all observations, a their ages in epochs;
    - the mean of the observations in the history's window;
    - the mean latest observation of the sample's class;
    - :math:`\bar g \min(a, 3)`, a the age of the latest observation in epochs.

    All six are :math:`\bar g` for a sample that was never observed. Takes 16 bytes a sample beside the history.

    Reference:
        Johnson & Guestrin (2018) give the latest norm as their example of a feature; the others are ours.

    Args:
        history: of the sampler; it tells when a sample was last observed, and what its window holds.
        labels: class of each sample, integer [N]; None puts all samples into one class.
        num_classes: number of classes C.
        rate: of the moving average :math:`\bar g`.
    """

    def __init__(self, history: LossHistory, labels: Tensor | None, num_classes: int, *, rate: float = 0.02) -> None:
        self._history = history
        self._labels = labels
        self._rows = torch.zeros(history.num_samples, 4, dtype=torch.float32, device=history.device)
        self._class_sums = torch.zeros(2, num_classes, dtype=torch.float64, device=history.device)  # of latest, of ones
        self._class_means = torch.zeros(num_classes, dtype=torch.float32, device=history.device)
        self._mean = MovingAverage(rate, device=history.device)
        self._batch_size = 1  # largest batch seen: turns steps into epochs
        self._since_summed = 0  # samples observed since the sums were last taken from scratch

    def describe(self, indices: Tensor, step: int) -> Tensor:
        """Return the features of samples as they are at a training step, float32 [B, 6], finite and ≥ 0."""
        return self._describe(indices, self._rows[indices], self._history.last_step(indices), step)

    def observe(
        self, indices: Tensor, observed: Tensor, weights: Tensor, step: int, drawn_at: int
    ) -> tuple[Tensor, Tensor]:
        """Take in observations, before the history does.

        Args:
            indices: samples, int64 [B].
            observed: their norms, float32 [B], in [0, LARGEST_NORM], alike where a sample appears more than once.
            weights: unbiased weights of the draw, float64 [B].
            step: training step.
            drawn_at: step after which they were drawn.

        Returns:
            Features at the draw, float32 [B, 6], and which of them were all that was known until now, bool [B]: those
            of samples that had been observed before the draw and not since.
        """
        self._batch_size = max(self._batch_size, len(indices))
        rows, last_step = self._rows[indices], self._history.last_step(indices)
        features = self._describe(indices, rows, last_step, drawn_at)
        was_seen = rows[:, DECAYED_WEIGHT] > 0
        is_counted = self._write_rows(indices, observed, rows, step - last_step)
        self._move_class_means(indices, (observed.double() - rows[:, LAST]) * is_counted, is_counted & ~was_seen)
        self._mean.update((weights * observed).mean().unsqueeze(0))
        return features, was_seen & (last_step <= drawn_at)

    def state_dict(self) -> dict[str, Any]:
        """Return the features' parts (not copied)."""
        return {
            "rows": self._rows,
            "class_sums": self._class_sums,
            "mean": self._mean.state_dict(),
            "batch_size": self._batch_size,
            "since_summed": self._since_summed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self._rows.copy_(state["rows"])
        self._class_sums.copy_(state["class_sums"])
        self._class_means = _means(self._class_sums)
        self._mean.load_state_dict(state["mean"])
        self._batch_size = state["batch_size"]
        self._since_summed = state["since_summed"]

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "NormFeatures.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        self._mean.check_state_dict(state["mean"])
        check_at_least(state, {"rows": 0, "batch_size": 1, "since_summed": 0}, where)

    @property
    def _epochs_a_step(self) -> float:
        return self._batch_size / self._history.num_samples

    def _describe(self, indices: Tensor, rows: Tensor, last_step: Tensor, step: int) -> Tensor:
        mean = self._mean.value.float()
        ages = (step - last_step).float().clamp(0, OLDEST_AGE / self._epochs_a_step)  # in steps
        columns = [
            mean.expand(len(rows), 1),
            rows[:, :DECAYED_WEIGHT],
            self._class_means[classes_of(self._labels, indices)].unsqueeze(1),
            (ages * (mean * self._epochs_a_step)).unsqueeze(1),
        ]
        return torch.where(rows[:, DECAYED_WEIGHT:] > 0, torch.cat(columns, 1), mean)

    def _write_rows(self, indices: Tensor, observed: Tensor, rows: Tensor, steps: Tensor) -> Tensor:
        """Write what is known from now on; return a mask that holds one entry of each sample."""
        positions = torch.arange(len(indices), device=indices.device)
        self._rows[indices, LAST] = positions.float()
        is_counted = self._rows[indices, LAST] == positions  # of a sample drawn twice, one entry was written
        decayed_weight = 1 + rows[:, DECAYED_WEIGHT] * torch.exp(steps.float() * -self._epochs_a_step)
        decayed = rows[:, DECAYED] + (observed - rows[:, DECAYED]) / decayed_weight
        window = self._history.means_after(indices, observed).clamp(max=LARGEST_NORM)  # its sum may be infinite
        self._rows[indices] = torch.stack([observed, decayed, window, decayed_weight], 1)
        return is_counted

    def _move_class_means(self, indices: Tensor, change: Tensor, is_first: Tensor) -> None:
        self._add_to_classes(indices, change, is_first)
        self._since_summed += len(indices)
        if self._since_summed >= self._history.num_samples:
            self._sum_classes()
        self._class_means = _means(self._class_sums)

    def _sum_classes(self) -> None:
        # from scratch, once an epoch: an absurd value leaves rounding errors behind when it is taken out of a sum
        self._since_summed = 0
        self._class_sums.zero_()
        for start in range(0, self._history.num_samples, CHUNK):
            chunk = torch.arange(start, min(start + CHUNK, self._history.num_samples), device=self._rows.device)
            rows = self._rows[chunk]
            self._add_to_classes(chunk, rows[:, LAST].double(), rows[:, DECAYED_WEIGHT] > 0)

    def _add_to_classes(self, indices: Tensor, latest: Tensor, counts: Tensor) -> None:
        classes = classes_of(self._labels, indices)
        parts = torch.arange(2, device=classes.device).unsqueeze(1)
        self._class_sums.index_put_((parts, classes), torch.stack([latest, counts.double()]), accumulate=True)


def _means(sums: Tensor) -> Tensor:
    return (sums[0] / sums[1].clamp(min=1)).clamp(min=0).float()
