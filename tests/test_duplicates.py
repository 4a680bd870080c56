"""Averages of samples drawn more than once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from approx_is import host
from approx_is.duplicates import average_duplicates

VALUES = st.integers(0, 8000).map(lambda eighths: eighths / 8)  # their sums are exact: the order does not matter


@given(st.lists(st.tuples(st.integers(0, 4), VALUES), max_size=12))
def test_averaging_duplicates_twice_changes_nothing(pairs):
    indices = torch.tensor([index for index, _ in pairs], dtype=torch.int64)
    values = torch.tensor([value for _, value in pairs], dtype=torch.float32)
    once = average_duplicates(indices, values)
    assert torch.equal(average_duplicates(indices, once), once)
    for index, average in zip(indices.tolist(), once.tolist(), strict=True):
        assert average == values[indices == index].double().mean().float().item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_averages_of_large_values_do_not_overflow(dtype):
    values = torch.full((8,), torch.finfo(dtype).max / 4, dtype=dtype)
    assert torch.equal(average_duplicates(torch.tensor([3] * 8), values), values)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1e6, width=32)), max_size=12))
def test_an_accelerator_averages_alike(pairs):
    indices = torch.tensor([index for index, _ in pairs], dtype=torch.int64)
    values = torch.tensor([value for _, value in pairs], dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "is_on_host", lambda tensor: False)
        averaged = average_duplicates(indices, values)
    assert torch.equal(averaged, average_duplicates(indices, values))
