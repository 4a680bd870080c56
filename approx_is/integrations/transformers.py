"""Transformers: a mixin for `Trainer` that draws its batches, weighs their losses, and keeps the sampler's state."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from approx_is.integrations.drawn_batches import DRAW_KEY, DrawnBatches, plain_loader
from approx_is.integrations.own_loss import OVERRIDE, find_shift, is_regression
from approx_is.integrations.sample_losses import sample_losses
from approx_is.sampler import ApproxSampler

__all__ = ["ApproxTrainerCallback", "ApproxTrainerMixin"]

logger = logging.getLogger(__name__)

STATE_FILE = "approx_is.pt"
if TYPE_CHECKING:
    _Trainer = Trainer
else:
    _Trainer = object  # mixed into whichever trainer the user has


class ApproxTrainerMixin(_Trainer):
    """Lets a `Trainer` train on what an `ApproxSampler` draws.

    .. code-block:: python

        class ImportanceTrainer(ApproxTrainerMixin, Trainer):
            def create_sampler(self, loader):
                return ApproxSampler(loader, predictor="lstm", k=0.5)

    The rest is as with any trainer: collators, workers, gradient accumulation, mixed precision, evaluation, several
    processes, `train(resume_from_checkpoint=...)`, which goes on bit by bit in the middle of an epoch too. The state of
    the sampler is saved as `approx_is.pt` in each checkpoint. Its metrics are logged with the training loss, as
    `approx_is_...`.

    Losses of samples are computed from the model's `logits` for sequence, image and token classification, single- or
    multi-label, for regression, and for causal and masked language models. The loss of a sequence is the mean over its
    labels that are not -100, see `approx_is.integrations.sample_losses`: sequences weigh the same, where the trainer
    alone weighs tokens the same. With the first batch the model is asked for its own loss, too: if that is made of
    something else than the labels, as with an auxiliary loss, training stops with an error. For such models override
    `sample_losses`; to observe something else than the losses, `importance`. What is logged as the training loss is
    weighted. Each call of `train` makes a sampler of its own.

    Attributes:
        sampler: that of the training under way, or the last one; None before the first.

    Raises:
        TypeError: there is no `Trainer` to mix into, after this class.
        ValueError: `compute_loss_func` is given, which returns the mean of a batch.
    """

    loss_is_scaled_for_ga: bool | None = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not isinstance(self, Trainer):
            raise TypeError(
                f"`{type(self).__name__}` must be a Trainer. "
                "Write class YourTrainer(ApproxTrainerMixin, Trainer), in this order."
            )
        super().__init__(*args, **kwargs)
        if self.compute_loss_func is not None:
            raise ValueError(
                "`compute_loss_func` must be None with ApproxTrainerMixin: it returns the loss of a batch, and those "
                "of the samples are needed. Override `sample_losses(model, outputs, labels)`."
            )
        self.model_accepts_loss_kwargs = False  # the loss is ours: divided by the micro-batches, not by tokens
        self.sampler: ApproxSampler | None = None
        self._resume_folder: Path | None = None
        self._train_loader: DataLoader[Any] | None = None
        self._is_shifted: bool | None = None  # not known before the first batch
        self._inputs: dict[str, Any] = {}  # those of the batch under way
        self.add_callback(ApproxTrainerCallback(self))

    def create_sampler(self, loader: DataLoader[Any]) -> ApproxSampler:
        """Return the sampler of a training; override it to choose predictor, k, labels and all else.

        Args:
            loader: of the training set, in batches of one process.
        """
        return ApproxSampler(loader)

    def sample_losses(self, model: nn.Module, outputs: Any, labels: Tensor) -> Tensor:
        """Return the loss of each sample, [B], attached to the graph; override it for a loss of your own.

        Args:
            model: the model, without what wraps it.
            outputs: what it returned.
            labels: the batch's; a tuple where `TrainingArguments.label_names` has several.

        Raises:
            TypeError: there are no logits and labels, or the model's own loss is not made of them alone.
        """
        logits = outputs.get("logits") if isinstance(outputs, dict) else None
        if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
            raise TypeError(f"`{type(model).__name__}` must return logits, and have a tensor of labels. {OVERRIDE}")
        options = {"is_regression": is_regression(model, logits, labels)}
        if self._is_shifted is None:
            self._is_shifted = find_shift(model, self._inputs, logits, labels, **options)
        smoothing = self.args.label_smoothing_factor
        return sample_losses(logits, labels, is_shifted=bool(self._is_shifted), label_smoothing=smoothing, **options)

    def importance(self, outputs: Any, labels: Tensor, losses: Tensor) -> Tensor:
        """Return what the sampler is to observe of each sample, [B]: the losses.

        For classification of samples with k = 1 override it to return `upper_bound(outputs.logits, labels)`.
        """
        return losses.detach()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the training set, in which a sampler draws.

        It is made of what the trainer would have: its data set, collator and workers. What the trainer's arguments say
        of the order of samples has no meaning here.

        Raises:
            ValueError: that loader does not fit, see `ApproxSampler`.
        """
        loader = super().get_train_dataloader()
        sampler = self.create_sampler(plain_loader(loader, drop_last=self.args.dataloader_drop_last))
        if not isinstance(sampler, ApproxSampler):
            raise TypeError(
                f"`create_sampler(loader)` must return an ApproxSampler; got {type(sampler).__name__}. "
                "Return ApproxSampler(loader, ...)."
            )
        batches = DrawnBatches(sampler)
        if self._resume_folder is not None:
            self._restore(batches, self._resume_folder)
        self._train_loader = batches.as_loader()
        return self._train_loader

    def num_examples(self, dataloader: DataLoader[Any]) -> int:
        """Return the number of samples behind a loader."""
        if isinstance(dataloader.dataset, DrawnBatches):
            return dataloader.dataset.sampler.num_samples
        return int(super().num_examples(dataloader))

    def train(
        self, resume_from_checkpoint: str | os.PathLike[str] | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Train; arguments and result as of `Trainer.train`."""
        if isinstance(resume_from_checkpoint, os.PathLike):
            resume_from_checkpoint = os.fspath(resume_from_checkpoint)
        folder = resume_from_checkpoint
        if folder is True:
            folder = _last_checkpoint(self.args.output_dir)
        self._resume_folder = Path(folder) if isinstance(folder, str) else None
        self._is_shifted = None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the weighted mean of the samples' losses, and tell the sampler; in evaluation, what the trainer would.

        Raises:
            ValueError: the batch has no labels, or came from elsewhere; or losses are not one a sample.
        """
        draw = inputs.pop(DRAW_KEY, None)
        if draw is None:
            if model.training:
                raise ValueError(_NOT_OURS)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inner = _innermost(self.accelerator.unwrap_model(model))
        without_labels = dict(inputs)
        labels = _pop_labels(without_labels, self.label_names)
        outputs = model(**(inputs if _is_encoder_decoder(inner) else without_labels))  # what a decoder reads are labels
        self._inputs = inputs
        try:
            losses = self.sample_losses(inner, outputs, labels)
        finally:
            self._inputs = {}
        loss = draw.weighted_mean(losses)
        assert self.sampler is not None
        self.sampler.update(draw, self.importance(outputs, labels, losses))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and with the training loss the sampler's metrics that are known by now."""
        if self.sampler is not None and "loss" in logs:
            metrics = self.sampler.metrics()
            logs |= {f"approx_is_{name}": value for name, value in metrics.items() if math.isfinite(value)}
        super().log(logs, *args, **kwargs)

    def _restore(self, batches: DrawnBatches, folder: Path) -> None:
        sampler = batches.sampler
        file = folder / _state_file(sampler)
        if not file.is_file():
            logger.warning("%s is not there: the sampler has forgotten what was trained before.", file)
            return
        sampler.load_state_dict(torch.load(file, weights_only=True))
        done = 0 if sampler.num_taken == len(sampler) else sampler.num_taken
        skipped = self._num_skipped(len(sampler), folder)
        if done != skipped and not self.args.ignore_data_skip:
            logger.warning(
                "%s is of %d batches into an epoch, and the trainer goes on after %d: was it another batch size or "
                "accumulation? The sampler keeps what it learned, and begins an epoch.",
                *(file, done, skipped),
            )
        if done != skipped or done == 0:
            sampler.begin_epoch()
        batches.num_skipped = skipped

    def _num_skipped(self, num_batches: int, folder: Path) -> int:
        """Return how many batches of an epoch the trainer will skip, as it computes it."""
        if self.args.ignore_data_skip:
            return 0
        step = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME)).global_step
        accumulated = self.args.gradient_accumulation_steps
        return int(step % max(1, math.ceil(num_batches / accumulated))) * accumulated


