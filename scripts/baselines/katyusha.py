"""Katyusha: SVRG with Nesterov's momentum, and with a negative one that pulls back to the snapshot.

Reference: Allen-Zhu: Katyusha: The first direct acceleration of stochastic gradient methods. STOC 2017; JMLR 18, 2018.
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

__all__ = ["Katyusha"]


class Katyusha(VarianceReduced):
    r"""Accelerated SVRG of f + ψ, with ψ(x) = σ/2 ‖x‖², on minibatches.

    .. math::
        x &= \tau_1 z + \tau_2 \tilde x + (1 - \tau_1 - \tau_2) y \\
        v &= \nabla f_b(x) - \nabla f_b(\tilde x) + \nabla f(\tilde x) \\
        z &\leftarrow \mathrm{prox}_{\alpha \psi}(z - \alpha v), \quad \alpha = \eta / \tau_1 \\
        y &\leftarrow \mathrm{prox}_{\eta \psi}(x - \eta v)

    The next snapshot is the mean of a stage's y, weighted by (1 + α σ)^j. After a step the network is at y, option I;
    the guarantee is for the snapshot. A stage costs N gradients, and each of its m steps 2 B. About
    (N + √(N L / σ)) log 1/ε gradients reach an error of ε, where SVRG takes (N + L / σ) log 1/ε (theorem 2.1).

    Reference: Allen-Zhu (2017), algorithm 1; without σ, algorithm 2, whose :math:`\tau_1` is 2 / (s + 4) at stage s,
    counted from 0.

    Args:
        model: the network.
        loss: returns the mean loss of a batch, of outputs and targets; without ψ.
        samples: all samples.
        lr: step size η, in the paper 1 / (3 L).
        weight_decay: σ of ψ.
        inner_steps: steps m of a stage; by default ⌈2 N / B⌉, the paper's 2 N gradients.
        tau1: weight of the momentum; by default min(√(m σ η), 1/2), or 2 / (s + 4) where σ = 0.
        tau2: weight of the snapshot; 1/2 in both algorithms, which are of single samples. For minibatches section 5
            has 1 / (2 B), with stages of N / B steps.
        chunk: samples of the full gradient that are run at once.

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
        inner_steps: int | None = None,
        tau1: float | None = None,
        tau2: float = 0.5,
        chunk: int = 1024,
    ) -> None:
        check(
            inner_steps is None or inner_steps >= 1,
            "Katyusha(inner_steps=...)",
            "at least 1",
            inner_steps,
            "Leave it out for 2 N / B.",
        )
        check(0 <= tau2 <= 0.5, "Katyusha(tau2=...)", "in [0, 0.5]", tau2, "The paper uses 0.5.")
        in_bounds = tau1 is None or 0 < tau1 <= 1 - tau2
        check(in_bounds, "Katyusha(tau1=...)", f"above 0 and at most 1 - tau2 = {1 - tau2:g}", tau1, "Leave it out.")
        progress = {"tau1": 0.0, "weight": 1.0, "total": 0.0}
        super().__init__(model, loss, samples, lr=lr, weight_decay=weight_decay, chunk=chunk, **progress)
        self._inner_steps, self._tau1, self._tau2 = inner_steps, tau1, tau2

    def _begin_stage(self, batch_size: int) -> int:
        first = self._progress["stage"] == 1
        if first:
            self._set_state("z", [value.detach().clone() for value in self._parameters])
        self._take_snapshot(torch.arange(len(self._samples)), None if first else self._of_state("mean"))
        self._set_state("mean", [torch.zeros_like(value) for value in self._parameters])
        steps = self._inner_steps or math.ceil(2 * len(self._samples) / batch_size)
        self._progress.update(tau1=self._momentum(steps), weight=1.0, total=0.0)
        return steps

    def _momentum(self, steps: int) -> float:
        if self._tau1 is not None:
            return self._tau1
        if self._weight_decay == 0:
            return 2 / (self._progress["stage"] + 3)
        return min(math.sqrt(steps * self._weight_decay * self._progress["lr"]), 0.5)

    def _approach(self) -> None:
        """Go from y to x."""
        tau1, tau2 = self._progress["tau1"], self._tau2
        for y, z, snapshot in zip(self._parameters, self._of_state("z"), self._of_state("snapshot"), strict=True):
            y.mul_(1 - tau1 - tau2).add_(z, alpha=tau1).add_(snapshot, alpha=tau2)

    def _move(self, estimate: list[Tensor]) -> None:
        """Go from x to the next y, move z, and take y into the mean."""
        lr, decay = self._progress["lr"], self._weight_decay
        alpha = lr / self._progress["tau1"]
        self._progress["total"] += self._progress["weight"]
        share = self._progress["weight"] / self._progress["total"]
        self._progress["weight"] *= 1 + alpha * decay
        states = zip(self._parameters, estimate, self._of_state("z"), self._of_state("mean"), strict=True)
        for value, gradient, z, mean in states:
            z.sub_(gradient, alpha=alpha).div_(1 + alpha * decay)
            value.sub_(gradient, alpha=lr).div_(1 + lr * decay)
            mean.lerp_(value, share)
