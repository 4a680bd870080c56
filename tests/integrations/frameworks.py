"""What the tests of frameworks share: data, a network that starts the same each time."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SIZE, BATCH, CLASSES = 42, 8, 3
"""Samples in an epoch of six batches, the last one of two."""


class Augmented(TensorDataset):
    """Samples that workers add noise to, from torch's generator, which each of them seeds anew."""

    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return inputs + 0.01 * torch.rand(inputs.shape), target


def dataset(augmented=False):
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(SIZE) % CLASSES
    inputs = torch.randn(SIZE, 4, generator=generator) + torch.nn.functional.one_hot(targets, 4)
    return (Augmented if augmented else TensorDataset)(inputs, targets)


def loader(workers=0, augmented=False, batch_size=BATCH):
    return DataLoader(dataset(augmented), batch_size=batch_size, shuffle=True, num_workers=workers)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, CLASSES))
