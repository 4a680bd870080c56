"""Observations: what is kept of a batch, in which types, and what is refused."""

import math

import pytest
import torch

from approx_is import host
from approx_is.draw import Draw
from approx_is.observation import Observation

CPU = torch.device("cpu")
NUM_SAMPLES = 10


def make_draw():
    probabilities = torch.tensor([0.1, 0.2, 0.05, 0.1], dtype=torch.float64)
    return Draw(torch.tensor([7, 2, 2, 5]), probabilities, torch.tensor([1.0, 0.7, 1.4, 1.0]))


def read(observed, draw=None):
    draw = make_draw() if draw is None else draw
    return Observation.read(draw, observed, NUM_SAMPLES, CPU, expected=lambda indices: indices + 0.25)


def test_all_of_a_finite_batch_is_kept():
    seen = read(torch.tensor([1.0, 0.0, 3.5, 2.0]))
    assert len(seen) == 4
    assert seen.num_left_out == 0
    assert seen.indices.tolist() == [7, 2, 2, 5]
    assert seen.importance.tolist() == [1.0, 0.0, 3.5, 2.0]
    assert torch.equal(seen.weights, make_draw().weights)
    torch.testing.assert_close(seen.unbiased, torch.tensor([1.0, 0.5, 2.0, 1.0], dtype=torch.float64))


def test_weights_that_k_1_would_have_do_not_depend_on_those_in_use():
    draw = Draw(torch.tensor([1]), torch.tensor([0.025], dtype=torch.float64), torch.tensor([123.0]))
    seen = read(torch.ones(1), draw)
    assert seen.unbiased.tolist() == [pytest.approx(4.0)]
    assert seen.weights.tolist() == [123.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out_with_all_that_belongs_to_it(value):
    seen = read(torch.tensor([1.0, value, 3.0, value]))
    assert len(seen) == seen.num_left_out == 2
    assert seen.indices.tolist() == [7, 2]
    assert seen.importance.tolist() == [1.0, 3.0]
    assert torch.equal(seen.weights, make_draw().weights[[0, 2]])
    assert torch.equal(seen.unbiased, 1 / (NUM_SAMPLES * make_draw().probabilities[[0, 2]]))


def test_what_float32_cannot_hold_is_left_out():
    seen = read(torch.tensor([1.0, 1e300, 1e-300, 3e38], dtype=torch.float64))
    assert seen.num_left_out == 1
    assert seen.importance.tolist() == pytest.approx([1.0, 0.0, 3e38])


def test_nothing_may_be_left():
    seen = read(torch.full((4,), math.nan))
    assert len(seen) == 0
    assert seen.num_left_out == 4
    for kept in (seen.indices, seen.importance, seen.weights, seen.unbiased):
        assert kept.shape == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_an_accelerator_repeats_the_others_in_place_of_what_is_no_importance(monkeypatch, value):
    monkeypatch.setattr(host, "is_on_host", lambda tensor: False)
    seen = read(torch.tensor([1.0, value, 3.0, value], dtype=torch.float64))
    assert int(seen.num_left_out) == 2
    assert seen.indices.tolist() == [7, 2, 7, 2]
    assert seen.importance.tolist() == [1.0, 3.0, 1.0, 3.0]
    assert torch.equal(seen.weights, make_draw().weights[[0, 2, 0, 2]])
    torch.testing.assert_close(seen.unbiased, torch.tensor([1.0, 2.0, 1.0, 2.0], dtype=torch.float64))


def test_an_accelerator_takes_one_sample_to_be_as_expected_if_there_is_no_importance(monkeypatch):
    monkeypatch.setattr(host, "is_on_host", lambda tensor: False)
    seen = read(torch.full((4,), math.nan))
    assert int(seen.num_left_out) == 4
    assert seen.indices.tolist() == [7] * 4
    assert seen.importance.tolist() == [7.25] * 4


@pytest.mark.parametrize("is_on_host", [False, True])
@pytest.mark.parametrize(
    "observed",
    [
        torch.tensor([1.0, 2.0, 0.0, 3.0], dtype=torch.float16),
        torch.tensor([1.0, 2.0, 0.0, 3.0], dtype=torch.float64),
        torch.tensor([1, 2, 0, 3]),
        torch.tensor([1.0, 2.0, -0.0, 3.0], requires_grad=True) * 1.0,
        torch.tensor([1.0, 9.0, 2.0, 9.0, 0.0, 9.0, 3.0, 9.0])[::2],
    ],
    ids=["float16", "float64", "int64", "with a graph", "strided"],
)
def test_types_are_always_the_same(monkeypatch, observed, is_on_host):
    monkeypatch.setattr(host, "is_on_host", lambda tensor: is_on_host)
    seen = read(observed)
    dtypes = [each.dtype for each in (seen.indices, seen.importance, seen.weights, seen.unbiased)]
    assert dtypes == [torch.int64, torch.float32, torch.float32, torch.float64]
    assert not seen.importance.requires_grad
    assert seen.importance.tolist() == [1.0, 2.0, 0.0, 3.0]


def test_what_was_observed_stays_as_it_is():
    observed = torch.tensor([1.0, math.nan, 3.0, 2.0], requires_grad=True)
    draw = make_draw()
    read(observed, draw)
    assert observed.requires_grad
    assert observed.isnan().tolist() == [False, True, False, False]
    assert torch.equal(draw.indices, make_draw().indices)


def test_it_cannot_be_changed():
    with pytest.raises(AttributeError, match="cannot assign to field 'importance'"):
        read(torch.ones(4)).importance = torch.zeros(4)


@pytest.mark.parametrize(
    ("observed", "error", "match"),
    [
        (torch.ones(3), ValueError, r"`update\(observed\)` must have shape \[4\], one value a sample; got shape \[3\]"),
        (torch.ones(4, 1), ValueError, r"must have shape \[4\], one value a sample; got shape \[4, 1\]"),
        (torch.tensor(1.0), ValueError, r'got shape \[\]. Compute the loss with reduction="none"'),
        (torch.ones(4, dtype=torch.complex64), ValueError, "must be real; got torch.complex64"),
        (torch.tensor([1.0, -0.5, math.nan, 1.0]), ValueError, r"`update\(observed\)` must be at least 0; got -0.5"),
        (torch.tensor([1.0, -1e300, 1.0, 1.0], dtype=torch.float64), ValueError, r"at least 0; got -1e\+300"),
        ([1.0] * 4, TypeError, r"`update\(observed\)` must be a tensor of shape \[4\]; got list"),
    ],
    ids=["short", "column", "mean", "complex", "negative", "negative beyond float32", "list"],
)
def test_what_is_no_importance_is_refused(observed, error, match):
    with pytest.raises(error, match=match):
        read(observed)
