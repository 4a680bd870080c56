"""Where Python may look at values without waiting."""

from __future__ import annotations

from torch import Tensor

__all__ = ["is_on_host"]


def is_on_host(tensor: Tensor) -> bool:
    """Return whether a value of the tensor can be read at once.

    An accelerator runs behind the program: to read from it is to wait until all it was told to do is done. What a
    training step needs is therefore written twice where that pays: with a shortcut that looks at the values, and in a
    fixed number of operations that does not look.
    """
    return tensor.device.type == "cpu"
