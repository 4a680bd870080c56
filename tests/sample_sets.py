"""Data sets whose samples say which they are, in every structure that a batch can have."""

import time
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info


class Numbers(Dataset):
    """Sample i is the number i."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        return index


class Labelled(Numbers):
    """Numbers with an attribute that holds their classes, under a name of choice."""

    def __init__(self, labels, name="targets"):
        super().__init__(len(labels))
        setattr(self, name, labels)


class Structured(Numbers):
    """Numbers wrapped by a function of the index."""

    def __init__(self, size, structure):
        super().__init__(size)
        self.structure = structure

    def __getitem__(self, index):
        return self.structure(super().__getitem__(index))


class Fetched(Numbers):
    """Numbers that can only be had a batch at a time."""

    def __getitem__(self, index):
        raise AssertionError("a data set with `__getitems__` is asked for whole batches")

    def __getitems__(self, indices):
        assert isinstance(indices, list)
        return list(indices)


class Augmented(Numbers):
    """Numbers, each with a random number made where the sample is loaded."""

    def __getitem__(self, index):
        return index, torch.rand(())


class Uneven(Numbers):
    """Numbers of which some take long, so that workers finish out of turn."""

    def __getitem__(self, index):
        time.sleep(0.02 if index % 5 == 0 else 0.0)
        return index


class Tagged(Numbers):
    """Numbers, each with a tag that `worker_init_fn` may set on the data set."""

    tag = -1

    def __getitem__(self, index):
        return index, self.tag


class Unsized(Dataset):
    """A map-style data set without a length."""

    def __getitem__(self, index):
        return index


class Stream(IterableDataset):
    """A data set without indices."""

    def __iter__(self):
        return iter(range(4))


class Pair(NamedTuple):
    first: Any
    second: Any


def as_tuple(index):
    return torch.tensor([index, -index]), index


def as_dict(index):
    return {"input": torch.tensor([index, -index]), "index": index}


def as_nested(index):
    return {"inputs": (torch.tensor([float(index)]), {"index": index}), "name": f"sample {index}"}


def as_named(index):
    return Pair(index, torch.tensor(float(index)))


def as_tensor(index):
    return torch.tensor(index)


INDICES_OF = {
    as_tuple: lambda batch: batch[1],
    as_dict: lambda batch: batch["index"],
    as_nested: lambda batch: batch["inputs"][1]["index"],
    as_named: lambda batch: batch.first,
    as_tensor: lambda batch: batch,
}
"""How to read the indices back from a batch of each structure."""


def collate_to_text(samples):
    return "-".join(str(sample) for sample in samples)


def tag_with_worker(worker_id):
    get_worker_info().dataset.tag = worker_id


def do_nothing(worker_id):
    pass
