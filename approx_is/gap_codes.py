"""Numbers of steps in a byte each."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["GapCodes"]

EXACT = 16
"""Numbers below this are their own codes."""

CODES_AN_OCTAVE = 8


class GapCodes:
    """Rounds numbers of steps to the nearest of 233 values: below 16 all of them, above that eight an octave.

    Args:
        device: of the numbers.

    Example:
        >>> codes = GapCodes()
        >>> codes.decode(codes.encode(torch.tensor([0, 15, 100, 1_000]))).int().tolist()
        [0, 15, 98, 1024]
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        codes = torch.arange(256, dtype=torch.float64)
        values = torch.where(codes < EXACT, codes, EXACT * 2 ** ((codes - EXACT) / CODES_AN_OCTAVE))
        self._bounds = ((values[1:] + values[:-1]) / 2).to(device)
        self._values = values.float().to(device)

    def encode(self, gaps: Tensor) -> Tensor:
        """Return the code of each number, integer [...] in [0, 2^31) → uint8 [...]."""
        return torch.bucketize(gaps, self._bounds, out_int32=True).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """Return what codes stand for, uint8 [...] → float32 [...]: exact below 16, and within 4.4 % above."""
        return self._values.index_select(0, codes.view(-1).int()).view(codes.shape)
