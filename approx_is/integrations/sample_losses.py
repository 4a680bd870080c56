"""The loss of each sample, where a framework's models return the mean of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["IGNORED_LABEL", "sample_losses"]

IGNORED_LABEL = -100


def sample_losses(
    logits: Tensor,
    labels: Tensor,
    *,
    is_regression: bool = False,
    is_shifted: bool = False,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Return the loss of each sample, computed in float32 at least.

    The loss of a sequence is the mean over its positions that have a label,

    .. math:: \ell_i = \frac{1}{|T_i|} \sum_{t \in T_i} -\log p(y_{it}), \quad T_i = \{t : y_{it} \neq -100\},

    so that sequences weigh the same however long they are, and 0 where there is none. (The mean over all tokens of a
    batch, which models return, weighs sequences by their length; it is the same where they are equally long. Weighed
    by draws it would have to be divided by a random number, and be biased.)

    Args:
        logits: outputs of the network, float [B, C] or [B, ..., C].
        labels: class indices, integer [B] or [B, ...], -100 where there is none; or float of the logits' shape, the
            probability of each class on its own; or in regression the values wanted, of the logits' shape or [B].
        is_regression: whether the loss is the squared error, the mean over outputs.
        is_shifted: whether the label of a position is that of the next one, as in causal language models.
        label_smoothing: as in `F.cross_entropy`; for class indices only.

    Returns:
        Losses, [B], in nats or squared units.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> logits = torch.zeros(2, 3, 4)
        >>> sample_losses(logits, torch.tensor([[1, 2, 3], [0, -100, -100]]))
        tensor([1.3863, 1.3863])
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.to(logits.device)
    if is_regression:
        wanted = labels.to(logits.dtype)
        wanted = wanted.unsqueeze(-1) if wanted.shape == logits.shape[:-1] and logits.shape[-1] == 1 else wanted
        _check_shape(wanted, logits.shape)
        return (logits - wanted).square().flatten(1).mean(1)
    if labels.is_floating_point():
        _check_shape(labels, logits.shape)
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").flatten(1).mean(1)
    _check_shape(labels, logits.shape[:-1])
    if is_shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = F.cross_entropy(
        logits.flatten(0, -2),
        labels.flatten().long(),
        reduction="none",
        ignore_index=IGNORED_LABEL,
        label_smoothing=label_smoothing,
    )
    losses, counts = losses.view(len(labels), -1), (labels != IGNORED_LABEL).view(len(labels), -1).sum(1)
    return losses.sum(1) / counts.clamp(min=1)


def _check_shape(labels: Tensor, shape: torch.Size) -> None:
    if labels.shape != shape:
        raise ValueError(
            f"`labels` must have shape {list(shape)} to fit the logits; got {list(labels.shape)}. "
            "Override `sample_losses` for a loss of your own."
        )
