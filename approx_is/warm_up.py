"""The first epoch: every sample once, in random order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.state import check_like

__all__ = ["WarmUp"]


class WarmUp:
    """Hands out a random permutation of N samples, batch by batch, so that the history starts with one entry of each.

    Args:
        num_samples: N.
        seed: of the permutation.
        drop_last: leave out a last batch that would be smaller than the others.
        device: where the indices are made.
    """

    def __init__(
        self, num_samples: int, *, seed: int, drop_last: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        self._num_samples = num_samples
        self._seed = seed
        self._drop_last = drop_last
        self._device = torch.device(device)
        self._position = 0
        self._permutation: Tensor | None = None  # made when first needed, dropped when used up: N numbers

    def take(self, batch_size: int) -> Tensor | None:
        """Return the next indices, int64 [at most batch_size]; None once all were handed out."""
        start, end = self._position, min(self._position + batch_size, self._num_samples)
        too_small = self._drop_last and end - start < batch_size
        if start == self._num_samples or too_small:
            self._position = self._num_samples
            self._permutation = None
            return None
        if self._permutation is None:
            self._permutation = self._permute()
        self._position = end
        return self._permutation[start:end].to(self._device, torch.int64)

    @property
    def finished(self) -> bool:
        """Whether every sample was handed out."""
        return self._position == self._num_samples

    def state_dict(self) -> dict[str, Any]:
        """Return seed and position; the permutation follows from them."""
        return {"seed": self._seed, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the position; raise `ValueError` if the state does not fit."""
        check_like(state, self.state_dict(), "WarmUp.load_state_dict(state)")
        self._seed = state["seed"]
        self._position = state["position"]
        self._permutation = None

    def _permute(self) -> Tensor:
        dtype = torch.int32 if self._num_samples < 2**31 else torch.int64
        return torch.randperm(self._num_samples, dtype=dtype, generator=torch.Generator().manual_seed(self._seed))
