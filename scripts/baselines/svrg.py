"""SVRG: the gradient of a batch, corrected by its difference from the full gradient at a snapshot.

Reference: Johnson, Zhang: Accelerating stochastic gradient descent using predictive variance reduction. NIPS 2013.
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

__all__ = ["SVRG"]


class SVRG(VarianceReduced):
    r"""Stochastic variance reduced gradient, on minibatches.

    .. math:: w_t = w_{t-1} - \eta (\nabla f_b(w_{t-1}) - \nabla f_b(\tilde w) + \nabla f(\tilde w))

    A stage takes the snapshot where the last one ended (option I, as in practice; the paper's theorem is of option II,
    a random iterate). It costs N gradients, and each of its m steps 2 B. As the iterates and the snapshot near the
    optimum the variance vanishes, so a constant step size converges linearly where f is strongly convex (theorem 1,
    with η < 1 / (4 L) and m large enough). Where f is not convex the paper starts from where SGD has led.

    Reference: Johnson & Zhang (2013), procedure SVRG (figure 1).

    Args:
        model: the network.
        loss: returns the mean loss of a batch, of outputs and targets.
        samples: all samples.
        lr: step size η; the paper's theory asks for about 0.1 / L.
        weight_decay: of a ridge, see `VarianceReduced`.
        inner_steps: steps m of a stage; by default ⌈5 N / B⌉, the paper's 5 N gradients for non-convex problems. It
            uses 2 N for convex ones.
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
        chunk: int = 1024,
    ) -> None:
        check(
            inner_steps is None or inner_steps >= 1,
            "SVRG(inner_steps=...)",
            "at least 1",
            inner_steps,
            "Leave it out for 5 N / B.",
        )
        super().__init__(model, loss, samples, lr=lr, weight_decay=weight_decay, chunk=chunk)
        self._inner_steps = inner_steps

    def _begin_stage(self, batch_size: int) -> int:
        self._take_snapshot(torch.arange(len(self._samples)))
        return self._inner_steps or math.ceil(5 * len(self._samples) / batch_size)
