"""The sum tree: what it draws follows exactly from its weights and the random numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_frequencies, assert_same, assert_unchanged, snapshot, through_file

from approx_is import SumTree
from approx_is.sum_tree import FAN_OUT, LARGEST_UNIFORM, TOP_WIDTH

ONE_LEVEL = FAN_OUT * TOP_WIDTH
SIZES = [1, FAN_OUT - 1, FAN_OUT, FAN_OUT + 1, 65, 4096, ONE_LEVEL - 1, ONE_LEVEL, ONE_LEVEL + 1]
LARGE = 2**25


def level_weights(weights):
    """Return the weights of the nodes of each level, top first, by plain sums."""
    levels = [np.asarray(weights, dtype=np.float64)]
    while len(levels) == 1 or len(levels[0]) > TOP_WIDTH:
        below = levels[0]
        padded = np.zeros(math.ceil(len(below) / FAN_OUT) * FAN_OUT)
        padded[: len(below)] = below
        levels.insert(0, padded.reshape(-1, FAN_OUT).sum(1))
    return levels


def uniforms_to(weights, items):
    """Return random numbers [levels, B] that lie in the middle of what leads to these items."""
    levels = level_weights(weights)
    rows = []
    for depth, level in enumerate(levels):
        nodes = items // FAN_OUT ** (len(levels) - 1 - depth)
        start = nodes * 0 if depth == 0 else nodes // FAN_OUT * FAN_OUT
        width = len(level) if depth == 0 else FAN_OUT
        siblings = np.pad(level, (0, FAN_OUT))[start[:, None] + np.arange(width)]
        before = np.where(np.arange(width) < (nodes - start)[:, None], siblings, 0).sum(1)
        rows.append((before + level[nodes] / 2) / siblings.sum(1))
    return torch.tensor(np.stack(rows))


def make_tree(weights):
    tree = SumTree(len(weights))
    tree.update(torch.arange(len(weights)), torch.as_tensor(weights, dtype=torch.float32))
    return tree


def random_weights(size, seed=0, share_of_zeros=0.5):
    random = np.random.default_rng(seed)
    return (random.integers(1, 100, size) * (random.random(size) >= share_of_zeros)).astype(np.float32)


def large_tree(step):
    """Return a tree of 2^25 items in which every `step`-th weighs 1 and all others nothing."""
    tree = SumTree(LARGE)
    tree.all_values()[::step] = 1.0
    for firsts in torch.arange(0, LARGE, FAN_OUT).split(2**14):
        tree.update(firsts, torch.ones(len(firsts)))
    return tree


@pytest.fixture(scope="module")
def equal_tree():
    return large_tree(1)


def test_every_item_of_a_large_tree_has_its_cell_of_the_unit_cube(equal_tree):
    # with equal weights each level takes its digit from its own uniform, so that checking every digit checks every item
    assert equal_tree.total.item() == LARGE
    widths = [LARGE // FAN_OUT**3, FAN_OUT, FAN_OUT, FAN_OUT]
    assert equal_tree.uniforms(1).shape == (4, 1)
    generator = torch.Generator().manual_seed(0)
    for level, width in enumerate(widths):
        digits = torch.stack([torch.randint(other, (8 * width,), generator=generator) for other in widths])
        digits[level] = torch.arange(8 * width) % width
        items = digits[0]
        for row, other in zip(digits[1:], widths[1:], strict=True):
            items = items * other + row
        for offset in (0.0, 0.5, 1 - 2**-40):
            uniforms = (digits.double() + offset) / torch.tensor(widths, dtype=torch.float64).unsqueeze(1)
            assert torch.equal(equal_tree.descend(uniforms), items)


def test_odd_and_even_items_and_all_quarters_are_drawn_equally_from_a_large_tree(equal_tree):
    items = equal_tree.draw(20_000, torch.Generator().manual_seed(0))
    for classes, count in ((items % 2, 2), (items % 4, 4), (items % 64, 64), (items // (LARGE // 4), 4)):
        assert_frequencies(classes, np.full(count, 1 / count))


def test_first_and_last_item_of_a_large_tree_are_within_reach(equal_tree):
    corners = torch.tensor([[0.0, LARGEST_UNIFORM]] * 4, dtype=torch.float64)
    assert equal_tree.descend(corners).tolist() == [0, LARGE - 1]


def test_items_of_weight_0_in_a_large_tree_are_never_drawn():
    tree = large_tree(FAN_OUT)  # the first of each row
    levels = torch.cartesian_prod(*[torch.tensor([0.0, 0.3, 0.5, LARGEST_UNIFORM], dtype=torch.float64)] * 4).T
    assert bool((tree.descend(levels) % FAN_OUT == 0).all())


@pytest.mark.parametrize("size", SIZES)
def test_every_weighted_item_is_within_reach_and_no_other(size):
    weights = random_weights(size)
    weights[0] = 1.0
    tree = make_tree(weights)
    items = np.flatnonzero(weights)
    chosen = items[np.unique(np.linspace(0, len(items) - 1, 3000).astype(int))]
    assert torch.equal(tree.descend(uniforms_to(weights, chosen)), torch.tensor(chosen))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_single_weighted_item_is_always_drawn(size, place):
    item = {"first": 0, "middle": size // 2, "last": size - 1}[place]
    tree = SumTree(size)
    tree.update(torch.tensor([item]), torch.tensor([1e-3]))
    uniforms = torch.tensor([0.0, 5e-324, 0.5, LARGEST_UNIFORM], dtype=torch.float64)
    grid = torch.cartesian_prod(*[uniforms] * len(tree.uniforms(1))).T
    assert tree.descend(grid).unique().tolist() == [item]


@given(st.sampled_from([1, 2, 31, 32, 33, 63, 64, 65, 200]), st.integers(0, 2**31), st.sampled_from([1e-30, 1.0, 1e30]))
def test_items_of_weight_0_are_not_drawn_at_the_ends_of_the_unit_interval(size, seed, scale):
    weights = random_weights(size, seed, 0.7) * np.float32(scale)
    weights[size // 2] = scale
    tree = make_tree(weights)
    ends = torch.tensor([0.0, 5e-324, LARGEST_UNIFORM], dtype=torch.float64)
    drawn = tree.descend(torch.cartesian_prod(ends, ends).T)
    assert bool((tree.values(drawn) > 0).all())


@pytest.mark.parametrize("size", SIZES)
def test_uniforms_are_one_a_level_and_below_the_largest(size):
    uniforms = SumTree(size).uniforms(1000, torch.Generator().manual_seed(0))
    assert uniforms.shape == (2 if size <= ONE_LEVEL else 3, 1000)
    assert uniforms.dtype == torch.float64
    assert bool(((uniforms >= 0) & (uniforms <= LARGEST_UNIFORM)).all())
    assert LARGEST_UNIFORM < 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=FAN_OUT).filter(any))
def test_a_uniform_in_the_leaf_row_picks_as_in_a_list_of_copies(weights):
    tree = make_tree(weights)
    copies = np.repeat(np.arange(len(weights)), weights)
    leaf = (torch.arange(len(copies), dtype=torch.float64) + 0.5) / len(copies)
    assert torch.equal(tree.descend(torch.stack([torch.zeros_like(leaf), leaf])), torch.tensor(copies))


@given(
    st.sampled_from([1, 31, 32, 33, 63, 64, 65, 300, 4097]),
    st.lists(
        st.lists(st.tuples(st.integers(0, 2**31), st.floats(0, 2.0**60, width=32)), max_size=10),
        max_size=20,
    ),
)
def test_values_and_total_are_those_of_an_array(size, updates):
    tree, reference = SumTree(size), np.zeros(size, dtype=np.float32)
    for update in updates:
        pairs = {index % size: value for index, value in update}
        indices = np.array(list(pairs), dtype=np.int64)
        reference[indices] = list(pairs.values())
        tree.update(torch.from_numpy(indices), torch.tensor(list(pairs.values())))
    assert tree.all_values().tolist() == reference.tolist()
    assert tree.total.item() == pytest.approx(math.fsum(reference.tolist()), rel=1e-12)


def test_the_total_is_exact_after_thousands_of_updates():
    random = np.random.default_rng(0)
    tree, weights = SumTree(5000), np.zeros(5000, dtype=np.float32)
    for _ in range(3000):
        indices = random.choice(5000, 16, replace=False)
        weights[indices] = random.integers(0, 2**20, 16)
        tree.update(torch.from_numpy(indices), torch.from_numpy(weights[indices]))
    assert tree.total.item() == weights.astype(np.int64).sum()


def test_huge_weights_leave_no_trace_once_they_are_gone():
    tree = make_tree(random_weights(300))
    before = snapshot(tree)
    item = torch.tensor([7])
    old = tree.values(item)
    for huge in (3e38, 1e-38):
        tree.update(item, torch.tensor([huge]))
    tree.update(item, old)
    assert_same(tree.state_dict(), before)


def test_the_order_of_updates_does_not_matter():
    weights = torch.rand(500, generator=torch.Generator().manual_seed(0))
    piecewise = SumTree(500)
    for indices in torch.randperm(500, generator=torch.Generator().manual_seed(1)).split(7):
        piecewise.update(indices, weights[indices])
    assert_same(piecewise.state_dict(), make_tree(weights).state_dict())


def test_an_item_may_appear_twice_with_the_same_weight():
    tree = SumTree(100)
    tree.update(torch.tensor([70, 3, 70]), torch.tensor([2.0, 1.0, 2.0]))
    assert tree.total.item() == 3.0
    assert tree.values(torch.tensor([70, 3, 4])).tolist() == [2.0, 1.0, 0.0]


@pytest.mark.parametrize("size", [3, 33, 65, 300])
def test_draws_follow_the_weights(size):
    weights = random_weights(size, share_of_zeros=0.3)
    weights[1] = 50.0
    items = make_tree(weights).draw(100_000, torch.Generator().manual_seed(0))
    assert_frequencies(items, weights)


def test_draws_repeat_with_the_generator():
    tree = make_tree(random_weights(300))
    first, second = (tree.draw(50, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.dtype == torch.int64
    assert torch.equal(first, second)


def test_drawing_changes_nothing():
    tree = make_tree(random_weights(300))
    with assert_unchanged(tree):
        tree.draw(50, torch.Generator().manual_seed(0))


def test_drawing_from_nothing_is_refused():
    with pytest.raises(ValueError, match=r"`SumTree\.draw` needs a positive weight; all are 0\. Set some"):
        SumTree(5).draw(3)


@pytest.mark.parametrize("size", SIZES)
def test_descending_without_weights_stays_in_range(size):
    tree = SumTree(size)
    ends = torch.tensor([[0.0, LARGEST_UNIFORM]] * len(tree.uniforms(1)), dtype=torch.float64)
    items = tree.descend(ends)
    assert bool(((items >= 0) & (items < size)).all())


@pytest.mark.parametrize("size", SIZES)
def test_states_come_back_through_a_file(size):
    tree = make_tree(random_weights(size))
    restored = SumTree(size)
    restored.load_state_dict(through_file(tree.state_dict()))
    for each in (tree, restored):
        each.update(torch.tensor([size - 1]), torch.tensor([4.0]))
    assert_same(restored.state_dict(), tree.state_dict())
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(restored.draw(20, generators[0]), tree.draw(20, generators[1]))


@pytest.mark.parametrize("other", [64, 66, ONE_LEVEL + 1])
def test_a_state_of_another_size_changes_nothing(other):
    tree = make_tree(random_weights(65))
    with assert_unchanged(tree), pytest.raises(ValueError, match=r"SumTree\.load_state_dict\(state\)"):
        tree.load_state_dict(SumTree(other).state_dict())


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_damaged_state_changes_nothing(value):
    tree = make_tree(random_weights(65))
    damaged = snapshot(tree)
    damaged["leaves"][3] = value
    with assert_unchanged(tree), pytest.raises(ValueError, match=r"\['leaves'\]` must be finite"):
        tree.load_state_dict(damaged)


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([0, 65], [1.0, 1.0], r"indices\)` must be in \[0, 65\); got entries from 0 to 65"),
        ([-1], [1.0], r"indices\)` must be in \[0, 65\); got entries from -1 to -1"),
        ([0.5], [1.0], r"must be an integer tensor of shape \[B\]"),
        ([0, 1], [1.0], r"values\)` must have shape \[2\], one value each; got \[1\]"),
        ([0], [-1e-30], "must be finite and at least 0"),
        ([0], [math.nan], "must be finite and at least 0"),
        ([0, 1], [1.0, math.inf], "must be finite and at least 0"),
    ],
)
def test_bad_input_changes_nothing(indices, values, message):
    tree = make_tree(random_weights(65))
    with assert_unchanged(tree), pytest.raises(ValueError, match=message):
        tree.update(torch.tensor(indices), torch.tensor(values))


def test_a_weight_beyond_float32_changes_nothing():
    tree = make_tree(random_weights(65))
    with assert_unchanged(tree), pytest.raises(ValueError, match="must be finite and at least 0"):
        tree.update(torch.tensor([0]), torch.tensor([1e39], dtype=torch.float64))


@pytest.mark.parametrize("size", [0, -1])
def test_a_tree_of_nothing_is_refused(size):
    with pytest.raises(ValueError, match=r"`SumTree\(num_items=\.\.\.\)` must be at least 1; got"):
        SumTree(size)
