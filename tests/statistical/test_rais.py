"""In worlds of norms that drift, jump, scatter or die out, RAIS draws as well as smoothing tuned to each by hand.

Every world has N norms that change at each step, whoever looks. A sampler sees those that it draws. What it is worth is
the mean of log ρ, the variance ratio of its probabilities to uniform ones under the true norms of the next step.
"""

import math
from functools import cache

import pytest
import torch

from approx_is import AdaptiveSmoothing, ImportanceSampler
from approx_is.diagnostics import variance_ratio
from approx_is.predictors import LastLossPredictor, RAISPredictor

NUM_SAMPLES, BATCH_SIZE = 4_000, 128
EPOCH = BATCH_SIZE / NUM_SAMPLES  # of a step
STEPS, FIRST_MEASURED, EVERY = 500, 190, 5
FRACTIONS = (0.03, 0.1, 0.3, 1.0, 3.0)
ROBUST = 0.1
"""Smoothing that leaves the draws to the predictor, as the paper does; by default they have more."""
WITHIN = math.log(0.95)
LABELS = torch.arange(NUM_SAMPLES) % 10

pytestmark = pytest.mark.xdist_group("worlds of norms")  # in one process, for `worth` remembers


class PointEstimate(RAISPredictor):
    """What RAIS would draw by if it took its expectations for the truth: k = 0."""

    def _use(self, fit):
        super()._use(fit)
        self._coefficients = torch.tensor(fit.uncertainty_set.c, dtype=torch.float32)


def drift(generator):
    """Every norm walks at random, 0.6 in its logarithm an epoch."""
    logs = 1.5 * normal(generator)
    while True:
        logs = logs * (1 - 0.2 * EPOCH) + 0.6 * math.sqrt(EPOCH) * normal(generator)
        yield logs.exp()


def jumps(generator):
    """A norm is small, but for one epoch in twenty, when it is a hundred times larger."""
    small, is_large = 0.02 * (1.5 * normal(generator)).exp(), torch.zeros(NUM_SAMPLES, dtype=torch.bool)
    while True:
        chance = torch.rand(NUM_SAMPLES, generator=generator)
        is_large = torch.where(is_large, chance > EPOCH, chance < 0.05 * EPOCH)
        yield torch.where(is_large, 3.0, small)


def scatter(generator):
    """A norm is drawn anew at each step, within 10 % in the first class and by a factor of four or so in the last."""
    typical, deviation = (1.5 * normal(generator)).exp(), 0.1 + 0.15 * LABELS
    while True:
        yield typical * torch.exp(deviation * normal(generator) - deviation**2 / 2)


def late(generator):
    """Norms die out, scatter a little, and one in a hundred an epoch comes back."""
    typical = (1.5 * normal(generator)).exp()
    while True:
        typical = torch.where(typical < 3, typical * (1 - 0.3 * EPOCH), typical)
        typical[torch.rand(NUM_SAMPLES, generator=generator) < 0.01 * EPOCH] = 2.0
        yield typical.clamp(min=1e-4) * torch.exp(0.3 * normal(generator))


def normal(generator):
    return torch.randn(NUM_SAMPLES, generator=generator)


@cache
def worth(world, predictor, fraction=ROBUST):
    """Return the mean log variance ratio of a predictor in a world, with a smoothing that is this share of the mean."""
    norms = world(torch.Generator().manual_seed(0))
    options = {"predictor": predictor, "labels": LABELS, "num_classes": 10, "smoothing": AdaptiveSmoothing(fraction)}
    sampler = ImportanceSampler(NUM_SAMPLES, BATCH_SIZE, gate=None, **options)
    logs = []
    for step in range(STEPS):
        now = next(norms)
        if step >= FIRST_MEASURED and step % EVERY == 0:
            logs.append(math.log(variance_ratio(now, sampler.probabilities())))
        draw = sampler.draw()
        sampler.update(draw, now[draw.indices])
    return sum(logs) / len(logs)


def best_fixed(world, *predictors):
    return max(worth(world, predictor, fraction) for predictor in predictors for fraction in FRACTIONS)


@pytest.mark.parametrize("world", [drift, jumps, scatter, late])
def test_is_better_than_uniform_and_than_the_last_norm_with_any_smoothing(world):
    assert worth(world, RAISPredictor) > max(0.1, best_fixed(world, LastLossPredictor) + WITHIN)


@pytest.mark.parametrize("world", [drift, jumps, late])
def test_is_within_5_percent_of_the_best_fixed_smoothing_of_its_own_point_estimate(world):
    assert worth(world, RAISPredictor) > best_fixed(world, LastLossPredictor, PointEstimate) + WITHIN


def test_is_better_than_its_point_estimate_where_norms_jump():
    assert worth(jumps, RAISPredictor) > worth(jumps, PointEstimate) + 0.2


def test_no_fixed_smoothing_is_best_everywhere():
    """What makes the comparison worth anything: a constant tuned to one world loses in another."""
    worlds = (drift, jumps, late)
    losses = [
        max(best_fixed(world, PointEstimate) - worth(world, PointEstimate, fraction) for world in worlds)
        for fraction in FRACTIONS
    ]
    assert min(losses) > -WITHIN
