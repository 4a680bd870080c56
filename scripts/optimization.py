"""Optimizers by name, and how their learning rate falls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

__all__ = ["Schedule", "build_optimizer"]

MOMENTUM = 0.9


def build_optimizer(name: str, model: nn.Module, lr: float) -> Optimizer:
    """Return the optimizer of that name, see `Config`."""
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM)
    return torch.optim.Adam(model.parameters(), lr=lr)


@dataclass(frozen=True)
class Schedule:
    """The factor of the learning rate at a step.

    Attributes:
        name: `constant`, 1; `step`, 1 for half of all steps, then 1/10, for the last quarter 1/100; or `linear`,
            falling in a straight line, to 0 after the last step.
        steps: all steps.
    """

    name: str
    steps: int

    def __call__(self, step: int) -> float:
        """Return the factor at a step, counted from 0."""
        if self.name == "step":
            return 0.1 ** sum(step >= share * self.steps for share in (0.5, 0.75))
        return max(0.0, 1 - step / self.steps) if self.name == "linear" else 1.0
