"""The user's DataLoader, rebuilt so that each batch comes with the number of its draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

__all__ = ["BatchRequest", "check_loader", "fetching", "rebuild_loader"]


class BatchRequest(NamedTuple):
    """What a worker is asked for: the samples of a draw.

    Attributes:
        serial: number of the draw; it comes back with the batch, whichever order workers finish in.
        indices: positions in the data set.
    """

    serial: int
    indices: list[int]


def check_loader(loader: DataLoader[Any]) -> tuple[int, int]:
    """Return the number of samples behind a loader and its batch size, or raise if its batches are not ours to choose.

    Raises:
        TypeError: it is not a `DataLoader`.
        ValueError: its data set cannot be indexed or has no length or no samples, it does not batch, or it has a
            sampler of its own.
    """
    if not isinstance(loader, DataLoader):
        raise TypeError(f"`ApproxSampler(loader)` must be a torch.utils.data.DataLoader; got {type(loader).__name__}.")
    if isinstance(loader.dataset, IterableDataset):
        raise ValueError(
            "`ApproxSampler(loader)` draws samples by index; an IterableDataset has none. Use a map-style data set."
        )
    if type(loader).__module__.startswith("accelerate."):
        raise ValueError(
            f"`ApproxSampler(loader)` must be the loader as it was built; got a {type(loader).__name__}, which "
            "Accelerate prepared. Call accelerator.prepare on model and optimizer only."
        )
    if loader.batch_size is None:
        raise ValueError(
            "`ApproxSampler(loader)` makes the batches itself; got a loader with batch_size=None or a batch_sampler. "
            "Build it with DataLoader(dataset, batch_size=...)."
        )
    if not isinstance(loader.sampler, RandomSampler | SequentialSampler):
        raise ValueError(
            f"`ApproxSampler(loader)` chooses the samples itself; got a loader with a {type(loader.sampler).__name__}. "
            "Build it without a sampler; wrap the data set in torch.utils.data.Subset to leave samples out."
        )
    try:
        num_samples = len(loader.dataset)  # type: ignore[arg-type]  # checked just here
    except TypeError:
        raise ValueError(
            f"`ApproxSampler(loader)` needs to know how many samples there are; {type(loader.dataset).__name__} has no "
            "length. Give the data set a `__len__`."
        ) from None
    if isinstance(loader.sampler, RandomSampler) and loader.sampler.num_samples != num_samples:
        raise ValueError(
            f"`ApproxSampler(loader)` draws len(dataset) = {num_samples} samples an epoch; got a loader whose "
            f"RandomSampler draws {loader.sampler.num_samples}. Build it with shuffle=True."
        )
    if num_samples == 0:
        raise ValueError("`ApproxSampler(loader)` needs at least one sample; the data set is empty.")
    if loader.drop_last and num_samples < loader.batch_size:
        raise ValueError(
            f"`ApproxSampler(loader)` would have no batches: {num_samples} samples, batch_size={loader.batch_size} and "
            "drop_last=True. Use drop_last=False."
        )
    return num_samples, loader.batch_size


def rebuild_loader(loader: DataLoader[Any], requests: Any, generator: torch.Generator) -> DataLoader[Any]:
    """Return a loader with the settings of `loader` that serves `requests` and yields (serial, batch).

    Args:
        loader: the user's; it is left as it is.
        requests: iterable of `BatchRequest`, iterated anew each epoch in the main process.
        generator: seeds the workers, in place of the global one.
    """
    return DataLoader(
        _NumberedDataset(loader.dataset),
        batch_sampler=requests,
        collate_fn=_NumberedCollate(loader.collate_fn),
        generator=generator,
        **fetching(loader),
    )


def fetching(loader: DataLoader[Any]) -> dict[str, Any]:
    """Return the arguments of a loader that say how batches are fetched, but not what is in them."""
    names = ["num_workers", "pin_memory", "pin_memory_device", "timeout", "worker_init_fn", "multiprocessing_context"]
    names += ["prefetch_factor", "persistent_workers"]
    names += ["in_order"] if hasattr(loader, "in_order") else []  # since torch 2.6
    return {name: getattr(loader, name) for name in names}


class _NumberedDataset(Dataset[Any]):
    """Fetches the samples of a request; all else is asked of the data set itself."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, request: BatchRequest) -> tuple[int, Any]:
        fetch_batch = getattr(self._dataset, "__getitems__", None)
        if fetch_batch is not None:
            return request.serial, fetch_batch(request.indices)
        return request.serial, [self._dataset[index] for index in request.indices]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_dataset":
            super().__setattr__(name, value)
        else:  # by a `worker_init_fn`, which knows nothing of the wrapping
            setattr(self._dataset, name, value)

    def __getattr__(self, name: str) -> Any:
        if (
            name.startswith("__") or name == "_dataset"
        ):  # asked while unpickling in a worker, before there is a data set
            raise AttributeError(name)
        return getattr(self._dataset, name)


class _NumberedCollate:
    """Collates samples as the user does and hands on the number of the draw."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, numbered: Any) -> tuple[int, Any]:
        serial, samples = numbered
        return serial, self._collate(samples)
