"""Presampling: candidates come through the loader, are scored by the model, and some are trained on."""

import pytest
import torch
from laws import (
    PRESAMPLING,
    assert_frequencies,
    assert_global_randomness_untouched,
    assert_same,
    assert_same_draws,
    assert_unchanged,
    through_file,
)
from sample_sets import INDICES_OF, Structured, as_dict, as_named, as_nested, as_tensor, as_tuple
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from approx_is import ApproxSampler, ImportanceSampler, LinearAnnealing, ScoreError, VarianceGate, upper_bound

N, B = 24, 4
CANDIDATES = 3 * B


def score_by_index(model, indices):
    """Return 1, 2, … 5 in turn."""
    return 1.0 + indices % 5


def score_of(structure):
    return lambda model, batch: score_by_index(model, INDICES_OF[structure](batch))


def make(score=score_by_index, *, size=N, batch_size=B, predictor="oracle", gate=None, **arguments):
    """Return an `ImportanceSampler` whose candidates are scored by their indices."""
    options = {"model": nn.Linear(2, 3), "score": score, **arguments.pop("options", {})}
    return ImportanceSampler(size, batch_size, predictor=predictor, gate=gate, predictor_options=options, **arguments)


def around(structure=as_tuple, *, score=None, workers=0, gate=None, options=(), **arguments):
    """Return an `ApproxSampler` around a loader of batches of a structure."""
    loader = DataLoader(Structured(N, structure), batch_size=B, num_workers=workers)
    options = {"model": nn.Linear(2, 3), "score": score or score_of(structure), **dict(options)}
    return ApproxSampler(loader, predictor="oracle", gate=gate, predictor_options=options, **arguments)


def trained(sampler, structure=as_tuple):
    """Train an epoch and yield its draws, asserting that each batch is that of its draw."""
    for batch, draw in sampler:
        assert INDICES_OF[structure](batch).tolist() == draw.indices.tolist()
        sampler.update(draw, score_by_index(None, draw.indices).float())
        yield draw


def epoch(sampler, structure=as_tuple):
    """Train an epoch and return its draws."""
    return list(trained(sampler, structure))


