"""What overheads are measured beside: networks, random samples for them, and the training steps of a user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from approx_is import Draw, upper_bound
from language_model import LanguageModel
from models import TITLES, build_model
from resnet import resnet_18

NUM_CLASSES = 10
VOCABULARY, SEQUENCE_LENGTH = 1_000, 35

Batch = list[Tensor]
Samples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """A network and what it is trained on.

    Attributes:
        title: for tables and figures.
        build: returns the network.
        samples: returns inputs and targets of that many samples.
        cuda_only: whether it is too dear for a CPU.
    """

    title: str
    build: Callable[[], nn.Module]
    samples: Callable[[int], Samples]
    cuda_only: bool = False


class Workload:
    """One network in training: its loader, the step that users take today, and the one that they would take instead.

    Samples are random and in memory, in a `TensorDataset` without workers. On CUDA steps are in bfloat16 by autocast.

    Args:
        name: one of `RECIPES`.
        num_samples: N.
        batch_size: B.
        device: where the network trains.
    """

    def __init__(self, name: str, *, num_samples: int, batch_size: int, device: torch.device) -> None:
        torch.manual_seed(0)
        recipe = RECIPES[name]
        self.device = device
        self.model = recipe.build().to(device)
        self._optimizer = torch.optim.Adam(self.model.parameters())
        inputs, targets = recipe.samples(num_samples)
        self.labels = targets if targets.ndim == 1 else None
        self.loader = DataLoader(TensorDataset(inputs, targets), batch_size, shuffle=True, drop_last=True)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the network's logits, float32 [B, C], or [B, T, C] for sequences."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            logits: Tensor = self.model(inputs)
        return logits.float()

    def to_device(self, batch: Batch) -> Samples:
        """Return a batch's inputs and targets where the network is."""
        inputs, targets = (part.to(self.device, non_blocking=True) for part in batch)
        return inputs, targets

    def uniform_step(self, batch: Batch) -> None:
        """Take the step of a plain loop, with the mean loss."""
        inputs, targets = self.to_device(batch)
        self._descend(mean_loss(self.outputs(inputs), targets))

    def weighted_step(self, batch: Batch, draw: Draw) -> Tensor:
        """Take the step of a loop with a sampler; return the losses, [B]."""
        inputs, targets = self.to_device(batch)
        losses = sample_losses(self.outputs(inputs), targets)
        self._descend(draw.weighted_mean(losses))
        return losses

    def upper_bounds(self, model: nn.Module, batch: Batch) -> Tensor:
        """Score a batch of candidates by the upper bounds of their gradients' norms, [B]."""
        inputs, targets = self.to_device(batch)
        return upper_bound(self.outputs(inputs).movedim(-1, 1), targets)

    def _descend(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy of logits [B, C] and targets [B], or [B, T, C] and [B, T], a scalar."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def sample_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy of each sample, [B]; arguments as of `mean_loss`."""
    losses = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none")
    return losses if targets.ndim == 1 else losses.view(targets.shape).mean(1)


def _network(name: str) -> Recipe:
    shape = (1, 28, 28)
    return Recipe(TITLES[name], lambda: build_model(name, shape, NUM_CLASSES), lambda count: _images(count, shape))


def _images(count: int, shape: tuple[int, ...]) -> Samples:
    return torch.rand(count, *shape), torch.randint(NUM_CLASSES, (count,))


def _sequences(count: int) -> Samples:
    tokens = torch.randint(VOCABULARY, (count, SEQUENCE_LENGTH + 1))
    return tokens[:, :-1], tokens[:, 1:]


RECIPES = {
    **{name: _network(name) for name in ("paper", "small-cnn", "mlp")},
    "lstm-lm": Recipe("LSTM language model", lambda: LanguageModel(VOCABULARY), _sequences),
    "resnet-18": Recipe(
        f"{TITLES['resnet-18']} for 32 by 32 pixels",
        lambda: resnet_18(3, NUM_CLASSES),
        lambda count: _images(count, (3, 32, 32)),
        cuda_only=True,
    ),
}
"""By the name that `--models` takes."""
