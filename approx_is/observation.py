"""What was observed of a draw, read with care."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from approx_is import host
from approx_is.checks import are_importances, check_not_negative
from approx_is.draw import Draw, check_per_sample

__all__ = ["Observation", "check_observed"]

LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Observation:
    """The samples of a draw whose importance was observed to be finite.

    Attributes:
        indices: samples, int64 [B].
        importance: as observed, float32 [B], finite and ≥ 0.
        weights: of their losses, float32 [B].
        unbiased: weights that k = 1 would have, :math:`1/(N p_i)`, float64 [B].
        num_left_out: how many were not finite, an integer scalar.
    """

    indices: Tensor
    importance: Tensor
    weights: Tensor
    unbiased: Tensor
    num_left_out: Tensor | int

    @classmethod
    def read(
        cls,
        draw: Draw,
        observed: Tensor,
        num_samples: int,
        device: torch.device,
        *,
        expected: Callable[[Tensor], Tensor],
    ) -> Observation:
        """Return what was observed, float [B] of any kind, on `device`.

        What is not finite is left out. An accelerator would have to be waited for to know how many are left, and so
        there the others, those not negative, are repeated in turn until there are as many as before; if there are none,
        one sample is taken to be as expected.

        Args:
            draw: what was drawn.
            observed: importance of each drawn sample.
            num_samples: N.
            device: where the observation is to live.
            expected: returns what to expect of samples, int64 [B] → float32 [B], finite and ≥ 0.

        Raises:
            TypeError: it is no tensor.
            ValueError: its shape is wrong, or a value is negative.
        """
        check_per_sample(observed, len(draw), "update(observed)")
        indices, probabilities, weights = (t.to(device) for t in (draw.indices, draw.probabilities, draw.weights))
        unbiased = (probabilities * num_samples).reciprocal()
        observed = observed.detach().to(device)
        if not host.is_on_host(observed):
            valid = (observed >= 0) & (observed.to(torch.float32) < math.inf)
            kept = _repeated(valid)
            indices, unbiased, weights, observed = (t[kept] for t in (indices, unbiased, weights, observed))
            observed = torch.where(valid.any(), observed.to(torch.float32), expected(indices))
            return cls(indices, observed, weights, unbiased, len(valid) - valid.count_nonzero())
        if are_importances(observed, below=LARGEST):
            return cls(indices, observed.to(torch.float32), weights, unbiased, 0)
        check_not_negative(observed, "update(observed)")
        observed = observed.to(torch.float32)
        finite = observed.isfinite()
        indices, unbiased, weights, observed = (t[finite] for t in (indices, unbiased, weights, observed))
        return cls(indices, observed, weights, unbiased, len(finite) - len(observed))

    @classmethod
    def joined(cls, parts: Sequence[Observation]) -> Observation:
        """Return observations one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            torch.cat([part.indices for part in parts]),
            torch.cat([part.importance for part in parts]),
            torch.cat([part.weights for part in parts]),
            torch.cat([part.unbiased for part in parts]),
            sum(part.num_left_out for part in parts),
        )

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.indices)


def check_observed(observed: Tensor, batch_size: int) -> None:
    """Raise unless it is a real tensor [batch_size], and on the host nothing in it is negative."""
    check_per_sample(observed, batch_size, "update(observed)")
    if host.is_on_host(observed) and not are_importances(observed, below=LARGEST):
        check_not_negative(observed.detach(), "update(observed)")


def _repeated(valid: Tensor) -> Tensor:
    """Return the positions of those that are valid, bool [B], again and again, int64 [B]; any one if none is."""
    valid_first = valid.to(torch.uint8).argsort(descending=True, stable=True)
    turns = torch.arange(len(valid), device=valid.device) % valid.count_nonzero().clamp(min=1)
    return valid_first[turns]
