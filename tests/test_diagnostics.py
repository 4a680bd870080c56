"""Diagnostics: golden values of the pure functions, the running averages, and states."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_unchanged, through_file

from approx_is.diagnostics import (
    RunningDiagnostics,
    batch_increment,
    captured,
    effective_sample_size,
    increment_of_moments,
    variance_ratio,
)

IMPORTANCE = torch.tensor([1.0, 3.0])
UNIFORM = torch.tensor([0.5, 0.5])
POSITIVE = st.lists(st.floats(0.125, 1000.0), min_size=2, max_size=20)


def update(diagnostics, weights, observed, predicted, unbiased=None, uniform=False):
    weights, observed, predicted = (torch.tensor(each) for each in (weights, observed, predicted))
    unbiased = weights.double() if unbiased is None else torch.tensor(unbiased, dtype=torch.float64)
    return diagnostics.update(weights, unbiased, observed, predicted, uniform=uniform)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([1.0, 1.0, 1.0], 3.0), ([5.0, 0.0, 0.0], 1.0), ([3.0, 1.0], 1.6), ([1e-30, 1e-30], 2.0), ([7.0], 1.0)],
)
def test_effective_sample_size_counts_equally_weighted_draws(weights, expected):
    assert effective_sample_size(torch.tensor(weights)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("probabilities", "expected"), [([0.25, 0.75], 1.25), ([0.5, 0.5], 1.0), ([0.75, 0.25], 10 / (1 / 1.5 + 9 / 0.5))]
)
def test_variance_ratio_compares_second_moments(probabilities, expected):
    assert variance_ratio(IMPORTANCE, torch.tensor(probabilities)) == pytest.approx(expected)


def test_captured_is_1_for_the_oracle_0_for_uniform_and_negative_for_worse():
    assert captured(IMPORTANCE, torch.tensor([0.25, 0.75])) == pytest.approx(1.0)
    assert captured(IMPORTANCE, UNIFORM) == pytest.approx(0.0)
    assert captured(IMPORTANCE, torch.tensor([0.75, 0.25])) < 0


def test_captured_is_1_for_the_oracle_with_samples_that_do_not_matter():
    importance = torch.tensor([0.0, 1.0, 3.0])
    assert captured(importance, importance / importance.sum()) == pytest.approx(1.0)


def test_nothing_to_capture_is_nan():
    assert math.isnan(captured(torch.full((3,), 2.0), torch.full((3,), 1 / 3)))


def test_importances_of_0_compare_as_1_and_capture_nothing():
    assert variance_ratio(torch.zeros(2), UNIFORM) == 1.0
    assert math.isnan(captured(torch.zeros(2), UNIFORM))


@given(POSITIVE, st.integers(0, 2**31))
def test_no_probabilities_beat_the_oracle(importance, seed):
    importance = torch.tensor(importance, dtype=torch.float64)
    weights = torch.rand(len(importance), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.01
    oracle = variance_ratio(importance, importance / importance.sum())
    assert variance_ratio(importance, weights / weights.sum()) <= oracle * (1 + 1e-12)


@given(POSITIVE, st.sampled_from([1e-15, 1e15]))
def test_captured_does_not_depend_on_the_unit(importance, unit):
    importance = torch.tensor([*importance, 2000.0], dtype=torch.float64)
    probabilities = importance.sqrt() / importance.sqrt().sum()
    assert captured(unit * importance, probabilities) == pytest.approx(captured(importance, probabilities), rel=1e-6)


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], 1.09545),
        ([3.0] * 7, 1.0),
        ([0.0] * 99 + [5.0], 10.0),
        ([1.0] * 90 + [100.0] * 10, 2.90248),
        ([0.0] * 4, 1.0),
    ],
    ids=["rising", "constant", "one-hot", "a tenth", "all zero"],
)
def test_batch_increment_has_the_golden_values(importance, expected):
    assert batch_increment(torch.tensor(importance)) == pytest.approx(expected, abs=5e-6)


@given(POSITIVE)
def test_batch_increment_is_that_of_the_distance_to_uniform(importance):
    importance = torch.tensor(importance, dtype=torch.float64)
    share = importance / importance.sum()
    distance = (share - 1 / len(share)).square().sum()
    expected = (1 - distance / share.square().sum()).sqrt().reciprocal().item()
    assert batch_increment(importance) == pytest.approx(expected, rel=1e-9)


@given(POSITIVE)
def test_batch_increment_is_the_square_root_of_what_the_oracle_gains(importance):
    importance = torch.tensor(importance, dtype=torch.float64)
    found = batch_increment(importance)
    assert found**2 == pytest.approx(variance_ratio(importance, importance / importance.sum()), rel=1e-9)
    assert 1 <= found <= math.sqrt(len(importance)) * (1 + 1e-12)


@pytest.mark.parametrize("unit", [1e-30, 1e-10, 1e15, 1e30])
def test_batch_increment_does_not_depend_on_the_unit(unit):
    assert batch_increment(torch.tensor([1.0, 2.0, 3.0, 4.0]) * unit) == pytest.approx(1.09545, abs=5e-6)


@pytest.mark.parametrize("importance", [torch.tensor([1, 2, 3, 4]), torch.tensor([1.0, 2.0, 3.0, 4.0]).half()])
def test_batch_increment_takes_any_real_dtype(importance):
    assert batch_increment(importance) == pytest.approx(1.09545, abs=5e-6)


def test_increment_of_moments_is_never_below_1():
    assert increment_of_moments(9.0, 3.0) == 1.0
    assert increment_of_moments(9.0 - 1e-9, 3.0) == 1.0
    assert increment_of_moments(18.0, 3.0) == pytest.approx(math.sqrt(2))
    assert increment_of_moments(0.0, 0.0) == 1.0


def test_metrics_are_nan_before_the_first_batch():
    metrics = RunningDiagnostics().metrics()
    assert set(metrics) == {
        "observed_importance",
        "variance_ratio",
        "captured",
        "tau",
        "batch_size_increment",
        "calibration",
        "effective_sample_size",
    }
    assert all(math.isnan(value) for value in metrics.values())


def test_an_update_returns_the_unbiased_mean_of_the_batch():
    mean = update(RunningDiagnostics(), [1.0, 1.0], [4.0, 1.0], [1.0, 1.0], unbiased=[0.5, 2.0])
    assert mean.dtype == torch.float64
    assert mean.item() == 2.0


def test_the_first_batch_counts_in_full():
    diagnostics = RunningDiagnostics()
    update(diagnostics, [0.5, 2.0], [4.0, 1.0], [2.0, 1.5])
    metrics = diagnostics.metrics()
    assert metrics["observed_importance"] == pytest.approx(2.0)
    assert metrics["calibration"] == pytest.approx(2.0 / 2.0)
    assert metrics["variance_ratio"] == pytest.approx((0.5 * 16 + 2.0) / (0.25 * 16 + 4.0))
    assert metrics["tau"] == pytest.approx(math.sqrt(5.0) / 2.0)
    assert metrics["batch_size_increment"] == pytest.approx(math.sqrt(10.0 / 8.0))
    assert metrics["effective_sample_size"] == pytest.approx(2.5**2 / 4.25)


def test_running_ratios_over_every_sample_are_those_of_the_pure_functions():
    importance = torch.tensor([1.0, 2.0, 5.0, 8.0], dtype=torch.float64)
    probabilities = torch.tensor([0.1, 0.3, 0.2, 0.4], dtype=torch.float64)
    unbiased = 1 / (4 * probabilities)
    draws = torch.tensor([0] + [1] * 3 + [2] * 2 + [3] * 4)  # as often as the probabilities say
    diagnostics = RunningDiagnostics()
    diagnostics.update(unbiased[draws], unbiased[draws], importance[draws], importance[draws], uniform=False)
    metrics = diagnostics.metrics()
    assert metrics["observed_importance"] == pytest.approx(importance.mean().item())
    assert metrics["variance_ratio"] == pytest.approx(variance_ratio(importance, probabilities))
    assert metrics["captured"] == pytest.approx(captured(importance, probabilities))
    assert metrics["tau"] == pytest.approx(batch_increment(importance))
    assert metrics["batch_size_increment"] == pytest.approx(variance_ratio(importance, probabilities) ** 0.5)


def test_of_ideal_draws_both_increments_are_the_same():
    importance = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    draws = torch.tensor([0] + [1] * 2 + [2] * 3 + [3] * 4)
    unbiased = 10 / (4 * importance)
    diagnostics = RunningDiagnostics()
    diagnostics.update(unbiased[draws], unbiased[draws], importance[draws], importance[draws], uniform=False)
    metrics = diagnostics.metrics()
    assert metrics["tau"] == pytest.approx(1.09545, abs=5e-6)
    assert metrics["batch_size_increment"] == pytest.approx(metrics["tau"], rel=1e-9)
    assert metrics["captured"] == pytest.approx(1.0)


def test_uniform_draws_are_worth_no_larger_batch_whatever_ideal_ones_would_be():
    diagnostics = RunningDiagnostics()
    update(diagnostics, [1.0] * 4, [1.0, 2.0, 3.0, 4.0], [1.0] * 4, uniform=True)
    metrics = diagnostics.metrics()
    assert metrics["batch_size_increment"] == pytest.approx(1.0)
    assert metrics["tau"] == pytest.approx(1.09545, abs=5e-6)


def test_effective_sample_size_is_of_the_weights_in_use_not_of_the_unbiased_ones():
    diagnostics = RunningDiagnostics()
    update(diagnostics, [1.0, 1.0], [1.0, 1.0], [1.0, 1.0], unbiased=[0.1, 3.0])
    assert diagnostics.metrics()["effective_sample_size"] == pytest.approx(2.0)


def test_averages_forget_at_their_rate():
    diagnostics = RunningDiagnostics(rate=0.25)
    for observed in (4.0, 8.0):
        update(diagnostics, [1.0], [observed], [observed])
    expected = (0.75 * 4.0 + 8.0) / 1.75
    assert diagnostics.metrics()["observed_importance"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("first", [True, False], ids=["uniform first", "by importance first"])
def test_averages_start_anew_when_draws_change_from_uniform_or_to_it(first):
    diagnostics = RunningDiagnostics()
    update(diagnostics, [1.0], [100.0], [1.0], uniform=first)
    assert diagnostics.metrics()["observed_importance"] == pytest.approx(100.0)
    for observed in (3.0, 3.0):
        update(diagnostics, [1.0], [observed], [3.0], uniform=not first)
    assert diagnostics.metrics()["observed_importance"] == pytest.approx(3.0)
    update(diagnostics, [1.0], [7.0], [3.0], uniform=first)
    assert diagnostics.metrics()["observed_importance"] == pytest.approx(7.0)


@pytest.mark.parametrize("uniform", [True, False])
def test_averages_go_on_while_draws_stay_as_they_are(uniform):
    diagnostics = RunningDiagnostics(rate=0.5)
    for observed in (2.0, 5.0):
        update(diagnostics, [1.0], [observed], [3.0], uniform=uniform)
    assert diagnostics.metrics()["observed_importance"] == pytest.approx((0.5 * 2.0 + 5.0) / 1.5)


def test_calibration_is_below_1_where_predictions_are_too_low():
    diagnostics = RunningDiagnostics()
    update(diagnostics, [1.0, 1.0], [2.0, 4.0], [1.0, 0.5])
    assert diagnostics.metrics()["calibration"] == pytest.approx(0.25)


def test_observations_of_0_leave_no_metric_undefined_but_captured():
    diagnostics = RunningDiagnostics()
    update(diagnostics, [1.0, 1.0], [0.0, 0.0], [0.0, 0.0])
    metrics = diagnostics.metrics()
    assert math.isnan(metrics.pop("captured"))
    assert metrics == {
        "observed_importance": 0.0,
        "variance_ratio": 1.0,
        "tau": 1.0,
        "batch_size_increment": 1.0,
        "calibration": 1.0,
        "effective_sample_size": pytest.approx(2.0),
    }


def test_reading_metrics_changes_nothing():
    diagnostics = RunningDiagnostics()
    update(diagnostics, [1.0], [2.0], [1.0])
    with assert_unchanged(diagnostics):
        diagnostics.metrics()


@pytest.mark.parametrize("uniform", [True, False])
def test_restored_diagnostics_go_on_as_the_original(uniform):
    original, restored = RunningDiagnostics(), RunningDiagnostics()
    update(original, [0.5, 2.0], [4.0, 1.0], [2.0, 1.5], uniform=uniform)
    restored.load_state_dict(through_file(original.state_dict()))
    for diagnostics in (original, restored):
        update(diagnostics, [1.0, 2.0], [3.0, 1.0], [2.0, 2.5], uniform=True)
    assert restored.metrics() == original.metrics()


@pytest.mark.parametrize(
    "damage", [{"moments": {"sums": torch.zeros(4), "share": 0.5}}, {"uniform": "no"}, {"unknown": 1.0}]
)
def test_a_state_that_does_not_fit_changes_nothing(damage):
    diagnostics = RunningDiagnostics()
    update(diagnostics, [1.0], [2.0], [1.0])
    state = {**RunningDiagnostics().state_dict(), **damage}
    with assert_unchanged(diagnostics), pytest.raises(ValueError, match=r"RunningDiagnostics\.load_state_dict"):
        diagnostics.load_state_dict(state)


def test_a_sample_that_matters_and_is_out_of_reach_captures_infinitely_little():
    assert captured(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])) == -math.inf
