"""The set that gradient norms are known to lie in, and what to draw with when all that is known is that."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from approx_is.predictors.uncertainty_fit import Array

__all__ = ["UncertaintySet", "non_negative", "robust_probabilities", "robust_scale"]


@dataclass(frozen=True, eq=False)
class UncertaintySet:
    """Coefficients of the centre and of the spread of every sample's gradient norm.

    Args:
        c: of the centre, finite, ≥ 0, [K]; kept as a float64 copy that cannot be written to.
        d: of the spread, likewise.

    Raises:
        ValueError: a coefficient is negative or not finite, or the shapes are not both [K].

    Example:
        >>> fitted = UncertaintySet([1.0, 2.0], [0.0, 1.0])
        >>> fitted.centre([[1.0, 3.0]]), fitted.spread([[1.0, 3.0]])
        (array([7.]), array([3.]))
    """

    c: Array
    d: Array

    def __post_init__(self) -> None:
        """Check and copy."""
        c = non_negative(self.c, "UncertaintySet(c=...)", 1).copy()
        d = non_negative(self.d, "UncertaintySet(d=...)", 1, c.shape).copy()
        for name, values in (("c", c), ("d", d)):
            values.flags.writeable = False
            object.__setattr__(self, name, values)

    def centre(self, features: ArrayLike) -> Array:
        """Return the centre of each sample's norm, float64 [N], from features [N, K]."""
        return self._times(features, self.c, "centre")

    def spread(self, features: ArrayLike) -> Array:
        """Return the spread of each sample's norm, float64 [N], a variance, from features [N, K]."""
        return self._times(features, self.d, "spread")

    def _times(self, features: ArrayLike, coefficients: Array, name: str) -> Array:
        values = np.asarray(features, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(coefficients):
            raise ValueError(
                f"`UncertaintySet.{name}(features)` must have shape [N, {len(coefficients)}]; got {list(values.shape)}."
                " Pass the features that the set was fitted to."
            )
        product: Array = values @ coefficients
        return product


def robust_probabilities(centre: ArrayLike, spread: ArrayLike) -> tuple[Array, float, float]:
    r"""Return the probabilities whose worst second moment over the uncertainty set is least.

    .. math::
        p^* = \arg\min_p \max_{v \in U} \frac1{n^2} \sum_i \frac{v_i^2}{p_i} \propto c_i + k d_i, \quad
        k = \Bigl(\frac1n \sum_i d_i\Bigr)^{-1/2}

    The second moment is convex in p and, in the squares of v, linear over a convex set, so that minimum and maximum
    commute; for fixed v, :math:`p \propto v` is best. The worst norms are :math:`v_i = c_i + k d_i`.

    Reference:
        Johnson & Guestrin (2018), "Choose p with the best worst case"; k is their "known value (not hyperparameter)".

    Args:
        centre: c_i, finite, ≥ 0, [n].
        spread: d_i, finite, ≥ 0, [n].

    Returns:
        - probabilities, float64 [n], uniform where all of `centre` and `spread` are 0. A sample with both 0 has
          probability 0: smooth before drawing.
        - k, 0 where all of `spread` is 0.
        - the worst case of the second moment, :math:`(\bar c + \sqrt{\bar d})^2`.

    Raises:
        ValueError: an entry is negative or not finite, or the shapes are not both [n] with n ≥ 1.

    Example:
        >>> robust_probabilities([1.0, 2.0], [1.0, 1.0])
        (array([0.4, 0.6]), 1.0, 6.25)
    """
    c = non_negative(centre, "robust_probabilities(centre, ...)", 1)
    d = non_negative(spread, "robust_probabilities(..., spread)", 1, c.shape)
    k, bound = robust_scale(float(c.mean()), float(d.mean()))
    worst = c + k * d
    if not worst.any():
        worst = np.ones_like(worst)
    return worst / worst.sum(), k, bound


def robust_scale(mean_centre: float, mean_spread: float) -> tuple[float, float]:
    """Return k and the bound of `robust_probabilities` from the means of c_i and d_i alone.

    Example:
        >>> robust_scale(1.5, 1.0)
        (1.0, 6.25)
    """
    root = math.sqrt(mean_spread)
    return (1 / root if root > 0 else 0.0), (mean_centre + root) ** 2


def non_negative(values: ArrayLike, argument: str, ndim: int, shape: tuple[int, ...] | None = None) -> Array:
    """Return a float64 array of that shape, or raise unless its entries are finite and at least 0."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or array.size == 0:
        expected = "[m, K]" if ndim == 2 else "[n]"
        raise ValueError(f"`{argument}` must have shape {expected}, not empty; got {list(array.shape)}.")
    if shape is not None and array.shape != shape:
        raise ValueError(f"`{argument}` must have shape {list(shape)}; got {list(array.shape)}. Match the others.")
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any():
        raise ValueError(f"`{argument}` must be finite and at least 0; got {array[wrong][0]}. Leave such samples out.")
    return array
