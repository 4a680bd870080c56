"""What was observed of a draw, read with care."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from approx_is.checks import check_not_negative
from approx_is.draw import Draw, check_per_sample

__all__ = ["Observation"]


@dataclass(frozen=True)
class Observation:
    """The samples of a draw whose importance was observed to be finite.

    Attributes:
        indices: samples, int64 [B].
        importance: as observed, float32 [B], finite and ≥ 0.
        weights: of their losses, float32 [B].
        unbiased: weights that k = 1 would have, :math:`1/(N p_i)`, float64 [B].
        num_left_out: how many were not finite.
    """

    indices: Tensor
    importance: Tensor
    weights: Tensor
    unbiased: Tensor
    num_left_out: int

    @classmethod
    def read(cls, draw: Draw, observed: Tensor, num_samples: int, device: torch.device) -> Observation:
        """Return what was observed, float [B] of any kind, on `device`.

        Raises:
            TypeError: it is no tensor.
            ValueError: its shape is wrong, or a value is negative.
        """
        check_per_sample(observed, len(draw), "update(observed)")
        indices, probabilities, weights = (t.to(device) for t in (draw.indices, draw.probabilities, draw.weights))
        observed = observed.detach().to(device)
        check_not_negative(observed, "update(observed)")
        observed = observed.to(torch.float32)
        finite = observed.isfinite()
        num_left_out = len(finite) - int(finite.count_nonzero())
        if num_left_out:
            indices, probabilities, weights, observed = (t[finite] for t in (indices, probabilities, weights, observed))
        return cls(indices, observed, weights, 1 / (probabilities * num_samples), num_left_out)

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.indices)
