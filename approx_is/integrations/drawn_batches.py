"""A sampler's batches as a loader that a `Trainer` takes as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from approx_is.loader import fetching
from approx_is.sampler import ApproxSampler

__all__ = ["DRAW_KEY", "DrawnBatches", "plain_loader"]

DRAW_KEY = "approx_is_draw"
"""What the draw is called among a batch's inputs."""


class DrawnBatches(IterableDataset[Any]):
    """A sampler's batches, each with its draw, as one stream: a loader of it hands them on as they are.

    The trainer resumes by skipping the batches that it has done, and what it skips is not drawn again: there are
    placeholders for it.

    Attributes:
        sampler: draws them.
        num_skipped: placeholders to hand out before the next batch.
    """

    def __init__(self, sampler: ApproxSampler) -> None:
        self.sampler = sampler
        self.num_skipped = 0

    def as_loader(self) -> DataLoader[Any]:
        """Return a loader of the stream, which takes nothing from torch's global generator."""
        return DataLoader(self, batch_size=None, collate_fn=_keep, generator=torch.Generator())

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over placeholders, and the rest of the epoch.

        Raises:
            TypeError: the collator returns something else than a dict.
        """
        for _ in range(self.num_skipped):
            yield {}
        self.num_skipped = 0
        for batch, draw in self.sampler:
            if not isinstance(batch, dict) and not hasattr(batch, "keys"):
                raise TypeError(
                    f"`data_collator` must return a dict of model inputs; got {type(batch).__name__}. "
                    "Use transformers.default_data_collator."
                )
            batch[DRAW_KEY] = draw
            yield batch


def plain_loader(loader: DataLoader[Any], *, drop_last: bool) -> DataLoader[Any]:
    """Return a loader with the settings of one that Accelerate prepared, with all samples in each process.

    Args:
        loader: the prepared one.
        drop_last: whether to leave out a last batch smaller than the others.

    Raises:
        ValueError: its batches are not of one size, or are divided among processes.
    """
    if getattr(loader.batch_sampler, "split_batches", False) and getattr(loader.batch_sampler, "num_processes", 1) > 1:
        raise ValueError(
            "`split_batches` must be False: batches are those of one process, per_device_train_batch_size samples. "
            "Leave it out of accelerator_config."
        )
    batch_size = getattr(loader.batch_sampler, "batch_size", None)
    if batch_size is None:
        raise ValueError(
            f"`get_train_dataloader` must have batches of one size; got a {type(loader.batch_sampler).__name__}. "
            "Leave `train_sampling_strategy` and the like as they are by default."
        )
    return DataLoader(
        loader.dataset,
        batch_size=batch_size,
        shuffle=not isinstance(loader.dataset, IterableDataset),  # which the sampler refuses in words of its own
        drop_last=drop_last,
        collate_fn=loader.collate_fn,
        **fetching(loader),
    )


def _keep(batch: Any) -> Any:
    return batch
