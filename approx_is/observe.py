"""What to observe of a sample: how much its gradient can weigh."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["norm_dtype", "upper_bound"]

_LOSSES = ("cross-entropy", "binary-cross-entropy", "squared")
_IGNORE_INDEX = -100


def upper_bound(
    logits: Tensor,
    targets: Tensor,
    *,
    loss: str = "cross-entropy",
    label_smoothing: float = 0.0,
    ignore_index: int = _IGNORE_INDEX,
) -> Tensor:
    r"""Return the norm of each sample's loss gradient at the network's outputs, an upper bound of the full gradient's.

    ================================== =========================================== ===============
    loss, and targets y                gradient at the outputs z                   norm in
    ================================== =========================================== ===============
    "cross-entropy", class indices     :math:`\mathrm{softmax}(z) - y`, y one-hot  [0, √2]
    "cross-entropy", soft targets      :math:`\mathrm{softmax}(z) \sum_c y_c - y`  [0, √2 ∑y], y ≥ 0
    "binary-cross-entropy"             :math:`\sigma(z) - y`                       [0, √D]
    "squared", :math:`\sum (z - y)^2`  :math:`2 (z - y)`                           [0, ∞)
    ================================== =========================================== ===============

    Up to a constant of the network it bounds the norm of the gradient with respect to all parameters, and so is what
    the variance of an unbiased gradient depends on: observe it rather than the loss when k = 1.

    All D outputs and all positions of a sample count in quadrature: its loss is the *sum* over them (P positions raise
    the bounds of cross-entropy by √P). If yours is their mean, divide by their number; where all samples have the
    same, that is a constant and changes no draw.

    Where the network is sure nothing cancels and no square underflows: with class indices, one-hot soft targets and
    binary targets of 0 or 1, norms are right down to the smallest normal float32. Other soft targets and smoothed
    labels are subtracted from probabilities, and right to their rounding.

    Reference:
        Katharopoulos & Fleuret (2018), eqs. 16 to 20 and §3.2, where the softmax is part of the loss.

    Args:
        logits: the network's outputs, float: for cross-entropy [B, C] or [B, C, d1, ...], as in `F.cross_entropy` (-inf
            excludes a class); else [B, ...] of any shape.
        targets: for cross-entropy class indices, integer [B] or [B, d1, ...] in [0, C), or soft targets, float of the
            logits' shape, of any sum. Else of the logits' shape and any dtype; for binary cross-entropy in [0, 1].
            Bounds are checked on the CPU: elsewhere the check would wait for the device.
        loss: one of the table's.
        label_smoothing: as in `F.cross_entropy`, in [0, 1]; only for cross-entropy.
        ignore_index: class index of the positions that contribute 0; only for class indices.

    Returns:
        Norms, float32 [B], detached; computed in float64 if logits or targets are float64, else in float32. Non-finite
        outputs give NaN or inf, which a sampler leaves out.

    Raises:
        TypeError: logits are not floating, or class indices are not integers.
        ValueError: the loss is unknown, shapes do not match, or a target or an option is out of bounds or does not
            belong to the loss.

    Example:
        >>> upper_bound(torch.zeros(1, 10), torch.tensor([3]))
        tensor([0.9487])
        >>> upper_bound(torch.zeros(1, 2), torch.ones(1, 2), loss="binary-cross-entropy")
        tensor([0.7071])
    """
    _check_options(loss, logits, targets, label_smoothing, ignore_index)
    with torch.no_grad():
        if loss == "squared":
            gradient = _squared_gradient(logits, targets)
        elif loss == "binary-cross-entropy":
            gradient = _binary_gradient(logits, targets)
        elif targets.is_floating_point():
            gradient = _soft_target_gradient(logits, targets, label_smoothing)
        else:
            gradient = _class_gradient(logits, targets, label_smoothing, ignore_index)
        outputs = tuple(range(1, gradient.ndim))
        norms: Tensor = torch.linalg.vector_norm(gradient, dim=outputs, dtype=norm_dtype(gradient)).float()
        return norms


def norm_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype to sum squares of gradients in: float32 would lose those of entries below 1e-19."""
    # MPS has no float64
    return torch.float32 if values.device.type == "mps" else torch.float64


def _class_gradient(logits: Tensor, targets: Tensor, label_smoothing: float, ignore_index: int) -> Tensor:
    if logits.ndim < 2 or targets.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"`upper_bound(logits, targets)` must have shapes [B, C] and [B]; got {list(logits.shape)} and "
            f"{list(targets.shape)}. With positions, [B, C, d1, ...] and [B, d1, ...]; soft targets are floating."
        )
    classes, ignored = _split_ignored(targets, logits.shape[1], ignore_index)
    gradient = logits.softmax(1, dtype=_dtype(logits, targets))
    if label_smoothing:
        gradient -= label_smoothing / logits.shape[1]
    gradient = _without_cancellation(gradient, classes.unsqueeze(1))
    return gradient if ignored is None else gradient.masked_fill_(ignored.unsqueeze(1), 0.0)


