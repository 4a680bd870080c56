"""What training can still take away from a sample's importance: wrong labels and pure chance are not to be learned."""

from __future__ import annotations

from torch import Tensor

from approx_is.history import LossHistory

__all__ = ["reducible"]


def reducible(importance: Tensor, history: LossHistory, indices: Tensor) -> Tensor:
    r"""Return the part of predicted importances that training is expected to reduce.

    .. math:: \max\Big(0,\ \hat v_i - \frac{n_i - 1}{w - 1} \min_{j \le n_i} v_{i,j}\Big)

    What a sample kept through each of its last n of w observations, although it was trained on after all but the last,
    is taken for irreducible, the more so the more observations there are. Learned samples have a minimum near 0 and
    keep their importance, and so do those that were seen once. One with a wrong label has a large minimum, until the
    model memorises it.

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
    trust = (history.counts(indices) - 1).clamp_(min=0) / (history.window - 1)
    return (importance - trust * history.smallest(indices)).clamp_(min=0)
