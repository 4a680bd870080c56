"""Adam with clipped gradients that does not wait for an accelerator."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

__all__ = ["ClippedAdam"]


class ClippedAdam:
    """Adam that clips the norm of all gradients together, and takes no step if it is not finite.

    Both without reading a value: the fused Adam divides gradients by a scale and skips a step on request, which is
    there for mixed precision. Its function is called as it is: to call it by way of `torch.optim.Adam` takes longer.

    Args:
        parameters: float32, of one device.
        learning_rate: of Adam; its other settings are torch's defaults.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self._learning_rate = learning_rate
        self._averages = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._square_averages = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self.parameters]

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def clipped_step(self, largest_norm: float) -> None:
        """Take a step along gradients clipped to that norm."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        norm = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))
        adam(
            list[Tensor](self.parameters),
            gradients,
            self._averages,
            self._square_averages,
            [],
            self._steps,
            fused=True,
            grad_scale=(norm / largest_norm).clamp(min=1.0),
            found_inf=(~norm.isfinite()).to(torch.float32),
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def state(self) -> list[dict[str, Tensor]]:
        """Return the state of each parameter, not copied."""
        rows = zip(self._steps, self._averages, self._square_averages, strict=True)
        return [{"step": step, "exp_avg": average, "exp_avg_sq": square} for step, average, square in rows]
