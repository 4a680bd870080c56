"""The weights of the batch that a model is being run on, for layers that take statistics of it."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["BatchWeights", "batch_weights", "current_weights"]

# of the thread, as torch's grad mode is; unlike a ContextVar, torch.compile traces and guards it
_local = threading.local()


@contextmanager
def batch_weights(weights: Tensor) -> Generator[None]:
    r"""Weigh the statistics of converted batch normalisations in the forward passes inside the `with` block.

    .. math:: \mu = \frac{\sum w x}{\sum w}, \quad \sigma^2 = \frac{\sum w (x - \mu)^2}{\sum w}

    over samples and positions. The running variance takes in :math:`\sigma^2 n_e / (n_e - 1)` with the effective sample
    size :math:`n_e = (\sum w)^2 / \sum w^2`. Under weights :math:`1 / (N p_i)` these estimate the statistics of the
    data set: the sums without bias, their quotients consistently. Only ratios of the weights matter. In eval mode the
    running statistics are used, as ever.

    The innermost block counts. It holds for the thread that entered it, so:

    - `torch.nn.DataParallel` runs replicas in threads of its own, which do *not* see the weights and normalise without
      them. Use DistributedDataParallel; each rank then weighs its part of the batch.
    - `torch.utils.checkpoint` runs the forward pass again in `backward()`: outside the block, and for CUDA in another
      thread. Enter the block inside the checkpointed function, or pass `use_reentrant=False` and
      `context_fn=lambda: (batch_weights(weights), batch_weights(weights))`.

    Reference:
        Johnson & Guestrin (2018), poster ("must weight statistics"); the formulas are derived here.

    Args:
        weights: weight of each sample, finite and positive, float [B], on any device; no gradient flows into them. They
            are `draw.weights` at k = 1, and `1 / draw.probabilities` for every k.

    Raises:
        TypeError: `weights` is not a tensor.
        ValueError: it is not a real floating tensor [B], B ≥ 1, or (looked at on the CPU only, elsewhere one would have
            to wait for the device) an entry is not finite and positive. In the forward pass, before anything changes:
            the batch at a layer has not B entries, or a single value a channel.

    Example:
        >>> from approx_is import ImportanceSampler, convert_batch_norm
        >>> model, inputs = convert_batch_norm(torch.nn.BatchNorm1d(2)), torch.randn(100, 2)
        >>> draw = ImportanceSampler(num_samples=100, batch_size=8).draw()
        >>> with batch_weights(draw.weights):
        ...     logits = model(inputs[draw.indices])
    """
    outer = current_weights()
    _local.weights = BatchWeights(_checked(weights))
    try:
        yield
    finally:
        _local.weights = outer


def current_weights() -> BatchWeights | None:
    """Return the weights of the innermost block that this thread is in, or None."""
    return getattr(_local, "weights", None)


class BatchWeights:
    """The weights of one block as layers need them; each device and dtype is prepared once."""

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights
        self._prepared: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """Return the batch size B."""
        return len(self._weights)

    def at(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the shares s = w / Σw, [B], and 1 - Σs², a scalar."""
        if (device, dtype) not in self._prepared:
            weights = self._weights.to(torch.promote_types(self._weights.dtype, dtype))
            shares = weights / weights.sum()
            others, largest = shares.sort().values.tensor_split([-1])
            # = 1 - Σs², without cancelling where one sample has nearly everything
            spread = (others * (1 - others + largest)).sum()
            self._prepared[device, dtype] = shares.to(device, dtype), spread.to(device, dtype)
        return self._prepared[device, dtype]


def _checked(weights: Tensor) -> Tensor:
    if not isinstance(weights, Tensor):
        raise TypeError(f"`batch_weights(weights)` must be a tensor; got {type(weights).__name__}. Pass draw.weights.")
    if not weights.is_floating_point() or weights.ndim != 1 or len(weights) == 0:
        raise ValueError(
            "`batch_weights(weights)` must be real floating of shape [B], one weight a sample; got "
            f"{weights.dtype} {list(weights.shape)}. Pass draw.weights."
        )
    weights = weights.detach()
    if weights.device.type == "cpu" and not bool((weights.isfinite() & (weights > 0)).all()):
        raise ValueError(
            f"`batch_weights(weights)` must be finite and positive; got entries from {float(weights.min())} to "
            f"{float(weights.max())}. Leave other samples out of the batch."
        )
    return weights
