"""Lightning: a callback that feeds the trainer, and tells the sampler what was observed of each batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from approx_is.draw import Draw
from approx_is.sampler import ApproxSampler

__all__ = ["ApproxCallback", "SampledBatches"]

OBSERVED = "per_sample_loss"
"""What `training_step` returns beside the loss."""

REMEDY = "Build it with Trainer(callbacks=[callback]), and train with trainer.fit(module, callback.batches)."


class ApproxCallback(Callback):
    """Trains a `LightningModule` on batches that an `ApproxSampler` draws.

    Hand the callback to the trainer, and its `batches` to `fit`. They are pairs of a batch and its draw, and
    `training_step` returns the losses of the samples, or what else is to be observed of them, beside their weighted
    mean:

    .. code-block:: python

        def training_step(self, batch, batch_idx):
            (x, y), draw = batch
            losses = F.cross_entropy(self(x), y, reduction="none")
            return {"loss": draw.weighted_mean(losses), "per_sample_loss": losses.detach()}

        approx = ApproxCallback(ApproxSampler(loader, predictor="lstm", k=0.5))
        trainer = Trainer(callbacks=[approx])
        trainer.fit(module, approx.batches)

    The sampler's state is part of the trainer's checkpoints, in the middle of an epoch too, and `fit(ckpt_path=...)`
    goes on bit by bit. Its metrics are logged after each epoch, as `approx_is/...`. Gradient accumulation, mixed
    precision, `limit_train_batches` and validation within epochs need nothing else. A step skipped by returning None
    is not learned from. `overfit_batches` has no meaning here, and `shard=True` is refused, since a trainer keeps the
    state of its first process only. Callbacks of your own that save in `on_train_batch_end` come after this one.

    Args:
        sampler: the sampler, or a function that returns it. With several processes it must be a function, which is
            called once these know of one another; its loader has the batch size of one process.

    Attributes:
        batches: what `Trainer.fit` trains on.
    """

    def __init__(self, sampler: ApproxSampler | Callable[[], ApproxSampler]) -> None:
        self._make_sampler = sampler
        self.batches = SampledBatches(sampler if isinstance(sampler, ApproxSampler) else None)
        if not isinstance(sampler, ApproxSampler) and not callable(sampler):
            raise TypeError(
                f"`ApproxCallback(sampler)` must be an ApproxSampler or a function that returns one; got "
                f"{type(sampler).__name__}. Wrap the loader: ApproxSampler(loader, ...)."
            )

    @property
    def sampler(self) -> ApproxSampler:
        """The sampler.

        Raises:
            RuntimeError: it is to be made by a function, and no training has begun.
        """
        return self.batches.sampler

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the sampler, now that processes know of one another.

        Raises:
            TypeError: the function returned something else.
            ValueError: there are several processes, and the sampler was made before they knew; or it is sharded.
        """
        if stage != "fit":
            return
        self.batches.has_callback = True
        if isinstance(self._make_sampler, ApproxSampler):
            if trainer.world_size > 1:
                raise ValueError(
                    f"`ApproxCallback(sampler)` must be a function if {trainer.world_size} processes train: what is "
                    "made before they know of one another takes itself for alone. "
                    "Pass lambda: ApproxSampler(loader, ...)."
                )
        elif not self.batches.is_ready:
            self.batches.fill(self._make_sampler())
        if self.sampler.is_sharded:
            raise ValueError(
                "`ApproxSampler(shard=...)` must be False with Lightning, whose checkpoints hold the state of the "
                "first process only. Leave it out; history_dtype=torch.float16 and history_path save memory, too."
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the trainer."""
        self.batches.has_callback = False
        self.batches.num_batches = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check what the trainer was handed.

        Raises:
            ValueError: it trains on something else than `batches`.
        """
        if trainer.train_dataloader is not self.batches:
            raise ValueError(
                f"`Trainer.fit` must train on the callback's `batches`; got {type(trainer.train_dataloader).__name__}. "
                "Call trainer.fit(module, callback.batches)."
            )
        self.batches.num_batches = int(trainer.num_training_batches)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin an epoch; not called for the rest of one."""
        self.sampler.begin_epoch()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell the sampler what was observed.

        Raises:
            TypeError: the batch came without its draw, or `training_step` returned a scalar.
            ValueError: what `training_step` returned has no `per_sample_loss`, or not one value a sample.
        """
        draw = batch[-1] if isinstance(batch, tuple | list) and len(batch) == 2 else None
        if not isinstance(draw, Draw):
            raise TypeError(
                f"`{type(pl_module).__name__}` must leave batches as pairs of batch and draw; got "
                f"{type(batch).__name__}. Change the first only, in `transfer_batch_to_device` too."
            )
        is_empty = outputs is None or (isinstance(outputs, Mapping) and not outputs)
        if is_empty and pl_module.automatic_optimization:
            return  # a step that was skipped
        if not isinstance(outputs, Mapping) or OBSERVED not in outputs:
            found = list(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise ValueError(
                f"`{type(pl_module).__name__}.training_step` must return the loss of each sample as "
                f'{OBSERVED!r}; got {found}. Compute losses with reduction="none", and return '
                f'{{"loss": draw.weighted_mean(losses), "{OBSERVED}": losses.detach()}}.'
            )
        self.sampler.update(draw, outputs[OBSERVED])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the sampler's metrics that are known by now."""
        metrics = self.sampler.metrics()
        pl_module.log_dict({f"approx_is/{name}": value for name, value in metrics.items() if math.isfinite(value)})

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state, for the trainer's checkpoint."""
        return self.sampler.state_dict() if self.batches.is_ready else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the sampler's state from a checkpoint, if training is to go on.

        Raises:
            ValueError: it is of another sampler.
        """
        if self.batches.has_callback and state_dict:
            self.sampler.load_state_dict(state_dict)


class SampledBatches:
    """What a trainer iterates: a sampler's pairs of batch and draw.

    No `DataLoader`, so that the trainer takes it as it is, with one process or several.

    Args:
        sampler: None if it is not made yet.

    Attributes:
        has_callback: whether the trainer that asks has the callback, too.
        num_batches: how many of them the trainer takes for an epoch; None for all.
    """

    def __init__(self, sampler: ApproxSampler | None) -> None:
        self._sampler = sampler
        self.has_callback = False
        self.num_batches: int | None = None

    @property
    def is_ready(self) -> bool:
        """Whether there is a sampler."""
        return self._sampler is not None

    @property
    def sampler(self) -> ApproxSampler:
        """The sampler, whose `set_epoch` the trainer calls.

        Raises:
            RuntimeError: it is not made yet.
        """
        if self._sampler is None:
            raise RuntimeError(f"The sampler of `ApproxCallback` is made when training begins. {REMEDY}")
        return self._sampler

    def fill(self, sampler: ApproxSampler) -> None:
        """Set the sampler.

        Raises:
            TypeError: it is none.
        """
        if not isinstance(sampler, ApproxSampler):
            raise TypeError(
                f"`ApproxCallback(sampler)` must be a function that returns an ApproxSampler; it returned "
                f"{type(sampler).__name__}."
            )
        self._sampler = sampler

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Any, Draw]]:
        """Iterate an epoch, or the rest of one.

        Raises:
            RuntimeError: the trainer does not have the callback.
        """
        if not self.has_callback:
            raise RuntimeError(f"The trainer has no `ApproxCallback`, so nothing would be learned. {REMEDY}")
        return self._epoch()

    def _epoch(self) -> Iterator[tuple[Any, Draw]]:
        if self.sampler.num_taken >= (len(self) if self.num_batches is None else self.num_batches):
            self.sampler.begin_epoch()  # a checkpoint of the last batch: the trainer goes on with the next epoch
        yield from self.sampler

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the state is the callback's. That there is one tells the trainer that it can go on."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Do nothing: the state is the callback's."""
