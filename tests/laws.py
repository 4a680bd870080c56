"""What must hold of every sampler and predictor, as named asserts, and the small world they are asserted in."""

import contextlib
import copy
import io
import math
import random

import numpy as np
import torch
from scipy import stats

from approx_is import ImportanceSampler, LossHistory, available_predictors
from approx_is.registry import resolve_predictor

PRESAMPLING = ("gradient-norm", "oracle", "upper-bound")
"""Predictors that look at the samples and predict nothing: their laws are in `test_presampling`."""

PREDICTORS = [name for name in available_predictors() if name not in PRESAMPLING]

CONFIGURATIONS = [
    *((name, {}) for name in PREDICTORS),
    ("class-gaussian", {"std": 1.0}),
    ("last-loss", {"exponent": 0.6}),
    ("rank", {"every": 1, "pressure": 10.0}),
    ("lstm", {"objective": "squared", "inputs": "loss"}),
]
"""Every predictor with its defaults, and those whose options change what they compute."""

CONFIGURATION_IDS = ["-".join([name, *map(str, options.values())]) for name, options in CONFIGURATIONS]

MOST_RANDOM = 1e-4
"""Probability that a seeded frequency test fails although the frequencies are right."""


def steady_losses(indices):
    """Return losses that differ from sample to sample and stay: 1, 3, 5, … 13, in turn."""
    return 1.0 + 2.0 * (indices % 7).float()


def make_sampler(num_samples=10, batch_size=4, predictor="last-loss", **arguments):
    """Return a small `ImportanceSampler`, without a gate unless one is given: gates follow the clock."""
    arguments.setdefault("gate", None)
    return ImportanceSampler(num_samples, batch_size, predictor=predictor, **arguments)


def make_predictor(name, options, num_samples=12, window=4, labels=None, num_classes=1, seed=0):
    """Return a predictor by name, and the history it reads."""
    history = LossHistory(num_samples, window)
    generator = torch.Generator().manual_seed(seed)
    return resolve_predictor(name)(history, labels, num_classes, generator, **options), history


def observe(predictor, history, batches, first_step=1):
    """Show batches (indices, values) to a predictor and its history, in the order that the sampler keeps."""
    for step, (indices, values) in enumerate(batches, start=first_step):
        predictor.update(indices, values, step)
        history.append(indices, values, step)


def train(sampler, steps, losses=steady_losses):
    """Draw and update `steps` times; return the draws."""
    draws = []
    for _ in range(steps):
        draw = sampler.draw()
        sampler.update(draw, losses(draw.indices))
        draws.append(draw)
    return draws


def snapshot(stateful):
    """Return a deep copy of an object's state."""
    return copy.deepcopy(stateful.state_dict())


def through_file(state):
    """Return a state as it comes back from a file that holds tensors and plain values only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(found, expected, where="state"):
    """Assert that two states are equal to the bit; NaN equals NaN."""
    assert type(found) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, where
        assert found.shape == expected.shape, where
        assert bool(((found == expected) | ((found != found) & (expected != expected))).all()), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for position, value in enumerate(expected):
            assert_same(found[position], value, f"{where}[{position}]")
    else:
        assert found == expected or (found != found and expected != expected), where


def assert_different(found, expected):
    """Assert that two states are not equal."""
    try:
        assert_same(found, expected)
    except AssertionError:
        return
    raise AssertionError("the states are equal")


@contextlib.contextmanager
def assert_unchanged(*stateful):
    """Assert that the states of objects are the same after the block as before, to the bit."""
    before = [snapshot(each) for each in stateful]
    yield
    for each, state in zip(stateful, before, strict=True):
        assert_same(snapshot(each), state)


@contextlib.contextmanager
def assert_global_randomness_untouched():
    """Assert that the block neither used nor seeded the generators of torch, numpy and Python."""
    before = _global_randomness()
    yield
    assert_same(_global_randomness(), before)


def assert_all_finite(state):
    """Assert that no tensor or number of a state is NaN or infinite."""
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, list | tuple):
        for value in state:
            assert_all_finite(value)
    elif isinstance(state, torch.Tensor):
        assert bool(state.isfinite().all())
    elif isinstance(state, float):
        assert math.isfinite(state)


def assert_same_draws(found, expected):
    """Assert that two sequences of draws are equal to the bit."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.probabilities, other.probabilities)
        assert torch.equal(one.weights, other.weights)


def assert_is_distribution(probabilities):
    """Assert that probabilities are finite, positive, float64, and sum to 1."""
    assert probabilities.dtype == torch.float64
    assert bool(probabilities.isfinite().all())
    assert bool((probabilities > 0).all())
    assert abs(float(probabilities.sum()) - 1) < 1e-12


def assert_unbiased_by_enumeration(probabilities, weights, rtol=1e-6):
    r"""Assert :math:`\sum_i p_i \alpha_i g_i = \frac1N \sum_i g_i` for gradients that make a wrong weight visible."""
    gradients = torch.randn(5, len(weights), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one_hot = torch.eye(len(weights), dtype=torch.float64)
    gradients = torch.cat([gradients, one_hot])
    expectation = gradients @ (probabilities * weights.double())
    torch.testing.assert_close(expectation, gradients.mean(1), rtol=rtol, atol=rtol / len(weights))


def assert_draws_are_from(sampler):
    """Assert that the next draw carries the probabilities that the sampler announces, and their weights."""
    announced = sampler.probabilities()
    draw = sampler.draw()
    assert torch.equal(draw.probabilities, announced[draw.indices])
    expected = (announced[draw.indices] * sampler.num_samples) ** -sampler.k
    torch.testing.assert_close(draw.weights, expected.float(), rtol=1e-6, atol=0)
    return draw


def assert_frequencies(items, probabilities):
    """Assert by a chi-square test that items were drawn with these probabilities; one of probability 0 never was."""
    counts = torch.bincount(items, minlength=len(probabilities)).numpy()
    probabilities = np.asarray(probabilities, dtype=np.float64)
    assert (counts[probabilities == 0] == 0).all()
    possible = probabilities > 0
    expected = probabilities[possible] / probabilities.sum() * len(items)
    assert expected.min() >= 5, "too few draws for a chi-square test"
    assert stats.chisquare(counts[possible], expected).pvalue > MOST_RANDOM


def _global_randomness():
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global generator is what must not change
    return [torch.get_rng_state(), kind, keys.tolist(), rest, random.getstate()]
