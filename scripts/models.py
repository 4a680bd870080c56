"""The networks that the scripts train."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from image_lstm import ImageLSTM, permutation
from language_model import NextWordLSTM
from resnet import resnet_18
from samples import CLASSIFICATION, LANGUAGE_MODEL, Task


def paper_network(input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Build the network for MNIST of the 2017 paper, a down-sized VGG without batch normalisation.

    Reference:
        Katharopoulos & Fleuret (2017), §4.1.

    Args:
        input_shape: channels, height and width, the latter at least 4.
        num_classes: number of classes C.
    """
    channels, height, width = _image_shape(input_shape)
    return nn.Sequential(
        *_double_convolution(channels, 32),
        *_double_convolution(32, 64),
        nn.Flatten(),
        *(nn.Linear(64 * (height // 4) * (width // 4), 512), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(512, num_classes),
    )


def small_cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Build two convolutions and a hidden layer: about a tenth of the paper network's cost.

    Args:
        input_shape: channels, height and width, the latter at least 4.
        num_classes: number of classes C.
    """
    channels, height, width = _image_shape(input_shape)
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(32 * (height // 4) * (width // 4), 128), nn.ReLU()),
        nn.Linear(128, num_classes),
    )


def mlp(input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Build two hidden layers of 128 units over samples of any shape."""
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(math.prod(input_shape), 128), nn.ReLU()),
        *(nn.Linear(128, 128), nn.ReLU()),
        nn.Linear(128, num_classes),
    )


def residual_network(input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """Build ResNet-18 for small images, see `resnet`.

    Args:
        input_shape: channels, height and width.
        num_classes: number of classes C.
    """
    return resnet_18(_image_shape(input_shape)[0], num_classes)


def row_lstm(input_shape: tuple[int, ...], num_classes: int) -> ImageLSTM:
    """Build an LSTM that reads images a row at a time, 28 steps for Fashion-MNIST.

    Args:
        input_shape: channels, height and width.
        num_classes: number of classes C.
    """
    channels, _, width = _image_shape(input_shape)
    return ImageLSTM(channels * width, num_classes)


def pixel_lstm(input_shape: tuple[int, ...], num_classes: int) -> ImageLSTM:
    """Build the LSTM of the 2018 paper, which reads images a pixel at a time, 784 steps for Fashion-MNIST: for a GPU.

    Pixels come in a random order that is the same for all images. In that of the image the last ones say nothing, and
    it did not learn: with Adam 1e-3 its error was between 84 % and 90 % after 4,000 steps on Fashion-MNIST, and between
    26 % and 33 % after 3,000 in the random order.

    Reference:
        Katharopoulos & Fleuret (2018), §4.4.

    Args:
        input_shape: channels, height and width.
        num_classes: number of classes C.
    """
    channels, height, width = _image_shape(input_shape)
    return ImageLSTM(channels, num_classes, order=permutation(height * width))


def word_lstm(input_shape: tuple[int, ...], num_classes: int) -> NextWordLSTM:
    """Build the language model of the 2017 paper: words in 64 dimensions, an LSTM of 256 units, dropout 0.5.

    Reference:
        Katharopoulos & Fleuret (2017), §4.3. The number of layers is not given there; here it is one.

    Args:
        input_shape: number of words of context.
        num_classes: number of words in the vocabulary.
    """
    return NextWordLSTM(num_classes)


MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "paper": paper_network,
    "small-cnn": small_cnn,
    "mlp": mlp,
    "resnet-18": residual_network,
    "row-lstm": row_lstm,
    "pixel-lstm": pixel_lstm,
    "lstm": word_lstm,
}
"""Networks by the name that `--model` takes."""

TITLES = {
    "paper": "network of the 2017 paper",
    "small-cnn": "small CNN",
    "mlp": "MLP",
    "resnet-18": "ResNet-18",
    "row-lstm": "LSTM over rows",
    "pixel-lstm": "LSTM over permuted pixels",
    "lstm": "LSTM of the 2017 paper",
}
"""Their names in figures."""

OF_WORDS = ("lstm",)
"""Those that read words; the others read numbers."""


def default_model(input_shape: tuple[int, ...], kind: str = CLASSIFICATION) -> str:
    """Return the name of the network for such samples: the paper's for images and words, else the MLP."""
    if kind == LANGUAGE_MODEL:
        return "lstm"
    return "paper" if len(input_shape) == 3 else "mlp"


def build_model(name: str, input_shape: tuple[int, ...], num_classes: int, kind: str = CLASSIFICATION) -> nn.Module:
    """Build a network by its name.

    Args:
        name: one of `MODELS`.
        input_shape: of one sample.
        num_classes: number of classes C.
        kind: of the task, see `samples.Task`.

    Raises:
        ValueError: there is no such network, or it does not take such samples.
    """
    if name not in MODELS:
        raise ValueError(f"`--model` must be one of {', '.join(MODELS)}; got {name!r}.")
    if (name in OF_WORDS) != (kind == LANGUAGE_MODEL):
        fitting = [model for model in MODELS if (model in OF_WORDS) == (kind == LANGUAGE_MODEL)]
        raise ValueError(f"`--model` must be one of {', '.join(fitting)} for `--task {kind}`; got {name!r}.")
    return MODELS[name](input_shape, num_classes)


def initial_network(task: Task, name: str | None, *, seed: int, device: torch.device) -> nn.Module:
    """Return what a run starts from: of one seed the same weights, random ones or what the task has prepared.

    Seeds torch's global generator. Convolutions keep their channels last, which halves the time of a step on a CPU.

    Args:
        task: what to train on.
        name: one of `MODELS`; None for the one that suits the task.
        seed: of the run.
        device: where the network is to be.

    Raises:
        ValueError: there is no such network, or it does not fit.
        OSError: what it is to start from cannot be kept or read, see `Task.prepare`.
    """
    torch.manual_seed(seed)
    name = name or default_model(task.input_shape, task.kind)
    model = build_model(name, task.input_shape, len(task.class_names), task.kind)
    model = model.to(device, memory_format=torch.channels_last)
    if task.prepare is not None:
        task.prepare(model, seed)
    return model


def _double_convolution(channels: int, filters: int) -> tuple[nn.Module, ...]:
    return (
        *(nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(filters, filters, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Dropout(0.25)),
    )


def _image_shape(input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(input_shape) != 3:
        raise ValueError(f"`--model` must be mlp for samples of shape {list(input_shape)}: the others take images.")
    channels, height, width = input_shape
    return channels, height, width
