"""Adam with clipped gradients that does not wait for an accelerator."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["ClippedAdam"]


class ClippedAdam(torch.optim.Adam):
    """Adam that clips the norm of all gradients together, and takes no step if it is not finite.

    Both without reading a value: the fused Adam divides gradients by a scale and skips a step on request, which is
    there for mixed precision.
    """

    grad_scale: Tensor
    found_inf: Tensor

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        super().__init__(parameters, lr=learning_rate, fused=True)
        # as Adam would at its first step: the state has one shape always
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def clipped_step(self, largest_norm: float) -> None:
        """Take a step along gradients clipped to that norm."""
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in self.param_groups[0]["params"]]))
        self.grad_scale = (norm / largest_norm).clamp(min=1.0)
        self.found_inf = (~norm.isfinite()).to(torch.float32)
        self.step()
