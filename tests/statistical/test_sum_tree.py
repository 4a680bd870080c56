"""Trees from 10 to 2^25 items of weights that differ: what they draw, and what they hold after a million updates."""

import math

import numpy as np
import pytest
import torch
from laws import MOST_RANDOM, assert_frequencies

from approx_is import SumTree
from approx_is.sum_tree import FAN_OUT

LARGE = 2**25
LARGE_DRAWS = 300_000
HEAVY = 2**20 * np.arange(32) + 12_345 * np.arange(32)
"""Items that together weigh about as much as all others of the large tree; as many are odd as even."""

CELLS = {
    "column": (lambda items: items % 64, 64),
    "row": (lambda items: items // 64 % 64, 64),
    "row-of-rows": (lambda items: items // 64**2 % 64, 64),
    "highest-bits": (lambda items: items // (LARGE // 64), 64),
    "odd-by-eighth": (lambda items: items // (LARGE // 8) * 2 + items % 2, 16),
    "column-by-row": (lambda items: items % 64**2, 64**2),
}
"""Ways to put the items of the large tree into cells: the cell of an item, and how many there are."""

UPDATES = 10**6
BATCH = 1000


def make_tree(weights):
    """Return a tree of these weights; an update of one item a row brings the sums of all up to date."""
    tree = SumTree(len(weights))
    tree.all_values().copy_(torch.from_numpy(weights))
    firsts = torch.arange(0, len(weights), FAN_OUT)
    for indices in firsts.split(2**14):
        tree.update(indices, tree.values(indices))
    return tree


def cell_weights(weights, cell, count):
    """Return the total weight of each cell, float64."""
    chunks = np.split(np.arange(len(weights)), len(weights) // 2**20)
    return sum(np.bincount(cell(items), weights[items], count) for items in chunks)


def pairs(indices, values):
    """Return a number for each pair of an index and a float32 ≥ 0, a different one for each."""
    return indices << 32 | values.view(np.int32)


def node_sums(tree):
    """Yield how many items a node of each level is over, and the sums of the level's nodes, from the leaves up."""
    width = FAN_OUT
    for sums in tree.state_dict()["sums"]:
        yield width, sums.reshape(-1)[: math.ceil(tree.num_items / width)].tolist()
        width *= FAN_OUT


@pytest.mark.parametrize(("size", "draws"), [(10, 100_000), (10_000, 500_000)])
def test_items_are_drawn_by_their_weights(size, draws):
    weights = (np.arange(size) * 7 % 10).astype(np.float32) ** 0.5  # from 0 to 3
    items = make_tree(weights).draw(draws, torch.Generator().manual_seed(0))
    assert_frequencies(items, weights)


@pytest.mark.parametrize(("size", "draws"), [(10_000, 400_000), (300_000, 9_000_000)])
def test_every_item_of_positive_weight_is_drawn_and_no_other(size, draws):
    weights = (np.arange(size) * 7 % 10 % 3).astype(np.float32)  # 0, 1 or 2
    assert np.count_nonzero(weights) * math.exp(-draws / weights.sum()) < MOST_RANDOM  # one of weight 1 is missed
    tree, generator = make_tree(weights), torch.Generator().manual_seed(0)
    drawn = torch.zeros(size, dtype=torch.bool)
    for start in range(0, draws, 2**16):
        drawn[tree.draw(min(2**16, draws - start), generator)] = True
    assert torch.equal(drawn, torch.from_numpy(weights > 0))


@pytest.fixture(scope="module")
def large_weights():
    """Weights of 2^25 items, to which each digit of the index to base 64 contributes a factor."""
    random = np.random.default_rng(0)
    weights = random.random(LARGE, dtype=np.float32)
    digits = weights.reshape(-1, 64, 64)
    for shape in ((64,), (64, 1), (len(digits), 1, 1)):
        digits *= 0.5 + random.random(shape, dtype=np.float32)
    weights[HEAVY] = weights.sum() / len(HEAVY) * (0.5 + random.random(len(HEAVY)))
    return weights


@pytest.fixture(scope="module")
def large_draws(large_weights):
    tree, generator = make_tree(large_weights), torch.Generator().manual_seed(0)
    return torch.cat([tree.draw(LARGE_DRAWS // 10, generator) for _ in range(10)])


@pytest.mark.parametrize(("cell", "count"), CELLS.values(), ids=CELLS)
def test_cells_of_a_large_tree_are_drawn_by_their_weights(large_weights, large_draws, cell, count):
    assert_frequencies(cell(large_draws), cell_weights(large_weights, cell, count))


def test_heavy_items_of_a_large_tree_are_drawn_by_their_weights(large_weights, large_draws):
    rest = large_weights.sum(dtype=np.float64) - large_weights[HEAVY].sum(dtype=np.float64)
    places = torch.full((LARGE,), len(HEAVY), dtype=torch.int8)
    places[HEAVY] = torch.arange(len(HEAVY), dtype=torch.int8)
    assert_frequencies(places[large_draws].long(), [*large_weights[HEAVY], rest])


@pytest.mark.parametrize("size", [10, 10_000, 300_000])
def test_values_and_sums_are_exact_after_a_million_updates(size):
    random = np.random.default_rng(0)
    tree, weights = SumTree(size), np.zeros(size, dtype=np.float32)
    for _ in range(UPDATES // BATCH):
        indices = (size * random.random(BATCH) ** 3).astype(np.int64)  # the lower, the more of them are the same
        values = (10 ** random.uniform(-20, 20, BATCH) * (random.random(BATCH) < 0.9)).astype(np.float32)
        tree.update(torch.from_numpy(indices), torch.from_numpy(values))
        stored = tree.values(torch.from_numpy(indices)).numpy()
        assert np.isin(pairs(indices, stored), pairs(indices, values)).all()
        weights[indices] = stored
    assert np.array_equal(tree.all_values().numpy(), weights)
    assert tree.total.item() == pytest.approx(math.fsum(weights.tolist()), rel=1e-13, abs=0)
    for level, (width, sums) in enumerate(node_sums(tree), start=1):
        expected = [math.fsum(weights[start : start + width].tolist()) for start in range(0, size, width)]
        np.testing.assert_allclose(sums, expected, rtol=level * FAN_OUT * 2**-53, atol=0)
