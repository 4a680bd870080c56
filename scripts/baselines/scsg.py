"""SCSG: SVRG with a large batch in place of the full gradient, and stages of random length.

Reference: Lei, Ju, Chen, Jordan: Non-convex finite-sum optimization via SCSG methods. NIPS 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from baselines.checks import check
from baselines.protocol import Samples
from baselines.variance_reduction import VarianceReduced

__all__ = ["SCSG", "geometric"]


def geometric(mean: float, generator: torch.Generator) -> int:
    r"""Draw from the geometric distribution over 0, 1, 2, ... of this mean.

    .. math:: P(N = k) = \gamma^k (1 - \gamma), \qquad \gamma = \frac{B_j}{B_j + b_j}, \qquad E N = \frac{B_j}{b_j}

    Reference: Lei et al. (2017), algorithm 1 and its notation.

    Args:
        mean: B_j / b_j, above 0.
        generator: source of randomness.
    """
    gamma = mean / (1 + mean)
    uniform = 1 - torch.rand((), dtype=torch.float64, generator=generator).item()  # in (0, 1]
    return math.floor(math.log(uniform) / math.log(gamma))


class SCSG(VarianceReduced):
    r"""Stochastically controlled stochastic gradient, for non-convex finite sums.

    .. math:: x_k = x_{k-1} - \eta_j (\nabla f_b(x_{k-1}) - \nabla f_b(x_0) + \nabla f_{I_j}(x_0))

    Stage j draws B_j samples without replacement as its anchor :math:`I_j`, and has a geometric number of steps,
    B_j / b in the mean, each on a minibatch of b. So it costs about 3 B_j gradients. The batches grow as
    :math:`B_j = \min(N, \lceil B_1 j^g \rceil)`, g = 3/2 as in the paper or 0 for a constant size, and the
    step sizes fall as :math:`\eta_j = \eta (b / B_j)^{2/3}`, for which the paper has :math:`\eta = \gamma / L`, γ ≤ 1/3
    (theorem 3.1). The iterate is that of the last stage; the paper's theorem is of a random earlier one.

    All that is the theory's. For neural networks their published code has a constant step size, and stages of exactly
    B_j / b = 32 steps on the parts of :math:`I_j`, where B_j is 1,000 or grows as above, and b with it. The code of
    Katharopoulos & Fleuret (2018) also has a constant step size and stages of a fixed length, independent of B_j.

    Reference: Lei et al. (2017), algorithm 1.

    Args:
        model: the network.
        loss: returns the mean loss of a batch, of outputs and targets.
        samples: all samples, of which the large batches are drawn.
        lr: step size η.
        weight_decay: of a ridge, see `VarianceReduced`.
        big_batch: B_1; by default b, which with b = 1 is the paper's :math:`j^{3/2}`.
        batch_growth: exponent g.
        lr_exponent: exponent of b / B_j in the step size; 0 for a constant one.
        inner: `geometric`, or `fixed` for stages of exactly B_j / b steps, rounded.
        chunk: samples of the large batch that are run at once.
        seed: of the large batches and the lengths of stages.

    Raises:
        ValueError: an argument is out of its bounds.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Tensor], Tensor],
        samples: Samples,
        *,
        lr: float,
        weight_decay: float = 0.0,
        big_batch: int | None = None,
        batch_growth: float = 1.5,
        lr_exponent: float = 2 / 3,
        inner: str = "geometric",
        chunk: int = 1024,
        seed: int = 0,
    ) -> None:
        positive = big_batch is None or big_batch >= 1
        check(positive, "SCSG(big_batch=...)", "at least 1", big_batch, "Leave it out to begin with a minibatch.")
        check(batch_growth >= 0, "SCSG(batch_growth=...)", "at least 0", batch_growth, "Use 0 for a constant size.")
        check(lr_exponent >= 0, "SCSG(lr_exponent=...)", "at least 0", lr_exponent, "Use 0 for a constant step.")
        known = inner in ("geometric", "fixed")
        check(known, "SCSG(inner=...)", "geometric or fixed", inner, "The paper's stages are geometric.")
        state = torch.Generator().manual_seed(seed).get_state()
        progress = {"shrink": 1.0, "generator": state}
        super().__init__(model, loss, samples, lr=lr, weight_decay=weight_decay, chunk=chunk, **progress)
        self._big_batch, self._batch_growth = big_batch, batch_growth
        self._lr_exponent, self._fixed = lr_exponent, inner == "fixed"

    def big_batch(self, stage: int, batch_size: int) -> int:
        """Return B_j of a stage j, counted from 1, for minibatches of this size."""
        first = self._big_batch or batch_size
        return min(len(self._samples), math.ceil(first * stage**self._batch_growth))

    def _begin_stage(self, batch_size: int) -> int:
        size = self.big_batch(self._progress["stage"], batch_size)
        generator = torch.Generator()
        generator.set_state(self._progress["generator"])
        self._take_snapshot(torch.randperm(len(self._samples), generator=generator)[:size])
        steps = max(1, round(size / batch_size)) if self._fixed else geometric(size / batch_size, generator)
        self._progress.update(shrink=(batch_size / size) ** self._lr_exponent, generator=generator.get_state())
        return steps

    def _move(self, estimate: list[Tensor]) -> None:
        self._descend(estimate, self._progress["lr"] * self._progress["shrink"])
