"""Where Python may look at values without waiting, and how it waits elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_on_host", "wait_for_accelerators"]


def is_on_host(tensor: Tensor) -> bool:
    """Return whether a value of the tensor can be read at once.

    An accelerator runs behind the program: to read from it is to wait until all it was told to do is done. What a
    training step needs is therefore written twice where that pays: with a shortcut that looks at the values, and in a
    fixed number of operations that does not look.
    """
    return tensor.device.type == "cpu"


def wait_for_accelerators() -> None:
    """Wait until the accelerators that this process uses have done what they were told."""
    for kind in (torch.cuda, torch.xpu):
        if kind.is_initialized():
            kind.synchronize()
    if torch.backends.mps.is_available():
        torch.mps.synchronize()
