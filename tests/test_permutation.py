"""A permutation that is computed: it is one, stays the same, and looks like a shuffle."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import MOST_RANDOM, assert_frequencies
from scipy import stats

from approx_is.permutation import LARGEST_SIZE, permuted

KEYS = st.integers(0, 2**64 - 1)

HARD_SIZES = [1, 2, 3, *(2**bits + more for bits in (2, 3, 8, 9, 12) for more in (-1, 0, 1))]

LARGE = 10**8


def order(size, key):
    """Return the whole permutation."""
    return permuted(np.arange(size), size, key)


def assert_uncorrelated(first, second):
    """Assert that two long series of numbers do not follow each other."""
    correlation = np.corrcoef(first, second)[0, 1]
    assert stats.norm.sf(abs(correlation) * np.sqrt(len(first))) > MOST_RANDOM / 2


def assert_uniform(numbers, size, cells):
    """Assert that numbers in [0, size) fall into cells of equal width equally often."""
    assert_frequencies(torch.from_numpy(numbers * cells // size), torch.ones(cells))


class TestOrder:
    @given(st.sampled_from(HARD_SIZES) | st.integers(1, 3000), KEYS)
    def test_has_every_number_once(self, size, key):
        assert np.array_equal(np.sort(order(size, key)), np.arange(size))

    @pytest.mark.parametrize("size", [2**22 + 1, 2**32 - 1, 2**32, 2**32 + 1, 10**12, 2**62 + 1, LARGEST_SIZE])
    def test_of_many_has_different_numbers_in_range(self, size):
        sample = np.random.default_rng(0).integers(0, size, 10_000)
        positions = np.unique(np.concatenate([np.arange(1000), size - 1 - np.arange(1000), sample]))
        numbers = permuted(positions, size, 7)
        assert len(np.unique(numbers)) == len(positions)
        assert numbers.min() >= 0
        assert 0.99 * size < numbers.max() < size

    @given(st.integers(1, 10**6), KEYS, st.data())
    def test_at_a_position_does_not_depend_on_what_else_is_asked(self, size, key, data):
        positions = data.draw(st.lists(st.integers(0, size - 1), max_size=20))
        together = permuted(np.array(positions, dtype=np.int64), size, key).tolist()
        assert together == [permuted(np.array([position]), size, key).item() for position in positions]

    def test_is_int64_and_leaves_the_positions_as_they_are(self):
        positions = np.arange(100)
        assert permuted(positions, 1000, 0).dtype == np.int64
        assert positions.tolist() == list(range(100))

    def test_of_no_position_is_empty(self):
        numbers = permuted(np.array([], dtype=np.int64), 10, 0)
        assert (numbers.shape, numbers.dtype) == ((0,), np.int64)

    def test_of_each_key_is_another_one(self):
        keys = [*range(20), 2**32, 2**64, 2**64 + 2**32]
        assert len({tuple(order(50, key)) for key in keys}) == len(keys)

    @pytest.mark.parametrize(
        ("size", "key", "numbers"),
        [
            (1, 0, [0]),
            (10, 1, [0, 9, 6, 2, 5]),
            (1000, 2**32 - 1, [773, 930, 382, 65, 272]),
            (10**8, 3, [46025565, 38635689, 67255423, 63556697, 77827340]),
            (2**40 + 1, 4, [445460422480, 369354065952, 124728062498, 207110106140, 883522221146]),
            (LARGEST_SIZE, 2**64, [6657176857571511463, 4250896491023483262, 2064543356401017930]),
        ],
    )
    def test_stays_the_same_from_release_to_release(self, size, key, numbers):
        assert permuted(np.arange(len(numbers)), size, key).tolist() == numbers


class TestLooksLikeAShuffle:
    @pytest.mark.parametrize("size", [2, 3, 10, 50])
    def test_at_each_end_every_number_is_equally_likely(self, size):
        ends = np.array([permuted(np.array([0, size - 1]), size, key) for key in range(3000)])
        for numbers in ends.T:
            assert_frequencies(torch.from_numpy(numbers), torch.ones(size))

    @pytest.mark.parametrize("size", [10, 16])
    def test_every_pair_of_numbers_is_equally_likely_to_come_first(self, size):
        firsts = np.array([permuted(np.arange(2), size, key) for key in range(4000)])
        probabilities = 1 - torch.eye(size).flatten()
        assert_frequencies(torch.from_numpy(firsts @ [size, 1]), probabilities)

    @pytest.mark.parametrize("size", [LARGE, 2**26, 2**22 + 1, 2**36 + 1])
    def test_numbers_come_from_everywhere(self, size):
        numbers = permuted(np.arange(200_000), size, 5)
        assert_uniform(numbers, size, 1000)
        assert_frequencies(torch.from_numpy(numbers % 1009), torch.ones(1009))

    @pytest.mark.parametrize("lag", [1, 2, 64, 2**14])
    def test_of_a_number_the_one_after_it_says_nothing(self, lag):
        numbers = permuted(np.arange(200_000), LARGE, 6)
        assert_uniform((numbers[lag:] - numbers[:-lag]) % LARGE, LARGE, 1000)
        assert_uncorrelated(numbers[lag:], numbers[:-lag])

    def test_pairs_of_successive_numbers_come_from_everywhere(self):
        cells = permuted(np.arange(200_000), LARGE, 6) * 32 // LARGE
        assert_frequencies(torch.from_numpy(cells.reshape(-1, 2) @ [32, 1]), torch.ones(32 * 32))

    @pytest.mark.parametrize("bit", [0, 7, 13, 14, 26])
    def test_a_bit_of_the_position_changes_half_the_bits(self, bit):
        size = 2**27
        positions = np.random.default_rng(0).integers(0, size, 100_000)
        changed = permuted(positions, size, 8) ^ permuted(positions ^ 2**bit, size, 8)
        ones = (changed[:, None] >> np.arange(27) & 1).sum(0)
        assert stats.chi2.sf(((ones - 50_000) ** 2 / 25_000).sum(), 27) > MOST_RANDOM

    def test_neighbouring_keys_have_nothing_in_common(self):
        numbers = [permuted(np.arange(200_000), LARGE, key) for key in (0, 1, 2**32, 2**32 + 1)]
        for first, second in pairwise(numbers):
            assert_uniform((first - second) % LARGE, LARGE, 1000)
            assert_uncorrelated(first, second)


class TestBadInput:
    @pytest.mark.parametrize("positions", [[-1], [10], [3, 11, 4]])
    def test_positions_out_of_range(self, positions):
        match = rf"`permuted\(positions\)` must be in \[0, 10\); got entries from {min(positions)} to {max(positions)}"
        with pytest.raises(ValueError, match=match):
            permuted(np.array(positions), 10, 0)

    @pytest.mark.parametrize("size", [0, -1, LARGEST_SIZE + 1])
    def test_size_out_of_range(self, size):
        with pytest.raises(
            ValueError, match=rf"`permuted\(size=\.\.\.\)` must be in \[1, {LARGEST_SIZE}\]; got {size}"
        ):
            permuted(np.arange(1), size, 0)

    def test_size_no_integer(self):
        with pytest.raises(TypeError, match=r"`permuted\(size=\.\.\.\)` must be an integer; got 2\.5"):
            permuted(np.arange(1), 2.5, 0)

    def test_negative_key(self):
        with pytest.raises(ValueError, match="non-negative"):
            permuted(np.arange(1), 10, -1)
