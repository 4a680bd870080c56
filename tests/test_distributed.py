"""Ranks that draw together draw what one process draws; ranks with a shard each are unbiased together."""

import copy
import math
import os
import time

import laws
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from world import run_on_ranks

from approx_is import ApproxSampler, ImportanceSampler, VarianceGate
from approx_is.distributed import find_ranks
from approx_is.ranks import share_of

SIZE = 22
"""Samples: an epoch of 12 and 10, which three ranks share as 4, 3 and 3."""
TOGETHER = 12
LABELS = torch.arange(SIZE) % 3
STEPS = 9
WORLDS = (2, 3)

DIFFERENT = {"refresh": (0.5, 1.0), "smoothing": (0.1, 5.0), "drop_last": (False, True), "gate": ("auto", None)}
"""Arguments that two ranks do not agree on."""

pytestmark = pytest.mark.xdist_group("ranks")  # in one process, for fixtures train all cases once
each_world = pytest.mark.parametrize("size", WORLDS)


def observe(indices):
    """Return observations that differ and change."""
    return 1.0 + 2.0 * (indices % 7).float() + 1e-3 * indices


def build(predictor, options, ranks, **arguments):
    arguments = {"labels": LABELS, "seed": 5, "k": 0.5, "gate": None, **arguments}
    return ImportanceSampler(SIZE, TOGETHER // ranks, predictor=predictor, predictor_options=options, **arguments)


def train(sampler, steps=STEPS):
    draws = []
    for _ in range(steps):
        draw = sampler.draw()
        sampler.update(draw, observe(draw.indices))
        draws.append((draw.indices, draw.probabilities, draw.weights))
    return draws


def train_all(ranks, cases):
    """Return the draws and the state at the end of a sampler for each case."""
    results = []
    for predictor, options, arguments in cases:
        sampler = build(predictor, options, ranks, **arguments)
        results.append((train(sampler), copy.deepcopy(sampler.state_dict())))
    return results


CASES = [(name, options, {}) for name, options in laws.CONFIGURATIONS] + [
    ("lstm", {}, {"update_every": 3}),
    ("last-loss", {}, {"candidates": 9}),
    ("last-loss", {}, {"drop_last": True}),
    ("class-gaussian", {}, {"gate": VarianceGate(relative_cost=1.0, margin=0.0)}),
    ("class-gaussian", {}, {"gate": VarianceGate(relative_cost=1.0, margin=math.inf)}),
]
CASE_IDS = ["-".join([name, *map(str, [*options.values(), *arguments])]) for name, options, arguments in CASES]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What ranks drew in each case, by their number."""
    results = {size: run_on_ranks(size, train_all, tmp_path_factory.mktemp("ranks"), size, CASES) for size in WORLDS}
    return {1: [train_all(1, CASES)], **results}


class TestReplicated:
    @pytest.mark.parametrize("case", range(len(CASES)), ids=CASE_IDS)
    @each_world
    def test_ranks_draw_together_what_one_process_draws(self, trained, size, case):
        ((expected, state),) = (results[case] for results in trained[1])
        draws = [results[case][0] for results in trained[size]]
        for step, (indices, probabilities, weights) in enumerate(expected):
            parts = [rank[step] for rank in draws]
            assert torch.equal(torch.cat([part[0] for part in parts]), indices)
            assert torch.equal(torch.cat([part[1] for part in parts]), probabilities)
            factors = [share_of(len(indices), size, rank).factor for rank in range(size)]
            unscaled = torch.cat([part[2] / factor for part, factor in zip(parts, factors, strict=True)])
            torch.testing.assert_close(unscaled, weights, rtol=1e-6, atol=0)
        for results in trained[size]:
            found = results[case][1]
            laws.assert_same(found, state)

    @each_world
    def test_a_network_is_trained_as_by_one_process(self, tmp_path, size):
        expected = descend(1)
        for found in run_on_ranks(size, descend, tmp_path, size):
            assert found[1] == expected[1]
            for one, other in zip(found[0], expected[0], strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("drop_last", [False, True])
    def test_loaders_of_all_ranks_have_as_many_batches_none_empty(self, tmp_path, drop_last):
        results = run_on_ranks(3, count_batches, tmp_path, 10, 4, drop_last)
        assert {len(sizes) for sizes, _ in results} == {0 if drop_last else 1}
        results = run_on_ranks(3, count_batches, tmp_path, 25, 4, drop_last)
        assert [sizes for sizes, _ in results] == ([[4, 4]] * 3 if drop_last else [[4, 4, 1]] * 3)
        seen = torch.cat([indices for _, indices in results])
        assert len(seen.unique()) == (24 if drop_last else 25)

    def test_a_gate_decides_by_one_clock_on_all_ranks(self, tmp_path):
        first, second = run_on_ranks(2, open_gate, tmp_path)
        assert first[0] == second[0]
        assert first[1]["drawer"]["gate"]["clock"]["plain"]
        laws.assert_same(first[1], second[1])

    def test_presampling_ranks_choose_from_their_own_candidates(self, tmp_path):
        results = run_on_ranks(2, presample, tmp_path)
        for rank, (positions_fit, totals, _) in enumerate(results):
            assert positions_fit, rank
            assert totals == pytest.approx(1.0)
        laws.assert_same(results[0][2], results[1][2])

    def test_a_state_goes_on_with_any_number_of_ranks(self, tmp_path):
        (tmp_path / "save").mkdir()
        (tmp_path / "load").mkdir()
        saved = run_on_ranks(2, save_midway, tmp_path / "save")
        laws.assert_same(saved[0][0], saved[1][0])
        expected = [torch.cat(parts) for parts in zip(saved[0][1], saved[1][1], strict=True)]
        alone = go_on(1, saved[0][0])
        assert all(torch.equal(one, other) for one, other in zip(alone, expected, strict=True))
        of_three = run_on_ranks(3, go_on, tmp_path / "load", 3, saved[0][0])
        found = [torch.cat(parts) for parts in zip(*of_three, strict=True)]
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))

    @pytest.mark.parametrize("steps", [40, 43, 45, 47])
    def test_a_state_goes_on_with_other_batches_too(self, tmp_path, steps):
        sampler = ImportanceSampler(6_000, 16, predictor="last-loss", gate=None)
        for _ in range(400 + steps):
            draw = sampler.draw()
            sampler.update(draw, observe(draw.indices))
        state = laws.through_file(sampler.state_dict())
        for found in run_on_ranks(2, load_and_draw, tmp_path, state):
            assert found == 400 + steps + 5


def load_and_draw(state):
    sampler = ImportanceSampler(6_000, 32, predictor="last-loss", gate=None)
    sampler.load_state_dict(state)
    train(sampler, 5)
    return sampler.step


def descend(ranks):
    """Return the parameters of a model after some epochs, and the number of batches of each."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SIZE, 4, generator=generator)
    targets = torch.randn(SIZE, 1, generator=generator)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    trained = DistributedDataParallel(model) if ranks > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=TOGETHER // ranks)
    sampler, counts = ApproxSampler(loader, predictor="lstm", gate=None), []
    for _ in range(6):
        counts.append(0)
        for (x, y), draw in sampler:
            losses = (trained(x) - y).square().mean(1)
            optimizer.zero_grad()
            draw.weighted_mean(losses).backward()
            optimizer.step()
            sampler.update(draw, losses)
            counts[-1] += 1
    return [parameter.detach().clone() for parameter in model.parameters()], counts


def count_batches(num_samples, batch_size, drop_last):
    loader = DataLoader(TensorDataset(torch.arange(num_samples)), batch_size=batch_size, drop_last=drop_last)
    try:
        sampler = ApproxSampler(loader, predictor="last-loss", gate=None)
        batches = [indices for (indices,), _ in sampler]
    except ValueError:
        batches = []
    return [len(batch) for batch in batches], torch.cat([*batches, torch.zeros(0).long()])


def open_gate():
    sampler = ImportanceSampler(400, 20, predictor="last-loss", gate=VarianceGate())
    kinds = []
    for _ in range(200):
        time.sleep(1e-3 * (1 + dist.get_rank()))
        draw = sampler.draw()
        kinds.append(draw.is_uniform)
        sampler.update(draw, torch.where(draw.indices % 10 == 0, 10.0, 0.1))
    return kinds, copy.deepcopy(sampler.state_dict())


def presample():
    """Choose from scored candidates; return whether all is in order, what weights sum to, and the state."""
    score = {"score": lambda model, indices: 1.0 + indices.float(), "model": nn.Linear(1, 1), "presample": 8}
    sampler = ImportanceSampler(40, 4, predictor="upper-bound", gate=None, predictor_options=score)
    in_order, totals = True, []
    for _ in range(400):
        candidates = sampler.request()
        scores = 1.0 + candidates.indices.float()
        draw, positions = sampler.choose(candidates, scores)
        in_order &= torch.equal(candidates.indices[positions], draw.indices) and len(draw) == 4
        totals.append(float(draw.weights.double().mean()))
        sampler.update(draw, 1.0 + draw.indices.float())
    total = torch.tensor([sum(totals) / len(totals)])
    return in_order, round(float(total), 1), copy.deepcopy(sampler.state_dict())


def loader_of(ranks):
    return DataLoader(TensorDataset(torch.arange(SIZE)), batch_size=TOGETHER // ranks, num_workers=0)


def save_midway():
    """Return a state in the midst of an epoch, and the indices that came after it."""
    sampler = ApproxSampler(loader_of(2), predictor="lstm", gate=None, update_every=2)
    batches, state, later = 0, None, []
    for _ in range(5):
        for (indices,), draw in sampler:
            sampler.update(draw, observe(indices))
            batches += 1
            if state is not None:
                later.append(indices)
            if batches == 5:
                state = copy.deepcopy(sampler.state_dict())
    return state, later


def go_on(ranks, state):
    sampler = ApproxSampler(loader_of(ranks), predictor="lstm", gate=None, update_every=2)
    sampler.load_state_dict(state)
    later = []
    while len(later) < 5:
        for (indices,), draw in sampler:
            sampler.update(draw, observe(indices))
            later.append(indices)
    return later


class TestSharded:
    @each_world
    @pytest.mark.parametrize("predictor", ["last-loss", "lstm"])
    def test_draws_are_unbiased_by_enumeration(self, tmp_path, size, predictor):
        results = run_on_ranks(size, enumerate_shard, tmp_path, predictor)
        gradients = torch.randn(SIZE, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        expectation = torch.zeros(6, dtype=torch.float64)
        for indices, probabilities, weights in results:
            assert abs(float(probabilities.sum()) - 1) < 1e-12
            expectation += (probabilities * weights.double()) @ gradients[indices] / size
        torch.testing.assert_close(expectation, gradients.mean(0), rtol=1e-6, atol=1e-7)
        held = torch.cat([indices for indices, *_ in results])
        assert torch.equal(held.sort().values, torch.arange(SIZE))

    def test_every_rank_has_as_many_batches(self, tmp_path):
        results = run_on_ranks(3, shard_batches, tmp_path, 25)
        assert {len(batches) for batches in results} == {3}
        for rank, batches in enumerate(results):
            assert bool((torch.cat(batches) % 3 == rank).all())
        assert torch.equal(torch.cat([batch for batches in results for batch in batches]).unique(), torch.arange(25))

    def test_the_gain_that_a_rate_follows_is_the_mean_over_ranks(self, tmp_path):
        (own, agreed), (other, agreed_too) = run_on_ranks(2, shard_gain, tmp_path)
        assert own != other
        assert agreed == agreed_too == pytest.approx((own + other) / 2)

    def test_four_ranks_take_a_quarter_of_the_memory_each(self, tmp_path):
        alone = sampler_bytes(None)
        shares = [found / alone for found in run_on_ranks(4, sampler_bytes, tmp_path, True)]
        assert shares == pytest.approx([0.25] * 4, rel=0.01)

    def test_samples_of_other_ranks_are_refused(self, refusals):
        first, second = refusals["ask_for_all",]
        assert first.startswith("With `shard=True` rank 0 of 2 knows 0, 2, … only")
        assert second.startswith("With `shard=True` rank 1 of 2 knows 1, 3, … only")

    def test_a_state_of_another_shard_is_refused(self, refusals):
        first, second = refusals["swap_states",]
        assert first.startswith("`load_state_dict(state)` is of samples '1 of 2'; this sampler holds '0 of 2'")
        assert second.startswith("`load_state_dict(state)` is of samples '0 of 2'; this sampler holds '1 of 2'")


def enumerate_shard(predictor):
    """Return the samples of this rank, and the chance and weight of each."""
    sampler = ImportanceSampler(SIZE, 4, predictor=predictor, gate=None, shard=True, labels=LABELS)
    train(sampler, 8)
    rank, size = dist.get_rank(), dist.get_world_size()
    indices = torch.arange(rank, SIZE, size)
    probabilities = sampler.probabilities()
    assert torch.equal(probabilities, sampler.probabilities(indices))
    weights = torch.zeros(len(indices))
    while bool((weights == 0).any()):  # weights as draws have them; nothing changes between draws
        draw = sampler.draw()
        assert torch.equal(draw.probabilities, probabilities[draw.indices // size])
        weights[draw.indices // size] = draw.weights
    assert sampler.num_held == len(indices)
    return indices, probabilities, weights


def shard_batches(num_samples):
    loader = DataLoader(TensorDataset(torch.arange(num_samples)), batch_size=4)
    sampler = ApproxSampler(loader, predictor="last-loss", gate=None, shard=True)
    batches = []
    for (indices,), draw in sampler:
        assert torch.equal(indices, draw.indices)
        sampler.update(draw, observe(indices))
        batches.append(indices)
    return batches


def shard_gain():
    sampler = ImportanceSampler(40, 4, predictor="last-loss", gate=None, shard=True)
    scale = 1.0 + 5 * dist.get_rank()
    for _ in range(60):
        draw = sampler.draw()
        sampler.update(draw, 1.0 + scale * (draw.indices % 8 == dist.get_rank()).float())
    return sampler.gain.value, sampler.gain.agreed_value()


def sampler_bytes(shard):
    """Return the bytes of a sampler of four million samples."""
    sampler = ImportanceSampler(4_000_000, 128, predictor="last-loss", gate=None, shard=bool(shard))
    sizes, parts = 0, [sampler.state_dict()]
    while parts:
        part = parts.pop()
        sizes += part.nbytes if isinstance(part, torch.Tensor) else 0
        parts += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
    return sizes


def ask_for_all():
    ImportanceSampler(SIZE, 4, gate=None, shard=True).probabilities(torch.arange(4))


def swap_states():
    sampler = ImportanceSampler(SIZE, 4, gate=None, shard=True)
    states = [None, None]
    dist.all_gather_object(states, sampler.state_dict())
    sampler.load_state_dict(states[1 - dist.get_rank()])


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What two ranks say to each of `REFUSED`, by its name and argument."""
    first, second = run_on_ranks(2, refuse_all, tmp_path_factory.mktemp("refusals"))
    return {name: (first[name], second[name]) for name in first}


def refuse_all():
    """Return the text of the error of each of `REFUSED`."""
    texts = {}
    for function, arguments in REFUSED:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  # the tests look at it
            function(*arguments)
        texts[(function.__name__, *arguments)] = str(caught.value)
    return texts


class TestErrors:
    def test_ranks_that_were_told_different_things_hear_of_it_at_once(self, refusals):
        for text in refusals["build_with_own_seed",]:
            assert text.startswith("`seed` must be the same on all ranks; got 0, 1.")

    @pytest.mark.parametrize("at", [0, 1])  # the draw after that is as large as this one, or smaller
    def test_a_rank_out_of_step_is_noticed(self, tmp_path, at):
        for text in run_on_ranks(2, draw_once_more, tmp_path, at):
            assert text.startswith("RuntimeError: Ranks have drawn different batches")

    @pytest.mark.parametrize("shard", [False, True])
    def test_an_epoch_without_batches_is_refused(self, refusals, shard):
        for text in refusals["build_without_batches", shard]:
            assert text.startswith("`ApproxSampler(loader)` would have no batches")

    @pytest.mark.parametrize("argument", DIFFERENT)
    def test_other_arguments_are_noticed_too(self, refusals, argument):
        for text in refusals["build_with_own", argument]:
            assert text.startswith(f"`{argument}` must be the same on all ranks")

    def test_a_rank_that_dies_makes_the_others_fail_in_time(self, tmp_path):
        started = time.monotonic()
        first, second = run_on_ranks(2, die_at_step_5, tmp_path, seconds=5)
        assert first.startswith(
            "RuntimeError: A sampler could not reach the other ranks; one may be gone, late or out of step"
        )
        assert second == "died"
        assert time.monotonic() - started < 30

    def test_a_negative_observation_is_refused_before_anything_is_sent(self, refusals):
        for text in refusals["observe_negative",]:
            assert text.startswith("`update(observed)` must be at least 0; got -1.0")

    def test_there_is_nothing_to_shard_over(self):
        with pytest.raises(ValueError, match=r"^`shard=True` needs ranks to shard over"):
            laws.make_sampler(shard=True)

    def test_fewer_samples_than_ranks_cannot_be_sharded(self, tmp_path):
        for text in run_on_ranks(3, shard_two_samples, tmp_path):
            assert text.startswith("ValueError: `shard=True` needs at least one sample for each of 3 ranks; got 2")

    def test_a_group_of_one_is_one_process(self, tmp_path):
        draws, others = run_on_ranks(2, draw_alone, tmp_path)
        assert torch.equal(draws, others)
        assert len(draws) == 4


def build_with_own_seed():
    ImportanceSampler(SIZE, 4, gate=None, seed=dist.get_rank())


def draw_once_more(at):
    sampler = ImportanceSampler(SIZE, 4, predictor="last-loss", gate=None)
    train(sampler, at)
    if dist.get_rank() == 1:
        sampler.draw()
    train(sampler, 3)


def build_without_batches(shard):
    loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=8, drop_last=True)
    ApproxSampler(loader, gate=None, shard=shard)


def build_with_own(argument):
    ImportanceSampler(SIZE, 4, **{"gate": None, argument: DIFFERENT[argument][dist.get_rank()]})


def die_at_step_5():
    sampler = ImportanceSampler(SIZE, 4, predictor="last-loss", gate=None)
    for step in range(50):
        if step == 5 and dist.get_rank() == 1:
            os._exit(1)
        draw = sampler.draw()
        sampler.update(draw, observe(draw.indices))


def observe_negative():
    sampler = ImportanceSampler(SIZE, 4, predictor="last-loss", gate=None)
    with laws.assert_unchanged(sampler):
        draw = sampler.draw()
        sampler.take_back([draw])
    draw = sampler.draw()
    sampler.update(draw, torch.tensor([1.0, 2.0, -1.0, 3.0]))


REFUSED = [
    (build_with_own_seed, ()),
    *((build_with_own, (argument,)) for argument in DIFFERENT),
    *((build_without_batches, (shard,)) for shard in (False, True)),
    (observe_negative, ()),
    (ask_for_all, ()),
    (swap_states, ()),
]


def shard_two_samples():
    ImportanceSampler(2, 1, gate=None, shard=True)


def draw_alone():
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    sampler = ImportanceSampler(SIZE, 4, gate=None, process_group=groups[dist.get_rank()])
    return sampler.draw().indices


def test_without_torch_distributed_a_process_is_alone():
    ranks = find_ranks(7, 2, None, shard=False)
    assert (ranks.rank, ranks.size, ranks.num_held, ranks.shard) == (0, 1, 7, "all")


@given(st.integers(1, 50), st.integers(1, 12))
def test_the_mean_over_ranks_is_that_of_the_batch(batch_size, num_ranks):
    values = torch.randn(batch_size, dtype=torch.float64, generator=torch.Generator().manual_seed(batch_size))
    shares = [share_of(batch_size, num_ranks, rank) for rank in range(num_ranks)]
    means = [share.factor * values[share.samples].mean() for share in shares]
    torch.testing.assert_close(torch.stack(means).mean(), values.mean(), rtol=1e-9, atol=1e-12)
    seen = torch.zeros(batch_size)
    for share in shares:
        assert share.length >= 1
        seen[share.samples] += 1
    assert bool((seen >= 1).all())
    if batch_size >= num_ranks:
        assert bool((seen == 1).all())
        assert max(share.length for share in shares) - min(share.length for share in shares) <= 1
