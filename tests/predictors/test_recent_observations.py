"""The ring of recent observations against a deque, and its state."""

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_same, assert_unchanged, snapshot, through_file

from approx_is.predictors.recent_observations import RecentObservations

NUM_FEATURES = 2


def make(capacity=5):
    return RecentObservations(capacity, NUM_FEATURES, device=torch.device("cpu"))


def numbered(numbers):
    """Return observations whose features, norm and weight tell which they are."""
    norms = torch.tensor(numbers, dtype=torch.float32)
    return torch.stack([norms + 0.25, norms + 0.5], 1), norms, (norms + 0.75).double()


def filled(sizes, capacity=5):
    recent, first = make(capacity), 0
    for size in sizes:
        recent.append(*numbered(range(first, first + size)))
        first += size
    return recent


def assert_holds(recent, numbers):
    order = np.argsort(recent.arrays()[1])
    for found, expected in zip(recent.arrays(), numbered(numbers), strict=True):
        assert found.dtype == np.float64
        assert found[order].tolist() == expected.tolist()


@given(st.integers(1, 9), st.lists(st.integers(0, 25), max_size=12))
def test_it_holds_the_latest_observations_with_what_belongs_to_them(capacity, sizes):
    recent, model, first = make(capacity), deque(maxlen=capacity), 0
    for size in sizes:
        recent.append(*numbered(range(first, first + size)))
        model.extend(range(first, first + size))
        first += size
        assert len(recent) == len(model)
        assert_holds(recent, list(model))


def test_nothing_is_held_at_first():
    features, norms, weights = make().arrays()
    assert (features.shape, norms.shape, weights.shape) == ((0, NUM_FEATURES), (0,), (0,))


def test_nothing_to_append_changes_nothing():
    recent = filled([3])
    with assert_unchanged(recent):
        recent.append(*numbered([]))


@pytest.mark.parametrize("size", [5, 6, 17])
def test_of_a_batch_as_large_as_the_ring_or_larger_the_last_stay(size):
    assert_holds(filled([2, size]), list(range(2 + size - 5, 2 + size)))


def test_what_was_given_out_does_not_change_any_more():
    recent = filled([4])
    held = recent.arrays()
    copies = [part.copy() for part in held]
    recent.append(*numbered(range(90, 95)))
    for part, copy in zip(held, copies, strict=True):
        assert np.array_equal(part, copy)


class TestState:
    @pytest.mark.parametrize("sizes", [[], [3], [4, 4], [2, 20]], ids=str)
    def test_restored_it_goes_on_to_the_bit(self, sizes):
        original, resumed = filled(sizes), filled([2, 2])
        resumed.load_state_dict(through_file(original.state_dict()))
        for each in (original, resumed):
            each.append(*numbered([50, 51, 52]))
        assert_same(snapshot(resumed), snapshot(original))
        assert len(resumed) == len(original)

    def test_a_loaded_state_is_a_copy(self):
        original, resumed = filled([3]), make()
        resumed.load_state_dict(original.state_dict())
        with assert_unchanged(original):
            resumed.append(*numbered([50, 51, 52]))

    def test_a_state_of_another_size_changes_nothing(self):
        recent = filled([3])
        with (
            assert_unchanged(recent),
            pytest.raises(ValueError, match=r"\['rows'\]` must be torch.float32 \[5, 4\]; got torch.float32 \[6, 4\]"),
        ):
            recent.load_state_dict(filled([3], capacity=6).state_dict())
