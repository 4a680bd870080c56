"""Small problems with known answers, which the baselines are run on."""

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"


class InMemory:
    """Samples as `scripts/samples.py` has them; notes which were fetched."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets, self.fetched = inputs, targets, []

    def __len__(self):
        return len(self.targets)

    def __getitems__(self, indices):
        positions = torch.as_tensor(indices)
        self.fetched.append(positions)
        return self.inputs[positions], self.targets[positions]


class Linear(nn.Module):
    """A linear function w·x, and σ/2 ‖w‖² as a second output."""

    def __init__(self, features, ridge=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, dtype=torch.float64))
        self.ridge = ridge

    def forward(self, inputs):
        return inputs @ self.weight, self.ridge / 2 * self.weight.square().sum()


def half_square(outputs, targets):
    predicted, penalty = outputs
    return (predicted - targets).square().mean() / 2 + penalty


class LeastSquares:
    """Noisy linear regression with a ridge: f(w) = mean (x·w - y)² / 2 + σ/2 ‖w‖².

    Attributes:
        smoothness: the largest L of a sample's gradient, without the ridge.
        optimum: where f is least.
    """

    def __init__(self, num_samples, scales, *, ridge=0.0, noise=1.0, seed=0):
        generator = torch.Generator().manual_seed(seed)
        scales = torch.tensor(scales, dtype=torch.float64)
        inputs = torch.randn(num_samples, len(scales), generator=generator, dtype=torch.float64)
        inputs = nn.functional.normalize(inputs, dim=1) * scales
        errors = torch.randn(num_samples, generator=generator, dtype=torch.float64)
        self.samples = InMemory(inputs, inputs @ (1 / scales) + noise * errors)
        self.ridge, self.loss = ridge, half_square
        self.smoothness = inputs.square().sum(1).max().item()
        self._hessian = inputs.T @ inputs / num_samples + ridge * torch.eye(len(scales), dtype=torch.float64)
        self.optimum = torch.linalg.solve(self._hessian, inputs.T @ self.samples.targets / num_samples)

    def model(self, *, ridge=True):
        return Linear(len(self.optimum), self.ridge if ridge else 0.0)

    def gradient(self, weight, rows=slice(None)):
        inputs, targets = self.samples.inputs[rows], self.samples.targets[rows]
        return inputs.T @ (inputs @ weight - targets) / len(targets) + self.ridge * weight

    def excess(self, weight):
        """Return f - f*, exactly."""
        away = weight.detach() - self.optimum
        return (away @ self._hessian @ away / 2).item()

    def batches(self, count, batch_size=1, seed=0):
        generator = torch.Generator().manual_seed(seed)
        for rows in torch.randint(len(self.samples), (count, batch_size), generator=generator):
            yield self.samples.inputs[rows], self.samples.targets[rows]


@pytest.fixture
def baselines(monkeypatch):
    """Import a module of `scripts/baselines` by name."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return lambda name: importlib.import_module(f"baselines.{name}")


@pytest.fixture
def least_squares():
    return LeastSquares


@pytest.fixture
def in_memory():
    return InMemory
