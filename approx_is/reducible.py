"""What training can still take away from a sample's importance: wrong labels and pure chance are not to be learned."""

from __future__ import annotations

import torch
from torch import Tensor

from approx_is.history import LossHistory

__all__ = ["reducible"]


def reducible(importance: Tensor, history: LossHistory, indices: Tensor) -> Tensor:
    r"""Return the part of predicted importances that training is expected to reduce.

    .. math:: \max\Big(0,\ \hat v_i - \frac{n_i - 1}{w - 1} \cdot \frac{m_i}{\bar v_i} \cdot m_i\Big), \qquad
        m_i = \min_{j \le n_i} v_{i,j}

    The least that was seen of a sample in its last n of w observations counts as irreducible: the more, the more
    observations there are, and the nearer it is to their mean :math:`\bar v_i`. So a sample with a wrong label, whose
    loss stays large until the model memorises it, loses most of its importance; one whose loss is falling loses little,
    one that is easy but for now and then nothing, and one that was seen once nothing either.

    Reference: the idea is that of Mindermann et al. (2022), whose irreducible loss is that of another model, trained on
    held-out samples; this one costs no model.

    Args:
        importance: predictions of samples, float32 [B], in the scale of what is observed.
        history: of the observations.
        indices: the samples, int64 [B].

    Returns:
        float32 [B], at least 0. With a window of 1 it is the importance itself.
    """
    if history.window == 1:
        return importance
    smallest, mean, counts = history.spread(indices)
    trust = (counts - 1).clamp_(min=0) / (history.window - 1)
    steadiness = torch.where(mean > 0, smallest / mean, 0.0)
    return (importance - trust * steadiness * smallest).clamp_(min=0)