def _soft_target_gradient(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    _check_same_shape(logits, targets, "cross-entropy")
    dtype = _dtype(logits, targets)
    targets = targets.to(dtype)
    if label_smoothing:
        targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[1]
    gradient = logits.softmax(1, dtype=dtype) * targets.sum(1, keepdim=True) - targets
    return _without_cancellation(gradient, targets.argmax(1, keepdim=True))


def _without_cancellation(gradient: Tensor, index: Tensor) -> Tensor:
    # The entries sum to 0: that of the likeliest class, p - 1, is the sum of the others but for its sign, which no norm
    # sees, and in this form does not cancel where the network is sure.
    others = gradient.scatter_(1, index, 0.0)
    return others.scatter_(1, index, others.sum(1, keepdim=True))


def _binary_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    _check_same_shape(logits, targets, "binary-cross-entropy")
    bounds = _bounds(targets)
    if bounds is not None and (bounds[0] < 0 or bounds[1] > 1):
        raise ValueError(
            f"`upper_bound(targets)` must be in [0, 1] for binary cross-entropy; got entries from {bounds[0]} to "
            f"{bounds[1]}. Use 0 and 1 rather than -1 and 1."
        )
    dtype = _dtype(logits, targets)
    outputs, targets = _with_outputs(logits.to(dtype)), _with_outputs(targets.to(dtype))
    # sigmoid - y, in a form that does not cancel where y is 0 or 1
    return (1 - targets) * outputs.sigmoid() - targets * (-outputs).sigmoid()


def _squared_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    _check_same_shape(logits, targets, "squared")
    dtype = _dtype(logits, targets)
    return 2 * _with_outputs(logits.to(dtype) - targets.to(dtype))


def _with_outputs(values: Tensor) -> Tensor:
    return values.unsqueeze(1) if values.ndim == 1 else values


def _split_ignored(targets: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor | None]:
    """Return the class indices with 0 in place of the ignored, and a mask of these, None if there surely are none."""
    if targets.dtype == torch.bool:
        raise TypeError("`upper_bound(targets)` must be integer class indices; got torch.bool. Use targets.long().")
    classes, ignored = targets.long(), None
    bounds = _bounds(classes)
    if bounds is None or bounds[0] <= ignore_index <= bounds[1]:
        ignored = classes == ignore_index
        classes = classes.masked_fill(ignored, 0)
        bounds = _bounds(classes)
    if bounds is not None and (bounds[0] < 0 or bounds[1] >= num_classes):
        raise ValueError(
            f"`upper_bound(targets)` must be in [0, {num_classes}); got entries from {bounds[0]} to {bounds[1]}. Mark "
            f"those to leave out by `ignore_index`, {ignore_index}."
        )
    return classes, ignored


def _bounds(values: Tensor) -> tuple[float, float] | None:
    # None where reading them would wait for a device or break a compiled graph
    if not values.is_cpu or values.numel() == 0 or torch.compiler.is_compiling():
        return None
    lowest, highest = values.aminmax()
    return lowest.item(), highest.item()


def _dtype(logits: Tensor, targets: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (logits.dtype, targets.dtype) else torch.float32


def _check_options(loss: str, logits: Tensor, targets: Tensor, label_smoothing: float, ignore_index: int) -> None:
    if loss not in _LOSSES:
        raise ValueError(
            f"`upper_bound(loss=...)` must be one of {', '.join(map(repr, _LOSSES))}; got {loss!r}. For another "
            "loss, observe the losses, or the norms of their gradients at the outputs."
        )
    if not logits.is_floating_point():
        raise TypeError(f"`upper_bound(logits)` must be floating; got {logits.dtype}. Pass the network's outputs.")
    if label_smoothing != 0 and loss != "cross-entropy":
        raise ValueError(
            f"`upper_bound(label_smoothing=...)` must be left out for loss={loss!r}; got {label_smoothing}. Smooth the "
            "targets."
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"`upper_bound(label_smoothing=...)` must be in [0, 1]; got {label_smoothing}.")
    if ignore_index != _IGNORE_INDEX and (loss != "cross-entropy" or targets.is_floating_point()):
        raise ValueError(
            f"`upper_bound(ignore_index=...)` must be left out unless targets are class indices; got {ignore_index}."
        )


def _check_same_shape(logits: Tensor, targets: Tensor, loss: str) -> None:
    fewest, shape = (2, "[B, C, ...]") if loss == "cross-entropy" else (1, "[B, ...]")
    if logits.ndim < fewest or targets.shape != logits.shape:
        remedy = "Class indices must be integers." if fewest == 2 else "Reshape one of them: nothing is broadcast."
        raise ValueError(
            f"`upper_bound(logits, targets)` must have the same shape, {shape}, for {loss} of {targets.dtype} targets; "
            f"got {list(logits.shape)} and {list(targets.shape)}. {remedy}"
        )
