"""A sample matters as much as its class does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.history import LossHistory
from approx_is.labels import classes_of
from approx_is.state import check_like

__all__ = ["ClassGaussianPredictor", "class_moving_average"]


class ClassGaussianPredictor:
    """Models the importance in each class by a Gaussian, and predicts its mean.

    Mean and second moment are exponential moving averages over the observed samples of the class.

    Reference:
        Katharopoulos & Fleuret (2017), §4.3 ("pcg"), which uses the mean.

    Args:
        history: of the sampler.
        labels: class of each sample, integer [N]; None puts all samples into one class.
        num_classes: number of classes C.
        generator: not used.
        decay: of the moving averages an observed sample, in [0, 1).
        std: how many standard deviations to add to the mean, ≥ 0.

    Raises:
        ValueError: an option is out of bounds.
    """

    joins_batches = True

    def __init__(
        self,
        history: LossHistory,
        labels: Tensor | None,
        num_classes: int,
        generator: torch.Generator,
        *,
        decay: float = 0.9,
        std: float = 0.0,
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`ClassGaussianPredictor(decay=...)` must be in [0, 1); got {decay}.")
        if not (math.isfinite(std) and std >= 0):
            raise ValueError(f"`ClassGaussianPredictor(std=...)` must be finite and at least 0; got {std}.")
        self._labels = labels
        self._decay = decay
        self._std = std
        # mean: the loss of a guess over C classes; second moment: 1
        self._moments = torch.ones(2, num_classes, dtype=torch.float64, device=history.device)
        self._moments[0] = math.log(num_classes) if num_classes > 1 else 1.0

    def predict(self, indices: Tensor) -> Tensor:
        """Return the mean importance of each sample's class, plus `std` standard deviations, float32 [B]."""
        mean, second = self._moments[:, classes_of(self._labels, indices)]
        deviation: Tensor = (second - mean.square()).clamp(min=0).sqrt()
        importance: Tensor = mean + self._std * deviation
        return importance.float()

    def update(self, indices: Tensor, observed: Tensor, step: int, *, num_batches: int = 1) -> None:
        """Move the averages of the observed classes, sample by sample: it makes no difference where a batch ends."""
        observed = observed.double()
        self._moments = class_moving_average(
            self._moments, classes_of(self._labels, indices), torch.stack([observed, observed**2]), self._decay
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the moments of each class."""
        return {"moments": self._moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the moments; raise `ValueError` if they do not fit."""
        check_like(state, self.state_dict(), "ClassGaussianPredictor.load_state_dict(state)")
        self._moments = state["moments"].to(self._moments.device, copy=True)


def class_moving_average(averages: Tensor, classes: Tensor, values: Tensor, decay: float) -> Tensor:
    r"""Return exponential moving averages after a batch, as if its samples had been taken in one by one, in order.

    .. math:: m_c \leftarrow a^{n_c} m_c + (1 - a) \sum_{j \in c} a^{r_j} v_j

    where :math:`n_c` samples of the batch have class c and :math:`r_j` of them come after sample j.

    Args:
        averages: float [M, C].
        classes: of the samples, int64 [B].
        values: float [M, B].
        decay: :math:`a`, in [0, 1).

    Returns:
        New averages, [M, C].
    """
    ordered, order = classes.sort(stable=True)
    positions = torch.arange(len(classes), device=classes.device)
    later = torch.searchsorted(ordered, ordered, right=True) - 1 - positions
    shares = (1 - decay) * decay ** later.double()
    counts = torch.zeros(averages.shape[1], dtype=torch.int64, device=classes.device)
    counts.index_put_((classes,), torch.ones_like(classes), accumulate=True)
    rows = torch.arange(len(averages), device=classes.device).unsqueeze(1)
    return (averages * decay ** counts.double()).index_put((rows, ordered), values[:, order] * shares, accumulate=True)
