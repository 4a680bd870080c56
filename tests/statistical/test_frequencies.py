"""Seeded chi-square tests: what is drawn as often as announced."""

import pytest
import torch
from laws import CONFIGURATION_IDS, CONFIGURATIONS, assert_frequencies, make_sampler, train
from torch.utils.data import DataLoader

from approx_is import ApproxSampler, SumTree
from approx_is.uniform_epochs import UniformEpochs

NUM_SAMPLES = 30
DRAWS = 100_000


def uneven_losses(indices):
    """Return losses of which a third are 0 and the largest is 28."""
    return torch.where(indices % 3 == 0, 0.0, indices.float())


@pytest.mark.parametrize(("predictor", "options"), CONFIGURATIONS, ids=CONFIGURATION_IDS)
@pytest.mark.parametrize("smoothing", ["adaptive", 0.3])
def test_samples_are_drawn_with_the_probabilities_announced(predictor, options, smoothing):
    labels = [index % 4 for index in range(NUM_SAMPLES)]
    sampler = make_sampler(
        NUM_SAMPLES, 6, predictor, predictor_options=options, smoothing=smoothing, labels=labels, seed=1
    )
    train(sampler, 15, uneven_losses)
    announced = sampler.probabilities()
    assert_frequencies(sampler.draw(DRAWS).indices, announced)


def test_a_wrong_distribution_would_be_noticed():
    sampler = make_sampler(NUM_SAMPLES, 6)
    train(sampler, 15, uneven_losses)
    announced = sampler.probabilities()
    announced[[1, 2]] = announced[[2, 1]] * torch.tensor([1.05, 0.95], dtype=torch.float64)
    with pytest.raises(AssertionError, match="pvalue"):
        assert_frequencies(sampler.draw(DRAWS).indices, announced)


def test_candidates_of_many_pools_are_drawn_as_often_as_their_weights_say():
    # over pools, the draws' mean weight at each sample is 1/N over its frequency: sum of weights a sample is B/N
    sampler = make_sampler(NUM_SAMPLES, 6, candidates=10)
    train(sampler, 15, lambda indices: 1.0 + indices.float())
    draws = [sampler.draw(25) for _ in range(4000)]
    indices = torch.cat([draw.indices for draw in draws])
    sums = torch.zeros(NUM_SAMPLES).index_add(0, indices, torch.cat([draw.weights for draw in draws]))
    torch.testing.assert_close(sums / DRAWS, torch.full((NUM_SAMPLES,), 1 / NUM_SAMPLES), rtol=0.1, atol=0)


def test_batches_of_a_loader_are_drawn_with_the_probabilities_announced():
    loader = DataLoader(torch.arange(NUM_SAMPLES), batch_size=6)
    sampler = ApproxSampler(loader, predictor="last-loss", gate=None, seed=2)
    for _, draw in sampler:
        sampler.update(draw, 1.0 + draw.indices.float())
    announced = sampler.probabilities()
    drawn = [draw.indices for _ in range(400) for _, draw in sampler]
    assert_frequencies(torch.cat(drawn), announced)


def test_every_order_of_a_plain_epoch_is_as_likely_and_tells_nothing_of_the_next():
    epochs = UniformEpochs(3, seed=0)
    codes = torch.tensor(
        [5 * first + second for first, second in (epochs.take(3)[0].tolist()[:2] for _ in range(7200))]
    )
    orders = torch.unique(codes, return_inverse=True)[1]
    assert_frequencies(orders, torch.full((6,), 1 / 6))
    assert_frequencies(6 * orders[::2] + orders[1::2], torch.full((36,), 1 / 36))


@pytest.mark.parametrize("size", [5, 64, 300])
def test_items_of_a_tree_are_drawn_by_their_weights(size):
    weights = torch.arange(size).remainder(5).float()
    tree = SumTree(size)
    tree.update(torch.arange(size), weights)
    items = tree.draw(DRAWS, torch.Generator().manual_seed(0))
    assert_frequencies(items, weights / weights.sum())


def test_rows_of_a_tree_of_three_levels_are_drawn_by_their_weights():
    size = 4096 * 64 + 100
    heavy = torch.tensor([0, 1, 64, 4096, 200_000, size - 1])
    tree = SumTree(size)
    tree.update(heavy, torch.arange(1.0, 7.0))
    items = tree.draw(DRAWS, torch.Generator().manual_seed(0))
    places = torch.full((size,), -1)
    places[heavy] = torch.arange(6)
    assert int(places[items].min()) == 0
    assert_frequencies(places[items], torch.arange(1.0, 7.0) / 21)
