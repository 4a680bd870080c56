"""At k = 1 the weighted mean of gradients has the plain mean as its expectation: by enumeration, not by sampling."""

import itertools
import math

import laws
import pytest
import torch

from approx_is import VarianceGate, importance_weights
from approx_is.predictors import UniformPredictor

SMOOTHINGS = ["adaptive", 0.0, 0.3]
every_configuration = pytest.mark.parametrize(("predictor", "options"), laws.CONFIGURATIONS, ids=laws.CONFIGURATION_IDS)


def announced_weights(sampler):
    return importance_weights(sampler.probabilities(), sampler.num_samples, sampler.k)


def assert_unbiased(sampler):
    laws.assert_is_distribution(sampler.probabilities())
    laws.assert_unbiased_by_enumeration(sampler.probabilities(), announced_weights(sampler))


@every_configuration
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("labels", [None, [0, 1] * 5], ids=["unlabelled", "labelled"])
def test_unbiased_before_within_and_after_the_first_epoch(predictor, options, smoothing, labels):
    sampler = laws.make_sampler(
        predictor=predictor, predictor_options=options, smoothing=smoothing, labels=labels, window=3
    )
    for _ in range(8):  # three of them make the first epoch
        assert_unbiased(sampler)
        draw = laws.assert_draws_are_from(sampler)
        sampler.update(draw, laws.steady_losses(draw.indices))
    assert_unbiased(sampler)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_unbiased_at_any_scale_of_the_losses(smoothing, scale):
    sampler = laws.make_sampler(smoothing=smoothing)
    laws.train(sampler, 6, losses=lambda indices: laws.steady_losses(indices) * scale)
    assert_unbiased(sampler)
    laws.assert_draws_are_from(sampler)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_unbiased_where_most_losses_are_zero(smoothing):
    sampler = laws.make_sampler(smoothing=smoothing)
    laws.train(sampler, 6, losses=lambda indices: (indices == 3).float())
    assert_unbiased(sampler)
    laws.assert_draws_are_from(sampler)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_unbiased_where_some_samples_were_never_observed(smoothing):
    sampler = laws.make_sampler(smoothing=smoothing)
    laws.train(sampler, 6, losses=lambda indices: torch.where(indices < 2, torch.nan, laws.steady_losses(indices)))
    assert_unbiased(sampler)
    laws.assert_draws_are_from(sampler)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_unbiased_before_and_after_a_gate_opens(smoothing):
    sampler = laws.make_sampler(smoothing=smoothing, gate=VarianceGate(relative_cost=1.0))
    was_open = []
    for _ in range(60):
        assert_unbiased(sampler)
        draw = laws.assert_draws_are_from(sampler)
        was_open.append(not draw.is_uniform)
        sampler.update(draw, laws.steady_losses(draw.indices))
    assert sum(was_open) > 10
    assert not any(was_open[:10])


def test_unbiased_where_k_has_come_to_1():
    sampler = laws.make_sampler(k=lambda step: min(1.0, step / 5))
    laws.train(sampler, 6)
    assert_unbiased(sampler)
    laws.assert_draws_are_from(sampler)


@pytest.mark.parametrize("relative_cost", [None, 1.0], ids=["asleep", "learning"])
def test_the_mean_over_a_plain_epoch_is_exact(relative_cost):
    sampler = laws.make_sampler(12, 4, gate=VarianceGate(margin=math.inf, relative_cost=relative_cost))
    gradients = 2.0 ** torch.arange(12)
    for _ in range(5):
        means = [draw.weighted_mean(gradients[draw.indices]) for draw in laws.train(sampler, 3)]
        assert torch.stack(means).mean().item() == pytest.approx(gradients.mean().item(), rel=1e-6)


def test_enumeration_finds_a_bias():
    sampler = laws.make_sampler(k=0.5)
    laws.train(sampler, 6)
    with pytest.raises(AssertionError, match="not close"):
        assert_unbiased(sampler)


class Enumerated:
    """Stands in for the random choices of a candidate draw: the pool is given, every place in it is chosen once."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch

    def draw(self, sampler, pool):
        """Return the draw that chooses each place of the pool once, and the probability of each place."""
        distributions = []

        def choose_each_place(distribution, count, replacement, generator):
            assert replacement
            distributions.append(distribution.clone())
            return torch.arange(count)

        with self._monkeypatch.context() as patch:
            patch.setattr(torch, "randint", lambda high, size, generator, device: torch.tensor(pool))
            patch.setattr(torch, "multinomial", choose_each_place)
            draw = sampler.draw(len(pool))
        (within,) = distributions
        assert draw.indices.tolist() == list(pool)
        return draw, within


@every_configuration
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("candidates", [1, 2, 3])
def test_candidates_are_unbiased_over_all_pools(monkeypatch, predictor, options, smoothing, candidates):
    size = 3
    sampler = laws.make_sampler(
        size, 2, predictor=predictor, predictor_options=options, smoothing=smoothing, candidates=candidates
    )
    laws.train(sampler, 2, losses=lambda indices: indices**2.0)  # the first epoch
    laws.train(sampler, 3, losses=lambda indices: indices**2.0)
    assert_unbiased_over_all_pools(monkeypatch, sampler, candidates)


class Scoring(UniformPredictor):
    """Scores candidates, as many as are drawn, by the square of their index."""

    least_tau = 2.0
    needs_tau = False

    def sizes(self, batch_size, tau):
        return batch_size, batch_size

    def score(self, batch, size, chunk):
        return batch.float() ** 2

    def select(self, batch, positions):
        return batch[positions]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("candidates", [1, 2, 3])
def test_scored_candidates_are_unbiased_over_all_pools(monkeypatch, smoothing, candidates):
    sampler = laws.make_sampler(3, 2, predictor=Scoring, smoothing=smoothing)
    laws.train(sampler, 3)
    assert_unbiased_over_all_pools(monkeypatch, sampler, candidates)


def assert_unbiased_over_all_pools(monkeypatch, sampler, candidates):
    """Assert that the expected weight that falls on each sample is its share of the data."""
    size = sampler.num_samples
    share = torch.zeros(size, dtype=torch.float64)
    pools = list(itertools.product(range(size), repeat=candidates))
    for pool in pools:
        draw, within = Enumerated(monkeypatch).draw(sampler, pool)
        laws.assert_is_distribution(within)
        share.index_add_(0, draw.indices, within * draw.weights / len(pools))
    torch.testing.assert_close(share, torch.full_like(share, 1 / size), rtol=1e-6, atol=0)
