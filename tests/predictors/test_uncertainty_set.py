"""The uncertainty set: golden values, certificates of optimality, agreement of the solvers, what a failure leaves."""

import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from approx_is.predictors import uncertainty_set as module
from approx_is.predictors.robust import robust_scale
from approx_is.predictors.uncertainty_set import (
    UncertaintySet,
    check_solver,
    fit_uncertainty_set,
    robust_probabilities,
    solve_uncertainty_set,
)

SOLVERS = ["cvxpy", "l-bfgs"]
ROUND = 1 + 1e-9
EXACT = 1e-9
"""Objective, relative to the mean square of the norms, below which a fit is exact but for rounding."""
CERTIFIED = 1e-4
"""Relative error of the certificate, which is of first order in that of c where the objective is of second."""


# --- the distribution -------------------------------------------------------------------------------------------------

GOLDEN = {
    "A": ([1, 2, 3, 4, 5], [1] * 5, 1, [0.1, 0.15, 0.2, 0.25, 0.3], 16),
    "B": (
        [1, 2, 3, 4, 5],
        [1, 4, 9, 16, 25],
        0.3015113446,
        [0.04120907566, 0.1015113446, 0.1809068067, 0.2793954622, 0.3969773108],
        39.89974874,
    ),
    "C": ([0, 0, 0, 0, 1], [0.1] * 4 + [0.5], 2.3570226040, [0.07551363989] * 4 + [0.6979454405], 0.3897056275),
    "D": (
        [1e-8, 1e-4, 1, 1e2, 1e4],
        [1e-6, 1e-2, 1, 1e2, 1e6],
        0.0022359551,
        [9.9179505e-13, 9.9179505e-9, 8.123703093e-5, 0.008123703093, 0.99179505],
        6088241.408,
    ),
    "E": (
        [0.5, 0, 2, 1, 0.25],
        [0, 0, 0.04, 1, 0.01],
        2.1821789024,
        [0.08276381007, 0, 0.3455036755, 0.5267385006, 0.04499401384],
        1.459886354,
    ),
    "F": ([0.3] * 5, [0] * 5, 0, [0.2] * 5, 0.09),
    "G": ([0] * 5, [2, 1, 0, 0, 1], 1.1180339887, [0.5, 0.25, 0, 0, 0.25], 0.8),
    "all zero": ([0] * 5, [0] * 5, 0, [0.2] * 5, 0),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_probabilities_have_the_golden_values(name):
    centre, spread, *expected = GOLDEN[name]
    probabilities, k, bound = robust_probabilities(centre, spread)
    rtol = 1e-7 if name == "D" else 1e-9
    for found, value in zip((k, probabilities, bound), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=rtol)
    assert probabilities.dtype == np.float64
    assert (type(k), type(bound)) == (float, float)


def random_centre_and_spread(seed):
    """Return c_i and d_i with spreads of 1e8, some of them 0, none both."""
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 12))
    centre, spread = 10 ** random.uniform(-4, 4, (2, n))
    centre[random.random(n) < 0.3] = 0
    spread[(random.random(n) < 0.3) & (centre > 0)] = 0
    if seed % 10 == 0:
        centre, spread = centre + 1, 0 * spread
    if seed % 10 == 1:
        centre, spread = 0 * centre, spread + 1
    return centre, spread


def worst_case(probabilities, centre, spread):
    """Return max over U of the second moment, by its dual: an upper bound for any μ, least at the root."""
    n, low, high = len(centre), 0.0, 1.0
    if not spread.any():
        return (centre**2 / probabilities).sum() / n**2
    largest = (probabilities[spread > 0] / spread[spread > 0]).min()
    dual, middle = np.inf, 0.5
    for _ in range(60):
        mu = middle * largest
        left = probabilities - mu * spread
        ratios = np.divide(centre, left, out=np.zeros(n), where=centre > 0)
        dual = min(dual, n / mu + (centre * ratios).sum())
        low, high = (low, middle) if (ratios**2 * spread).sum() > n / mu**2 else (middle, high)
        middle = (low + high) / 2
    return dual / n**2