class TestDraw:
    @pytest.mark.parametrize(
        ("k", "expected"),
        [
            (1.0, [2.5, 1.25, 0.83333, 0.625]),
            (0.5, [1.58114, 1.11803, 0.91287, 0.79057]),  # 1.62700, 1.15047, .93935, .81350 but for their scale
            (0.0, [1.0, 1.0, 1.0, 1.0]),
            (-1.0, [0.4, 0.8, 1.2, 1.6]),
        ],
    )
    def test_weights_are_those_of_the_papers(self, k, expected):
        sampler = make(k=k, smoothing=0.0, size=4, batch_size=2, options={"presample": 2})
        candidates = sampler.request()
        found = {}
        while len(found) < 4:
            draw, positions = sampler.choose(candidates, torch.tensor([1.0, 2.0, 3.0, 4.0]))
            assert torch.equal(draw.indices, candidates.indices[positions])
            found.update(zip(positions.tolist(), draw.weights.tolist(), strict=True))
        assert [found[position] for position in range(4)] == pytest.approx(expected, abs=1e-5)

    def test_is_unbiased_for_its_candidates_by_enumeration(self):
        sampler = make(size=100, batch_size=50)
        candidates = sampler.request()
        scores = torch.linspace(0.0, 3.0, len(candidates))
        weights = torch.full((len(candidates),), torch.nan)
        while bool(weights.isnan().any()):
            draw, positions = sampler.choose(candidates, scores)
            weights[positions] = draw.weights
        chances = 1 / (weights.double() * len(candidates))  # of each candidate
        assert float(chances.sum()) == pytest.approx(1.0, abs=1e-6)

    def test_chooses_in_proportion_to_the_smoothed_scores(self):
        sampler = make(size=3, batch_size=3, smoothing=1.0, options={"presample": 1})
        candidates = sampler.request()
        chosen = [sampler.choose(candidates, torch.tensor([3.0, 1.0, 0.0]))[1] for _ in range(3000)]
        assert_frequencies(torch.cat(chosen), torch.tensor([4.0, 2.0, 1.0]) / 7)

    def test_candidates_are_uniform(self):
        sampler = make(size=10, batch_size=100)
        pools = [sampler.request().indices for _ in range(20)]
        assert_frequencies(torch.cat(pools), torch.full((10,), 0.1))

    def test_of_indices_alone_scores_indices(self):
        asked = []
        sampler = make(lambda model, indices: asked.append(indices) or score_by_index(model, indices))
        draw = sampler.draw()
        assert len(draw) == B
        assert [len(indices) for indices in asked] == [B, B, B]  # a batch at a time
        assert not draw.is_uniform
        sampler.update(draw, torch.ones(B))

    def test_all_scores_zero_is_uniform(self):
        draw = make(lambda model, indices: torch.zeros(len(indices))).draw()
        assert torch.equal(draw.weights, torch.ones(B))

    def test_smoothing_bounds_the_weights(self):
        draw = make(lambda model, indices: (indices == 0).float() + 1e-9, size=1000, batch_size=500).draw()
        assert draw.weights.max() < 11 + 1e-4

    def test_k_may_follow_the_step(self):
        sampler = make(k=LinearAnnealing(0.0, 1.0, steps=2))
        for step, k in enumerate((0.0, 0.5, 1.0, 1.0)):
            assert sampler.k == k
            draw = sampler.draw()
            torch.testing.assert_close(draw.weights, ((draw.probabilities * N) ** -k).float())
            assert draw.drawn_at == step
            sampler.update(draw, torch.ones(B))

    def test_candidates_cannot_be_trained_on(self):
        sampler = make()
        candidates = sampler.request()
        assert not candidates.is_batch
        with assert_unchanged(sampler), pytest.raises(ValueError, match="these are candidates"):
            sampler.update(candidates, torch.ones(len(candidates)))

    def test_only_candidates_of_the_sampler_can_be_chosen_from(self):
        sampler = make()
        draw = sampler.draw()
        for wrong, scores in ((draw, torch.ones(B)), (make().request(), torch.ones(CANDIDATES))):
            with pytest.raises(ValueError, match="must be candidates of this sampler"):
                sampler.choose(wrong, scores)
        with pytest.raises(TypeError, match="must get a Draw first; got list"):
            sampler.choose([1, 2], torch.ones(2))

    @pytest.mark.parametrize(
        ("scores", "message"),
        [(torch.ones(3), r"must have shape \[12\]"), (torch.full((12,), -1.0), "finite and at least 0")],
    )
    def test_wrong_scores_change_nothing(self, scores, message):
        sampler = make()
        candidates = sampler.request()
        with assert_unchanged(sampler), pytest.raises(ValueError, match=message):
            sampler.choose(candidates, scores)


