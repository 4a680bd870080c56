"""Weights: the golden values of eq. 12, and what k may be."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_unbiased_by_enumeration

from approx_is import importance_weights
from approx_is.weighting import check_exponent

SCORES = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
PROBABILITIES = SCORES / SCORES.sum()

GOLDEN = {
    1.0: [2.5, 1.25, 0.83333, 0.625],
    0.5: [1.62700, 1.15047, 0.93935, 0.81350],
    0.0: [1.0, 1.0, 1.0, 1.0],
    -1.0: [0.33333, 0.66667, 1.0, 1.33333],
}
"""idiap's weights by k, rescaled so that the sum of weight times score over the batch is kept."""


def rescaled(weights):
    return weights * (SCORES.sum() / (weights * SCORES).sum())


def test_weights_at_k_1_are_the_golden_ones_as_they_stand():
    weights = importance_weights(PROBABILITIES, 4, k=1.0)
    torch.testing.assert_close(weights, torch.tensor(GOLDEN[1.0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", GOLDEN)
def test_weights_are_proportional_to_the_golden_ones(k):
    weights = rescaled(importance_weights(PROBABILITIES, 4, k).double())
    torch.testing.assert_close(weights, torch.tensor(GOLDEN[k], dtype=torch.float64), rtol=0, atol=1e-5)


def test_weights_are_not_rescaled():
    assert importance_weights(PROBABILITIES, 4, k=-1.0).tolist() == pytest.approx([0.4, 0.8, 1.2, 1.6])


def test_k_defaults_to_1():
    assert torch.equal(importance_weights(PROBABILITIES, 4), importance_weights(PROBABILITIES, 4, k=1.0))


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_k_1_is_unbiased(scores):
    scores = torch.tensor(scores, dtype=torch.float64)
    probabilities = scores / scores.sum()
    assert_unbiased_by_enumeration(probabilities, importance_weights(probabilities, len(scores)))


@pytest.mark.parametrize("k", [1.0, 0.5, 0.0, -1.0, -50.0])
@pytest.mark.parametrize("num_samples", [1, 2, 1024, 2**40])
def test_uniform_draws_weigh_1_for_every_k(k, num_samples):
    probabilities = torch.full((3,), 1 / num_samples, dtype=torch.float64)
    assert importance_weights(probabilities, num_samples, k).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_are_float32(dtype):
    assert importance_weights(PROBABILITIES.to(dtype), 4).dtype == torch.float32


def test_a_tiny_float32_probability_times_a_large_size_keeps_its_precision():
    probabilities = torch.tensor([1e-30], dtype=torch.float32)
    assert importance_weights(probabilities, 2**30).item() == pytest.approx(1 / (1e-30 * 2**30), rel=1e-6)


@pytest.mark.parametrize("k", [1.0 + 1e-12, 2, math.inf, -math.inf, math.nan])
def test_k_above_1_or_not_finite_is_refused_with_a_remedy(k):
    with pytest.raises(ValueError, match=r"importance_weights\(k=\.\.\.\).*at most 1; got .*Use k=1"):
        importance_weights(PROBABILITIES, 4, k)


class TestExponent:
    @pytest.mark.parametrize("k", [1, 0.5, -3, 0])
    def test_that_is_a_number_is_the_same_at_every_step(self, k):
        exponent = check_exponent(k, "Caller")
        assert [exponent(step) for step in (0, 1, 10**9)] == [float(k)] * 3
        assert type(exponent(0)) is float

    def test_that_is_a_function_is_asked_at_every_step(self):
        exponent = check_exponent(lambda step: 1 - step, "Caller")
        assert [exponent(step) for step in (0, 3, 1, 1)] == [1.0, -2.0, 0.0, 0.0]
        assert type(exponent(0)) is float

    @pytest.mark.parametrize("k", [1.0 + 1e-12, 2, math.inf, -math.inf, math.nan])
    def test_above_1_or_not_finite_is_refused_at_once(self, k):
        for given_k in (k, lambda step: k):
            with pytest.raises(ValueError, match=r"`Caller\(k=\.\.\.\)`.*at most 1; got .*Use k=1"):
                check_exponent(given_k, "Caller")

    @pytest.mark.parametrize("k", [1.5, math.nan])
    def test_that_becomes_impossible_is_refused_then(self, k):
        exponent = check_exponent(lambda step: 0.5 if step < 7 else k, "Caller")
        assert exponent(6) == 0.5
        with pytest.raises(ValueError, match=r"`Caller\(k=\.\.\.\)`.*at most 1; got .*Use k=1"):
            exponent(7)

    @pytest.mark.parametrize("k", [None, "large", [0.5]])
    def test_that_is_no_number_is_refused(self, k):
        for given_k in (k, lambda step: k):
            with pytest.raises(TypeError, match=r"`Caller\(k=\.\.\.\)` must be a number; got"):
                check_exponent(given_k, "Caller")
