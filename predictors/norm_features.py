"""What RAIS knows of a sample before it sees it again: six features, kept up to date a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.history import LossHistory
from approx_is.labels import classes_of
from approx_is.moving_average import MovingAverage
from approx_is.state import check_like

__all__ = ["FEATURES", "LARGEST_NORM", "NormFeatures"]

FEATURES = ("mean of all", "last", "decayed mean", "window mean", "class mean", "age")
"""Their names, in the order of the columns."""

LARGEST_NORM = 1e30
"""Observations above count as this much: sums and squares of features stay finite."""

OLDEST_AGE = 3.0
CHUNK = 1_048_576
LAST, DECAYED, DECAYED_WEIGHT, WINDOW = range(4)


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
        self._mean = MovingAverage(rate, device=history.device)
        self._batch_size = 1  # largest batch seen: turns steps into epochs
        self._since_summed = 0  # samples observed since the sums were last taken from scratch

    def describe(self, indices: Tensor, step: int) -> Tensor:
        """Return the features of samples as they are at a training step, float32 [B, 6], finite and ≥ 0."""
        rows = self._rows[indices]
        mean = self._mean.value.float()
        age = (step - self._history.last_step(indices)).clamp(min=0).float() * self._epochs_a_step
        of_class = self._class_means()[classes_of(self._labels, indices)]
        columns = [
            mean.expand(len(indices)),
            rows[:, LAST],
            rows[:, DECAYED],
            rows[:, WINDOW],
            of_class,
            age.clamp(max=OLDEST_AGE) * mean,
        ]
        return torch.where(rows[:, DECAYED_WEIGHT, None] > 0, torch.stack(columns, 1), mean)

    def update(self, indices: Tensor, observed: Tensor, weights: Tensor, step: int) -> None:
        """Take in observations, before the history does.

        Args:
            indices: samples, int64 [B].
            observed: their norms, float32 [B], in [0, LARGEST_NORM], alike where a sample appears more than once.
            weights: unbiased weights of the draw, float64 [B].
            step: training step.
        """
        self._batch_size = max(self._batch_size, len(indices))
        self._mean.update((weights * observed).mean().unsqueeze(0))
        chosen = _first_of_each(indices)
        indices, observed = indices[chosen], observed[chosen]
        rows = self._rows[indices]
        self._add_to_classes(indices, observed.double() - rows[:, LAST], rows[:, DECAYED_WEIGHT] == 0)
        elapsed = (step - self._history.last_step(indices)).float() * self._epochs_a_step
        decayed_weight = 1 + rows[:, DECAYED_WEIGHT] * torch.exp(-elapsed)
        decayed = rows[:, DECAYED] + (observed - rows[:, DECAYED]) / decayed_weight
        window = self._window_means(indices, observed)
        self._rows[indices] = torch.stack([observed, decayed, decayed_weight, window], 1)
        self._since_summed += len(indices)
        if self._since_summed >= self._history.num_samples:
            self._sum_classes()

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
        check_like(state, self.state_dict(), "NormFeatures.load_state_dict(state)")
        self._rows.copy_(state["rows"])
        self._class_sums.copy_(state["class_sums"])
        self._mean.load_state_dict(state["mean"])
        self._batch_size = state["batch_size"]
        self._since_summed = state["since_summed"]

    @property
    def _epochs_a_step(self) -> float:
        return self._batch_size / self._history.num_samples

    def _class_means(self) -> Tensor:
        latest, counts = self._class_sums.unbind()
        return (latest / counts.clamp(min=1)).clamp(min=0).float()

    def _sum_classes(self) -> None:
        # from scratch, once an epoch: an absurd value leaves rounding errors behind when it is taken out of a sum
        self._since_summed = 0
        self._class_sums.zero_()
        for chunk in torch.split(torch.arange(self._history.num_samples, device=self._rows.device), CHUNK):
            rows = self._rows[chunk].double()
            self._add_to_classes(chunk, rows[:, LAST], rows[:, DECAYED_WEIGHT] > 0)

    def _add_to_classes(self, indices: Tensor, latest: Tensor, counts: Tensor) -> None:
        classes = classes_of(self._labels, indices)
        parts = torch.arange(2, device=classes.device).unsqueeze(1)
        self._class_sums.index_put_((parts, classes), torch.stack([latest, counts.double()]), accumulate=True)

    def _window_means(self, indices: Tensor, observed: Tensor) -> Tensor:
        stored, counts = self._history.recent(indices).float(), self._history.counts(indices)
        stored[:, 0].masked_fill_(counts == self._history.window, 0.0)  # makes room: not subtracted, which would cancel
        return (stored.sum(1) + observed) / (counts + 1).clamp(max=self._history.window)


def _first_of_each(indices: Tensor) -> Tensor:
    """Return a position of each distinct index, int64 [at most B]."""
    ordered, order = indices.sort(stable=True)
    return order[torch.cat([ordered[:1] == ordered[:1], ordered[1:] != ordered[:-1]])]
