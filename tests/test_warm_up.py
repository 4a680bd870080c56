"""The warm-up hands out every sample once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_global_randomness_untouched, assert_unchanged, through_file

from approx_is.warm_up import WarmUp


def take_all(warm_up, batch_size):
    batches = []
    while (batch := warm_up.take(batch_size)) is not None:
        batches.append(batch.tolist())
    return batches


def flat(batches):
    return [index for batch in batches for index in batch]


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 2**63 - 1))
def test_every_sample_comes_once(num_samples, batch_size, seed):
    warm_up = WarmUp(num_samples, seed=seed)
    batches = take_all(warm_up, batch_size)
    assert sorted(flat(batches)) == list(range(num_samples))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert warm_up.finished


@given(st.integers(1, 60), st.integers(1, 70))
def test_a_smaller_last_batch_can_be_left_out(num_samples, batch_size):
    warm_up = WarmUp(num_samples, seed=0, smallest_batch=batch_size)
    batches = take_all(warm_up, batch_size)
    assert [len(batch) for batch in batches] == [batch_size] * (num_samples // batch_size)
    assert len(set(flat(batches))) == num_samples // batch_size * batch_size
    assert warm_up.finished


def test_the_order_is_random_and_follows_from_the_seed():
    orders = [take_all(WarmUp(50, seed=seed), 50)[0] for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != list(range(50))


def test_the_order_does_not_depend_on_the_batch_size():
    assert flat(take_all(WarmUp(50, seed=0), 7)) == take_all(WarmUp(50, seed=0), 50)[0]


def test_batches_may_differ_in_size():
    warm_up = WarmUp(10, seed=0)
    assert [len(warm_up.take(size)) for size in (3, 1, 5, 9)] == [3, 1, 5, 1]


def test_indices_are_int64():
    assert WarmUp(5, seed=0).take(2).dtype == torch.int64


def test_it_is_finished_with_the_last_sample():
    warm_up = WarmUp(4, seed=0)
    assert not warm_up.finished
    warm_up.take(3)
    assert not warm_up.finished
    warm_up.take(1)
    assert warm_up.finished


def test_once_finished_it_stays_so():
    warm_up = WarmUp(4, seed=0)
    take_all(warm_up, 3)
    assert warm_up.take(1) is None
    assert warm_up.take(100) is None


def test_global_generators_are_not_used():
    with assert_global_randomness_untouched():
        take_all(WarmUp(10, seed=0), 3)


@pytest.mark.parametrize("taken", [0, 3, 6, 10])
def test_a_restored_warm_up_goes_on_as_the_original(taken):
    original, restored = WarmUp(10, seed=5), WarmUp(10, seed=6)
    restored.take(1)
    if taken:
        original.take(taken)
    restored.load_state_dict(through_file(original.state_dict()))
    assert take_all(restored, 4) == take_all(original, 4)


@pytest.mark.parametrize("state", [{}, {"seed": 0}, {"seed": 0, "position": 1.0}, {"seed": 0, "position": 1, "n": 2}])
def test_a_state_that_does_not_fit_changes_nothing(state):
    warm_up = WarmUp(10, seed=0)
    with assert_unchanged(warm_up), pytest.raises(ValueError, match=r"WarmUp\.load_state_dict\(state\)"):
        warm_up.load_state_dict(state)
