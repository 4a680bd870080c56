"""Sharded states for another number of ranks."""

import copy

import laws
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset
from world import run_on_ranks

from approx_is import ApproxSampler, ImportanceSampler, reshard

SIZE = 23
LABELS = torch.arange(SIZE) % 3
PREDICTORS = ["last-loss", "lstm", "rais", "rank", "class-gaussian"]


def build(predictor):
    return ImportanceSampler(SIZE, 4, predictor=predictor, gate=None, shard=True, labels=LABELS, window=4)


def train_shards():
    """Return the state of this rank's sampler with each predictor."""
    states = []
    for predictor in PREDICTORS:
        sampler = build(predictor)
        laws.train(sampler, 14, lambda indices: 1.0 + indices.float())
        states.append(copy.deepcopy(sampler.state_dict()))
    return states


def go_on(states):
    """Load this rank's state of each predictor; return what is known of its samples, before and after more steps."""
    results = []
    for predictor, of_ranks in zip(PREDICTORS, states, strict=True):
        sampler = build(predictor)
        sampler.load_state_dict(of_ranks[dist.get_rank()])
        held = torch.arange(sampler.num_held)
        history = sampler._learner.history
        known = (history.recent(held), history.counts(held), sampler._drawer.proposal.importance(held))
        probabilities = sampler.probabilities()
        laws.train(sampler, 10, lambda indices: 1.0 + indices.float())
        results.append((known, probabilities, sampler.metrics()))
    return results


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """The states of two ranks, by rank and predictor."""
    return run_on_ranks(2, train_shards, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_sample_keeps_what_is_known_of_it(states, size):
    for predictor in range(len(PREDICTORS)):
        old = [of_rank[predictor] for of_rank in states]
        before = copy.deepcopy(old)
        new = reshard(old, size)
        laws.assert_same(old, before)
        assert [state["shard"] for state in new] == [f"{rank} of {size}" if size > 1 else "all" for rank in range(size)]
        for rank, state in enumerate(new):
            for place, sample in enumerate(range(rank, SIZE, size)):
                was = old[sample % 2]
                for name in ("values", "gaps", "writes", "last_step"):
                    found = state["learner"]["history"][name][place]
                    assert torch.equal(found, was["learner"]["history"][name][sample // 2])
                leaves = [each["drawer"]["proposal"]["tree"]["leaves"] for each in (state, was)]
                assert leaves[0][place] == leaves[1][sample // 2]


def test_three_ranks_go_on_from_two(states, tmp_path):
    new = [reshard([of_rank[predictor] for of_rank in states], 3) for predictor in range(len(PREDICTORS))]
    results = run_on_ranks(3, go_on, tmp_path, new)
    for rank, of_predictors in enumerate(results):
        assert not isinstance(of_predictors, str), of_predictors
        for predictor, (known, probabilities, metrics) in enumerate(of_predictors):
            laws.assert_is_distribution(probabilities)
            assert metrics["step"] == 24
            values, counts, _ = known
            assert len(values) == len(range(rank, SIZE, 3))
            assert bool((counts >= 1).all())
            assert bool((values[:, 0] == 1.0 + torch.arange(rank, SIZE, 3)).all()), PREDICTORS[predictor]


def test_ranks_of_unequal_shards_fit_wherever_they_go(tmp_path):
    for states in zip(*run_on_ranks(2, rank_each_sample_lowest, tmp_path), strict=True):
        for size in (1, 2, 3, 5):
            for state in reshard(states, size):
                ranks = state["learner"]["predictor"]["ranks"]
                assert int(ranks.max()) < len(ranks)


def rank_each_sample_lowest():
    """Return the states of rank's sampler in which one sample after the other is the easiest."""
    states = []
    for easiest in range(SIZE):
        sampler = build("rank")
        laws.train(sampler, 8, lambda indices, easiest=easiest: 1.0 + (indices != easiest).float() * indices)
        states.append(copy.deepcopy(sampler.state_dict()))
    return states


def test_ranks_draw_different_places(states):
    first, second = reshard([of_rank[0] for of_rank in states], 2)
    generators = [state["drawer"]["proposal"]["generator"] for state in (first, second)]
    assert not torch.equal(*generators)


def test_states_of_loaders_begin_their_epoch_anew(tmp_path):
    states = run_on_ranks(2, save_loader, tmp_path)
    for rank, state in enumerate(reshard(states, 3)):
        assert state["pending"]["draws"] == []
        assert state["pending"]["taken"] == 0
        assert state["sampler"]["shard"] == f"{rank} of 3"


def save_loader():
    loader = DataLoader(TensorDataset(torch.arange(SIZE)), batch_size=4)
    sampler = ApproxSampler(loader, predictor="last-loss", gate=None, shard=True)
    (indices,), draw = next(iter(sampler))
    sampler.update(draw, 1.0 + indices.float())
    return copy.deepcopy(sampler.state_dict())


class TestErrors:
    def test_states_that_are_not_of_all_ranks_in_order(self, states):
        first, second = (of_rank[0] for of_rank in states)
        for wrong in ([second, first], [first], [first, first], [laws.make_sampler().state_dict(), second]):
            with pytest.raises(ValueError, match=r"^`reshard\(states\)` must be those of all ranks in order"):
                reshard(wrong, 2)

    def test_no_states(self):
        with pytest.raises(ValueError, match="got none"):
            reshard([], 2)

    @pytest.mark.parametrize("size", [0, SIZE + 1])
    def test_sizes_out_of_bounds(self, states, size):
        with pytest.raises(ValueError, match=r"`reshard\(size\)` must be in \[1, 23\]"):
            reshard([of_rank[0] for of_rank in states], size)
