"""Checks of arguments: what passes comes back normalised, what does not is named."""

import numpy as np
import pytest
import torch

from approx_is.checks import check_indices, check_positive, check_seed


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.uint8(3), torch.tensor(5)])
def test_positive_integers_of_every_kind_come_back_as_int(value):
    checked = check_positive(value, "size")
    assert type(checked) is int
    assert checked == int(value)


@pytest.mark.parametrize("value", [1.0, "1", None, np.float64(1), [1]])
def test_what_is_no_integer_is_no_size(value):
    with pytest.raises(TypeError, match=r"`size` must be an integer; got "):
        check_positive(value, "size")


@pytest.mark.parametrize("value", [0, -1])
def test_sizes_are_at_least_1(value):
    with pytest.raises(ValueError, match=rf"`size` must be at least 1; got {value}\."):
        check_positive(value, "size")


def test_the_upper_bound_of_a_size_is_allowed():
    assert check_positive(127, "size", at_most=127) == 127


@pytest.mark.parametrize("value", [0, 128])
def test_sizes_with_an_upper_bound_name_both(value):
    with pytest.raises(ValueError, match=rf"`size` must be in \[1, 127\]; got {value}\."):
        check_positive(value, "size", at_most=127)


@pytest.mark.parametrize("seed", [0, 5, 2**100, np.int64(3)])
def test_seeds_of_every_size_pass(seed):
    checked = check_seed(seed)
    assert type(checked) is int
    assert checked == int(seed)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match=r"`seed` must be at least 0; got -1\."):
        check_seed(-1)


@pytest.mark.parametrize("seed", [0.0, None, "0"])
def test_what_is_no_integer_is_no_seed(seed):
    with pytest.raises(TypeError, match=r"`seed` must be an integer; got "):
        check_seed(seed)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_indices_of_every_integer_dtype_become_int64(dtype):
    checked = check_indices(torch.tensor([0, 4, 4], dtype=dtype), 5, "indices")
    assert checked.dtype == torch.int64
    assert checked.tolist() == [0, 4, 4]


def test_no_indices_are_fine():
    assert check_indices(torch.empty(0, dtype=torch.int32), 5, "indices").shape == (0,)


@pytest.mark.parametrize("bad", [[-1, 2], [0, 5], [2**40, 0]])
def test_indices_out_of_range_are_refused(bad):
    message = rf"`indices` must be in \[0, 5\); got entries from {min(bad)} to {max(bad)}\."
    with pytest.raises(ValueError, match=message):
        check_indices(torch.tensor(bad), 5, "indices")


@pytest.mark.parametrize(
    ("indices", "found"),
    [
        (torch.tensor([0.0]), r"torch\.float32 \[1\]"),
        (torch.tensor([True]), r"torch\.bool \[1\]"),
        (torch.tensor(0), r"torch\.int64 \[\]"),
        (torch.tensor([[0]]), r"torch\.int64 \[1, 1\]"),
        ([0, 1], "list"),
        (np.array([0]), "ndarray"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_integer_vector_is_no_index(indices, found):
    with pytest.raises(ValueError, match=rf"`indices` must be an integer tensor of shape \[B\]; got {found}\."):
        check_indices(indices, 5, "indices")
