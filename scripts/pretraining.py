"""What a network learns before the run that is measured: once for all methods of a seed, and kept in a file."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, repeat
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from checkpoints import DamagedCheckpointError, load_checkpoint
from samples import InMemoryDataset

__all__ = ["Pretraining", "cache_folder"]

State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Pretraining:
    """Plain training on other classes than those of the run, of which the run's network starts: a `Task.prepare`.

    The whole network learns, from its own initial weights but for the head, which is one for these classes. Then the
    run's network takes over all but the head: its own is as it was, new. Both depend on the seed only, and the result
    is kept in a file, from which every run takes it, so that all methods of a seed start alike to the bit. (On another
    machine they start from what that one made, and processors round differently.) The file's name has the seed and a
    hash of what else the result depends on: samples, network, kind of device and the attributes below. Of processes
    that find none, each trains, and the file is of the first to be done.

    Attributes:
        samples: to train on.
        num_classes: that they are of.
        steps: minibatches.
        batch_size: samples a minibatch; each epoch visits all of them once.
        lr: Adam's learning rate.
    """

    samples: InMemoryDataset
    num_classes: int
    steps: int = 1_000
    batch_size: int = 128
    lr: float = 1e-3

    def __call__(self, model: nn.Module, seed: int) -> None:
        """Give the network, as it was just built, the weights that it is to start with; the head stays as it is.

        Reads no global random number generator and leaves it as it was.

        Raises:
            ValueError: the file is damaged.
            OSError: it cannot be read, or not be written.
        """
        path = self.path(model, seed)
        if not path.is_file():
            print(f"training a network for {self.steps:,} steps to start from, kept as {path}", file=sys.stderr)
            _publish(self._trained(model, seed), path)
        try:
            state = load_checkpoint(path)
        except DamagedCheckpointError as error:
            raise ValueError(f"{path} is damaged. Delete it; it is made anew then.") from error
        model.load_state_dict(state, strict=False)  # all but the head, see `_trained`

    def path(self, model: nn.Module, seed: int) -> Path:
        """Return the file of what networks like this one have learned."""
        depends_on = {
            "samples": self._fingerprint,
            "num_classes": self.num_classes,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "network": repr(model),
            "device": _device(model).type,
        }
        digest = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()
        return cache_folder() / "pretrained" / f"seed-{seed}-{digest[:24]}.pt"

    @cached_property
    def _fingerprint(self) -> str:
        parts = (self.samples.inputs, self.samples.targets)
        return " ".join(hashlib.sha256(part.contiguous().numpy().data).hexdigest() for part in parts)

    def _trained(self, model: nn.Module, seed: int) -> State:
        """Return the state of a copy of the network that was trained, by one thread, without the head."""
        device, model = _device(model), copy.deepcopy(model)
        with torch.random.fork_rng([device] if device.type == "cuda" else []), _one_thread():
            torch.manual_seed(seed)
            head = _replace_head(model, self.num_classes)
            optimizer = torch.optim.Adam(model.parameters(), lr=self.lr)
            for indices in self._batches(seed):
                inputs, targets = self.samples.inputs[indices].to(device), self.samples.targets[indices].to(device)
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
        state = model.state_dict()
        return {name: value.cpu() for name, value in state.items() if not name.startswith(f"{head}.")}

    def _batches(self, seed: int) -> Iterator[Tensor]:
        """Yield the indices of each minibatch."""
        order = torch.Generator().manual_seed(seed)
        epochs = (torch.randperm(len(self.samples), generator=order) for _ in repeat(None))
        return islice(chain.from_iterable(torch.split(epoch, self.batch_size) for epoch in epochs), self.steps)


def cache_folder() -> Path:
    """Return where the scripts keep what takes time to make: the folder that APPROX_IS_CACHE names, or the user's."""
    own = os.environ.get("APPROX_IS_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "approx_is"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute with one thread meanwhile: with more it rounds otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _replace_head(model: nn.Module, num_classes: int) -> str:
    """Give the network a new last layer for so many classes; return its name."""
    name, head = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    parent, _, own_name = name.rpartition(".")
    setattr(model.get_submodule(parent), own_name, nn.Linear(head.in_features, num_classes, device=head.weight.device))
    return name


def _publish(state: State, path: Path) -> None:
    """Write the file as a whole, unless another process was first.

    Raises:
        OSError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, suffix=".unfinished") as file, suppress(FileExistsError):
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
            os.link(file.name, path)
    except (OSError, RuntimeError) as error:  # the latter is how torch tells of a failed write
        raise OSError(
            f"the network to start from cannot be kept in {path.parent} ({error}). Set the environment variable "
            "APPROX_IS_CACHE to a folder that can be written to."
        ) from error
