"""Accelerate, the real one: what to prepare, and what is in its checkpoints."""

import copy

import pytest
import torch
import torch.nn.functional as F
from frameworks import BATCH, SIZE, loader, network
from laws import assert_same

from approx_is import ApproxSampler

pytestmark = [pytest.mark.xdist_group("transformers")]

EPOCH = -(-SIZE // BATCH)


@pytest.fixture
def make_accelerator():
    accelerate = pytest.importorskip("accelerate", reason="the extra `transformers` is not installed")

    def make(**options):
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        return accelerate.Accelerator(cpu=True, **options)

    yield make
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def prepare(accelerator, workers):
    sampler = ApproxSampler(loader(workers), predictor="lstm", k=0.5, seed=3, update_every=2)
    model = network()
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=1e-2))
    accelerator.register_for_checkpointing(sampler)
    return model, optimizer, sampler


def train(accelerator, model, optimizer, sampler, steps, save=None):
    """Train to that step; return the samples seen, and save the state after one of the steps."""
    seen = []
    while True:
        for (x, y), draw in sampler:
            with accelerator.accumulate(model), accelerator.autocast():
                losses = F.cross_entropy(model(x), y, reduction="none")
                accelerator.backward(draw.weighted_mean(losses))
                optimizer.step()
                optimizer.zero_grad()
            sampler.update(draw, losses)
            seen.append(draw.indices.tolist())
            step = int(sampler.metrics()["step"])
            if save is not None and step == save[0]:
                accelerator.save_state(str(save[1]))
            if step == steps:
                return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_goes_on_bit_by_bit_from_the_middle_of_an_epoch(make_accelerator, tmp_path, workers):
    steps, at = 3 * EPOCH, EPOCH + 2
    accelerator = make_accelerator()
    model, optimizer, sampler = prepare(accelerator, workers)
    seen = train(accelerator, model, optimizer, sampler, steps, save=(at, tmp_path))
    state = copy.deepcopy(sampler.state_dict())

    accelerator = make_accelerator()
    resumed_model, resumed_optimizer, resumed = prepare(accelerator, workers)
    accelerator.load_state(str(tmp_path))
    assert train(accelerator, resumed_model, resumed_optimizer, resumed, steps) == seen[at:]
    assert_same(resumed_model.state_dict(), model.state_dict())
    assert_same(resumed.state_dict()["sampler"], state["sampler"])


def test_mixed_precision_and_accumulation(make_accelerator):
    accelerator = make_accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    model, optimizer, sampler = prepare(accelerator, 0)
    before = [parameter.clone() for parameter in model.parameters()]
    train(accelerator, model, optimizer, sampler, 1)  # the first of two micro-batches
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    train(accelerator, model, optimizer, sampler, 2 * EPOCH)
    assert not any(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    assert sampler.metrics()["coverage"] == 1


def test_a_prepared_loader_is_refused_with_the_remedy(make_accelerator):
    with pytest.raises(ValueError, match=r"got a DataLoaderShard, which Accelerate prepared.*model and optimizer only"):
        ApproxSampler(make_accelerator().prepare(loader()))


def test_a_sampler_prepared_by_mistake_stays_one(make_accelerator):
    sampler = ApproxSampler(loader(), predictor="last-loss")
    assert make_accelerator().prepare(sampler) is sampler
