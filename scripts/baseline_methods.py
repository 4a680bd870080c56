"""The methods of `baselines`, built for a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from baselines.infobatch import InfoBatch
from baselines.katyusha import Katyusha
from baselines.protocol import BatchChooser
from baselines.rs2 import RS2
from baselines.scsg import SCSG
from baselines.selective_backprop import SelectiveBackprop
from baselines.svrg import SVRG
from baselines.variance_reduction import VarianceReduced
from configuration import CHOOSERS, GRADIENT_METHODS, Config
from evaluation import in_eval_mode
from samples import InMemoryDataset, Task, keep_batch

__all__ = ["ChosenBatch", "ChosenBatches", "build_chooser", "build_gradient_method"]


@dataclass(frozen=True, eq=False)
class ChosenBatch:
    """Samples that a chooser chose.

    Attributes:
        indices: of the samples, int64 [B].
        weights: of their losses, float32 [B], both on the CPU.
    """

    indices: Tensor
    weights: Tensor

    def weighted_mean(self, losses: Tensor) -> Tensor:
        """Return the weighted mean of the losses [B], a scalar."""
        return (self.weights.to(losses.device) * losses).mean()


class ChosenBatches:
    """Iterates the batches of a chooser, one epoch each time, fetched by a loader as those of plain epochs are.

    Args:
        chooser: of the samples.
        samples: to fetch, a batch at a time.
    """

    def __init__(self, chooser: BatchChooser, samples: InMemoryDataset) -> None:
        self._chooser = chooser
        self._chosen: deque[ChosenBatch] = deque()
        self._loader: DataLoader[Any] = DataLoader(
            samples,
            batch_sampler=_Requests(self),
            collate_fn=keep_batch,
            generator=torch.Generator(),  # each iteration draws from it, which is not to be dropout's
        )

    def __iter__(self) -> Iterator[tuple[Any, ChosenBatch]]:
        """Iterate over the rest of an epoch: batches, and how each was chosen."""
        for batch in self._loader:
            yield batch, self._chosen.popleft()

    def requests(self) -> Iterator[list[int]]:
        """Iterate over the indices of each batch, and note how it was chosen."""
        for indices, weights in self._chooser.epoch():
            self._chosen.append(ChosenBatch(indices, weights))
            yield indices.tolist()


class _Requests(Sampler[list[int]]):
    def __init__(self, batches: ChosenBatches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return self._batches.requests()


def build_chooser(
    config: Config, task: Task, model: nn.Module, device: torch.device, progress: Callable[[], float]
) -> BatchChooser | None:
    """Return what chooses the samples of a run, or None where `approx_is` does or nobody.

    Args:
        config: of the run.
        task: its data.
        model: that is trained.
        device: where it is.
        progress: returns the share of the training that is done.

    Raises:
        ValueError: an option is out of its bounds.
        TypeError: there is no such option.
    """
    if config.predictor not in CHOOSERS:
        return None
    sizes, options = (len(task.train), config.batch_size), {"seed": config.seed, **config.predictor_options}
    if config.predictor == "rs2":
        return RS2(*sizes, **options)
    if config.predictor == "infobatch":
        return InfoBatch(*sizes, progress=progress, **options)

    @torch.no_grad()
    def score(indices: Tensor) -> Tensor:
        inputs, targets = task.train.__getitems__(indices)
        with in_eval_mode(model):
            return F.cross_entropy(model(inputs.to(device)), targets.to(device), reduction="none")

    return SelectiveBackprop(*sizes, score=score, **options)


def build_gradient_method(config: Config, task: Task, model: nn.Module) -> VarianceReduced | None:
    """Return what steps along a gradient of its own, or None where an optimizer of torch steps.

    Args:
        config: of the run; its learning rate is the step size, its weight decay that of a ridge.
        task: its data.
        model: to train.

    Raises:
        ValueError: an option is out of its bounds.
        TypeError: there is no such option.
    """
    if config.predictor not in GRADIENT_METHODS:
        return None
    classes = {"svrg": SVRG, "katyusha": Katyusha, "scsg": SCSG}
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.predictor == "scsg":
        options["seed"] = config.seed
    return classes[config.predictor](model, F.cross_entropy, task.train, **options, **config.predictor_options)
