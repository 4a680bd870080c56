"""One seed, one run: nothing else is random, and nobody else's random numbers are used."""

import copy
import math
import random

import laws
import numpy as np
import pytest
import torch

from approx_is import VarianceGate

every_configuration = pytest.mark.parametrize(("predictor", "options"), laws.CONFIGURATIONS, ids=laws.CONFIGURATION_IDS)
every_pool = pytest.mark.parametrize("candidates", [None, 6])


def run(predictor, options, seed=3, steps=12, **arguments):
    sampler = laws.make_sampler(
        predictor=predictor, predictor_options=options, labels=[0, 1] * 5, seed=seed, **arguments
    )
    return laws.train(sampler, steps), laws.snapshot(sampler)


@every_configuration
@every_pool
def test_one_seed_gives_one_run_to_the_bit(predictor, options, candidates):
    draws, state = run(predictor, options, candidates=candidates)
    torch.manual_seed(123)  # of no consequence
    again, same_state = run(predictor, options, candidates=candidates)
    laws.assert_same_draws(again, draws)
    laws.assert_same(same_state, state)


@every_configuration
def test_a_copy_goes_on_as_the_original(predictor, options):
    sampler = laws.make_sampler(predictor=predictor, predictor_options=options, labels=[0, 1] * 5)
    laws.train(sampler, 6)
    same = copy.deepcopy(sampler)
    draws, as_drawn = laws.train(sampler, 6), laws.train(same, 6)
    laws.assert_same_draws(draws, as_drawn)
    laws.assert_same(same.state_dict(), sampler.state_dict())


@every_configuration
@every_pool
def test_global_randomness_is_left_alone(predictor, options, candidates):
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # the global generator is what must not change
    with laws.assert_global_randomness_untouched():
        run(predictor, options, candidates=candidates)


@pytest.mark.parametrize("margin", [0.0, math.inf], ids=["opens", "closed"])
def test_a_gate_that_asks_no_clock_gives_one_run_to_the_bit(margin):
    gate = VarianceGate(relative_cost=1.0, margin=margin)
    draws, state = run("last-loss", {}, gate=gate, steps=60)
    again, same_state = run("last-loss", {}, gate=gate, steps=60)
    laws.assert_same_draws(again, draws)
    laws.assert_same(same_state, state)
    assert draws[-1].is_uniform == (margin > 0)


def test_global_randomness_is_left_alone_by_a_gate():
    with laws.assert_global_randomness_untouched():
        run("last-loss", {}, gate=VarianceGate(), steps=60)


def test_plain_epochs_after_the_first_follow_the_seed_too():
    closed = VarianceGate(margin=math.inf)
    draws, others = (run("last-loss", {}, seed=seed, gate=closed)[0] for seed in (3, 4))
    assert_other_run_in_every_epoch(draws, others)


def assert_other_run_in_every_epoch(draws, others):
    for epoch in range(4):
        one, other = (torch.cat([draw.indices for draw in each[3 * epoch : 3 * epoch + 3]]) for each in (draws, others))
        assert not torch.equal(one, other)


@every_configuration
def test_another_seed_gives_another_run_in_every_epoch(predictor, options):
    draws, _ = run(predictor, options)
    others, _ = run(predictor, options, seed=4)
    assert_other_run_in_every_epoch(draws, others)


def test_another_seed_gives_another_network():
    one, other = (run("lstm", {}, seed=seed, steps=0)[1]["learner"]["predictor"]["network"] for seed in (3, 4))
    laws.assert_different(one, other)


@every_configuration
def test_default_seed_is_fixed(predictor, options):
    one, other = (laws.make_sampler(predictor=predictor, predictor_options=options) for _ in range(2))
    laws.assert_same_draws(laws.train(one, 8), laws.train(other, 8))


def test_observations_decide_the_draws():
    one, other = laws.make_sampler(), laws.make_sampler()
    first = laws.train(one, 12)
    second = laws.train(other, 12, losses=lambda indices: (1 + indices).float() ** 2)
    laws.assert_same_draws(second[:3], first[:3])  # the first epoch does not depend on them
    assert not torch.equal(second[-1].probabilities, first[-1].probabilities)


def test_asking_between_steps_does_not_change_the_run():
    quiet, asked = laws.make_sampler(), laws.make_sampler()
    draws = []
    for _ in range(8):
        asked.probabilities()
        asked.probabilities(gated=False)
        asked.metrics()
        asked.state_dict()
        draws.extend(laws.train(asked, 1))
    laws.assert_same_draws(draws, laws.train(quiet, 8))


def test_default_dtype_is_of_no_consequence():
    expected = [run(predictor, {}) for predictor in laws.PREDICTORS]
    torch.set_default_dtype(torch.float64)
    try:
        found = [run(predictor, {}) for predictor in laws.PREDICTORS]
    finally:
        torch.set_default_dtype(torch.float32)
    for (draws, state), (expected_draws, expected_state) in zip(found, expected, strict=True):
        laws.assert_same_draws(draws, expected_draws)
        laws.assert_same(state, expected_state)
