"""Numbers of steps in a byte: small ones exactly, large ones nearly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from approx_is.gap_codes import EXACT, GapCodes

LARGEST = 2**31 - 1


def through_codes(gaps):
    codes = GapCodes()
    return codes.decode(codes.encode(torch.tensor(gaps))).tolist()


def test_small_numbers_are_exact():
    assert through_codes(list(range(EXACT + 1))) == list(range(EXACT + 1))


def test_larger_numbers_are_right_to_44_parts_in_a_thousand():
    gaps = list(range(EXACT, 5_000))
    assert through_codes(gaps) == [pytest.approx(gap, rel=0.044) for gap in gaps]


@given(st.integers(EXACT, LARGEST))
def test_so_are_the_largest(gap):
    assert through_codes([gap]) == [pytest.approx(gap, rel=0.044)]


def test_every_code_stands_for_itself():
    codes = torch.arange(233, dtype=torch.uint8)
    assert torch.equal(GapCodes().encode(GapCodes().decode(codes).round().long()), codes)


def test_order_is_kept():
    codes = GapCodes().encode(torch.arange(100_000)).int()
    assert bool((codes.diff() >= 0).all())


def test_the_largest_step_has_a_code():
    assert GapCodes().encode(torch.tensor([LARGEST])).item() == 232


@pytest.mark.parametrize("shape", [(0,), (3, 0), (2, 3)])
def test_shapes_are_kept(shape):
    codes = GapCodes().encode(torch.ones(shape, dtype=torch.int32))
    assert (codes.shape, codes.dtype) == (shape, torch.uint8)
    assert GapCodes().decode(codes).shape == shape