class TestLoop:
    @pytest.mark.parametrize(
        ("structure", "workers"),
        [(as_tuple, 0), (as_dict, 0), (as_named, 0), (as_nested, 0), (as_tensor, 0), (as_nested, 2)],
    )
    def test_batches_are_those_of_the_draws(self, structure, workers):
        sampler = around(structure, workers=workers)
        draws = epoch(sampler, structure)
        assert [len(draw) for draw in draws] == [B] * (N // B)
        seen = torch.cat([draw.indices for draw in draws]).unique()
        assert sampler.metrics()["coverage"] == pytest.approx(len(seen) / N)

    def test_candidates_are_fetched_through_the_loader(self):
        sizes = []

        def collate(samples):
            sizes.append(len(samples))
            return torch.tensor(samples)

        loader = DataLoader(range(N), batch_size=B, collate_fn=collate)
        options = {"model": nn.Linear(1, 1), "score": score_by_index, "presample": 2.5}
        sampler = ApproxSampler(loader, predictor="oracle", gate=None, predictor_options=options)
        for batch, draw in sampler:
            assert torch.equal(batch, draw.indices)
        assert sizes == [10] * (N // B)

    def test_a_select_of_ones_own_serves_any_batch(self):
        loader = DataLoader(range(N), batch_size=B, collate_fn=lambda samples: " ".join(map(str, samples)))
        options = {
            "model": nn.Linear(1, 1),
            "score": lambda model, batch: torch.tensor([float(word) for word in batch.split()]),
            "select": lambda batch, positions: " ".join(batch.split()[position] for position in positions),
        }
        sampler = ApproxSampler(loader, predictor="oracle", gate=None, predictor_options=options)
        for batch, draw in sampler:
            assert batch == " ".join(map(str, draw.indices.tolist()))

    @pytest.mark.parametrize("predictor", PRESAMPLING)
    def test_built_in_scores_leave_model_and_random_generators_alone(self, predictor):
        model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        model[1].eval()
        inputs = torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
        loader = DataLoader(TensorDataset(inputs, torch.arange(N) % 3), batch_size=B)
        sampler = ApproxSampler(loader, predictor=predictor, gate=None, predictor_options={"model": model})
        with assert_unchanged(model), assert_global_randomness_untouched():
            for (x, y), draw in sampler:
                assert [module.training for module in model] == [True, False, True, True]
                assert torch.is_grad_enabled()
                assert torch.equal(y, draw.indices % 3)
                assert torch.equal(x, inputs[draw.indices])

    def test_hard_samples_are_drawn_more_often(self):
        sampler = around(score=lambda model, batch: torch.where(batch[1] == 7, 10.0, 0.1))
        draws = [draw for _ in range(20) for draw in epoch(sampler)]
        indices = torch.cat([draw.indices for draw in draws])
        assert (indices == 7).double().mean() > 0.2  # 0.04 if uniform; two pools in five hold it


class TestGate:
    def gated(self, *, score=None, options=(), **arguments):
        arguments = {"threshold": 1.2, "decay": 0.5, "relative_cost": 1.0, **arguments}
        return around(score=score, gate=VarianceGate(**arguments), options=options)

    def run(self, sampler, losses):
        draws = []
        for _, draw in sampler:
            sampler.update(draw, losses(draw.indices))
            draws.append(draw)
        return draws

    def test_closed_draws_plain_epochs_and_scores_nothing(self):
        def fail(model, batch):
            raise AssertionError("scored")

        sampler = self.gated(score=fail)
        for _ in range(3):
            draws = self.run(sampler, lambda indices: torch.ones(len(indices)))
            assert sorted(torch.cat([draw.indices for draw in draws]).tolist()) == list(range(N))
            assert all(draw.is_uniform for draw in draws)
        assert sampler.metrics()["gate_open"] == 0.0
        assert sampler.gate.verdict.startswith("closed: τ = ")

    def test_opens_by_what_the_uniform_steps_observed(self):
        sampler = self.gated()
        draws = self.run(sampler, lambda indices: (indices % 4 == 0).float() + 0.01)
        assert draws[0].is_uniform
        assert not draws[-1].is_uniform
        assert sampler.gate.is_open

    def test_closes_by_what_the_candidates_score(self):
        sampler = self.gated(score=lambda model, batch: torch.ones(len(batch[1])))
        draws = self.run(sampler, lambda indices: (indices % 4 == 0).float() + 0.01)
        kinds = [draw.is_uniform for draw in draws]
        assert True in kinds[1:]
        assert False in kinds

    def test_of_equal_time_the_batch_follows_tau(self):
        sampler = self.gated(options={"equal_time": True}, threshold=1.01)
        sampler = ApproxSampler(
            DataLoader(Structured(960, as_tuple), batch_size=64),
            predictor="oracle",
            gate=VarianceGate(threshold=1.5, decay=0.5),
            predictor_options={
                "model": nn.Linear(2, 3),
                "score": lambda model, batch: torch.where(batch[1] % 10 == 0, 1.0, 0.01),
                "equal_time": True,
            },
        )
        sizes = [len(draw) for draw in self.run(sampler, lambda indices: torch.where(indices % 10 == 0, 1.0, 0.01))]
        assert sizes[0] == 64
        assert 26 < sizes[-1] < 40

    def test_that_is_always_open_cannot_say_tau(self):
        with pytest.raises(ValueError, match="`gate` must be a VarianceGate where the batch size follows τ"):
            around(options={"equal_time": True})

    def test_learns_from_upper_bounds_like_any_other(self):
        model = nn.Linear(2, 3)
        inputs = torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
        loader = DataLoader(TensorDataset(inputs, torch.arange(N) % 3), batch_size=B)
        sampler = ApproxSampler(loader, predictor="upper-bound", predictor_options={"model": model})
        for _ in range(3):
            for (x, y), draw in sampler:
                sampler.update(draw, lambda x=x, y=y: upper_bound(model(x), y))
        assert sampler.metrics()["gate_tau"] > 0.5
        assert sampler.metrics()["step"] == 18.0


class Breaks:
    """A score function that goes wrong at its n-th call, until it is mended."""

    def __init__(self, how, call):
        self.how = how
        self.call = call
        self.calls = 0
        self.mended = False

    def __call__(self, model, batch):
        self.calls += 1
        scores = score_by_index(model, batch[1])
        return scores if self.mended or self.calls < self.call else self.how(scores)


def raise_out_of_memory(scores):
    raise MemoryError("no memory left")


WRONG = {
    "shape": (lambda scores: scores.sum(), r"must return a real tensor of shape \[4\].*got torch.float32 \[\]"),
    "NaN": (lambda scores: scores * torch.nan, "must return finite values of at least 0; got nan"),
    "negative": (lambda scores: -scores, "must return finite values of at least 0; got -"),
    "no tensor": (lambda scores: scores.tolist(), "must return a real tensor .* got list"),
    "raises": (raise_out_of_memory, "raised MemoryError: no memory left"),
}


@pytest.mark.parametrize(
    ("how", "message", "workers"),
    [*((*wrong, 0) for wrong in WRONG.values()), (*WRONG["raises"], 2)],
    ids=[*WRONG, "raises-2"],
)
class TestScoreGoesWrong:
    def interrupted(self, how, message, workers):
        score = Breaks(how, call=8)  # in the third of six batches, each scored in three parts
        sampler = around(score=score, workers=workers)
        draws = []
        with pytest.raises(ScoreError, match=message) as caught:
            draws.extend(trained(sampler))
        assert "Breaks" in str(caught.value)
        assert len(draws) == 2
        return sampler, score, draws

    def test_the_epoch_goes_on_once_it_is_mended(self, how, message, workers):
        expected = epoch(around(workers=workers))
        sampler, score, draws = self.interrupted(how, message, workers)
        score.mended = True
        assert_same_draws(draws + epoch(sampler), expected)

    def test_a_checkpoint_taken_then_goes_on_in_another_process(self, how, message, workers):
        undisturbed = around(workers=workers)
        expected = epoch(undisturbed)
        sampler, _, draws = self.interrupted(how, message, workers)
        resumed = around(workers=workers)
        resumed.load_state_dict(through_file(sampler.state_dict()))
        assert_same_draws(draws + epoch(resumed), expected)
        assert_same_draws(epoch(resumed), epoch(undisturbed))
        assert_same(resumed.state_dict(), undisturbed.state_dict())

    def test_an_earlier_checkpoint_goes_on_too(self, how, message, workers):
        undisturbed = around(workers=workers)
        expected = epoch(undisturbed) + epoch(undisturbed)
        original = around(workers=workers)
        first = epoch(original)
        state = through_file(original.state_dict())
        sampler, score, _ = self.interrupted(how, message, workers)
        score.mended = True
        sampler.load_state_dict(state)
        assert_same_draws(first + epoch(sampler), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_within_an_epoch_goes_on_to_the_bit(workers):
    def build():
        return around(workers=workers, gate=VarianceGate(threshold=0.9, decay=0.5, relative_cost=1.0))

    original = build()
    draws = []
    for number, (_, draw) in enumerate(original):
        original.update(draw, score_by_index(None, draw.indices).float())
        draws.append(draw)
        if number == 2:
            state = through_file(original.state_dict())
    resumed = build()
    resumed.load_state_dict(state)
    assert_same_draws(epoch(resumed), draws[3:])
    assert_same_draws(epoch(resumed), epoch(original))
    assert_same(resumed.state_dict(), original.state_dict())
    assert original.gate.is_open
