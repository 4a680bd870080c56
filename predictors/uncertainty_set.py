r"""The fit of the uncertainty set of robust importance sampling.

Gradient norms v of all n samples are known to lie in :math:`\{ v \ge 0 : \frac1n \sum_i (v_i - c_i)^2 / d_i \le 1 \}`,
with centre :math:`c_i = \langle c, s_i \rangle` and spread :math:`d_i = \langle d, s_i \rangle` linear in features
:math:`s_i \ge 0` of the sample. `fit_uncertainty_set` finds the smallest set that holds recent observations,
`robust_probabilities` the distribution whose worst case over the set is best.

Importing this module loads neither cvxpy nor scipy.optimize; `check_solver` does, where they are going to be needed.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from approx_is.predictors.robust import UncertaintySet, non_negative, robust_probabilities
from approx_is.predictors.uncertainty_fit import (
    Array,
    Programme,
    constraint,
    fit_one_feature,
    minimise_l_bfgs,
    newton_steps,
    scale,
)

__all__ = [
    "UncertaintySet",
    "check_solver",
    "fit_uncertainty_set",
    "robust_probabilities",
    "solve_uncertainty_set",
]

SOLVERS = ("cvxpy", "l-bfgs")

_CLARABEL: dict[str, Any] = {"time_limit": 10.0, "max_threads": 1, "direct_solve_method": "qdldl"}


def fit_uncertainty_set(
    features: ArrayLike,
    norms: ArrayLike,
    weights: ArrayLike,
    mean_features: ArrayLike,
    *,
    solver: str = "cvxpy",
    fallback: UncertaintySet | None = None,
) -> UncertaintySet:
    r"""Return the smallest uncertainty set that holds recent observations.

    .. math::
        \min_{c, d \ge 0} \langle a, d \rangle \quad \text{s.t.} \quad
        \frac1m \sum_j w_j \frac{(v_j - \langle c, s_j \rangle)^2}{\langle d, s_j \rangle} \le 1

    The weights make the left side an unbiased estimate of the mean over all samples, if features and weights are those
    at draw time. Both solvers end with Newton steps and with d scaled until the constraint holds exactly. With more
    observations than features they agree in the objective to 1e-6, if it is above 1e-9 of the weighted mean square of
    the norms; below, the fit is exact but for rounding.

    A fit that fails (any status but optimal, an exception of the solver, a solution that is not finite or that is 0 for
    norms that are not) is replaced by the first of: `fallback`; the best set of a single feature, by its closed form,
    among features positive in every row; the set of zeros, under which probabilities are uniform.

    Reference:
        Johnson & Guestrin (2018), "Train uncertainty set parameters using recent minibatches".

    Args:
        features: s_j of the observed samples, finite, ≥ 0, [m, K].
        norms: observed v_j, finite, ≥ 0, [m].
        weights: w_j = 1/(n p_j), finite, > 0, [m].
        mean_features: a, the mean of s_i over all samples, finite, ≥ 0, not all 0, [K].
        solver: "cvxpy" (Clarabel, one thread, at most 10 s) or "l-bfgs" (scipy's L-BFGS-B, faster).
        fallback: the previous set.

    Returns:
        The set. A feature that is 0 in every row, or for d one whose mean is 0, has coefficient 0.

    Raises:
        ValueError: an argument is out of bounds, or shapes do not match.

    Warns:
        RuntimeWarning: the fit failed; says why, and what is returned instead.

    Example:
        >>> fitted = fit_uncertainty_set([[1.0]] * 4, [1.0, 2.0, 3.0, 4.0], [1.0] * 4, [1.0], solver="l-bfgs")
        >>> fitted.c.round(6), fitted.d.round(6)
        (array([2.5]), array([1.25]))
    """
    fitted, failure = solve_uncertainty_set(features, norms, weights, mean_features, solver=solver, fallback=fallback)
    if failure is not None:
        warnings.warn(failure, RuntimeWarning, stacklevel=2)
    return fitted


def solve_uncertainty_set(
    features: ArrayLike,
    norms: ArrayLike,
    weights: ArrayLike,
    mean_features: ArrayLike,
    *,
    solver: str = "cvxpy",
    fallback: UncertaintySet | None = None,
) -> tuple[UncertaintySet, str | None]:
    """Do what `fit_uncertainty_set` does, but return the warning's text, or None, instead of warning.

    For threads: warnings and their filters belong to the whole process and are not touched.
    """
    check_solver(solver)
    data = _check_data(features, norms, weights, mean_features, fallback)
    if not data[1].any():
        return UncertaintySet(np.zeros_like(data[3]), np.zeros_like(data[3])), None
    with np.errstate(all="ignore"):
        try:
            return _fit(*data, solver), None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # whatever went wrong, training goes on; a panic in Clarabel is no Exception
            reason = str(error) if isinstance(error, _FitError) else f"{type(error).__name__}: {error}"
        replacement, name = _replacement(*data, fallback)
    return replacement, f"The fit of the uncertainty set by {solver!r} failed ({reason}); {name} is used instead."


def check_solver(solver: str) -> str:
    """Return the solver's name, or raise `ValueError` unless it is known; import what it needs, or a fit would."""
    if solver not in SOLVERS:
        raise ValueError(f"`solver` must be one of {', '.join(map(repr, SOLVERS))}; got {solver!r}.")
    import scipy.optimize  # type: ignore[import-untyped]  # noqa: F401

    if solver == "cvxpy":
        import cvxpy  # noqa: F401
    return solver


class _FitError(Exception):
    """There is no optimal solution; the text is the solver's status."""


def _fit(features: Array, norms: Array, weights: Array, mean_features: Array, solver: str) -> UncertaintySet:
    programme = scale(features, norms, weights, mean_features)
    if isinstance(programme, str):
        raise _FitError(f"status {programme}")
    solve = _minimise_cvxpy if solver == "cvxpy" else minimise_l_bfgs
    solution = solve(programme)
    _check_finite(solution)
    c, d = programme.unscale(newton_steps(programme, solution))
    # in the data's units: after a nearly exact fit, rounding to them moves the residuals
    d *= constraint(np.sqrt(weights / len(norms)) * (norms - features @ c), features @ d)
    _check_finite(c, d)
    if mean_features @ c + mean_features @ d == 0:
        raise _FitError("status optimal, but the solution is 0 and the norms are not")
    return UncertaintySet(c, d)


def _check_finite(*arrays: Array) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise _FitError("status optimal, but the solution is not finite")


def _minimise_cvxpy(programme: Programme) -> Array:
    r"""Return (c, d) by Clarabel, as one block of three-dimensional cones.

    With residuals x, spreads y and :math:`x^2 / y \le t`, the cone :math:`\|(2x, t - y)\| \le t + y` is written in
    u = t + y, so that the features enter only once, and as constants: a `Parameter` takes half a minute to compile.
    """
    import cvxpy

    cp: Any = cvxpy  # its type hints leave out what it takes from numpy-like names
    c = cp.Variable(programme.centre.shape[1], nonneg=True)
    d = cp.Variable(programme.spread.shape[1], nonneg=True)
    u = cp.Variable(len(programme.target))
    residuals = 2 * programme.target - (2 * programme.centre) @ c
    cones = cp.SOC(u, cp.vstack([residuals, u - (2 * programme.spread) @ d]), axis=0)
    problem = cp.Problem(cp.Minimize(cp.sum(d)), [cones, cp.sum(u) - programme.spread.sum(axis=0) @ d <= 1])
    # what Problem.solve does, less its warnings, which would have to be filtered for the whole process
    data, chain, inverse = problem.get_problem_data(cp.CLARABEL, solver_opts=_CLARABEL)
    solution = chain.invert(chain.solve_via_data(problem, data, solver_opts=_CLARABEL), inverse)
    if solution.status != cp.OPTIMAL:
        raise _FitError(f"status {solution.status}")
    problem.unpack(solution)
    return np.concatenate([c.value, d.value])


def _replacement(
    features: Array, norms: Array, weights: Array, mean_features: Array, fallback: UncertaintySet | None
) -> tuple[UncertaintySet, str]:
    if fallback is not None:
        return fallback, "the previous set"
    c, d = fit_one_feature(features, norms, weights, mean_features)
    return UncertaintySet(c, d), "the best set of a single feature" if c.any() else "the set of zeros (uniform)"


def _check_data(
    features: ArrayLike,
    norms: ArrayLike,
    weights: ArrayLike,
    mean_features: ArrayLike,
    fallback: UncertaintySet | None,
) -> tuple[Array, Array, Array, Array]:
    s = non_negative(features, "fit_uncertainty_set(features, ...)", 2)
    v = non_negative(norms, "fit_uncertainty_set(..., norms, ...)", 1, s.shape[:1])
    w = non_negative(weights, "fit_uncertainty_set(..., weights, ...)", 1, s.shape[:1])
    a = non_negative(mean_features, "fit_uncertainty_set(..., mean_features)", 1, s.shape[1:])
    if not (w > 0).all():
        raise ValueError(
            "`fit_uncertainty_set(..., weights, ...)` must be above 0; got 0. Pass 1/(n p) of the draw, or leave out "
            "samples that were not drawn."
        )
    if not a.any():
        raise ValueError(
            "`fit_uncertainty_set(..., mean_features)` must not be 0 for all features. Add a feature that is always 1."
        )
    if fallback is not None and fallback.c.shape != a.shape:
        raise ValueError(
            f"`fit_uncertainty_set(fallback=...)` must have shape {list(a.shape)}, as the features; got "
            f"{list(fallback.c.shape)}. Fit anew without it."
        )
    return s, v, w, a
