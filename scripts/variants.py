"""Tasks made of others: with classes that grow rare, with wrong labels, or for a network that knows some classes."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F

from pretraining import Pretraining
from samples import InMemoryDataset, Task
from scores import BALANCED_ERROR
from suspects import flip_labels

__all__ = ["fine_tuning", "long_tailed", "noisy", "thinned"]

FLIPS_SEED = 987_654_321
"""Of the choice of wrong labels, which is the same for every run, whatever its own seed.

No run has this one. With a run's seed the wrong labels would be those of the samples that its first epoch visits first,
and with 0 those of the `evaluation.probe`, since all three are the beginning of one random permutation.
"""


def long_tailed(task: Task, largest: int, ratio: float) -> Task:
    """Return the task with fewer training samples of each class than of the one before.

    Class c, counted from 0, keeps the first `largest` · `ratio`^c of its training samples, or all where it has fewer.
    The test samples stay as they are, and methods are compared by the balanced error: where the test set has as many
    samples of each class, as that of Fashion-MNIST has, it is the test error.

    Args:
        task: to make it of.
        largest: samples of the first class.
        ratio: samples of a class over those of the one before, in (0, 1).
    """
    targets = task.train.targets
    num_classes = len(task.class_names)
    before = F.one_hot(targets, num_classes).cumsum(0).gather(1, targets.unsqueeze(1)).squeeze(1) - 1
    kept = before < targets.new_tensor([round(largest * ratio**label) for label in range(num_classes)])[targets]
    train = InMemoryDataset(task.train.inputs[kept], targets[kept])
    return replace(task, name=f"{task.name}-lt", title=f"Long-tailed {task.title}", train=train, score=BALANCED_ERROR)


def noisy(task: Task, percent: int) -> Task:
    """Return the task with wrong labels for some training samples: each another class, any other one as likely.

    Which ones is the same in every run, and `flipped` says it. The test samples keep their labels. What is trained on
    is what the training loss is measured on, wrong labels included: a network that has learned the right ones has a
    large training loss, and one with a small training loss has memorised the wrong ones.

    Args:
        task: to make it of.
        percent: of the training labels to change, in [0, 100].
    """
    targets = flip_labels(task.train.targets, percent / 100, len(task.class_names), FLIPS_SEED)
    return replace(
        task,
        name=f"{task.name}-noisy-{percent}",
        title=f"{task.title} with {percent}% wrong labels",
        train=InMemoryDataset(task.train.inputs, targets),
        flipped=targets != task.train.targets,
    )


def fine_tuning(task: Task, known: int) -> Task:
    """Return the task for a network that was trained on the first classes before, see `Pretraining`.

    Reference:
        Katharopoulos & Fleuret (2018), §4.3, where a network that knows ImageNet learns to tell rooms apart.

    Args:
        task: to make it of. All of its classes are trained and tested on.
        known: number of classes that the network learned before.
    """
    is_known = task.train.targets < known
    samples = InMemoryDataset(task.train.inputs[is_known], task.train.targets[is_known])
    return replace(
        task,
        name=f"{task.name}-finetune",
        title=f"{task.title} after its first {known} classes",
        prepare=Pretraining(samples, known),
    )


def thinned(task: Task, every: int, context: int) -> Task:
    """Return a language model's task with fewer training samples and shorter contexts, whose epochs take less time.

    Args:
        task: to make it of.
        every: of so many training samples the first is kept: words in all parts of the text.
        context: words before each that the model sees, the last ones.
    """
    train, test = (
        InMemoryDataset(samples.inputs[::step, -context:], samples.targets[::step])
        for samples, step in ((task.train, every), (task.test, 1))
    )
    title = f"{task.title}, every {every}th word after {context} others"
    return replace(task, name=f"{task.name}-small", title=title, train=train, test=test)