def test_the_worst_case_of_the_closed_form_is_its_bound_and_no_other_distribution_has_less():
    for seed in range(300):
        centre, spread = random_centre_and_spread(seed)
        probabilities, _, bound = robust_probabilities(centre, spread)
        assert worst_case(probabilities, centre, spread) == pytest.approx(bound, rel=1e-8), seed
        random = np.random.default_rng(seed)
        for size in (1e-3, 0.1, 1.0, 5.0):
            other = probabilities * np.exp(size * random.standard_normal(len(centre)))
            assert worst_case(other / other.sum(), centre, spread) >= bound * (1 - 1e-9), (seed, size)


def test_a_distribution_that_is_far_off_has_a_larger_worst_case():
    centre, spread = np.array([1.0, 4.0]), np.array([1.0, 9.0])
    assert worst_case(np.array([0.5, 0.5]), centre, spread) > 1.1 * robust_probabilities(centre, spread)[2]


@given(st.integers(0, 2**31))
def test_the_worst_norms_are_in_the_set_and_attain_the_bound(seed):
    centre, spread = random_centre_and_spread(seed)
    probabilities, k, bound = robust_probabilities(centre, spread)
    norms = centre + k * spread
    free = spread > 0
    size = ((norms - centre)[free] ** 2 / spread[free]).sum() / len(norms)
    assert size == pytest.approx(1.0 if free.any() else 0.0, rel=1e-6)
    assert np.mean(norms**2 / probabilities) / len(norms) == pytest.approx(bound, rel=1e-12)


@given(st.integers(0, 2**31), st.sampled_from([1e-30, 1e-3, 7.0, 1e30]))
def test_the_unit_of_norms_does_not_change_probabilities(seed, unit):
    centre, spread = random_centre_and_spread(seed)
    probabilities, _, bound = robust_probabilities(centre, spread)
    scaled, _, scaled_bound = robust_probabilities(unit * centre, unit**2 * spread)
    np.testing.assert_allclose(scaled, probabilities, rtol=1e-12)
    assert scaled_bound == pytest.approx(unit**2 * bound, rel=1e-12)
    assert scaled.sum() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_scale_needs_only_the_means(name):
    centre, spread, k, _, bound = GOLDEN[name]
    assert robust_scale(np.mean(centre), np.mean(spread)) == pytest.approx((k, bound), rel=1e-7)


def test_lists_tensors_and_single_samples_are_taken():
    expected = robust_probabilities([1.0, 2.0], [1.0, 1.0])[0]
    np.testing.assert_array_equal(robust_probabilities(torch.tensor([1.0, 2.0]), torch.ones(2))[0], expected)
    assert robust_probabilities([3.0], [4.0])[0].tolist() == [1.0]


@pytest.mark.parametrize(
    ("centre", "spread", "message"),
    [
        (
            [-1.0, 1.0],
            [1.0, 1.0],
            r"`robust_probabilities\(centre, \.\.\.\)` must be finite and at least 0; got -1\.0\.",
        ),
        ([1.0, np.nan], [1.0, 1.0], r"centre, \.\.\.\)` must be finite and at least 0; got nan\. Leave"),
        ([1.0, 1.0], [1.0, np.inf], r"spread\)` must be finite and at least 0; got inf\."),
        ([1.0, 1.0], [1.0], r"spread\)` must have shape \[2\]; got \[1\]\."),
        ([], [], r"centre, \.\.\.\)` must have shape \[n\], not empty; got \[0\]\."),
        ([[1.0]], [[1.0]], r"centre, \.\.\.\)` must have shape \[n\], not empty; got \[1, 1\]\."),
    ],
)
def test_bad_centres_and_spreads_are_refused(centre, spread, message):
    with pytest.raises(ValueError, match=message):
        robust_probabilities(centre, spread)


# --- the set ----------------------------------------------------------------------------------------------------------


