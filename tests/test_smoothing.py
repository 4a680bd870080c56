"""Smoothing: golden values, bounds of weights, the moving average, and states."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_is_distribution, assert_unchanged, snapshot, through_file

from approx_is import AdaptiveSmoothing, ConstantSmoothing
from approx_is.smoothing import LEAST_SHARE, make_smoothing, smoothed_probabilities

PRIOR = 0.314159
NUM_SAMPLES = 1_000_000
MEAN = 4.0 * PRIOR + (1 - PRIOR)


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def probability_of_positives(constant):
    """Of the class with importance 4 and prior .314159, beside one with importance 1."""
    each = smoothed_probabilities(torch.tensor([4.0, 1.0]), constant, MEAN * NUM_SAMPLES, NUM_SAMPLES)
    masses = each * torch.tensor([PRIOR, 1 - PRIOR], dtype=torch.float64) * NUM_SAMPLES
    assert float(masses.sum()) == pytest.approx(1.0, abs=1e-12)
    return float(masses[0])


def test_golden_values_of_no_and_of_additive_smoothing():
    assert probability_of_positives(0.0) == pytest.approx(0.64692, abs=1e-5)
    assert probability_of_positives(2.0) == pytest.approx(0.47811, abs=1e-5)


def test_golden_value_of_adaptive_smoothing_at_steady_state():
    smoothing = AdaptiveSmoothing(0.5)
    for _ in range(100):
        smoothing.update(scalar(MEAN))
    assert probability_of_positives(smoothing.constant(scalar(MEAN))) == pytest.approx(0.53600, abs=1e-5)


@given(
    st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=20),
    st.sampled_from([0.0, 1e-30, 1.0, 1e15]),
)
def test_smoothed_probabilities_are_a_distribution(importance, constant):
    importance = torch.tensor(importance, dtype=torch.float32)
    total = importance.double().sum()
    floor = total * 1e-6 / len(importance)
    assert_is_distribution(smoothed_probabilities(importance, floor + constant, total, len(importance)))


def test_probabilities_are_uniform_where_nothing_matters():
    probabilities = smoothed_probabilities(torch.zeros(5), 0.0, 0.0, 5)
    assert probabilities.tolist() == [0.2] * 5


def test_without_smoothing_probabilities_are_proportional():
    assert smoothed_probabilities(torch.tensor([0.0, 1.0, 3.0]), 0.0, 4.0, 3).tolist() == [0.0, 0.25, 0.75]


def test_probabilities_of_some_samples_are_those_of_all():
    importance = torch.tensor([4.0, 1.0, 2.5, 0.0])
    total = importance.double().sum()
    every = smoothed_probabilities(importance, 0.5, total, 4)
    assert torch.equal(smoothed_probabilities(importance[[2, 0]], 0.5, total, 4), every[[2, 0]])


def test_a_constant_stays_while_observations_change():
    smoothing = ConstantSmoothing(2.0)
    smoothing.update(scalar(100.0))
    assert smoothing.constant(scalar(3.0)).item() == 2.0


def test_no_smoothing_still_leaves_every_sample_within_reach():
    assert ConstantSmoothing(0.0).constant(scalar(5.0)).item() == pytest.approx(5.0 * LEAST_SHARE)
    assert AdaptiveSmoothing(0.0).constant(scalar(5.0)).item() == pytest.approx(5.0 * LEAST_SHARE)
    assert LEAST_SHARE == 1e-6


def test_nothing_observed_and_nothing_predicted_gives_no_constant():
    assert ConstantSmoothing(0.0).constant(scalar(0.0)).item() == 0.0
    assert AdaptiveSmoothing().constant(scalar(0.0)).item() == 0.0


def test_the_first_observation_counts_in_full():
    smoothing = AdaptiveSmoothing(0.5, decay=0.9)
    smoothing.update(scalar(4.0))
    assert smoothing.constant(scalar(0.0)).item() == pytest.approx(2.0)


def test_the_average_forgets_at_its_decay():
    smoothing = AdaptiveSmoothing(1.0, decay=0.75)
    for observed in (4.0, 8.0):
        smoothing.update(scalar(observed))
    average = (0.25 * 0.75 * 4.0 + 0.25 * 8.0) / (0.25 * 0.75 + 0.25)
    assert smoothing.constant(scalar(0.0)).item() == pytest.approx(average, rel=1e-12)


def test_adaptive_smoothing_takes_the_larger_of_observed_and_predicted():
    smoothing = AdaptiveSmoothing(0.5)
    smoothing.update(scalar(4.0))
    assert smoothing.constant(scalar(1.0)).item() == pytest.approx(2.0)
    assert smoothing.constant(scalar(10.0)).item() == pytest.approx(5.0)


@given(
    st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=20),
    st.floats(0, 1e6),
    st.sampled_from([0.1, 0.5, 2.0]),
)
def test_no_unbiased_weight_exceeds_1_plus_1_over_the_fraction(importance, observed, fraction):
    importance = torch.tensor(importance, dtype=torch.float32)
    smoothing = AdaptiveSmoothing(fraction)
    smoothing.update(scalar(observed))
    total = importance.double().sum()
    constant = smoothing.constant(total / len(importance))
    probabilities = smoothed_probabilities(importance, constant, total, len(importance))
    assert float((1 / (len(importance) * probabilities)).max()) <= (1 + 1 / fraction) * (1 + 1e-12)


def test_states_come_back_through_a_file():
    smoothing = AdaptiveSmoothing(0.3, decay=0.8)
    for observed in (1.0, 7.0):
        smoothing.update(scalar(observed))
    restored = AdaptiveSmoothing(0.3, decay=0.8)
    restored.load_state_dict(through_file(smoothing.state_dict()))
    for each in (smoothing, restored):
        each.update(scalar(5.0))
    assert restored.constant(scalar(0.0)).item() == smoothing.constant(scalar(0.0)).item()


def test_a_constant_loads_its_own_state():
    smoothing = ConstantSmoothing(0.3)
    smoothing.load_state_dict(through_file(smoothing.state_dict()))
    assert smoothing.constant(scalar(0.0)).item() == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("smoothing", "other", "message"),
    [
        (ConstantSmoothing(1.0), ConstantSmoothing(2.0), r"`smoothing` = 2\.0; this one has 1\.0"),
        (AdaptiveSmoothing(0.5), AdaptiveSmoothing(0.4), r"fraction=\.\.\.\)` = 0\.4; this one has 0\.5"),
        (AdaptiveSmoothing(decay=0.9), AdaptiveSmoothing(decay=0.8), r"decay=\.\.\.\)` = 0\.8; this one has 0\.9"),
        (AdaptiveSmoothing(), ConstantSmoothing(2.0), "has not the expected entries"),
        (ConstantSmoothing(2.0), AdaptiveSmoothing(), "has not the expected entries"),
    ],
)
def test_a_state_made_with_other_settings_changes_nothing(smoothing, other, message):
    other.update(scalar(3.0))
    with assert_unchanged(smoothing), pytest.raises(ValueError, match=message):
        smoothing.load_state_dict(snapshot(other))


def test_a_loaded_average_is_a_copy():
    smoothing = AdaptiveSmoothing()
    smoothing.update(scalar(4.0))
    state = snapshot(smoothing)
    restored = AdaptiveSmoothing()
    restored.load_state_dict(state)
    state["mean"].fill_(100.0)
    assert restored.constant(scalar(0.0)).item() == pytest.approx(2.0)


@pytest.mark.parametrize("amount", [-1e-9, math.inf, -math.inf, math.nan])
def test_amounts_that_are_negative_or_not_finite_are_refused(amount):
    with pytest.raises(ValueError, match=r"`smoothing` must be finite and at least 0; got"):
        ConstantSmoothing(amount)
    with pytest.raises(ValueError, match=r"`AdaptiveSmoothing\(fraction=\.\.\.\)` must be finite and at least 0"):
        AdaptiveSmoothing(amount)


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan, math.inf])
def test_decays_outside_0_to_1_are_refused(decay):
    with pytest.raises(ValueError, match=r"`AdaptiveSmoothing\(decay=\.\.\.\)` must be in \[0, 1\); got"):
        AdaptiveSmoothing(decay=decay)


def test_users_name_a_smoothing_give_a_constant_or_an_object():
    assert isinstance(make_smoothing("adaptive"), AdaptiveSmoothing)
    assert make_smoothing(2).constant(scalar(0.0)).item() == 2.0
    for smoothing in (ConstantSmoothing(1.0), AdaptiveSmoothing()):
        assert make_smoothing(smoothing) is smoothing


@pytest.mark.parametrize("fraction", [0.5, 1e-3, 2.0])
def test_the_fraction_is_that_of_adaptive_smoothing_and_of_nothing_else(fraction):
    assert make_smoothing("adaptive", fraction=fraction).constant(scalar(4.0)).item() == pytest.approx(4 * fraction)
    assert make_smoothing(3.0, fraction=fraction).constant(scalar(4.0)).item() == 3.0
    given_one = AdaptiveSmoothing(0.25)
    assert make_smoothing(given_one, fraction=fraction) is given_one


@pytest.mark.parametrize("name", ["", "Adaptive", "none"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match=r'`smoothing` must be "adaptive", a constant or a smoothing object; got'):
        make_smoothing(name)


def test_a_negative_constant_of_a_user_is_refused():
    with pytest.raises(ValueError, match=r"`smoothing` must be finite and at least 0; got -1\.0"):
        make_smoothing(-1)


def test_the_mean_of_several_batches_counts_as_often():
    at_once, one_by_one = AdaptiveSmoothing(), AdaptiveSmoothing()
    for mean, count in ((1.0, 2), (5.0, 8)):
        at_once.update(scalar(mean), count)
        for _ in range(count):
            one_by_one.update(scalar(mean))
    torch.testing.assert_close(at_once.constant(scalar(0.0)), one_by_one.constant(scalar(0.0)), rtol=1e-12, atol=0)
