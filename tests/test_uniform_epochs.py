"""Plain epochs hand out every sample once, again and again."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_global_randomness_untouched, assert_same, assert_unchanged, snapshot, through_file

from approx_is import uniform_epochs
from approx_is.permutation import permuted
from approx_is.uniform_epochs import UniformEpochs

SEEDS = st.integers(0, 2**63 - 1)


@pytest.fixture(scope="module", autouse=True, params=[None, 4, 64], ids=["shuffled", "in blocks of 4", "in one block"])
def block(request):
    """Run every test with permutations that are shuffled, and with such as are computed in blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uniform_epochs, "AHEAD", 6)
        if request.param is not None:
            patch.setattr(uniform_epochs, "LARGEST_SHUFFLED", 0)
            patch.setattr(uniform_epochs, "BLOCK", request.param)
        yield request.param


def take(epochs, batch_size, batches):
    """Take so many batches; return their indices."""
    return [epochs.take(batch_size)[0].tolist() for _ in range(batches)]


def take_permutation(epochs, num_samples, batch_size):
    """Take the batches of a whole permutation."""
    return take(epochs, batch_size, math.ceil(num_samples / batch_size))


def flat(batches):
    return [index for batch in batches for index in batch]


def key_of(seed, number):
    """Return what the permutation of that number is made from."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


@given(st.integers(1, 60), st.integers(1, 70), SEEDS)
def test_every_permutation_has_every_sample_once(num_samples, batch_size, seed):
    epochs = UniformEpochs(num_samples, seed=seed)
    for _ in range(3):
        batches = take_permutation(epochs, num_samples, batch_size)
        assert sorted(flat(batches)) == list(range(num_samples))
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


@given(st.integers(1, 60), st.integers(1, 60), SEEDS)
def test_a_smaller_last_batch_of_each_permutation_can_be_left_out(num_samples, batch_size, seed):
    batch_size = min(batch_size, num_samples)
    epochs = UniformEpochs(num_samples, seed=seed, smallest_batch=batch_size)
    whole = UniformEpochs(num_samples, seed=seed)
    for _ in range(3):
        batches = take(epochs, batch_size, num_samples // batch_size)
        assert batches == take_permutation(whole, num_samples, batch_size)[: len(batches)]
        assert {len(batch) for batch in batches} == {batch_size}


def test_no_batch_of_a_data_set_smaller_than_the_smallest_is_of_the_first_permutation():
    assert UniformEpochs(3, seed=0, smallest_batch=4).first_is_over
    assert not UniformEpochs(3, seed=0, smallest_batch=3).first_is_over


def test_the_order_is_random_and_follows_from_the_seed():
    orders = [flat(take(UniformEpochs(50, seed=seed), 50, 2)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0][:50] != orders[2][:50]
    assert orders[0][50:] != orders[2][50:]
    assert orders[0][:50] != list(range(50))


def test_each_permutation_is_another_one():
    orders = take(UniformEpochs(50, seed=0), 50, 20)
    assert len({tuple(order) for order in orders}) == 20


def test_permutations_of_neighbouring_seeds_are_not_those_of_later_epochs():
    later = take(UniformEpochs(50, seed=0), 50, 10)[1:]
    assert all(take(UniformEpochs(50, seed=seed), 50, 1)[0] not in later for seed in range(1, 10))


def test_the_order_does_not_depend_on_the_batch_size():
    by_seven, whole = (UniformEpochs(50, seed=0) for _ in range(2))
    for _ in range(3):
        assert flat(take_permutation(by_seven, 50, 7)) == flat(take_permutation(whole, 50, 50))


def test_batches_may_differ_in_size_but_none_goes_over_the_end_of_a_permutation():
    epochs = UniformEpochs(10, seed=0)
    assert [len(epochs.take(size)[0]) for size in (3, 1, 5, 9, 9, 9, 30)] == [3, 1, 5, 1, 9, 1, 10]


def test_indices_are_the_callers_own():
    epochs, whole = (UniformEpochs(10, seed=0) for _ in range(2))
    indices, place = epochs.take(3)
    indices.tensor(torch.device("cpu")).zero_()
    indices.tolist()[:] = [0, 0, 0]
    epochs.rewind(place)
    assert take(epochs, 3, 4) == take(whole, 3, 4)


def test_places_count_the_samples_before():
    epochs = UniformEpochs(10, seed=0)
    assert [epochs.take(4)[1] for _ in range(7)] == [0, 4, 8, 10, 14, 18, 20]


def test_places_count_what_was_left_out_too():
    epochs = UniformEpochs(10, seed=0, smallest_batch=4)
    assert [epochs.take(4)[1] for _ in range(5)] == [0, 4, 10, 14, 20]


@pytest.mark.parametrize(("smallest_batch", "last"), [(1, 2), (4, 1)])
def test_the_first_permutation_is_over_when_no_batch_of_it_is_left(smallest_batch, last):
    epochs = UniformEpochs(10, seed=0, smallest_batch=smallest_batch)
    over = []
    for _ in range(8):
        over.append(epochs.first_is_over)
        epochs.take(4)
    assert over == [False] * (last + 1) + [True] * (7 - last)


def test_global_generators_are_not_used():
    with assert_global_randomness_untouched():
        take(UniformEpochs(10, seed=0), 3, 9)


class TestRewind:
    @pytest.mark.parametrize("smallest_batch", [1, 4])
    @pytest.mark.parametrize("taken", range(8))
    def test_what_was_handed_out_from_there_on_comes_again(self, smallest_batch, taken):
        epochs = UniformEpochs(10, seed=0, smallest_batch=smallest_batch)
        before = [epochs.take(4) for _ in range(8)]
        epochs.rewind(before[taken][1])
        again = [epochs.take(4) for _ in range(8 - taken)]
        assert [place for _, place in again] == [place for _, place in before[taken:]]
        assert [indices.tolist() for indices, _ in again] == [indices.tolist() for indices, _ in before[taken:]]

    @pytest.mark.parametrize("place", [4, 8, 10, 1000])
    def test_does_not_go_forward(self, place):
        epochs = UniformEpochs(10, seed=0)
        epochs.take(4)
        with assert_unchanged(epochs):
            epochs.rewind(place)

    def test_into_the_first_permutation_means_that_it_is_not_over(self):
        epochs = UniformEpochs(10, seed=0)
        take(epochs, 4, 5)
        epochs.rewind(8)
        assert not epochs.first_is_over

    @given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 40)), max_size=12))
    def test_leaves_the_order_as_it_is(self, moves):
        epochs, place = UniformEpochs(10, seed=0), 0
        order = flat(take(UniformEpochs(10, seed=0), 10, 20))
        for size, back_to in moves:
            indices, place = epochs.take(size)
            assert indices.tolist() == order[place : place + len(indices)]
            epochs.rewind(back_to)


class TestBeginEpoch:
    @pytest.mark.parametrize("taken", [4, 5])
    def test_leaves_out_the_rest_of_a_later_permutation(self, taken):
        epochs = UniformEpochs(10, seed=0)
        orders = take(UniformEpochs(10, seed=0), 10, 3)
        take(epochs, 4, taken)
        epochs.begin_epoch()
        assert epochs.take(10)[0].tolist() == orders[2]

    @pytest.mark.parametrize("taken", [0, 1, 2])
    def test_does_not_leave_out_the_rest_of_the_first(self, taken):
        epochs = UniformEpochs(10, seed=0)
        (order,) = take(UniformEpochs(10, seed=0), 10, 1)
        take(epochs, 4, taken)
        with assert_unchanged(epochs):
            epochs.begin_epoch()
        assert epochs.take(10)[0].tolist() == order[4 * taken :]

    @pytest.mark.parametrize("taken", [3, 6])
    def test_changes_nothing_between_two_permutations(self, taken):
        epochs = UniformEpochs(10, seed=0)
        take(epochs, 4, taken)
        with assert_unchanged(epochs):
            epochs.begin_epoch()

    def test_twice_is_once(self):
        epochs = UniformEpochs(10, seed=0)
        take(epochs, 4, 5)
        epochs.begin_epoch()
        with assert_unchanged(epochs):
            epochs.begin_epoch()

    def test_with_a_small_last_batch_left_out_begins_the_next(self):
        epochs = UniformEpochs(10, seed=0, smallest_batch=4)
        orders = take(UniformEpochs(10, seed=0), 10, 3)
        for order in orders:
            epochs.begin_epoch()
            assert flat(take(epochs, 4, 2)) == order[:8]


class TestState:
    @pytest.mark.parametrize("taken", [0, 1, 2, 3, 4, 5, 9])
    def test_restored_goes_on_as_the_original(self, taken):
        original, restored = UniformEpochs(10, seed=5), UniformEpochs(10, seed=6)
        take(restored, 3, 7)
        take(original, 4, taken)
        restored.load_state_dict(through_file(original.state_dict()))
        assert_same(snapshot(restored), snapshot(original))
        assert restored.first_is_over == original.first_is_over
        assert take(restored, 4, 7) == take(original, 4, 7)

    def test_of_another_seed_does_not_go_on_with_the_permutation_under_way(self):
        original, restored = UniformEpochs(50, seed=5), UniformEpochs(50, seed=6)
        for epochs in (original, restored):
            epochs.take(10)
        restored.load_state_dict(original.state_dict())
        assert take(restored, 20, 2) == take(original, 20, 2)

    @pytest.mark.parametrize(
        ("state", "match"),
        [
            ({}, r"missing \['place', 'seed'\]"),
            ({"seed": 0}, r"missing \['place'\]"),
            ({"seed": 0, "place": 1, "n": 2}, r"unknown \['n'\]"),
            ({"seed": 0, "place": 1.0}, r"\['place'\]` must be of type int; got float"),
            ({"seed": 0, "place": -1}, r"\['place'\]` must be at least 0; got -1"),
            ({"seed": -3, "place": 0}, r"\['seed'\]` must be at least 0; got -3"),
        ],
    )
    def test_that_does_not_fit_changes_nothing(self, state, match):
        epochs = UniformEpochs(10, seed=0)
        epochs.take(4)
        with (
            assert_unchanged(epochs),
            pytest.raises(ValueError, match=r"UniformEpochs\.load_state_dict\(state\).*" + match),
        ):
            epochs.load_state_dict(state)
        assert epochs.take(4)[1] == 4


class TestManySamples:
    @pytest.fixture(autouse=True)
    def few_are_many(self, block, monkeypatch):
        monkeypatch.setattr(uniform_epochs, "LARGEST_SHUFFLED", 20)
        monkeypatch.setattr(uniform_epochs, "BLOCK", block or 10)

    @pytest.mark.parametrize("num_samples", [1, 19, 20])
    def test_up_to_the_largest_permutations_are_shuffles(self, num_samples):
        for number, order in enumerate(take(UniformEpochs(num_samples, seed=3), num_samples, 3)):
            generator = torch.Generator().manual_seed(key_of(3, number))
            assert order == torch.randperm(num_samples, generator=generator).tolist()

    @pytest.mark.parametrize("num_samples", [21, 40, 1000])
    def test_beyond_they_are_computed(self, num_samples):
        for number, order in enumerate(take(UniformEpochs(num_samples, seed=3), num_samples, 3)):
            assert order == permuted(np.arange(num_samples), num_samples, key_of(3, number)).tolist()

    @pytest.mark.parametrize("batch_size", [1, 3, 50, 64, 500])
    def test_every_entry_is_computed_once(self, batch_size, monkeypatch):
        computed = []

        def recording(positions, size, key):
            computed.append(positions.tolist())
            return permuted(positions, size, key)

        monkeypatch.setattr(uniform_epochs, "permuted", recording)
        take_permutation(UniformEpochs(500, seed=0), 500, batch_size)
        assert flat(computed) == list(range(500))
        assert max(len(positions) for positions in computed) == uniform_epochs.BLOCK

    @pytest.mark.parametrize("num_samples", [2**32 + 1, 10**12])
    def test_more_than_any_memory_holds(self, num_samples):
        epochs, restored = UniformEpochs(num_samples, seed=0), UniformEpochs(num_samples, seed=1)
        drawn = flat(take(epochs, 100, 3))
        assert len(set(drawn)) == 300
        assert min(drawn) >= 0
        assert 0.9 * num_samples < max(drawn) < num_samples
        restored.load_state_dict(through_file(epochs.state_dict()))
        assert take(restored, 100, 2) == take(epochs, 100, 2)

    def test_the_last_of_more_than_any_memory_holds(self):
        epochs = UniformEpochs(10**12, seed=0)
        epochs.load_state_dict({"seed": 0, "place": 10**12 - 3})
        assert [len(batch) for batch in take(epochs, 4, 2)] == [3, 4]
        epochs.begin_epoch()
        assert epochs.take(4)[1] == 2 * 10**12