def test_a_set_is_a_copy_that_cannot_be_written_to():
    c = np.array([1.0, 2.0])
    fitted = UncertaintySet(c, [0, 3])
    c[0] = 9
    assert (fitted.c.tolist(), fitted.d.tolist(), fitted.d.dtype) == ([1.0, 2.0], [0.0, 3.0], np.float64)
    with pytest.raises(ValueError, match="read-only"):
        fitted.c[0] = 5.0
    with pytest.raises(AttributeError, match="cannot assign"):
        fitted.c = c


def test_centre_and_spread_are_linear_in_the_features():
    fitted = UncertaintySet([1.0, 2.0], [0.5, 0.0])
    features = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    assert fitted.centre(features).tolist() == [7.0, 0.0]
    assert fitted.spread(features).tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("c", "d", "message"),
    [
        ([-1.0], [1.0], r"`UncertaintySet\(c=\.\.\.\)` must be finite and at least 0; got -1\.0\."),
        ([1.0], [np.inf], r"`UncertaintySet\(d=\.\.\.\)` must be finite and at least 0; got inf\."),
        ([1.0], [1.0, 2.0], r"`UncertaintySet\(d=\.\.\.\)` must have shape \[1\]; got \[2\]\."),
        ([], [], r"`UncertaintySet\(c=\.\.\.\)` must have shape \[n\], not empty; got \[0\]\."),
    ],
)
def test_bad_coefficients_are_refused(c, d, message):
    with pytest.raises(ValueError, match=message):
        UncertaintySet(c, d)


@pytest.mark.parametrize("features", [[1.0, 2.0], [[1.0, 2.0, 3.0]]])
def test_features_of_another_set_are_refused(features):
    with pytest.raises(ValueError, match=r"`UncertaintySet\.centre\(features\)` must have shape \[N, 2\]; got"):
        UncertaintySet([1.0, 2.0], [0.0, 0.0]).centre(features)


# --- the fit ----------------------------------------------------------------------------------------------------------

