"""Annealed numbers: golden values, the ends, the way between them, and bounds."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from approx_is.annealing import GeometricAnnealing, LinearAnnealing

every_annealing = pytest.mark.parametrize("kind", [LinearAnnealing, GeometricAnnealing])

POSITIVE = st.floats(1e-300, 1e300)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
STEPS = st.integers(1, 10**18)


@pytest.mark.parametrize(
    ("annealing", "step", "expected"),
    [
        (LinearAnnealing(0.4, 1.0, 10), 5, 0.7),
        (LinearAnnealing(0.4, 1.0, 10), 9, 0.94),
        (LinearAnnealing(1.0, -3.0, 4), 1, 0.0),
        (LinearAnnealing(-1.5e308, 1.5e308, 4), 3, 0.75e308),
        (GeometricAnnealing(100, 1, 4), 1, 31.6227766),
        (GeometricAnnealing(100, 1, 4), 2, 10.0),
        (GeometricAnnealing(1, 1024, 10), 3, 8.0),
    ],
)
def test_golden_values(annealing, step, expected):
    assert annealing(step) == pytest.approx(expected, rel=1e-8, abs=1e-15)


@every_annealing
@given(start=POSITIVE, end=POSITIVE, steps=STEPS, beyond=st.integers(0, 10**18))
def test_is_the_start_at_step_0_and_the_end_from_the_last_step_on_exactly(kind, start, end, steps, beyond):
    annealing = kind(start, end, steps)
    assert (annealing(0), annealing(steps), annealing(steps + beyond)) == (start, end, end)


@every_annealing
@given(start=POSITIVE, end=POSITIVE, steps=STEPS, step=st.integers(0, 10**18))
def test_never_leaves_the_interval(kind, start, end, steps, step):
    assert min(start, end) <= kind(start, end, steps)(step) <= max(start, end)


@given(start=FINITE, end=FINITE, steps=STEPS, step=st.integers(0, 10**18))
def test_linear_is_finite_between_any_two_numbers(start, end, steps, step):
    assert min(start, end) <= LinearAnnealing(start, end, steps)(step) <= max(start, end)


@every_annealing
@given(value=POSITIVE, steps=STEPS, step=st.integers(0, 10**18))
def test_between_equal_numbers_nothing_moves(kind, value, steps, step):
    assert kind(value, value, steps)(step) == value


def test_linear_moves_by_equal_steps_and_geometric_by_equal_factors():
    linear, geometric = LinearAnnealing(2.0, 50.0, 100), GeometricAnnealing(2.0, 50.0, 100)
    assert np.diff([linear(step) for step in range(101)]) == pytest.approx([0.48] * 100, rel=1e-12)
    assert np.diff([math.log(geometric(step)) for step in range(101)]) == pytest.approx([math.log(25) / 100] * 100)


@every_annealing
def test_values_are_floats_whatever_numbers_are_given(kind):
    annealing = kind(np.float32(4), 1, np.int64(2))
    assert [annealing(np.int64(step)) for step in range(3)] == [kind(4.0, 1.0, 2)(step) for step in range(3)]
    assert {type(annealing(step)) for step in range(4)} == {float}
    assert annealing == kind(4.0, 1.0, 2)


@every_annealing
def test_is_immutable(kind):
    with pytest.raises(dataclasses.FrozenInstanceError, match="start"):
        kind(1.0, 2.0, 3).start = 5.0


@every_annealing
@pytest.mark.parametrize("bound", ["start", "end"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_end_that_is_not_finite_is_refused(kind, bound, value):
    with pytest.raises(ValueError, match=rf"`{kind.__name__}\({bound}=\.\.\.\)` must be finite; got"):
        kind(**{"start": 1.0, "end": 2.0, "steps": 3, bound: value})


@every_annealing
@pytest.mark.parametrize("bound", ["start", "end"])
def test_an_end_that_is_no_number_is_refused(kind, bound):
    with pytest.raises(TypeError, match=rf"`{kind.__name__}\({bound}=\.\.\.\)` must be a number; got None"):
        kind(**{"start": 1.0, "end": 2.0, "steps": 3, bound: None})


@pytest.mark.parametrize("bound", ["start", "end"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_geometric_needs_ends_above_0(bound, value):
    with pytest.raises(ValueError, match=rf"`GeometricAnnealing\({bound}=\.\.\.\)` must be above 0; got"):
        GeometricAnnealing(**{"start": 1.0, "end": 2.0, "steps": 3, bound: value})


@every_annealing
def test_steps_must_be_a_positive_integer(kind):
    with pytest.raises(ValueError, match=rf"`{kind.__name__}\(steps=\.\.\.\)` must be at least 1; got 0"):
        kind(1.0, 2.0, 0)
    with pytest.raises(TypeError, match=rf"`{kind.__name__}\(steps=\.\.\.\)` must be an integer; got 1.5"):
        kind(1.0, 2.0, 1.5)


@every_annealing
def test_a_negative_step_is_refused(kind):
    with pytest.raises(ValueError, match=rf"`{kind.__name__}\(\.\.\.\)\(step\)` must be at least 0; got -1"):
        kind(1.0, 2.0, 3)(-1)
