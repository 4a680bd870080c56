"""Optimizers by name, and how their learning rate falls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from configuration import Config

__all__ = ["Schedule", "build_optimizer"]

MOMENTUM = 0.9


def build_optimizer(config: Config, model: nn.Module) -> Optimizer:
    """Return the optimizer of a run."""
    parameters, options = model.parameters(), {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=MOMENTUM, **options)
    return torch.optim.Adam(parameters, decoupled_weight_decay=True, **options)


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
