"""On an accelerator a step must not wait: played on the CPU, where what would wait is caught in the act.

All but copies between devices, of which there are none here.
"""

import math

import pytest
import torch
from laws import PREDICTORS, make_sampler
from torch.utils._python_dispatch import TorchDispatchMode

from approx_is import host

SYNCHRONISING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2"}
READING = ["item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__"]
STARTING_FITS = "rais"
"""Refits on the CPU, now and then."""
WITHOUT_WAITING = sorted(set(PREDICTORS) - {STARTING_FITS})


class Waits(TorchDispatchMode):
    """Records the operations whose result, or the size of it, depends on values."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name in {"index", "index_put", "index_put_"} and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if name in SYNCHRONISING or masks:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.setattr(host, "is_on_host", lambda tensor: False)


@pytest.fixture
def reads(accelerator, monkeypatch):
    """Return a list of the methods by which values were read."""
    found = []

    def recording(name, method):
        def record(*args, **kwargs):
            found.append(name)
            return method(*args, **kwargs)

        return record

    for name in READING:
        monkeypatch.setattr(torch.Tensor, name, recording(name, getattr(torch.Tensor, name)))
    return found


def observe(draw):
    return (draw.indices % 7).float() + 0.1


def past_first_epoch(predictor, **options):
    sampler = make_sampler(300, 32, predictor, **options)
    for _ in range(12):
        draw = sampler.draw()
        sampler.update(draw, observe(draw))
    return sampler


@pytest.mark.parametrize(
    "options", [{}, {"candidates": 100}, {"smoothing": 0.1}], ids=["all", "candidates", "constant"]
)
@pytest.mark.parametrize("predictor", WITHOUT_WAITING)
def test_no_step_of_three_epochs_reads_a_value(predictor, options, reads):
    sampler = make_sampler(300, 32, predictor, labels=torch.arange(300) % 3, **options)
    reads.clear()
    with Waits() as waits:
        for _ in range(30):
            draw = sampler.draw()
            losses = observe(draw)
            draw.weighted_mean(losses)
            sampler.update(draw, losses)
    assert waits.found == []
    assert reads == []


def test_on_the_host_values_are_read(reads, monkeypatch):
    sampler = past_first_epoch("last-loss")
    monkeypatch.setattr(host, "is_on_host", lambda tensor: True)
    reads.clear()
    draw = sampler.draw()
    sampler.update(draw, observe(draw))
    assert reads


@pytest.mark.parametrize("operation", [lambda x: x[x > 0], lambda x: bool(x.sum() > 0), lambda x: x.nonzero()])
def test_what_waits_is_caught(operation):
    with Waits() as waits:
        operation(torch.ones(3))
    assert waits.found


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_draws_are_those_of_the_host(predictor, monkeypatch):
    samplers = {True: past_first_epoch(predictor), False: past_first_epoch(predictor)}
    for _ in range(20):
        draws = {}
        for is_host, sampler in samplers.items():
            monkeypatch.setattr(host, "is_on_host", lambda tensor, is_host=is_host: is_host)
            draws[is_host] = sampler.draw()
            sampler.update(draws[is_host], observe(draws[is_host]))
        assert torch.equal(draws[False].indices, draws[True].indices)
        torch.testing.assert_close(draws[False].weights, draws[True].weights, rtol=1e-4, atol=0)


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_what_is_no_importance_is_counted_and_does_no_harm(predictor, value, accelerator):
    sampler = past_first_epoch(predictor)
    for count in range(1, 4):
        draw = sampler.draw()
        observed = observe(draw)
        observed[::8] = value
        sampler.update(draw, observed)
        assert sampler.metrics()["not_finite"] == 4 * count
    assert_healthy(sampler)


def test_averages_are_of_what_is_valid(monkeypatch):
    figures = {}
    for is_host in (True, False):
        monkeypatch.setattr(host, "is_on_host", lambda tensor, is_host=is_host: is_host)
        sampler = make_sampler(320, 32, "last-loss")
        for _ in range(10):  # every other sample, in a plain epoch
            draw = sampler.draw()
            sampler.update(draw, torch.where(torch.arange(32) % 2 == 0, observe(draw), torch.nan))
        figures[is_host] = sampler.metrics()
    ess = [figures[is_host].pop("effective_sample_size") for is_host in (True, False)]
    assert ess == pytest.approx([16, 32])  # repeated ones count as draws
    assert figures[False] == pytest.approx(figures[True], rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_a_batch_without_any_importance_does_no_harm(predictor, accelerator):
    sampler = past_first_epoch(predictor)
    history = sampler._learner.history
    everyone = torch.arange(sampler.num_samples)
    before = history.last(everyone)
    draw = sampler.draw()
    sampler.update(draw, torch.full((32,), torch.nan))
    assert torch.equal(history.last(everyone), before)
    assert_healthy(sampler)


def assert_healthy(sampler):
    probabilities = sampler.probabilities()
    assert bool((probabilities > 0).all())
    assert probabilities.sum().item() == pytest.approx(1, rel=1e-6)
    assert bool(sampler.draw().weights.isfinite().all())
    broken = {name for name, value in sampler.metrics().items() if not math.isfinite(value)}
    assert broken <= {"calibration", "robust_bound"}  # NaN where they mean nothing
