"""The levels of a sum tree: what torch does to them on an accelerator is what numpy does on the CPU."""

import pytest
import torch
from laws import assert_same

from approx_is import SumTree
from approx_is.sum_tree import FAN_OUT, LARGEST_UNIFORM, TOP_WIDTH
from approx_is.tree_levels import descend, descend_with_torch, set_leaves, set_leaves_with_torch

SIZES = [1, FAN_OUT, FAN_OUT + 1, 5_000, FAN_OUT * TOP_WIDTH + 1]


def random_updates(size):
    """Return batches of items, some more than once, with whole weights, many of them 0."""
    generator = torch.Generator().manual_seed(size)
    for _ in range(20):
        items = torch.randint(size, (64,), generator=generator)
        weights = torch.randint(4, (size,), generator=generator)[items]
        yield items, weights.float()


def updated(size, update):
    levels = SumTree(size)._levels
    for items, weights in random_updates(size):
        update(levels, items, weights)
    update(levels, torch.tensor([size // 2]), torch.tensor([1.0]))
    return levels


@pytest.mark.parametrize("size", SIZES)
def test_both_set_the_same_leaves_and_sums(size):
    assert_same(updated(size, set_leaves), updated(size, set_leaves_with_torch))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("empty", [False, True])
def test_both_find_the_same_leaves(size, empty):
    levels = SumTree(size)._levels if empty else updated(size, set_leaves)
    uniforms = torch.rand(len(levels), 5_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    uniforms[:, 0], uniforms[:, 1] = 0.0, LARGEST_UNIFORM
    found = descend(levels, uniforms), descend_with_torch(levels, uniforms)
    assert all(bool(((items >= 0) & (items < levels[0].numel())).all()) for items in found)
    if not empty:  # where all weights are 0, any leaf will do
        assert torch.equal(*found)
        assert bool((levels[0].view(-1)[found[0]] > 0).all())


@pytest.mark.parametrize("find", [descend, descend_with_torch])
def test_random_numbers_are_left_alone(find):
    levels = updated(5_000, set_leaves)
    uniforms = torch.rand(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = uniforms.clone()
    find(levels, uniforms)
    assert torch.equal(uniforms, before)
