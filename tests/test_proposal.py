import pytest
import torch
from laws import (
    assert_frequencies,
    assert_is_distribution,
    assert_same,
    assert_unbiased_by_enumeration,
    assert_unchanged,
    snapshot,
    through_file,
)

from approx_is import AdaptiveSmoothing, ConstantSmoothing, importance_weights
from approx_is.proposal import Proposal
from approx_is.smoothing import make_smoothing

IMPORTANCE = torch.tensor([0.0, 4.0, 1.0, 0.0, 0.5, 2.5])
SIZE = len(IMPORTANCE)

every_smoothing = pytest.mark.parametrize("smoothing", ["adaptive", 0.0, 0.3, 20.0])


def make(smoothing="adaptive", importance=IMPORTANCE, seed=0):
    proposal = Proposal(len(importance), make_smoothing(smoothing), seed=seed, device=torch.device("cpu"))
    proposal.set_importance(torch.arange(len(importance)), importance)
    return proposal


@every_smoothing
def test_probabilities_are_those_of_smoothed_importance(smoothing):
    proposal = make(smoothing)
    smoothed = IMPORTANCE.double() + proposal.constant
    assert_is_distribution(proposal.probabilities())
    torch.testing.assert_close(proposal.probabilities(), smoothed / smoothed.sum())
    assert torch.equal(proposal.probabilities(torch.tensor([4, 1])), proposal.probabilities()[[4, 1]])


@every_smoothing
def test_probabilities_are_unbiased_by_enumeration(smoothing):
    probabilities = make(smoothing).probabilities()
    assert_unbiased_by_enumeration(probabilities, importance_weights(probabilities, SIZE))


@every_smoothing
@pytest.mark.parametrize("importance", [IMPORTANCE, torch.zeros(SIZE)], ids=["uneven", "nothing"])
def test_a_grid_of_random_numbers_is_shared_out_by_the_probabilities(smoothing, importance, monkeypatch):
    # the mixture's choice of component, and the choice within it, each on a grid of 300: all 90,000 combinations
    proposal, grid = make(smoothing, importance), (torch.arange(300, dtype=torch.float64) + 0.5) / 300
    component, within = torch.cartesian_prod(grid, grid).T
    answers = iter([torch.stack([component, within]), torch.stack([torch.full_like(within, 0.5), within])])
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: next(answers))
    indices, probabilities = proposal.draw(90_000)
    assert torch.equal(probabilities, proposal.probabilities()[indices])
    shares = torch.bincount(indices, minlength=SIZE) / 90_000
    torch.testing.assert_close(shares.double(), proposal.probabilities(), rtol=0, atol=0.005)


@every_smoothing
def test_what_is_chosen_carries_its_probability_among_the_candidates(smoothing):
    importance = torch.tensor([2.5, 0.0, 2.5, 1.0])
    proposal = make(smoothing)
    constant = max(0.5 * 1.5 if smoothing == "adaptive" else smoothing, 1.5e-6)
    within = (importance.double() + constant) / (6 + 4 * constant)
    positions, probabilities = proposal.choose(50, importance)
    assert positions.dtype == torch.int64
    torch.testing.assert_close(probabilities, within[positions] * 4 / SIZE)


@every_smoothing
@pytest.mark.parametrize("importance", [[2.5, 0.0, 2.5, 1.0], [0.0] * 4, [7.0]], ids=["uneven", "nothing", "one"])
def test_candidates_are_chosen_by_their_smoothed_importance(smoothing, importance, monkeypatch):
    chosen_by = []

    def choose_each(distribution, count, replacement, generator):
        assert replacement
        chosen_by.append(distribution)
        return torch.arange(count)

    proposal, importance = make(smoothing), torch.tensor(importance)
    monkeypatch.setattr(torch, "multinomial", choose_each)
    positions, probabilities = proposal.choose(len(importance), importance)
    (within,) = chosen_by
    assert_is_distribution(within)
    assert positions.tolist() == list(range(len(importance)))
    assert_unbiased_by_enumeration(within, importance_weights(probabilities, SIZE))


def test_without_any_importance_candidates_are_chosen_from_uniformly():
    _, probabilities = make("adaptive").choose(20, torch.zeros(5))
    torch.testing.assert_close(probabilities, torch.full((20,), 1 / SIZE, dtype=torch.float64))


def test_fewer_candidates_than_draws_are_chosen_more_than_once():
    positions, _ = make().choose(100, torch.tensor([1.0, 3.0]))
    assert positions.shape == (100,)
    assert positions.unique().tolist() == [0, 1]


def test_importance_of_candidates_is_not_kept():
    proposal = make()
    before = proposal.probabilities()
    proposal.choose(4, torch.tensor([100.0, 1.0, 5.0]))
    assert torch.equal(proposal.probabilities(), before)


def test_candidates_are_drawn_from_all():
    candidates = make().draw_candidates(1000)
    assert candidates.shape == (1000,)
    assert candidates.dtype == torch.int64
    assert candidates.unique().tolist() == list(range(SIZE))


def test_importance_is_what_was_set():
    proposal = make()
    proposal.set_importance(torch.tensor([3, 0]), torch.tensor([7.0, 0.25]))
    assert proposal.importance(torch.tensor([0, 1, 3])).tolist() == [0.25, 4.0, 7.0]


def test_smoothing_hears_what_was_observed():
    proposal = make(AdaptiveSmoothing(0.5))
    assert float(proposal.constant) == pytest.approx(0.5 * 8 / 6)
    proposal.observe_mean(torch.tensor(6.0, dtype=torch.float64))
    assert float(proposal.constant) == pytest.approx(3.0)


