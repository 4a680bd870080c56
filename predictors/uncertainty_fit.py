r"""The convex programme of robust importance sampling without a modelling language: scaling, L-BFGS-B, Newton steps.

Scaled, the fit of `approx_is.predictors.uncertainty_set` is a programme without weights:

.. math:: \min_{c, d \ge 0} \sum_k d_k \quad \text{s.t.} \quad \sum_j \frac{(y - X c)_j^2}{(D d)_j} \le 1

Call the objective A and the constraint's left side B. Scaling d shows that minimising A subject to B ≤ 1 is minimising
A·B; and A + B, which is smooth, jointly convex and bounded by signs only, has the same minimiser up to the scale of d.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Programme", "constraint", "fit_one_feature", "minimise_l_bfgs", "newton_steps", "scale"]

Array = NDArray[np.float64]

SMALLEST = 1e-10
"""Scaled spread coefficient, a share of the mean square of the norms, below which A + B is too curved to descend."""

_FLOORS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, SMALLEST)
_TINY = 1e-200  # what no division is by less than
_EXACT = 1e-7  # of A + B, whose minimum is twice the root of A·B


@dataclass(frozen=True, eq=False)
class Programme:
    """A scaled programme, and how to undo the scaling.

    Args:
        target: y [m], of norm 1.
        centre: X [m, K1], columns of norm 1.
        spread: D [m, K2].
        centre_units: what multiplies the solution c, [K]; 0 in the places of the K - K1 columns left out.
        spread_units: what multiplies the solution d, [K]; 0 in the places of the K - K2 columns left out.
    """

    target: Array
    centre: Array
    spread: Array
    centre_units: Array
    spread_units: Array

    def split(self, z: Array) -> tuple[Array, Array]:
        """Return c [K1] and d [K2] of the joint vector z = (c, d)."""
        return z[: self.centre.shape[1]], z[self.centre.shape[1] :]

    def unscale(self, z: Array) -> tuple[Array, Array]:
        """Return c and d in the units of the data, both [K]."""
        full = []
        for part, units in zip(self.split(z), (self.centre_units, self.spread_units), strict=True):
            values = units.copy()
            values[units > 0] *= part
            full.append(values)
        return full[0], full[1]


def scale(features: Array, norms: Array, weights: Array, mean_features: Array) -> Programme | str:
    """Return the scaled programme, or why there is none: a row whose norm no feature can explain or spread over.

    Norms are divided by their weighted rms, columns of the centre by theirs, those of the spread by their mean feature.
    A column of zeros is left out, and of the spread one whose mean feature is 0: it would be free of charge.
    """
    rms = _weighted_rms(norms, weights)
    column_rms = _weighted_rms(features, weights)
    for_centre = column_rms > 0
    for_spread = for_centre & (mean_features > 0)
    spread = features[:, for_spread] / mean_features[for_spread]
    if bool((~spread.any(axis=1) & ((norms > 0) | features.any(axis=1))).any()):
        return "infeasible, an observed sample has no feature above 0 whose mean is above 0"
    root = np.sqrt(weights / len(norms))
    return Programme(
        root * (norms / rms),
        root[:, None] * (features[:, for_centre] / column_rms[for_centre]),
        spread,
        np.divide(rms, column_rms, out=np.zeros_like(column_rms), where=for_centre),
        np.divide(rms**2, mean_features, out=np.zeros_like(mean_features), where=for_spread),
    )


def constraint(residuals: Array, spread: Array) -> float:
    """Return the sum of squared residuals over spreads, both [m]; a residual of 0 counts 0 over a spread of 0 too."""
    squares = residuals**2
    return float(np.divide(squares, spread, out=np.zeros_like(spread), where=squares > 0).sum())


def fit_one_feature(features: Array, norms: Array, weights: Array, mean_features: Array) -> tuple[Array, Array]:
    r"""Return the best c and d, [K], that use a single feature, by its closed form.

    .. math:: c = \frac{\sum w v}{\sum w s}, \quad d = \frac1m \sum_j \frac{w_j (v_j - c s_j)^2}{s_j}

    Only features above 0 in every row and in the mean can do; zeros are returned where there is none.
    """
    centre, spread = np.zeros_like(mean_features), np.zeros_like(mean_features)
    usable = (features > 0).all(axis=0) & (mean_features > 0)
    s, w, v = features[:, usable], weights[:, None], norms[:, None]
    c = (w * v).sum(axis=0) / (w * s).sum(axis=0)
    d = (w * (v - c * s) ** 2 / s).mean(axis=0)
    sizes = np.where(np.isfinite(c) & np.isfinite(d), d * mean_features[usable], np.inf)
    if sizes.size and np.isfinite(sizes.min()):
        best = sizes.argmin()
        column = np.flatnonzero(usable)[best]
        centre[column], spread[column] = c[best], d[best]
    return centre, spread


def minimise_l_bfgs(programme: Programme) -> Array:
    r"""Return the joint minimiser (c, d) of A + B by L-BFGS-B.

    Where a spread is near 0 the sum is too curved for L-BFGS, and a coordinate that meets its bound early is slow to
    leave it. Hence :math:`d \ge \epsilon` with ε falling from 0.1 to 1e-10, each minimiser the start of the next, and
    variables divided by the root of the second derivative at the start.

    Raises:
        RuntimeError: the limit of iterations is reached.
    """
    z = _first_guess(programme)
    for floor in _FLOORS:
        z = _descend(programme, z, floor)
    return z


def newton_steps(programme: Programme, z: Array, *, max_steps: int = 30) -> Array:
    """Return z = (c, d) after damped Newton steps on A + B, which give a nearly optimal z its last digits.

    A step is taken only if the sum falls. An exact fit (A·B below 1e-14) is left as it is. No spread coefficient stays
    at 0: a row fitted exactly, and spread over by that feature alone, has a residual as soon as it is rounded.
    """
    z = _balance(programme, z)
    value, _ = _value_and_gradient(programme, z)
    damping = 1e-12
    for _ in range(max_steps):
        new = _newton_step(programme, z, damping)
        new_value, _ = _value_and_gradient(programme, new)
        if value < _EXACT or abs(new_value - value) <= 1e-13 * value:
            break
        if new_value < value:
            z, value, damping = new, new_value, damping / 10
        else:
            damping *= 100
    c, d = programme.split(z)
    return np.concatenate([c, np.maximum(d, 1e-12 * max(d.sum(), 1e-12))])


def _descend(programme: Programme, z: Array, floor: float) -> Array:
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    curvature = np.square(_root_of_hessian(programme, z)).sum(axis=0)
    units = 1 / np.sqrt(np.maximum(curvature, 1e-6 * curvature.max()))
    lower = np.zeros_like(z)
    programme.split(lower)[1][:] = floor
    lower /= units

    def value_and_gradient(scaled: Array) -> tuple[float, Array]:
        value, gradient = _value_and_gradient(programme, scaled * units)
        return value, gradient * units

    result = minimize(
        value_and_gradient,
        np.maximum(z / units, lower),
        jac=True,
        method="L-BFGS-B",
        bounds=[(bound, None) for bound in lower],
        options={"maxcor": 20, "maxiter": 500, "maxfun": 1000, "ftol": 1e-10, "gtol": 1e-10},
    )
    if result.status == 1:
        raise RuntimeError(result.message)
    minimiser: Array = result.x * units
    return minimiser


def _newton_step(programme: Programme, z: Array, damping: float) -> Array:
    """Return the minimiser over z ≥ 0 of the damped quadratic model at z; NaN where rounding leaves none.

    With the Cholesky factor L of the damped Hessian it solves a small least-squares problem in non-negative variables.
    """
    from scipy.optimize import nnls

    root = _root_of_hessian(programme, z)
    hessian = root.T @ root
    units = np.sqrt(np.maximum(hessian.diagonal(), _TINY))
    _, gradient = _value_and_gradient(programme, z)
    try:
        factor = np.linalg.cholesky(hessian / units / units[:, None] + damping * np.eye(len(z)))
        step = np.linalg.solve(factor, gradient / units)
        minimiser: Array = nnls(factor.T, factor.T @ (z * units) - step)[0] / units
    except (np.linalg.LinAlgError, RuntimeError, ValueError):  # the last of nnls, where a spread of 0 leaves inf or NaN
        return np.full_like(z, np.nan)
    return minimiser


def _weighted_rms(values: Array, weights: Array) -> Array:
    """Return the weighted rms over the rows, per column; the largest value is divided out, lest squares vanish."""
    largest = values.max(axis=0)
    relative = values / np.where(largest > 0, largest, 1.0)
    result: Array = np.asarray(largest * np.sqrt(np.tensordot(weights, relative**2, axes=1) / len(weights)))
    return result


def _first_guess(programme: Programme) -> Array:
    """Return all features alike, at the best scale of the centre and then of the spread."""
    total = programme.centre.sum(axis=1)
    c = np.full(programme.centre.shape[1], (total @ programme.target) / (total @ total))
    return _balance(programme, np.concatenate([c, np.ones(programme.spread.shape[1])]))


def _balance(programme: Programme, z: Array) -> Array:
    """Return z with no spread coefficient below `SMALLEST` and then d scaled to A = B, where the sum is least."""
    c, d = programme.split(z)
    d = np.maximum(d, SMALLEST)
    left_side = constraint(programme.target - programme.centre @ c, programme.spread @ d)
    return np.concatenate([np.maximum(c, 0.0), np.maximum(d * np.sqrt(left_side / d.sum()), SMALLEST)])


def _value_and_gradient(programme: Programme, z: Array) -> tuple[float, Array]:
    """Return A + B and its gradient [K1 + K2]."""
    c, d = programme.split(z)
    residuals = programme.target - programme.centre @ c
    ratios = residuals / np.maximum(programme.spread @ d, _TINY)
    gradient = np.concatenate([-2 * (ratios @ programme.centre), 1 - (ratios * ratios) @ programme.spread])
    return float(d.sum() + residuals @ ratios), gradient


def _root_of_hessian(programme: Programme, z: Array) -> Array:
    r"""Return J [m, K1 + K2], :math:`J_j = \sqrt{2 / (Dd)_j}\,(X_j, g_j D_j)` with :math:`g = (y - Xc) / (Dd)`.

    The Hessian of A + B is :math:`J^\top J`.
    """
    c, d = programme.split(z)
    spread = np.maximum(programme.spread @ d, _TINY)
    ratios = (programme.target - programme.centre @ c) / spread
    root: Array = np.hstack([programme.centre, ratios[:, None] * programme.spread]) * np.sqrt(2 / spread)[:, None]
    return root
