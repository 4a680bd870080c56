"""On an accelerator a step must not wait: played on the CPU, where what would wait is caught in the act."""

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


@pytest.mark.parametrize("predictor", WITHOUT_WAITING)
def test_a_step_reads_no_value(predictor, reads):
    sampler = past_first_epoch(predictor)
    reads.clear()
    with Waits() as waits:
        for _ in range(5):
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
    here = past_first_epoch(predictor)
    monkeypatch.setattr(host, "is_on_host", lambda tensor: False)
    there = past_first_epoch(predictor)
    for _ in range(20):
        draws = [sampler.draw() for sampler in (here, there)]
        assert torch.equal(draws[0].indices, draws[1].indices)
        torch.testing.assert_close(draws[0].weights, draws[1].weights, rtol=1e-4, atol=0)
        for sampler, draw in zip((here, there), draws, strict=True):
            sampler.update(draw, observe(draw))


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
    probabilities = sampler.probabilities()
    assert bool((probabilities > 0).all())
    assert probabilities.sum().item() == pytest.approx(1, rel=1e-6)
    assert bool(sampler.draw().weights.isfinite().all())


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_a_batch_without_any_importance_changes_no_last_observation(predictor, accelerator):
    sampler = past_first_epoch(predictor)
    history = sampler._learner.history
    everyone = torch.arange(sampler.num_samples)
    before = history.last(everyone)
    draw = sampler.draw()
    sampler.update(draw, torch.full((32,), torch.nan))
    assert torch.equal(history.last(everyone), before)
