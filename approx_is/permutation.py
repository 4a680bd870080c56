"""A pseudorandom permutation that is computed where it is asked for, and kept nowhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from approx_is.checks import check_positive

__all__ = ["permuted"]

LARGEST_SIZE = 2**63 - 1

ROUNDS = 8
"""Four are enough for round functions that are random; hashes are not quite."""


def permuted(positions: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    r"""Return the numbers at these positions of a random order of 0, …, N - 1.

    Each key is one permutation of N numbers. It takes no memory beyond that of the positions asked about, and
    statistical tests do not tell it from a shuffle (of fewer than ten numbers they do: shuffle those). It keeps no
    secrets. A Feistel network permutes the numbers of :math:`n = \lceil \log_2 N \rceil` bits: of their two halves,
    each in turn takes on a hash of the other,

    .. math:: (h, l) \mapsto (h \oplus F_{2i}(l),\ l) \mapsto (h',\ l \oplus F_{2i+1}(h')).

    A result of N or more goes through the network until it is less ("cycle walking"), on average at most twice in all.

    Reference:
        Luby and Rackoff, *How to Construct Pseudorandom Permutations from Pseudorandom Functions*, SIAM Journal on
        Computing 17 (1988), Theorem 1: four rounds of random functions. Black and Rogaway, *Ciphers with Arbitrary
        Finite Domains*, CT-RSA (2002), Section 3: cycle walking.

    Args:
        positions: int64 [B], in [0, N), in any order; they stay as they are.
        size: N, in [1, 2^63 - 1].
        key: of the permutation, an integer of at least 0. Neighbouring keys are as different as any.

    Returns:
        int64 [B], in [0, N), different for different positions. The same in every release and on every machine.

    Raises:
        TypeError: if `size` is not an integer.
        ValueError: if `positions`, `size` or `key` is out of bounds.

    Example:
        >>> permuted(np.arange(10), 10, key=0).tolist()
        [5, 0, 8, 3, 6, 4, 2, 1, 9, 7]
        >>> permuted(np.array([0, 1, 2**40 - 1]), 2**40, key=0).tolist()
        [195002662567, 173408230641, 834747677859]
    """
    size = check_positive(size, "permuted(size=...)", at_most=LARGEST_SIZE)
    _check_positions(positions, size)
    keys = np.random.SeedSequence(key).generate_state(2 * ROUNDS).astype(np.uint32).reshape(-1, 2, 2)
    num_bits = (size - 1).bit_length()
    numbers = _through_network(positions, num_bits, keys)
    outside = np.flatnonzero(numbers >= size)
    while len(outside):
        walked = _through_network(numbers[outside], num_bits, keys)
        numbers[outside] = walked
        outside = outside[walked >= size]
    return numbers


def _check_positions(positions: NDArray[np.int64], size: int) -> None:
    if len(positions) and (positions.min() < 0 or positions.max() >= size):
        raise ValueError(
            f"`permuted(positions)` must be in [0, {size}); got entries from {positions.min()} to {positions.max()}."
        )


def _through_network(numbers: NDArray[np.int64], num_bits: int, keys: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return a permutation of the numbers of so many bits, int64 [B]; keys are uint32 [rounds / 2, 2, 2]."""
    low_bits = num_bits // 2
    low_mask, high_mask = np.uint32(2**low_bits - 1), np.uint32(2 ** (num_bits - low_bits) - 1)
    low, high = numbers.astype(np.uint32) & low_mask, (numbers >> low_bits).astype(np.uint32)
    for key_of_low, key_of_high in keys:
        high ^= _hashed(low, key_of_low) & high_mask
        low ^= _hashed(high, key_of_high) & low_mask
    permuted_numbers: NDArray[np.int64] = high.astype(np.int64) << low_bits | low
    return permuted_numbers


def _hashed(values: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return one of 2^64 hashes, uint32 [B]: Wellons' `lowbias32` (2018) with a key [2] before each multiplication."""
    mixed: NDArray[np.uint32] = values ^ key[0]
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x7FEB352D)
    mixed ^= key[1]
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x846CA68B)
    mixed ^= mixed >> np.uint32(16)
    return mixed
