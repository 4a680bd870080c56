"""The data that the examples train on, all of it in this repository or in scikit-learn."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

sys.path.append(str(Path(__file__).parent.parent / "scripts"))

from tasks import load_task


def shuttle() -> tuple[TensorDataset, TensorDataset]:
    """Return 43,500 training and 14,500 test samples of Shuttle: 9 features and one of 7 classes, most of them rare."""
    task = load_task("shuttle")
    return TensorDataset(task.train.inputs, task.train.targets), TensorDataset(task.test.inputs, task.test.targets)


def network() -> nn.Sequential:
    """Return a network for Shuttle, its weights the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 7))


@torch.no_grad()
def error(model: nn.Module, dataset: TensorDataset) -> float:
    """Return the share of samples that are classified wrongly."""
    device = next(model.parameters()).device
    inputs, targets = (tensor.to(device) for tensor in dataset.tensors)
    return (model(inputs).argmax(1) != targets).double().mean().item()