def test_a_million_samples_beside_one_enormous_one_stay_within_reach():
    importance = torch.ones(10**6)
    importance[123_456] = 1e30
    for smoothing, largest in (("adaptive", 3.0), (0.0, 1e6 + 1)):
        proposal = make(smoothing, importance)
        assert_is_distribution(proposal.probabilities())
        _, probabilities = proposal.draw(1000)
        weights = importance_weights(probabilities, 10**6)
        assert bool((weights > 0).all())
        assert float(importance_weights(proposal.probabilities(), 10**6).max()) <= largest * (1 + 1e-6)


@pytest.mark.parametrize("size", [1, 64, 65, 262_144, 262_145, 300_000])
def test_draws_are_uniform_without_any_importance(size):
    proposal = make("adaptive", torch.zeros(size))
    indices, probabilities = proposal.draw(1000)
    assert 0 <= int(indices.min()) <= int(indices.max()) < size
    assert torch.equal(probabilities, torch.full((1000,), 1 / size, dtype=torch.float64))


def test_draws_follow_the_seed():
    for draw in (
        lambda proposal: proposal.draw(50)[0],
        lambda proposal: proposal.draw_candidates(50),
        lambda proposal: proposal.choose(50, torch.arange(9.0))[0],
    ):
        draws = [draw(make(seed=seed)).tolist() for seed in (0, 0, 1)]
        assert draws[0] == draws[1] != draws[2]


def test_a_restored_proposal_goes_on_to_the_bit():
    proposal, restored = make(), make(importance=torch.ones(SIZE), seed=5)
    proposal.observe_mean(torch.tensor(6.0, dtype=torch.float64))
    proposal.draw(7)
    restored.load_state_dict(through_file(proposal.state_dict()))
    assert_same(snapshot(restored), snapshot(proposal))
    assert torch.equal(restored.draw(50)[0], proposal.draw(50)[0])
    assert torch.equal(restored.draw_candidates(50), proposal.draw_candidates(50))
    assert torch.equal(restored.choose(50, torch.arange(9.0))[0], proposal.choose(50, torch.arange(9.0))[0])


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda state: state.pop("tree"), r"missing \['tree'\]"),
        (lambda state: state["tree"]["leaves"].fill_(-1), r"\['leaves'\]` must be finite and at least 0"),
        (lambda state: state["smoothing"].update(constant=0.5), "made with `smoothing` = 0.5; this one has 0.3"),
        (lambda state: state["generator"].zero_(), r"\['generator'\]` is no state of a random generator"),
    ],
    ids=["missing", "negative", "other smoothing", "generator"],
)
def test_a_damaged_state_changes_nothing(damage, match):
    proposal = make(ConstantSmoothing(0.3))
    state = snapshot(proposal)
    damage(state)
    with assert_unchanged(proposal), pytest.raises(ValueError, match=match):
        proposal.load_state_dict(state)


class TestDrawnAhead:
    def make(self, ahead, seed=0, importance=IMPORTANCE):
        device = torch.device("cpu")
        proposal = Proposal(len(importance), make_smoothing("adaptive"), seed=seed, device=device, ahead=ahead)
        proposal.set_importance(torch.arange(len(importance)), importance)
        return proposal

    def test_batches_are_from_the_distribution_and_independent(self):
        proposal = self.make(4)
        batches = torch.stack([proposal.draw(2)[0] for _ in range(8_000)])
        assert_frequencies(batches.flatten(), proposal.probabilities())
        pairs = batches[:, 0] * SIZE + batches[:, 1]
        assert_frequencies(pairs, torch.outer(proposal.probabilities(), proposal.probabilities()).flatten())
        neighbours = batches[:-1, 0] * SIZE + batches[1:, 0]
        assert_frequencies(neighbours, torch.outer(proposal.probabilities(), proposal.probabilities()).flatten())

    @pytest.mark.parametrize("change", ["importance", "mean"])
    def test_none_is_handed_out_after_a_change(self, change):
        proposal = self.make(4)
        proposal.draw(5)
        if change == "importance":
            proposal.set_importance(torch.tensor([0]), torch.tensor([50.0]))
        else:
            proposal.observe_mean(torch.tensor(9.0, dtype=torch.float64))
        indices, probabilities = proposal.draw(5)
        assert torch.equal(probabilities, proposal.probabilities(indices))

    def test_batches_of_another_size_are_drawn_anew(self):
        proposal = self.make(4)
        sizes = [len(proposal.draw(count)[0]) for count in (5, 5, 3, 3, 7)]
        assert sizes == [5, 5, 3, 3, 7]

    @pytest.mark.parametrize(("count", "handed_out"), [(2**14, 4), (2**15, 2), (2**15 + 1, 1), (2**17, 1)])
    def test_of_large_batches_fewer_are_drawn_at_once(self, count, handed_out):
        proposal = self.make(8)
        proposal.draw(count)
        assert len(proposal._stock) == handed_out - 1

    @pytest.mark.parametrize("handed_out", range(6))
    def test_those_left_are_restored(self, handed_out):
        proposal, restored = self.make(4), self.make(4, seed=1)
        for _ in range(handed_out):
            proposal.draw(5)
        restored.load_state_dict(through_file(proposal.state_dict()))
        for _ in range(9):
            for found, expected in zip(restored.draw(5), proposal.draw(5), strict=True):
                assert torch.equal(found, expected)
        assert_same(snapshot(restored), snapshot(proposal))

    @pytest.mark.parametrize(
        ("stock", "count", "match"), [(5, 3, "at most 1"), (-1, 3, "at least 0"), (2, 0, "at least 1")]
    )
    def test_a_damaged_state_changes_nothing(self, stock, count, match):
        proposal = self.make(4)
        state = snapshot(proposal) | {"stock": stock, "count": count}
        with assert_unchanged(proposal), pytest.raises(ValueError, match=match):
            proposal.load_state_dict(state)
