"""How many candidates to score, how many to train on, and when that is worth its time."""

from __future__ import annotations

from approx_is.checks import check_positive

__all__ = ["EQUAL_TIME_TAU", "equal_time_sizes", "presampling_threshold"]

LEAST_SHARE = 0.2
"""Smallest training batch of equal time over the batch size: however large τ, gradients are not to be too noisy."""

EQUAL_TIME_TAU = 2.11
"""Smallest τ at which batches of equal time have less variance, (1/τ²)/b' + (1 - 1/τ²)/B < 1/b, for b = 128."""


def presampling_threshold(presample: float) -> float:
    r"""Return the :math:`\tau` above which a step with presampling is worth its time, (B + 3b) / 3b.

    Scoring a sample takes one forward pass, training on it one and a backward pass of two.

    Reference:
        Katharopoulos & Fleuret (2018), §3.3.

    Args:
        presample: candidates over draws, B / b.

    Example:
        >>> presampling_threshold(3)
        2.0
    """
    return 1 + presample / 3


def equal_time_sizes(batch_size: int, tau: float) -> tuple[int, int]:
    r"""Return how many candidates B to score and b' to train on, in the time of a uniform step on b samples.

    A backward pass takes twice the time of a forward pass, so that :math:`B + 3 b' \le 3 b`. By the meaning of τ,
    b/τ samples are worth b uniform ones: a training batch of :math:`a = \max(b/\tau, b/5)` leaves time for
    :math:`3 (b - a)` candidates. Halfway between these and as many as a uniform batch has:

    .. math:: B = \left\lfloor \frac{b + 3 (b - a)}{2} \right\rfloor, \quad
        b' = \left\lfloor \frac{3 b - B}{3} \right\rfloor

    Where τ < 3/2 there is no time for more candidates than b, and B = b.

    Reference:
        Katharopoulos & Fleuret (2018), §5, leave this open.

    Args:
        batch_size: b, ≥ 1.
        tau: equivalent increase of the batch size, ≥ 1.

    Returns:
        B and b', :math:`B \ge b' \ge 1`. One sample leaves no time to score any: b = 1 gives (1, 1).

    Raises:
        ValueError: an argument is out of bounds.

    Example:
        >>> equal_time_sizes(128, 2.5)
        (179, 68)
    """
    batch_size = check_positive(batch_size, "equal_time_sizes(batch_size=...)")
    if not tau >= 1:
        raise ValueError(f"`equal_time_sizes(tau=...)` must be at least 1; got {tau}.")
    least = max(LEAST_SHARE * batch_size, batch_size / tau)
    most_candidates = 3 * batch_size - 3 * least
    candidates = max(batch_size, int((batch_size + most_candidates) / 2))
    return candidates, max(1, (3 * batch_size - candidates) // 3)
