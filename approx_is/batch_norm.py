"""Batch normalisation whose statistics are the data set's although its batches are not: weighted, as the loss is.

`convert_batch_norm(model)` prepares a model once; `with batch_weights(draw.weights):` weighs its next forward passes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from approx_is.weight_context import batch_weights, current_weights

__all__ = [
    "WeightedBatchNorm1d",
    "WeightedBatchNorm2d",
    "WeightedBatchNorm3d",
    "batch_weights",
    "centre",
    "convert_batch_norm",
]


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


class _WeightedBatchNorm(_BatchNorm):
    layer_name = ""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # as torch calls it
        weights = current_weights()
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