class ApproxTrainerCallback(TrainerCallback):
    """Saves the sampler's state in each checkpoint of a trainer; `ApproxTrainerMixin` brings it along.

    Args:
        trainer: the trainer.
    """

    def __init__(self, trainer: ApproxTrainerMixin) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the sampler of this training, and check that the trainer trains on what it was given.

        Raises:
            ValueError: the loader was prepared again, or another one took its place.
        """
        loader = self._trainer._train_loader
        batches = None if loader is None else loader.dataset
        if kwargs.get("train_dataloader") is not loader or not isinstance(batches, DrawnBatches):
            raise ValueError(_NOT_OURS)
        self._trainer.sampler = batches.sampler

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the state beside the trainer's, one file, or one of each process that has samples of its own."""
        sampler = self._trainer.sampler
        folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if sampler is None or not (args.should_save or sampler.is_sharded):
            return
        if not folder.is_dir():  # a search for hyperparameters has folders of its own
            logger.warning("%s is not there: the sampler's state is not saved.", folder)
            return
        torch.save(sampler.state_dict(), folder / _state_file(sampler))


_NOT_OURS = (
    "`get_train_dataloader` must return what ApproxTrainerMixin makes, as it is; this loader was prepared again, or "
    "another one took its place. Override `create_sampler`, and do not call accelerator.prepare on the loader."
)


def _last_checkpoint(folder: str | None) -> str | None:
    find: Callable[[str | None], str | None] = get_last_checkpoint  # which has no types
    return find(folder)


def _pop_labels(inputs: dict[str, Any], names: list[str]) -> Any:
    found = [inputs.pop(name) for name in names if inputs.get(name) is not None]
    if not found:
        raise ValueError(
            f"`inputs` must have labels, named one of {names}; got {sorted(inputs)}. Let the collator return them; "
            "if they are named otherwise, say so by TrainingArguments(label_names=[...])."
        )
    return found[0] if len(found) == 1 else tuple(found)


def _innermost(model: nn.Module) -> nn.Module:
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    unwrap = getattr(model, "get_base_model", None)  # of an adapter
    base: nn.Module = model if unwrap is None else unwrap()
    return base


def _is_encoder_decoder(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _state_file(sampler: ApproxSampler) -> str:
    path = Path(STATE_FILE)
    return f"{path.stem}-{sampler.rank}{path.suffix}" if sampler.is_sharded else path.name
