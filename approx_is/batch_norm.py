"""Batch normalisation whose statistics are the data set's although its batches are not: weighted, as the loss is.

`convert_batch_norm(model)` prepares a model once; `with batch_weights(draw.weights):` weighs its next forward passes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

__all__ = [
    "WeightedBatchNorm1d",
    "WeightedBatchNorm2d",
    "WeightedBatchNorm3d",
    "batch_weights",
    "centre",
    "convert_batch_norm",
]

# of the thread, as torch's grad mode is; unlike a ContextVar, torch.compile traces and guards it
_local = threading.local()


def convert_batch_norm(model: nn.Module) -> nn.Module:
    """Make every BatchNorm1d, 2d and 3d of a model heed `batch_weights`, in place.

    Each module stays the object that it was, with its parameters, buffers, hooks and flags: only its class changes, to
    a subclass with the same state_dict. Without `batch_weights` it does what it did, to the bit.

    A subclass of BatchNorm may have a forward of its own, which could not be weighed, so it is refused. Derive it from
    `WeightedBatchNorm2d` (or 1d, 3d) instead; modules derived from these are left as they are.

    Args:
        model: any module, also a BatchNorm itself. Convert again after adding BatchNorms. Do not call
            `SyncBatchNorm.convert_sync_batchnorm` afterwards: it would undo the conversion.

    Returns:
        The model itself.

    Raises:
        TypeError: `model` is not a module, or holds a SyncBatchNorm, a LazyBatchNorm that has not seen a batch yet,
            another subclass of BatchNorm, or one whose forward was replaced. Nothing is changed then.

    Example:
        >>> convert_batch_norm(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=0.2)))  # doctest: +ELLIPSIS
        Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): WeightedBatchNorm1d(8, eps=1e-05, momentum=0.2, ...)
        )
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`convert_batch_norm(model)` must be a torch.nn.Module; got {type(model).__name__}.")
    norms = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, _WeightedBatchNorm)
    ]
    for name, module in norms:
        _check_convertible(name, module)
    for name, module in norms:
        module.__class__ = _WEIGHTED[type(module)]  # as torch turns a LazyBatchNorm into a BatchNorm
        module.layer_name = name
    return model


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
        >>> from approx_is import ImportanceSampler
        >>> model, inputs = convert_batch_norm(nn.BatchNorm1d(2)), torch.randn(100, 2)
        >>> draw = ImportanceSampler(num_samples=100, batch_size=8).draw()
        >>> with batch_weights(draw.weights):
        ...     logits = model(inputs[draw.indices])
    """
    outer = _current()
    _local.weights = _BatchWeights(_checked(weights))
    try:
        yield
    finally:
        _local.weights = outer


def centre(values: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Subtract the weighted mean of each channel; return also the mean and the variance about it.

    .. math:: \mu = \sum_i s_i \bar x_i, \quad \sigma^2 = \sum_i s_i \overline{(x_i - \mu)^2}

    where the bar is the mean over positions. Two passes: the variance does not cancel where the mean is large.

    Args:
        values: float [B, C, ...], any number of dimensions of positions.
        shares: of the samples, float [B], ≥ 0, summing to 1.

    Returns:
        Centred values [B, C, ...], mean [C], variance [C].

    Example:
        >>> centre(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0.25, 0.5, 0.25]))[1:]
        (tensor([2.2500]), tensor([1.1875]))
    """
    mean = _weighted_mean(values, shares)
    centred = values - _per_channel(mean, values)
    return centred, mean, _weighted_mean(centred.square(), shares)


class _BatchWeights:
    """The weights of one block as layers need them; each device and dtype is prepared once."""

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights
        self._prepared: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
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


