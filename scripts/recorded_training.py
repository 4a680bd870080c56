"""Training with a sampler that draws, and a record of what happened to each sample on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from approx_is import ImportanceSampler, LossHistory, upper_bound
from configuration import PRESAMPLING, Config
from evaluation import logits_in_parts
from models import initial_network
from optimization import build_optimizer
from tasks import Task


class RecordedTraining:
    """One network trained with minibatches that a sampler draws, and how often each sample was among them.

    The loop is that of the README. What is remembered of a sample are its last losses and its last upper bounds, both,
    whichever of the two the sampler observes: the same values that the sampler's own history holds.

    Args:
        config: what to run, on one device and with a constant learning rate; there is no gate.
        task: the data of `config.dataset`.

    Raises:
        ValueError: the network or the predictor does not fit, or training ends within the first epoch.

    Attributes:
        draws: how often each sample was drawn since the first epoch, which visits each once, int64 [N].
        losses: of each sample, when it was drawn: the last of them, in nats.
        norms: the same of the upper bounds.
    """

    def __init__(self, config: Config, task: Task) -> None:
        num_samples, num_classes = len(task.train), len(task.class_names)
        self.config = config
        self.task = task
        self.steps_per_epoch = math.ceil(num_samples / config.batch_size)
        if config.predictor in PRESAMPLING:
            raise ValueError(f"`--predictor` must draw from all samples; got {config.predictor}, which has candidates.")
        if config.steps <= self.steps_per_epoch:
            least = self.steps_per_epoch + 1
            raise ValueError(f"`--steps` must be at least {least}, more than the first epoch; got {config.steps}.")
        self.device = torch.device(config.device)
        self.model = initial_network(task, config.model, seed=config.seed, device=self.device)
        self.optimizer = build_optimizer(config, self.model)
        self.sampler = ImportanceSampler(
            num_samples,
            config.batch_size,
            predictor=config.predictor,
            k=config.k,
            labels=task.train.targets,
            num_classes=num_classes,
            smoothing=config.smoothing,
            gate=None,
            refresh=config.refresh,
            update_every=config.update_every,
            seed=config.seed,
            predictor_options=config.predictor_options,
        )
        self.draws = torch.zeros(num_samples, dtype=torch.int64)
        self.losses, self.norms = LossHistory(num_samples), LossHistory(num_samples)
        self.step = 0

    def steps(self) -> Iterator[int]:
        """Train to the end; yield the number of each step when it is done."""
        while self.step < self.config.steps:
            draw = self.sampler.draw()
            inputs, targets = self.task.train.__getitems__(draw.indices.tolist())
            logits = self.model(inputs.to(self.device))
            losses = F.cross_entropy(logits, targets.to(self.device), reduction="none")
            self.optimizer.zero_grad()
            draw.to(self.device).weighted_mean(losses).backward()
            self.optimizer.step()
            losses, norms = losses.detach().cpu(), upper_bound(logits, targets.to(self.device)).cpu()
            self.sampler.update(draw, losses if self.config.observe == "loss" else norms)
            self._record(draw.indices, losses, norms)
            yield self.step

    def probabilities(self) -> Tensor:
        """Return the probability of each class for each training sample now, float32 [N, C], in eval mode."""
        parts = [logits.softmax(1) for logits, _ in logits_in_parts(self.model, self.task.train, self.device)]
        return torch.cat(parts)

    def _record(self, indices: Tensor, losses: Tensor, norms: Tensor) -> None:
        if self.step >= self.steps_per_epoch:
            self.draws += indices.bincount(minlength=len(self.draws))
        self.step += 1
        self.losses.append(indices, losses, self.step)
        self.norms.append(indices, norms, self.step)
