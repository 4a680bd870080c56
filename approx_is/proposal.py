"""The distribution that samples are drawn from: predicted importances, smoothed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from approx_is.smoothing import Smoothing, smoothed_probabilities
from approx_is.state import check_at_least, check_generator_state, check_like
from approx_is.sum_tree import SumTree

__all__ = ["Proposal"]

LARGEST_STOCK = 2**16
"""Samples drawn at once at most: of larger batches fewer."""


class Proposal:
    r"""Draws samples with probability :math:`p_i = (s_i + c) / \sum_j (s_j + c)`, s their importance, c the smoothing.

    Neither a draw nor a change of c touches all N samples: it is a mixture of the tree's distribution, with share
    :math:`\sum s / (\sum s + N c)`, and the uniform one.

    Several batches are drawn at once, since that costs little more than one. Those left when the distribution changes
    are dropped.

    Args:
        num_samples: N.
        smoothing: gives c.
        seed: of the draws.
        device: where the importances live.
        ahead: batches that are drawn at once.
    """

    def __init__(
        self, num_samples: int, smoothing: Smoothing, *, seed: int, device: torch.device, ahead: int = 1
    ) -> None:
        self._num_samples = num_samples
        self._smoothing = smoothing
        self.device = device
        self._generator = torch.Generator(device).manual_seed(seed)
        self._tree = SumTree(num_samples, device=device)
        self._ahead = ahead
        self._stock: list[tuple[Tensor, Tensor]] = []  # drawn, and not handed out yet, the next one last
        self._stocked_from = self._generator.get_state()
        self._stocked_at_once = 1

    def set_importance(self, indices: Tensor, importance: Tensor) -> None:
        """Set the importance of samples: int64 [B], float32 [B], finite and ≥ 0."""
        self._stock.clear()
        self._tree.set_values(indices, importance)

    def importance(self, indices: Tensor) -> Tensor:
        """Return the importance of samples, int64 [B] → float32 [B]."""
        return self._tree.values(indices)

    def observe_mean(self, observed_mean: Tensor, num_batches: int = 1) -> None:
        """Tell the smoothing what batches were observed to have as the data set's mean importance, a float64 scalar."""
        self._stock.clear()
        self._smoothing.update(observed_mean, num_batches)

    @property
    def constant(self) -> Tensor:
        """The smoothing constant c in use, a float64 scalar."""
        return self._smoothing.constant(self._tree.total / self._num_samples)

    def probabilities(self, indices: Tensor | None = None) -> Tensor:
        """Return the probability of samples, int64 [B] or None for all, to be drawn: float64 [B] or [N]."""
        importance = self._tree.all_values() if indices is None else self._tree.values(indices)
        return smoothed_probabilities(importance, self.constant, self._tree.total, self._num_samples)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw from all samples with replacement; return indices, int64 [B], and their probabilities, float64 [B]."""
        if not self._stock or len(self._stock[-1][0]) != count:
            ahead = min(self._ahead, LARGEST_STOCK // count)
            if ahead <= 1:
                self._stock.clear()
                return self._draw_now(count)
            self._fill(count, ahead)
        return self._stock.pop()

    def draw_candidates(self, size: int) -> Tensor:
        """Draw candidates uniformly with replacement, int64 [size]."""
        return torch.randint(self._num_samples, (size,), generator=self._generator, device=self.device)

    def choose(self, count: int, importance: Tensor) -> tuple[Tensor, Tensor]:
        """Choose from candidates of that importance, float [S], with replacement.

        Given the candidates, number j is chosen with probability g_j; S g_j / N takes the place of p_i: weighed by
        1 / (S g_j), what is chosen is unbiased for the candidates' mean, which is unbiased for that of the data set.

        Args:
            count: how many to choose, b.
            importance: finite and ≥ 0, on the device.

        Returns:
            Positions among the candidates, int64 [b], and what takes the place of their probabilities, float64 [b].
        """
        size = len(importance)
        total = importance.sum(dtype=torch.float64)
        within = smoothed_probabilities(importance, self._smoothing.constant(total / size), total, size)
        positions = torch.multinomial(within, count, replacement=True, generator=self._generator)
        return positions, within[positions] * (size / self._num_samples)

    def state_dict(self) -> dict[str, Any]:
        """Return the importances (not copied), the smoothing's state and the generator's, and the stock.

        The stock is drawn again when it is restored: from the generator as it was before.
        """
        return {
            "tree": self._tree.state_dict(),
            "smoothing": self._smoothing.state_dict(),
            "generator": self._stocked_from if self._stock else self._generator.get_state(),
            "ahead": self._stocked_at_once if self._stock else 1,
            "stock": len(self._stock),
            "count": len(self._stock[-1][0]) if self._stock else 0,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        self.check_state_dict(state)
        self._tree.load_state_dict(state["tree"])
        self._smoothing.load_state_dict(state["smoothing"])
        self._generator.set_state(state["generator"].cpu())
        self._stock.clear()
        if state["stock"]:
            self._fill(state["count"], state["ahead"])
            del self._stock[state["stock"] :]

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state."""
        where = "Proposal.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        self._tree.check_state_dict(state["tree"])
        self._smoothing.check_state_dict(state["smoothing"])
        check_generator_state(state["generator"], self.device, f"{where}['generator']")
        check_at_least(state, {"ahead": 1, "stock": 0, "count": min(1, state["stock"])}, where)
        if state["stock"] > state["ahead"]:
            raise ValueError(f"`{where}['stock']` must be at most {state['ahead']}; got {state['stock']}.")

    def _fill(self, count: int, ahead: int) -> None:
        self._stocked_from, self._stocked_at_once = self._generator.get_state(), ahead
        indices, probabilities = self._draw_now(ahead * count)
        self._stock = list(zip(torch.split(indices, count), torch.split(probabilities, count), strict=True))[::-1]

    def _draw_now(self, count: int) -> tuple[Tensor, Tensor]:
        total = self._tree.total
        constant = self._smoothing.constant(total / self._num_samples)
        random = torch.rand(2, count, dtype=torch.float64, generator=self._generator, device=self.device)
        component, position = random.unbind()
        from_tree = self._tree.descend(self._tree.uniforms(count, self._generator))
        uniform = (position * self._num_samples).long()
        is_from_tree = component * (total + self._num_samples * constant) < total
        indices = torch.where(is_from_tree, from_tree, uniform)
        return indices, smoothed_probabilities(self._tree.values(indices), constant, total, self._num_samples)