class _WeightedBatchNorm(_BatchNorm):
    layer_name = ""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # as torch calls it
        weights = _current()
        if weights is None or not self._weighs(input):
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        self._check_batch(input, len(weights))
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        shares, spread = weights.at(values.device, values.dtype)
        centred, mean, variance = centre(values, shares)
        if self.training and self.track_running_stats:
            positions = math.prod(input.shape[2:])
            # n_e / (n_e - 1), as n_e = positions / Σs²; finite also where all shares but one underflow
            correction = positions / (positions - 1 + spread).clamp(min=torch.finfo(spread.dtype).tiny)
            self._track(mean, variance * correction)
        return self._scale_and_shift(centred, variance).to(input.dtype)

    def _weighs(self, batch: Tensor) -> bool:
        uses_batch = self.training or (self.running_mean is None and self.running_var is None)
        # an empty batch changes no statistics, and other dtypes are torch's to refuse
        return uses_batch and batch.numel() > 0 and batch.is_floating_point()

    def _check_batch(self, batch: Tensor, num_weights: int) -> None:
        layer = self.layer_name or type(self).__name__
        if len(batch) != num_weights:
            raise ValueError(
                f"`batch_weights(weights)` has {num_weights} entries; the batch at `{layer}` has {len(batch)}. Pass "
                "the weights of this very batch, repeated where the model splits samples into several rows."
            )
        if batch.shape[1] != self.num_features:
            raise ValueError(f"`{layer}` must get {self.num_features} channels; got shape {list(batch.shape)}.")
        if batch.numel() == self.num_features:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {list(batch.shape)} at "
                f"`{layer}`. Draw batches of at least two samples."
            )

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        factor = self.momentum
        if factor is None:  # a cumulative average
            factor = 0.0 if self.num_batches_tracked is None else 1.0 / float(self.num_batches_tracked)
        for running, found in ((self.running_mean, mean), (self.running_var, variance)):
            if running is not None:
                running.lerp_(found.to(running), factor)

    def _scale_and_shift(self, centred: Tensor, variance: Tensor) -> Tensor:
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        scaled = centred * _per_channel(scale, centred)
        return scaled if self.bias is None else scaled + _per_channel(self.bias, centred)


class WeightedBatchNorm1d(_WeightedBatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` that heeds `batch_weights`."""


class WeightedBatchNorm2d(_WeightedBatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` that heeds `batch_weights`."""


class WeightedBatchNorm3d(_WeightedBatchNorm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` that heeds `batch_weights`."""


_WEIGHTED: dict[type[nn.Module], type[_WeightedBatchNorm]] = {
    nn.BatchNorm1d: WeightedBatchNorm1d,
    nn.BatchNorm2d: WeightedBatchNorm2d,
    nn.BatchNorm3d: WeightedBatchNorm3d,
}


def _current() -> _BatchWeights | None:
    return getattr(_local, "weights", None)


def _weighted_mean(values: Tensor, shares: Tensor) -> Tensor:
    per_sample = values.mean(tuple(range(2, values.ndim))) if values.ndim > 2 else values
    # not a matrix product, which autocast would round to half precision
    return (shares.unsqueeze(1) * per_sample).sum(0)


def _per_channel(vector: Tensor, like: Tensor) -> Tensor:
    return vector.view(-1, *[1] * (like.ndim - 2))


def _check_convertible(name: str, module: nn.Module) -> None:
    found = f"`convert_batch_norm(model)` cannot weigh `{name or 'model'}`, a {type(module).__name__}"
    if isinstance(module, nn.SyncBatchNorm):
        raise TypeError(
            f"{found}: ranks do not exchange weighted statistics. Use torch.nn.BatchNorm1d, 2d or 3d, which each rank "
            "applies to its own batch."
        )
    if isinstance(module, LazyModuleMixin):
        raise TypeError(f"{found} that has not seen a batch yet. Run the model on one batch first.")
    if type(module) not in _WEIGHTED:
        raise TypeError(
            f"{found}: its forward may be its own. Derive it from WeightedBatchNorm1d, 2d or 3d (approx_is.batch_norm) "
            "and call super().forward, or convert only the parts of the model that can be weighed."
        )
    if "forward" in vars(module):
        raise TypeError(f"{found} whose forward was replaced. Convert the model before its forward is wrapped.")


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
