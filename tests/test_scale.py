"""A million samples, one of which matters more than all others together."""

import pytest
import torch
from laws import (
    CONFIGURATION_IDS,
    CONFIGURATIONS,
    assert_all_finite,
    assert_different,
    assert_is_distribution,
    make_sampler,
    snapshot,
)

SIZE = 10**6


@pytest.mark.parametrize(("predictor", "options"), CONFIGURATIONS, ids=CONFIGURATION_IDS)
def test_one_enormous_loss_in_a_million_leaves_all_finite_and_learning(predictor, options):
    sampler = make_sampler(SIZE, 128, predictor, predictor_options=options, update_every=1)
    sampler.draw(SIZE)  # the first epoch, of which nothing is observed
    outlier = sampler.draw()
    sampler.update(outlier, torch.where(outlier.indices == outlier.indices[5], 1e30, 1.0))
    after_outlier = snapshot(sampler)["learner"]["predictor"]
    for _ in range(5):
        draw = sampler.draw()
        assert bool((draw.weights.isfinite() & (draw.weights > 0)).all())
        sampler.update(draw, torch.where(draw.indices == outlier.indices[5], 1e30, 1.0))
    assert_is_distribution(sampler.probabilities())
    assert_all_finite(sampler.state_dict())
    assert sampler.metrics()["not_finite"] == sampler.metrics()["rejected_predictions"] == 0
    if after_outlier:
        assert_different(snapshot(sampler)["learner"]["predictor"], after_outlier)