X = np.array([0.2, 0.5, 1, 2, 3, 5, 0.1, 4])
LINE = np.stack([np.ones(8), X], axis=1)
FITS = {
    "bias only": (np.ones((4, 1)), [1, 2, 3, 4], [1, 1, 1, 1], [1], [2.5], [1.25]),
    "bias only, weighted": (np.ones((3, 1)), [1, 2, 4], [2, 1, 0.5], [1], [12 / 7], [26 / 21]),
    "two groups": (
        [[1, 0]] * 3 + [[0, 1]] * 3,
        [1, 2, 3, 4, 6, 5],
        [1, 0.5, 2, 1, 1.5, 0.25],
        [0.6, 0.4],
        [2.2857142857, 5.1818181818],
        [0.8003635254, 0.923489011],
    ),
    "line": (
        LINE,
        [0.5, 0.4, 1.6, 1.8, 4, 4.1, 0.6, 4.6],
        [1.8, 1.5, 1, 0.7, 0.5, 0.4, 2, 0.45],
        [1, 1.2],
        [0.34186762, 0.93400726],
        [0.06881478, 0.05243149],
    ),
    "exact": (LINE, LINE @ [1, 2], np.ones(8), [1, 1.5], [1, 2], [0, 0]),
    "norms of 0": (LINE, np.zeros(8), np.ones(8), [1, 1.5], [0, 0], [0, 0]),
    "column of zeros": ([[1, 0]] * 4, [1, 2, 3, 4], [1, 1, 1, 1], [1, 0.5], [2.5, 0], [1.25, 0]),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", FITS)
def test_fits_have_the_golden_values(name, solver):
    *data, c, d = FITS[name]
    fitted = fit_uncertainty_set(*data, solver=solver)
    unit = np.mean(np.square(data[1])) or 1.0
    np.testing.assert_allclose(fitted.c, c, rtol=1e-5)
    np.testing.assert_allclose(fitted.d, d, rtol=1e-5, atol=EXACT * unit)
    assert fitted.d @ data[3] == pytest.approx(np.dot(d, data[3]), rel=1e-7, abs=EXACT * unit)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_objectives_have_the_golden_values(solver):
    groups, line = (fit_uncertainty_set(*FITS[name][:4], solver=solver) for name in ("two groups", "line"))
    assert groups.d @ [0.6, 0.4] == pytest.approx(0.8496137196, rel=1e-7)
    assert line.d @ [1, 1.2] == pytest.approx(0.1317325696, rel=1e-7)


def make_problem(seed):
    """Return features, norms, weights and mean features: heavy tails, outliers, zeros, columns of any size."""
    random = np.random.default_rng(seed)
    m, num_features = int(random.choice([16, 40, 150])), int(random.integers(1, 7))
    level = random.standard_normal((m, 1)) * random.choice([0.3, 1.5])
    features = np.exp(level + random.choice([0.1, 1.0]) * random.standard_normal((m, num_features)))
    features *= 10 ** random.uniform(-3, 3, num_features)
    features[random.random((m, num_features)) < random.choice([0, 0.2])] = 0
    features[:, 0] = random.choice([1e-3, 1.0])
    kind = seed % 5
    norms = (features / features.mean(axis=0)) @ random.random(num_features)
    if kind < 3:
        norms *= np.exp((0.05, 0.5, 2.0)[kind] * random.standard_normal(m))
        norms[random.random(m) < random.choice([0, 0.3])] = 0
    elif kind == 3:
        norms = 10 ** random.uniform(-8, 4, m)
    else:
        norms[random.random(m) < 0.05] *= 1e4
    weights = np.exp(random.standard_normal(m))
    return features, norms, weights, features.mean(axis=0) * np.exp(0.3 * random.standard_normal(num_features))


def left_side(fitted, features, norms, weights):
    """Return the left side of the constraint: at most 1 for a set that holds the observations."""
    residuals, spread = norms - fitted.centre(features), fitted.spread(features)
    assert (spread[residuals != 0] > 0).all()
    return np.mean(weights * np.divide(residuals**2, spread, out=np.zeros_like(norms), where=residuals != 0))


def lower_bound(fitted, features, norms, weights, mean_features):
    r"""Return a size that no set which holds the observations falls short of.

    For any λ with X'λ ≤ 0 and D'λ² ≤ 1, and any feasible (c, d), by Cauchy & Schwarz,
    Σ y λ ≤ Σ (y - Xc) λ ≤ √(Σ (y - Xc)²/(Dd) · Σ λ² Dd) ≤ √⟨a, d⟩. The best λ is (y - Xc)/(Dd), here made feasible.
    """
    root = np.sqrt(weights / len(norms))
    target, centre = root * norms, root[:, None] * features
    multipliers = (target - root * fitted.centre(features)) / fitted.spread(features)
    multipliers -= max(0.0, (multipliers @ centre / centre.sum(axis=0)).max())
    multipliers /= np.sqrt((multipliers**2 @ features / mean_features).max())
    return max(0.0, target @ multipliers) ** 2


@pytest.mark.parametrize("seed", range(60))
def test_both_solvers_find_the_smallest_set(seed):
    features, norms, weights, mean_features = make_problem(seed)
    sets = [fit_uncertainty_set(features, norms, weights, mean_features, solver=solver) for solver in SOLVERS]
    unit = np.mean(weights * norms**2)
    sizes = [mean_features @ fitted.d for fitted in sets]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-6, abs=EXACT * unit)
    for fitted, size in zip(sets, sizes, strict=True):
        assert left_side(fitted, features, norms, weights) <= ROUND
        if size > EXACT * unit:
            assert size <= lower_bound(fitted, features, norms, weights, mean_features) * (1 + CERTIFIED)


