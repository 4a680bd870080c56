import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_same, assert_unchanged, snapshot, through_file

from approx_is.moving_average import MovingAverage

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)
RATES = st.floats(1e-3, 1.0)


def averaged(values, rate=0.1):
    average = MovingAverage(rate)
    for value in values:
        average.update(torch.tensor([value], dtype=torch.float64))
    return average


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0], 1.0), ([1.0, 2.0], 1.5263157895), ([1.0, 2.0, 3.0], 2.0701107011)]
)
def test_golden_values(values, expected):
    assert averaged(values).value.item() == pytest.approx(expected, rel=1e-9)


@given(VALUES, RATES)
def test_is_the_mean_with_weights_that_decay_by_1_minus_the_rate(values, rate):
    weights = [(1 - rate) ** age for age in reversed(range(len(values)))]
    expected = math.fsum(w * x for w, x in zip(weights, values, strict=True)) / math.fsum(weights)
    assert averaged(values, rate).value.item() == pytest.approx(expected, rel=1e-9, abs=1e-9 * max(map(abs, values)))


@given(st.floats(-1e30, 1e30), RATES, st.integers(1, 20))
def test_of_equal_values_is_that_value(value, rate, count):
    assert averaged([value] * count, rate).value.item() == pytest.approx(value, rel=1e-12)


def test_of_rate_1_is_the_latest_value():
    assert averaged([5.0, -2.0], rate=1.0).value.item() == -2.0


def test_is_0_and_empty_before_the_first_value():
    average = MovingAverage(0.1, 2)
    assert average.is_empty
    assert_same(average.value, torch.zeros(2, dtype=torch.float64))


def test_numbers_side_by_side_do_not_mix():
    average = MovingAverage(0.1, 2)
    for values in ([1.0, -1.0], [2.0, 0.0], [3.0, 5.0]):
        average.update(torch.tensor(values))
    expected = torch.cat([averaged(column).value for column in ([1.0, 2.0, 3.0], [-1.0, 0.0, 5.0])])
    assert_same(average.value, expected)
    assert not average.is_empty


def test_values_of_lower_precision_are_averaged_in_float64():
    average = MovingAverage(0.1)
    average.update(torch.tensor([2.0], dtype=torch.float16))
    assert average.value.dtype == torch.float64
    assert average.value.item() == pytest.approx(2.0, rel=1e-15)


def test_after_a_reset_nothing_is_left():
    average = averaged([5.0, 7.0])
    average.reset()
    assert average.is_empty
    assert_same(snapshot(average), snapshot(MovingAverage(0.1)))


def test_a_value_read_does_not_change_with_the_average():
    average = averaged([1.0])
    read = average.value
    average.update(torch.tensor([9.0]))
    assert read.item() == pytest.approx(1.0)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, math.nan])
def test_a_rate_out_of_bounds_is_refused(rate):
    with pytest.raises(ValueError, match=r"`MovingAverage\(rate=...\)` must be in \(0, 1\]; got"):
        MovingAverage(rate)


def test_goes_on_to_the_bit_from_a_file():
    average, resumed = averaged([1.0, 2.0]), MovingAverage(0.1)
    resumed.load_state_dict(through_file(average.state_dict()))
    for each in (average, resumed):
        each.update(torch.tensor([3.0]))
    assert_same(snapshot(resumed), snapshot(average))


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"sums": torch.zeros(1, dtype=torch.float64)}, r"missing \['share'\]"),
        ({"sums": torch.zeros(2, dtype=torch.float64), "share": 0.5}, r"\['sums'\]` must be torch.float64 \[1\]"),
        ({"sums": torch.zeros(1), "share": 0.5}, "must be torch.float64"),
        ({"sums": torch.full((1,), math.nan, dtype=torch.float64), "share": 0.5}, "must be finite"),
        ({"sums": torch.zeros(1, dtype=torch.float64), "share": 1.5}, r"\['share'\]` must be in \[0, 1\]; got 1.5"),
        ({"sums": torch.zeros(1, dtype=torch.float64), "share": -0.1}, r"\['share'\]` must be in \[0, 1\]; got -0.1"),
        ({"sums": torch.zeros(1, dtype=torch.float64), "share": 1}, "must be of type float; got int"),
    ],
)
def test_a_damaged_state_changes_nothing(state, match):
    average = averaged([4.0])
    with assert_unchanged(average), pytest.raises(ValueError, match=match):
        average.load_state_dict(state)


@pytest.mark.parametrize("rate", [0.005, 0.3, 1.0])
def test_a_value_taken_in_several_times_at_once_counts_as_often(rate):
    at_once, one_by_one = MovingAverage(rate), MovingAverage(rate)
    for value, count in ((1.0, 3), (5.0, 1), (2.0, 8)):
        at_once.update(torch.tensor([value]), count)
        for _ in range(count):
            one_by_one.update(torch.tensor([value]))
    torch.testing.assert_close(at_once.value, one_by_one.value, rtol=1e-12, atol=0)