def test_the_certificate_tells_a_worse_set():
    data = FITS["line"][:4]
    best = fit_uncertainty_set(*data, solver="l-bfgs")
    worse = UncertaintySet(best.c * [0.9, 1.0], best.d)
    worse = UncertaintySet(worse.c, worse.d * left_side(worse, *map(np.asarray, data[:3])))
    assert best.d @ data[3] <= lower_bound(best, *map(np.asarray, data)) * (1 + 1e-6)
    assert worse.d @ data[3] > lower_bound(worse, *map(np.asarray, data)) * (1 + 1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", range(5))
def test_no_neighbour_that_holds_the_observations_is_smaller(seed, solver):
    features, norms, weights, mean_features = make_problem(seed)
    fitted = fit_uncertainty_set(features, norms, weights, mean_features, solver=solver)
    random = np.random.default_rng(seed)
    for _ in range(200):
        c, d = np.array([fitted.c, fitted.d]) * np.exp(0.01 * random.standard_normal((2, len(fitted.c))))
        d *= left_side(UncertaintySet(c, d), features, norms, weights)
        assert mean_features @ d >= mean_features @ fitted.d * (1 - 1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
class TestInvariances:
    DATA = FITS["line"][:4]

    def test_the_unit_of_norms_scales_c_and_its_square_d(self, solver):
        features, norms, weights, mean_features = self.DATA
        plain = fit_uncertainty_set(*self.DATA, solver=solver)
        for unit in (1e-6, 3.0, 1e30):
            scaled = fit_uncertainty_set(features, unit * np.array(norms), weights, mean_features, solver=solver)
            np.testing.assert_allclose(scaled.c, unit * plain.c, rtol=1e-6)
            np.testing.assert_allclose(scaled.d, unit**2 * plain.d, rtol=1e-6)

    def test_the_unit_of_a_feature_changes_its_coefficients_alone(self, solver):
        features, norms, weights, mean_features = self.DATA
        plain = fit_uncertainty_set(*self.DATA, solver=solver)
        units = np.array([1e6, 1e-5])
        scaled = fit_uncertainty_set(features * units, norms, weights, mean_features * units, solver=solver)
        np.testing.assert_allclose(scaled.c * units, plain.c, rtol=1e-6)
        np.testing.assert_allclose(scaled.d * units, plain.d, rtol=1e-6)

    def test_the_order_of_rows_and_their_repetition_change_nothing(self, solver):
        *rows, mean_features = self.DATA
        plain = fit_uncertainty_set(*self.DATA, solver=solver)
        for order in (np.arange(8)[::-1], np.repeat(np.arange(8), 2)):
            other = fit_uncertainty_set(*(np.array(each)[order] for each in rows), mean_features, solver=solver)
            np.testing.assert_allclose(other.c, plain.c, rtol=1e-6)
            np.testing.assert_allclose(other.d, plain.d, rtol=1e-6)

    def test_a_second_fit_is_equal_to_the_bit(self, solver):
        first, second = (fit_uncertainty_set(*self.DATA, solver=solver) for _ in range(2))
        assert (first.c.tolist(), first.d.tolist()) == (second.c.tolist(), second.d.tolist())

    def test_tensors_are_taken_as_arrays_are(self, solver):
        arrays = [np.float32(each) for each in self.DATA]
        found = fit_uncertainty_set(*map(torch.from_numpy, arrays), solver=solver)
        expected = fit_uncertainty_set(*arrays, solver=solver)
        assert (found.c.tolist(), found.d.tolist()) == (expected.c.tolist(), expected.d.tolist())


RANDOM = np.random.default_rng(0)
SPREAD_OUT = np.exp(RANDOM.standard_normal((30, 3)))
HARD = {
    "norms of 1e30": (SPREAD_OUT, 1e30 * np.exp(RANDOM.standard_normal(30))),
    "norms of 1e-30": (SPREAD_OUT, 1e-30 * np.exp(RANDOM.standard_normal(30))),
    "one norm of 1e30": (SPREAD_OUT, np.r_[1e30, np.ones(29)]),
    "one norm above 0": (SPREAD_OUT, np.r_[1.0, np.zeros(29)]),
    "norms from 1e-8 to 1e4": (SPREAD_OUT, np.logspace(-8, 4, 30)),
    "one row": (SPREAD_OUT[:1], [2.0]),
    "one row, one feature": ([[0.5]], [2.0]),
    "fewer rows than features": (SPREAD_OUT[:2], [1.0, 3.0]),
    "equal norms": (SPREAD_OUT, np.ones(30)),
    "equal rows": (np.ones((30, 3)), np.arange(30.0)),
    "equal rows and norms": (np.ones((30, 3)), np.ones(30)),
    "collinear features": (SPREAD_OUT[:, :1] * [1, 2, 1e-3], np.arange(30.0)),
    "features from 1e-12 to 1e12": (SPREAD_OUT * [1e-12, 1, 1e12], np.arange(30.0)),
    "features of 1e-200": (SPREAD_OUT * [1e-200, 1, 1], np.arange(30.0)),
    "a row explained by one feature alone": (np.diag([1.0, 1.0, 2.0]), [1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", HARD)
def test_hard_observations_are_fitted_without_a_warning(name, solver):
    features, norms = map(np.asarray, HARD[name])
    weights = np.linspace(0.2, 3.0, len(norms))
    fitted = fit_uncertainty_set(features, norms, weights, features.mean(axis=0), solver=solver)
    assert left_side(fitted, features, norms, weights) <= ROUND
    assert np.isfinite(robust_probabilities(fitted.centre(features), fitted.spread(features))[0]).all()


@pytest.mark.parametrize("name", HARD)
def test_the_solvers_agree_on_hard_observations(name):
    features, norms = map(np.asarray, HARD[name])
    mean_features = features.mean(axis=0)
    data = (features, norms, np.ones(len(norms)), mean_features)
    sizes = [mean_features @ fit_uncertainty_set(*data, solver=solver).d for solver in SOLVERS]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-6, abs=EXACT * np.mean(norms**2))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_feature_that_costs_nothing_does_not_spread(solver):
    fitted = fit_uncertainty_set([[1, 1], [1, 2], [1, 5]], [1, 5, 3], [1, 1, 1], [1, 0], solver=solver)
    assert fitted.d[1] == 0
    assert fitted.d[0] > 0.1


# --- failures ---------------------------------------------------------------------------------------------------------

DATA = FITS["line"][:4]
PREVIOUS = UncertaintySet([3.0, 4.0], [5.0, 6.0])


def fail(*arguments):
    raise ArithmeticError("broken")


STATUSES = {
    "user_limit": {"max_iter": 1},
    "user_limit, by time": {"time_limit": 0.0},
    "optimal_inaccurate": {"tol_gap_abs": 1e-30, "tol_gap_rel": 1e-30, "tol_feas": 1e-30, "max_iter": 200},
}


@pytest.mark.parametrize("name", STATUSES)
def test_a_status_that_is_not_optimal_leads_to_the_previous_set(monkeypatch, name):
    monkeypatch.setattr(module, "_CLARABEL", module._CLARABEL | STATUSES[name])
    status = name.split(",")[0]
    message = rf"by 'cvxpy' failed \(status {status}\); the previous set is used instead\.$"
    with pytest.warns(RuntimeWarning, match=message):
        assert fit_uncertainty_set(*DATA, fallback=PREVIOUS) is PREVIOUS


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("solve", "reason"),
    [
        (fail, "ArithmeticError: broken"),
        (lambda programme: np.full(4, np.nan), "status optimal, but the solution is not finite"),
        (lambda programme: np.array([1.0, np.inf, 1.0, 1.0]), "status optimal, but the solution is not finite"),
    ],
    ids=["exception", "nan", "inf"],
)
def test_exceptions_and_solutions_that_are_not_finite_lead_down_the_ladder(monkeypatch, solver, solve, reason):
    monkeypatch.setattr(module, "_minimise_cvxpy", solve)
    monkeypatch.setattr(module, "minimise_l_bfgs", solve)
    with pytest.warns(RuntimeWarning, match=rf"by '{solver}' failed \({reason}\); the previous set is used"):
        assert fit_uncertainty_set(*DATA, solver=solver, fallback=PREVIOUS) is PREVIOUS
    with pytest.warns(RuntimeWarning, match=rf"failed \({reason}\); the best set of a single feature is used"):
        fitted = fit_uncertainty_set(*DATA, solver=solver)
    assert left_side(fitted, *map(np.asarray, DATA[:3])) == pytest.approx(1)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_the_single_feature_is_the_best_one_in_any_unit(monkeypatch, unit):
    features, norms, weights, mean_features = (np.asarray(each) for each in DATA)
    features, mean_features = features * [1, unit], mean_features * [1, unit]
    alone = [fit_uncertainty_set(features[:, [k]], norms, weights, mean_features[[k]], solver="l-bfgs") for k in (0, 1)]
    best = int(np.argmin([mean_features[k] * fitted.d[0] for k, fitted in enumerate(alone)]))
    monkeypatch.setattr(module, "minimise_l_bfgs", fail)
    fitted, _ = solve_uncertainty_set(features, norms, weights, mean_features, solver="l-bfgs")
    assert fitted.c[best] == pytest.approx(alone[best].c[0], rel=1e-6)
    assert fitted.d[best] == pytest.approx(alone[best].d[0], rel=1e-6)
    assert fitted.c[1 - best] == fitted.d[1 - best] == 0


def test_iterations_that_run_out_are_a_failure_of_l_bfgs_too(monkeypatch):
    minimize = scipy.optimize.minimize
    monkeypatch.setattr(scipy.optimize, "minimize", lambda *a, **k: minimize(*a, **k | {"options": {"maxiter": 1}}))
    with pytest.warns(RuntimeWarning, match=r"failed \(RuntimeError: .*ITERATIONS.*\); the previous set is used"):
        assert fit_uncertainty_set(*DATA, solver="l-bfgs", fallback=PREVIOUS) is PREVIOUS


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_observation_that_nothing_explains_leads_to_uniform_probabilities(solver):
    message = rf"by '{solver}' failed \(status infeasible, .*\); the set of zeros \(uniform\) is used instead\."
    with pytest.warns(RuntimeWarning, match=message):
        fitted = fit_uncertainty_set([[1.0, 0.0], [0.0, 0.0]], [1.0, 1.0], [1.0, 1.0], [0.5, 0.5], solver=solver)
    assert (
        robust_probabilities(fitted.centre([[1.0, 2.0]] * 2), fitted.spread([[1.0, 2.0]] * 2))[0].tolist() == [0.5] * 2
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_row_of_zeros_is_no_failure(solver):
    with_row = fit_uncertainty_set([[1.0], [1.0], [0.0]], [1.0, 3.0, 0.0], [1.0] * 3, [1.0], solver=solver)
    assert with_row.c == pytest.approx([2.0], rel=1e-6)
    assert with_row.d == pytest.approx([2 / 3], rel=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solution_that_vanishes_although_the_norms_do_not_is_a_failure(solver):
    with pytest.warns(RuntimeWarning, match="but the solution is 0 and the norms are not"):
        fit_uncertainty_set([[1e200], [2e200]], [1e-200, 1e-200], [1.0, 1.0], [1.5e200], solver=solver)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("unit", [1e200, 1e308])
def test_norms_whose_squares_overflow_leave_nothing_that_is_not_finite(unit, solver):
    with pytest.warns(RuntimeWarning, match="the set of zeros"):
        fitted = fit_uncertainty_set([[1.0], [1.0]], [unit, unit / 3], [1.0, 1.0], [1.0], solver=solver)
    assert (fitted.c.tolist(), fitted.d.tolist()) == ([0.0], [0.0])


def test_the_inner_function_returns_the_message_and_warns_of_nothing(monkeypatch):
    assert solve_uncertainty_set(*DATA, solver="l-bfgs", fallback=PREVIOUS)[1] is None
    monkeypatch.setattr(module, "minimise_l_bfgs", fail)
    fitted, message = solve_uncertainty_set(*DATA, solver="l-bfgs", fallback=PREVIOUS)
    assert fitted is PREVIOUS
    assert message == (
        "The fit of the uncertainty set by 'l-bfgs' failed (ArithmeticError: broken); the previous set is used instead."
    )


@pytest.mark.parametrize("name", ["optimal", *STATUSES])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_thread_neither_warns_nor_touches_the_filters(monkeypatch, solver, name):
    if name != "optimal":
        monkeypatch.setattr(module, "_CLARABEL", module._CLARABEL | STATUSES[name])
    check_solver(solver)
    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(warnings, "catch_warnings", fail)
        patch.setattr(warnings, "warn", fail)
        fitted, failure = pool.submit(solve_uncertainty_set, *DATA, solver=solver, fallback=PREVIOUS).result()
    failed = solver == "cvxpy" and name != "optimal"
    assert (fitted is PREVIOUS, failure is not None) == (failed, failed)
    assert "ArithmeticError" not in str(failure)


def test_threads_that_fit_at_once_find_what_one_finds():
    expected = {solver: fit_uncertainty_set(*DATA, solver=solver).d.tolist() for solver in SOLVERS}
    barrier = threading.Barrier(4)

    def work(solver):
        barrier.wait()
        return solver, [solve_uncertainty_set(*DATA, solver=solver)[0].d.tolist() for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        for solver, found in pool.map(work, SOLVERS * 2):
            assert found == [expected[solver]] * 3


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"features": [1.0, 2.0]},
            r"`fit_uncertainty_set\(features, \.\.\.\)` must have shape \[m, K\], not empty; got",
        ),
        ({"features": np.zeros((0, 2))}, r"features, \.\.\.\)` must have shape \[m, K\], not empty; got \[0, 2\]\."),
        ({"features": -LINE}, r"features, \.\.\.\)` must be finite and at least 0; got -1\.0\. Leave"),
        ({"norms": [1.0]}, r"norms, \.\.\.\)` must have shape \[8\]; got \[1\]\. Match the others\."),
        ({"norms": np.full(8, np.nan)}, r"norms, \.\.\.\)` must be finite and at least 0; got nan\."),
        ({"weights": np.zeros(8)}, r"weights, \.\.\.\)` must be above 0; got 0\. Pass 1/\(n p\)"),
        ({"weights": np.full(8, np.inf)}, r"weights, \.\.\.\)` must be finite and at least 0; got inf\."),
        ({"mean_features": [1.0]}, r"mean_features\)` must have shape \[2\]; got \[1\]\."),
        ({"mean_features": [0.0, 0.0]}, r"mean_features\)` must not be 0 for all features\. Add a feature"),
        (
            {"fallback": UncertaintySet([1.0], [1.0])},
            r"fallback=\.\.\.\)` must have shape \[2\], as the features; got \[1\]",
        ),
        ({"solver": "scs"}, r"`solver` must be one of 'cvxpy', 'l-bfgs'; got 'scs'\."),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = dict(zip(("features", "norms", "weights", "mean_features"), DATA, strict=True)) | change
    with pytest.raises(ValueError, match=message):
        fit_uncertainty_set(**arguments)


def test_a_known_solver_is_returned():
    assert [check_solver(solver) for solver in SOLVERS] == SOLVERS


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("", "[]"),
        ("check_solver('l-bfgs')", "['scipy.optimize']"),
        ("fit_uncertainty_set([[1]] * 2, [1, 2], [1, 1], [1], solver='l-bfgs')", "['scipy.optimize']"),
        ("check_solver('cvxpy')", "['cvxpy', 'scipy.optimize']"),
    ],
    ids=["import", "check l-bfgs", "fit l-bfgs", "check cvxpy"],
)
def test_a_solver_is_loaded_when_it_is_asked_for(code, loaded):
    script = (
        "import sys\nfrom approx_is.predictors.robust import *\n"
        f"from approx_is.predictors.uncertainty_set import *\n{code}\n"
        "print([name for name in ('cvxpy', 'scipy.optimize') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.stderr) == (loaded, "")
