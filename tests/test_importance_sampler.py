import math

import laws
import pytest
import torch

from approx_is import AdaptiveSmoothing, Draw, ImportanceSampler, VarianceGate
from approx_is.gate import SETTLE_STEPS, Look
from approx_is.predictors import LastLossPredictor, UniformPredictor

every_configuration = pytest.mark.parametrize(("predictor", "options"), laws.CONFIGURATIONS, ids=laws.CONFIGURATION_IDS)


class Recording(UniformPredictor):
    """Predicts 1, is not local, and remembers what it was asked and shown."""

    local = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.asked, self.shown = [], []

    def predict(self, indices):
        self.asked.append(indices.clone())
        return super().predict(indices)

    def update(self, indices, observed, step):
        self.shown.append((indices.clone(), observed.clone(), step))


class LocalRecording(Recording):
    local = True


class Scoring(UniformPredictor):
    """Scores three candidates a draw; sample i by i + 1."""

    least_tau = 2.0
    needs_tau = False

    def sizes(self, batch_size, tau):
        return 3 * batch_size, batch_size

    def score(self, batch, size, chunk):
        assert len(batch) == size
        return 1.0 + batch

    def select(self, batch, positions):
        return batch[positions]


def never():
    """Return a gate that stays closed, and looks at one observation in so many."""
    return VarianceGate(margin=math.inf)


def never_but_learning():
    """Return a gate that stays closed although everything observed is learned."""
    return VarianceGate(margin=math.inf, relative_cost=1.0)


def make_predictor(kind):
    return kind(torch.zeros(1), None, 1, torch.Generator())  # only the device of the history is read


class TestFirstEpoch:
    @pytest.mark.parametrize(("size", "batch"), [(10, 4), (12, 4), (1, 1), (3, 8)])
    def test_visits_each_sample_once_with_weight_1(self, size, batch):
        sampler = laws.make_sampler(size, batch, k=0.5)
        draws = laws.train(sampler, math.ceil(size / batch))
        assert sorted(torch.cat([draw.indices for draw in draws]).tolist()) == list(range(size))
        for draw in draws:
            assert draw.indices.dtype == torch.int64
            assert torch.equal(draw.weights, torch.ones(len(draw)))
            assert torch.equal(draw.probabilities, torch.full((len(draw),), 1 / size, dtype=torch.float64))
        assert [len(draw) for draw in draws[:-1]] == [batch] * (len(draws) - 1)
        assert sampler.metrics()["coverage"] == 1.0

    def test_is_in_random_order(self):
        order = torch.cat([draw.indices for draw in laws.train(laws.make_sampler(100, 10), 10)])
        assert not torch.equal(order, torch.arange(100))

    def test_drop_last_leaves_the_small_batch_out(self):
        sampler = laws.make_sampler(10, 4, drop_last=True)
        draws = laws.train(sampler, 5)
        assert [len(draw) for draw in draws] == [4] * 5
        assert len(set(torch.cat([draw.indices for draw in draws[:2]]).tolist())) == 8

    def test_later_batches_are_of_full_size(self):
        draws = laws.train(laws.make_sampler(3, 8), 4)
        assert [len(draw) for draw in draws] == [3, 8, 8, 8]

    def test_draws_without_updates_go_on_uniformly(self):
        sampler = laws.make_sampler(4, 4)
        sampler.draw()
        draw = laws.assert_draws_are_from(sampler)
        assert torch.equal(draw.probabilities, torch.full((4,), 0.25, dtype=torch.float64))

    @pytest.mark.parametrize("gate", [None, never(), never_but_learning()], ids=["none", "asleep", "learning"])
    def test_is_the_same_with_and_without_a_gate(self, gate):
        draws = laws.train(laws.make_sampler(gate=gate), 3)
        laws.assert_same_draws(draws, laws.train(laws.make_sampler(), 3))
        assert all(draw.is_uniform for draw in draws)


class TestPlainEpochs:
    """While the gate is closed."""

    GATES = pytest.mark.parametrize("gate", [never(), never_but_learning()], ids=["asleep", "learning"])

    @GATES
    @pytest.mark.parametrize(("size", "batch"), [(10, 4), (12, 4), (1, 1), (3, 8)])
    def test_each_visits_each_sample_once_with_weight_1(self, gate, size, batch):
        sampler = laws.make_sampler(size, batch, k=0.5, gate=gate)
        orders = []
        for _ in range(4):
            draws = laws.train(sampler, math.ceil(size / batch))
            orders.append(torch.cat([draw.indices for draw in draws]).tolist())
            assert sorted(orders[-1]) == list(range(size))
            for draw in draws:
                assert draw.is_uniform
                assert torch.equal(draw.weights, torch.ones(len(draw)))
                assert torch.equal(draw.probabilities, torch.full((len(draw),), 1 / size, dtype=torch.float64))
        assert size < 10 or len({tuple(order) for order in orders}) == 4

    @GATES
    def test_leave_small_batches_out_if_told_so(self, gate):
        sampler = laws.make_sampler(10, 4, drop_last=True, gate=gate)
        for _ in range(3):
            draws = laws.train(sampler, 2)
            assert [len(draw) for draw in draws] == [4, 4]
            assert len(set(torch.cat([draw.indices for draw in draws]).tolist())) == 8

    def test_are_the_default_at_k_1_until_draws_by_importance_are_known_to_pay(self):
        sampler = ImportanceSampler(10, 4, predictor="last-loss")
        draws = laws.train(sampler, 12)  # too few for any clock to say so
        assert all(draw.is_uniform for draw in draws)
        assert not sampler.gate.is_open

    @pytest.mark.parametrize("k", [0.5, 0.0, lambda step: 1.0], ids=["0.5", "0", "function"])
    def test_are_not_the_default_otherwise(self, k):
        sampler = ImportanceSampler(10, 4, predictor="last-loss", k=k)
        draws = laws.train(sampler, 4)
        assert [draw.is_uniform for draw in draws] == [True, True, True, False]
        assert sampler.gate.is_open

    def test_begin_anew_where_an_epoch_does(self):
        sampler = laws.make_sampler(gate=never())
        laws.train(sampler, 4)
        sampler.begin_epoch()
        indices = torch.cat([draw.indices for draw in laws.train(sampler, 3)])
        assert sorted(indices.tolist()) == list(range(10))

    def test_but_for_the_first_of_which_the_rest_is_still_to_come(self):
        sampler = laws.make_sampler(gate=never())
        draws = laws.train(sampler, 1)
        sampler.begin_epoch()
        indices = torch.cat([draw.indices for draw in [*draws, *laws.train(sampler, 2)]])
        assert sorted(indices.tolist()) == list(range(10))

    @pytest.mark.parametrize("gate", [None, never()], ids=["none", "closed"])
    def test_have_the_samples_of_draws_taken_back_again(self, gate):
        sampler = laws.make_sampler(gate=gate)
        laws.train(sampler, 1)
        draws = [sampler.draw() for _ in range(2)]
        sampler.take_back(draws)
        laws.assert_same_draws([sampler.draw() for _ in range(2)], draws)

    def test_take_nothing_back_of_what_was_drawn_by_importance(self):
        sampler = laws.make_sampler()
        laws.train(sampler, 4)
        draws = [sampler.draw() for _ in range(2)]
        with laws.assert_unchanged(sampler):
            sampler.take_back(draws)

    def test_gain_nothing(self):
        sampler = laws.make_sampler(gate=never_but_learning())
        laws.train(sampler, 40)
        assert sampler.gain.value == sampler.gain.variance_ratio == 1.0


class TestExponent:
    @staticmethod
    def halving(step):
        return 1.0 - step / 8

    def test_of_a_function_is_that_of_the_updates_before_the_draw(self):
        sampler = laws.make_sampler(k=self.halving)
        for step in range(9):
            assert sampler.k == self.halving(step)
            draw = laws.assert_draws_are_from(sampler)
            assert draw.is_uniform or step >= 3
            sampler.update(draw, laws.steady_losses(draw.indices))

    def test_of_a_draw_used_late_is_that_of_its_moment(self):
        sampler = laws.make_sampler(k=self.halving)
        laws.train(sampler, 3)
        draws = [sampler.draw() for _ in range(2)]
        for draw in draws:
            torch.testing.assert_close(draw.weights, ((10 * draw.probabilities) ** -self.halving(3)).float())
            sampler.update(draw, laws.steady_losses(draw.indices))
        assert sampler.k == self.halving(5)

    @pytest.mark.parametrize("candidates", [None, 6])
    def test_of_a_constant_function_is_as_the_constant(self, candidates):
        runs = [laws.train(laws.make_sampler(k=k, candidates=candidates), 8) for k in (0.5, lambda step: 0.5)]
        laws.assert_same_draws(*runs)

    @pytest.mark.parametrize("candidates", [None, 6])
    @pytest.mark.parametrize("wrong", [1.5, math.nan, -math.inf])
    def test_that_becomes_impossible_is_refused_and_changes_nothing(self, candidates, wrong):
        sampler = laws.make_sampler(k=lambda step: 0.5 if step < 4 else wrong, candidates=candidates)
        laws.train(sampler, 4)
        with (
            laws.assert_unchanged(sampler),
            pytest.raises(ValueError, match=r"`ApproxSampler\(k=...\)` must be a finite"),
        ):
            sampler.draw()

    def test_is_not_of_the_state(self):
        sampler, other = laws.make_sampler(k=self.halving), laws.make_sampler(k=0.25)
        laws.train(sampler, 4)
        other.load_state_dict(laws.snapshot(sampler))
        assert (sampler.k, other.k) == (0.5, 0.25)


class TestDraw:
    def test_batch_size_of_one_draw_may_differ(self):
        sampler = laws.make_sampler(10, 4)
        assert [len(sampler.draw(size)) for size in (7, 7, 1, None, 30)] == [7, 3, 1, 4, 30]

    @pytest.mark.parametrize("k", [1.0, 0.5, 0.0, -2.0])
    def test_weights_are_powers_of_the_probabilities(self, k):
        sampler = laws.make_sampler(k=k)
        laws.train(sampler, 4)
        draw = laws.assert_draws_are_from(sampler)
        assert draw.weights.dtype == torch.float32
        if k == 0:
            assert torch.equal(draw.weights, torch.ones(4))

    def test_draw_keeps_the_truth_of_its_moment(self):
        sampler = laws.make_sampler()
        laws.train(sampler, 3)
        draw = sampler.draw()
        before = draw.probabilities.clone(), draw.weights.clone()
        later = sampler.draw()
        sampler.update(later, 100 * laws.steady_losses(later.indices))
        assert torch.equal(draw.probabilities, before[0])
        assert torch.equal(draw.weights, before[1])

    def test_updates_may_come_late_and_out_of_order(self):
        sampler = laws.make_sampler()
        draws = [sampler.draw() for _ in range(3)]
        for draw in reversed(draws):
            sampler.update(draw, laws.steady_losses(draw.indices))
        expected = laws.steady_losses(torch.arange(10)).double()
        constant = sampler.metrics()["smoothing"]
        found = sampler.probabilities() * (expected.sum() + 10 * constant) - constant
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)

    def test_restored_draw_can_be_used(self):
        sampler = laws.make_sampler()
        draw = sampler.draw()
        restored = sampler.restore_draw(draw.indices, draw.probabilities, draw.weights, place=0, drawn_at=0, choose=0)
        sampler.update(restored, torch.ones(4))
        assert sampler.metrics()["step"] == 1.0


class TestCandidates:
    """For a predictor that scores them."""

    def make(self, **arguments):
        return laws.make_sampler(predictor=Scoring, **arguments)

    def test_are_uniform_draws_with_replacement_and_no_batch(self):
        candidates = self.make().request(40)
        assert not candidates.is_batch
        assert not candidates.is_uniform
        assert len(candidates) == 120
        assert candidates.indices.unique().tolist() == list(range(10))
        assert torch.equal(candidates.weights, torch.ones(120))
        assert torch.equal(candidates.probabilities, torch.full((120,), 0.1, dtype=torch.float64))

    @pytest.mark.parametrize("k", [1.0, 0.5, -1.0])
    def test_are_chosen_from_in_proportion_to_their_smoothed_scores(self, k):
        sampler = self.make(smoothing=0.5, k=k)
        candidates = sampler.request()
        scores = torch.arange(12.0)
        draw, positions = sampler.choose(candidates, scores)
        assert draw.is_batch
        assert not draw.is_uniform
        assert torch.equal(draw.indices, candidates.indices[positions])
        within = (scores.double() + 0.5) / (66 + 12 * 0.5)
        torch.testing.assert_close(draw.probabilities, within[positions] * 12 / 10, rtol=1e-12, atol=0)
        torch.testing.assert_close(draw.weights, ((12 * within[positions]) ** -k).float(), rtol=1e-6, atol=0)

    def test_without_any_score_are_chosen_from_uniformly(self):
        sampler = self.make()
        draw, _ = sampler.choose(sampler.request(), torch.zeros(12))
        torch.testing.assert_close(draw.weights, torch.ones(4), rtol=1e-6, atol=0)

    def test_are_requested_scored_and_chosen_from_in_one_call_of_draw(self):
        whole, parts = self.make(), self.make()
        for size in (None, 7, 1):
            candidates = parts.request(size)
            draw, _ = parts.choose(candidates, 1.0 + candidates.indices)
            laws.assert_same_draws([whole.draw(size)], [draw])
        laws.assert_same(laws.snapshot(whole), laws.snapshot(parts))

    def test_keep_the_step_of_their_request(self):
        sampler = self.make(k=lambda step: 1.0 - step / 2)
        laws.train(sampler, 1)
        candidates = sampler.request()
        laws.train(sampler, 1)
        draw, _ = sampler.choose(candidates, torch.arange(12.0))
        assert candidates.drawn_at == draw.drawn_at == 1
        torch.testing.assert_close(draw.weights, (10 * draw.probabilities).pow(-0.5).float(), rtol=1e-6, atol=0)

    def test_may_be_chosen_from_again_after_a_failure(self):
        sampler = self.make()
        candidates = sampler.request()
        with laws.assert_unchanged(sampler), pytest.raises(ValueError, match=r"choose\(scores\)"):
            sampler.choose(candidates, torch.full((12,), math.nan))
        draw, _ = sampler.choose(candidates, torch.ones(12))
        sampler.update(draw, torch.ones(4))
        assert sampler.step == 1

    def test_scores_may_have_a_graph(self):
        sampler = self.make()
        scores = torch.ones(12, requires_grad=True)
        draw, _ = sampler.choose(sampler.request(), scores * 2)
        assert not draw.weights.requires_grad

    def test_are_not_asked_for_while_the_gate_is_closed(self):
        sampler = self.make(gate="auto")  # the average starts at 0
        draw = sampler.request()
        assert draw.is_batch
        assert draw.is_uniform
        assert sorted(torch.cat([draw.indices, *(sampler.draw().indices for _ in range(2))]).tolist()) == list(
            range(10)
        )

    @pytest.mark.parametrize("arguments", [{}, {"candidates": 5}], ids=["all", "candidates"])
    def test_are_no_concern_of_a_predictor_that_predicts(self, arguments):
        requested, drawn = (laws.make_sampler(**arguments) for _ in range(2))
        for each in (requested, drawn):
            laws.train(each, 4)
        requests = [requested.request(size) for size in (None, 7)]
        assert all(draw.is_batch for draw in requests)
        laws.assert_same_draws(requests, [drawn.draw(size) for size in (None, 7)])

    @pytest.mark.parametrize(
        ("scores", "error", "match"),
        [
            (torch.ones(11), ValueError, r"`choose\(scores\)` must have shape \[12\], one value each; got \[11\]"),
            (torch.ones(12, 1), ValueError, r"must have shape \[12\], one value each; got \[12, 1\]"),
            (torch.tensor([-1e-30] + [1.0] * 11), ValueError, r"`choose\(scores\)` must be finite and at least 0"),
            (torch.tensor([math.nan] + [1.0] * 11), ValueError, "must be finite and at least 0"),
            (torch.tensor([math.inf] + [1.0] * 11), ValueError, "must be finite and at least 0"),
            ([1.0] * 12, TypeError, r"`choose\(scores\)` must be a tensor; got list"),
        ],
    )
    def test_with_impossible_scores_are_refused_and_nothing_changes(self, scores, error, match):
        sampler = self.make(gate=VarianceGate(threshold=0.0))
        laws.train(sampler, 1)
        candidates = sampler.request()
        with laws.assert_unchanged(sampler), pytest.raises(error, match=match):
            sampler.choose(candidates, scores)

    def test_of_another_sampler_are_refused(self):
        sampler, other = self.make(), self.make()
        candidates = other.request()
        with (
            laws.assert_unchanged(sampler, other),
            pytest.raises(ValueError, match="must be candidates of this sampler"),
        ):
            sampler.choose(candidates, torch.ones(12))

    def test_that_are_a_batch_are_refused(self):
        sampler = self.make()
        draw = sampler.draw()
        with laws.assert_unchanged(sampler), pytest.raises(ValueError, match="must be candidates of this sampler"):
            sampler.choose(draw, torch.ones(4))

    def test_made_by_hand_are_refused(self):
        by_hand = Draw(torch.tensor([1]), torch.tensor([0.1]), torch.tensor([1.0]))
        with pytest.raises(ValueError, match=r"must be candidates of this sampler\. Pass on what `request`"):
            self.make().choose(by_hand, torch.ones(1))

    def test_that_are_no_draw_are_refused(self):
        with pytest.raises(TypeError, match=r"`choose\(candidates, scores\)` must get a Draw first; got list"):
            self.make().choose([1, 2], torch.ones(2))

    def test_are_not_to_be_trained_on(self):
        sampler = self.make()
        candidates = sampler.request()
        with (
            laws.assert_unchanged(sampler),
            pytest.raises(ValueError, match=r"these are candidates\. Score them, and `choose`"),
        ):
            sampler.update(candidates, torch.ones(12))
        sampler.choose(candidates, torch.ones(12))


class TestProbabilities:
    def test_golden_values(self):
        sampler = laws.make_sampler(4, 4, smoothing=1.0)
        laws.train(sampler, 1, losses=lambda indices: indices.float())
        expected = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) / 10
        assert torch.equal(sampler.probabilities(), expected)

    def test_adaptive_smoothing_adds_half_the_mean(self):
        sampler = laws.make_sampler(4, 4)
        laws.train(sampler, 1, losses=lambda indices: indices.float())
        assert sampler.metrics()["smoothing"] == pytest.approx(0.75, rel=1e-12)
        expected = torch.tensor([0.75, 1.75, 2.75, 3.75], dtype=torch.float64) / 9
        torch.testing.assert_close(sampler.probabilities(), expected, rtol=1e-12, atol=0)

    def test_of_some_are_those_of_all(self):
        sampler = laws.make_sampler()
        assert torch.equal(sampler.probabilities(torch.tensor([3, 3])), torch.full((2,), 0.1, dtype=torch.float64))
        laws.train(sampler, 4)
        some = torch.tensor([7, 0, 7], dtype=torch.int32)
        assert torch.equal(sampler.probabilities(some), sampler.probabilities()[some.long()])

    def test_announce_the_next_draw_after_a_first_epoch_that_dropped_its_last_batch(self):
        sampler = laws.make_sampler(drop_last=True)
        laws.train(sampler, 2)
        laws.assert_draws_are_from(sampler)

    def test_without_the_gate_are_those_that_were_learned(self):
        sampler, open_one = laws.make_sampler(gate=never_but_learning()), laws.make_sampler()
        for each in (sampler, open_one):
            laws.train(each, 3)
        assert torch.equal(sampler.probabilities(), torch.full((10,), 0.1, dtype=torch.float64))
        assert torch.equal(sampler.probabilities(gated=False), open_one.probabilities())
        some = torch.tensor([7, 0, 7])
        assert torch.equal(sampler.probabilities(some), torch.full((3,), 0.1, dtype=torch.float64))
        assert torch.equal(sampler.probabilities(some, gated=False), open_one.probabilities(some))

    def test_without_the_gate_are_known_in_the_first_epoch_too(self):
        sampler = laws.make_sampler(4, 2, smoothing=1.0)
        assert torch.equal(sampler.probabilities(gated=False), torch.full((4,), 0.25, dtype=torch.float64))
        draw = sampler.draw()
        sampler.update(draw, torch.tensor([2.0, 6.0]))
        expected = torch.full((4,), 1 / 12, dtype=torch.float64)
        expected[draw.indices] = torch.tensor([3.0, 7.0], dtype=torch.float64) / 12
        assert torch.equal(sampler.probabilities(), torch.full((4,), 0.25, dtype=torch.float64))
        torch.testing.assert_close(sampler.probabilities(gated=False), expected, rtol=1e-12, atol=0)

    def test_without_the_gate_are_the_same_where_it_is_open(self):
        sampler = laws.make_sampler()
        laws.train(sampler, 5)
        assert torch.equal(sampler.probabilities(gated=False), sampler.probabilities())

    def test_asking_changes_nothing(self):
        sampler = laws.make_sampler()
        laws.train(sampler, 4)
        with laws.assert_unchanged(sampler):
            sampler.probabilities()
            sampler.probabilities(gated=False)
            sampler.metrics()
            sampler.state_dict()

    @pytest.mark.parametrize("predictor", ["last-loss", "uniform", "class-gaussian"])
    @pytest.mark.parametrize("smoothing", ["adaptive", 0.0, 0.3])
    def test_uniform_if_all_losses_are_zero(self, predictor, smoothing):
        sampler = laws.make_sampler(8, 8, predictor=predictor, smoothing=smoothing)
        laws.train(sampler, 4, losses=lambda indices: torch.zeros(len(indices)))
        assert torch.equal(sampler.probabilities(), torch.full((8,), 0.125, dtype=torch.float64))
        draw = laws.assert_draws_are_from(sampler)
        assert torch.equal(draw.weights, torch.ones(8))

    @pytest.mark.parametrize("candidates", [1, 5, 8])
    @pytest.mark.parametrize("smoothing", ["adaptive", 0.0])
    def test_candidates_are_uniform_if_all_losses_are_zero(self, candidates, smoothing):
        sampler = laws.make_sampler(8, 8, candidates=candidates, smoothing=smoothing)
        laws.train(sampler, 4, losses=lambda indices: torch.zeros(len(indices)))
        torch.testing.assert_close(sampler.draw().weights, torch.ones(8), rtol=1e-6, atol=0)

    @every_configuration
    @pytest.mark.parametrize("smoothing", ["adaptive", 0.0, 0.3])
    def test_finite_and_positive_beside_one_enormous_loss(self, predictor, options, smoothing):
        sampler = laws.make_sampler(20, 5, predictor=predictor, predictor_options=options, smoothing=smoothing)
        for _ in range(12):
            draw = sampler.draw()
            sampler.update(draw, torch.where(draw.indices == 13, 1e30, laws.steady_losses(draw.indices)))
            laws.assert_is_distribution(sampler.probabilities())
            weights = laws.assert_draws_are_from(sampler).weights
            assert bool((weights.isfinite() & (weights > 0)).all())
        laws.assert_all_finite(sampler.state_dict())
        assert sampler.metrics()["not_finite"] == 0.0


class TestUpdate:
    def test_duplicates_count_with_their_mean(self):
        sampler = laws.make_sampler(4, 4, predictor=Recording)
        draw = sampler.restore_draw(
            torch.tensor([1, 2, 1]), torch.full((3,), 0.25).double(), torch.ones(3), place=None, drawn_at=0, choose=0
        )
        sampler.update(draw, torch.tensor([1.0, 5.0, 3.0]))
        ((indices, observed, step),) = sampler._learner.predictor.shown
        assert indices.tolist() == [1, 2, 1]
        assert observed.tolist() == [2.0, 5.0, 2.0]
        assert step == 1
        assert sampler._learner.history.counts(torch.arange(4)).tolist() == [0, 1, 1, 0]
        assert sampler._learner.history.last(torch.arange(4)).tolist() == [0.0, 2.0, 5.0, 0.0]

    def test_predictor_learns_before_the_history_grows(self):
        counts = []

        class Watching(LastLossPredictor):
            def update(self, indices, observed, step):
                counts.append(self._history.counts(indices).tolist())

        laws.train(laws.make_sampler(4, 4, predictor=Watching), 1)
        assert counts == [[0, 0, 0, 0]]

    def test_metrics_count_steps_coverage_and_losses(self):
        sampler = laws.make_sampler(8, 4)
        assert math.isnan(sampler.metrics()["observed_importance"])
        laws.train(sampler, 1, losses=lambda indices: torch.full((len(indices),), 3.0))
        metrics = sampler.metrics()
        assert all(type(value) is float for value in metrics.values())
        assert metrics["step"] == 1.0
        assert metrics["coverage"] == metrics["epoch_coverage"] == 0.5
        assert metrics["staleness"] == 0.0
        assert metrics["observed_importance"] == pytest.approx(3.0, rel=1e-12)
        assert metrics["effective_sample_size"] == pytest.approx(4.0, rel=1e-12)

    def test_predictor_instance_is_used_as_it_is(self):
        predictor = make_predictor(Recording)
        laws.train(laws.make_sampler(4, 4, predictor=predictor), 2)
        assert len(predictor.shown) == 2

    def test_factory_gets_history_labels_classes_and_generator(self):
        arguments = []

        def factory(*given, **options):
            arguments.extend((*given, options))
            return UniformPredictor(*given)

        sampler = laws.make_sampler(
            4, 4, predictor=factory, labels=[0, 2, 1, 0], window=3, predictor_options={"power": 2}
        )
        history, labels, num_classes, generator, options = arguments
        assert history is sampler._learner.history
        assert history.window == 3
        assert labels.tolist() == [0, 2, 1, 0]
        assert num_classes == 3
        assert isinstance(generator, torch.Generator)
        assert options == {"power": 2}


class TestObservedOnDemand:
    """A function in place of the tensor."""

    def test_is_called_once_an_update_without_a_gate(self):
        sampler, other = laws.make_sampler(), laws.make_sampler()
        for step in range(1, 6):
            calls, draw = [], sampler.draw()

            def observe(draw=draw, calls=calls):
                calls.append(1)
                return laws.steady_losses(draw.indices)

            sampler.update(draw, observe)
            laws.train(other, 1)
            assert calls == [1]
            assert sampler.step == step
        laws.assert_same(laws.snapshot(sampler), laws.snapshot(other))

    def test_is_not_called_where_a_closed_gate_has_no_use_for_it(self):
        sampler, wanted, called = laws.make_sampler(gate=never()), [], []
        for step in range(40):
            draw = sampler.draw()
            if sampler.gate.look(drawn=False) is not Look.AWAY:
                wanted.append(step)
            sampler.update(draw, lambda step=step, draw=draw: called.append(step) or laws.steady_losses(draw.indices))
        assert called == wanted
        assert SETTLE_STEPS < len(wanted) < SETTLE_STEPS + 10
        assert sampler.step == 40

    def test_tells_a_closed_gate_what_a_tensor_does(self):
        sampler, other = laws.make_sampler(gate=never()), laws.make_sampler(gate=never())
        for _ in range(40):
            draw = sampler.draw()
            sampler.update(draw, lambda draw=draw: laws.steady_losses(draw.indices))
        laws.train(other, 40)
        assert sampler.gate.tau == other.gate.tau > 1

    @pytest.mark.parametrize(
        ("answer", "error", "match"),
        [
            (torch.ones(3), ValueError, r"`update\(observed\)` must have shape \[4\]"),
            (-torch.ones(4), ValueError, r"`update\(observed\)` must be at least 0; got -1"),
            ([1.0] * 4, TypeError, r"must be a tensor of shape \[4\]; got list"),
            (None, TypeError, r"must be a tensor of shape \[4\]; got NoneType"),
        ],
    )
    @pytest.mark.parametrize("gate", [None, never()], ids=["none", "closed"])
    def test_is_checked_as_a_tensor_is(self, gate, answer, error, match):
        sampler = laws.make_sampler(gate=gate)
        draw = sampler.draw()
        with laws.assert_unchanged(sampler), pytest.raises(error, match=match):
            sampler.update(draw, lambda: answer)
        sampler.update(draw, torch.ones(4))  # the draw is not spent

    def test_may_fail_and_be_called_again(self):
        sampler = laws.make_sampler()
        draw = sampler.draw()

        def fail():
            raise OSError("out of paper")

        with laws.assert_unchanged(sampler), pytest.raises(OSError, match="out of paper"):
            sampler.update(draw, fail)
        sampler.update(draw, lambda: torch.ones(4))
        assert sampler.step == 1

    def test_is_not_called_for_a_draw_that_is_refused(self):
        sampler = laws.make_sampler()
        (draw,) = laws.train(sampler, 1)
        with pytest.raises(ValueError, match="this one was used already"):
            sampler.update(draw, lambda: pytest.fail("called"))


class TestWithAClosedGate:
    """Of observations that are not looked at."""

    def after(self, steps):
        sampler = laws.make_sampler(gate=never())
        laws.train(sampler, steps)
        return sampler, sampler.draw()

    def test_nothing_is_remembered_but_the_step(self):
        sampler, draw = self.after(SETTLE_STEPS)
        assert sampler.gate.look(drawn=False) is Look.AWAY
        before = laws.snapshot(sampler)
        sampler.update(draw, torch.ones(4))
        after = laws.snapshot(sampler)
        for state in (before, after):
            del state["drawer"]["gate"]
        laws.assert_same(
            after,
            {**before, "step": SETTLE_STEPS + 1, "gain": {**before["gain"], "draws": 4 + before["gain"]["draws"]}},
        )
        assert sampler.metrics()["coverage"] == 0.0

    @pytest.mark.parametrize(("steps", "look"), [(0, Look.GLANCE), (SETTLE_STEPS, Look.AWAY)])
    def test_the_shape_is_checked_all_the_same(self, steps, look):
        sampler, draw = self.after(steps)
        assert sampler.gate.look(drawn=False) is look
        for observed, error in ((torch.ones(3), ValueError), ([1.0] * 4, TypeError)):
            with laws.assert_unchanged(sampler), pytest.raises(error, match=r"`update\(observed\)` must"):
                sampler.update(draw, observed)
        sampler.update(draw, torch.ones(4))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("gate", [never(), never_but_learning()], ids=["asleep", "learning"])
    def test_a_batch_without_a_finite_one_is_no_harm(self, gate, value):
        sampler = laws.make_sampler(gate=gate)
        for observed in (torch.full((4,), value), torch.tensor([1.0, 2.0, 3.0, value])):
            sampler.update(sampler.draw(), observed)
        laws.train(sampler, 40)
        laws.assert_all_finite(sampler.state_dict())
        assert sampler.gate.tau > 1


class TestRefresh:
    @pytest.mark.parametrize("refresh", [0.25, 0.5, 1.0, 1.7, 3.0])
    @pytest.mark.parametrize(("size", "batch"), [(10, 4), (23, 5), (7, 7), (5, 8)])
    def test_every_prediction_is_renewed_within_its_age(self, size, batch, refresh):
        sampler = laws.make_sampler(size, batch, predictor=Recording, refresh=refresh)
        age = math.ceil(refresh * size / batch)  # in steps
        laws.train(sampler, 4 * age)
        asked = sampler._learner.predictor.asked
        for start in range(len(asked) - age + 1):
            assert set(torch.cat(asked[start : start + age]).tolist()) == set(range(size))

    def test_slice_is_as_large_as_the_age_needs(self):
        sampler = laws.make_sampler(100, 4, predictor=Recording, refresh=0.5)
        laws.train(sampler, 20)
        assert {len(asked) for asked in sampler._learner.predictor.asked} == {4 + 8}
        rolling = torch.cat([asked[4:] for asked in sampler._learner.predictor.asked])
        assert torch.equal(rolling, torch.arange(160) % 100)

    def test_only_drawn_samples_are_renewed_if_the_age_is_infinite(self):
        sampler = laws.make_sampler(10, 4, predictor=Recording, refresh=math.inf)
        draws = laws.train(sampler, 8)
        laws.assert_same(sampler._learner.predictor.asked, [draw.indices for draw in draws])

    def test_only_drawn_samples_are_renewed_if_predictions_are_local(self):
        sampler = laws.make_sampler(10, 4, predictor=LocalRecording, refresh=0.5)
        drawn = [draw.indices for draw in laws.train(sampler, 9)]
        asked = sampler._learner.predictor.asked
        laws.assert_same(asked[:3], drawn[:3])  # the first epoch
        laws.assert_same([asked[3][:4], asked[4][:4]], drawn[3:5])  # one round for what it may have left out
        assert set(torch.cat([asked[3][4:], asked[4][4:]]).tolist()) == set(range(10))
        laws.assert_same(asked[5:], drawn[5:])

    def test_renewed_predictions_are_drawn_from(self):
        class Counting(UniformPredictor):
            local = False
            updates = 0

            def update(self, indices, observed, step):
                self.updates += 1

            def predict(self, indices):
                return (indices + self.updates).float()

        sampler = laws.make_sampler(4, 4, predictor=Counting, smoothing=0.0, refresh=1.0)
        laws.train(sampler, 3)
        expected = torch.tensor([3.0, 4.0, 5.0, 6.0], dtype=torch.float64) / 18
        torch.testing.assert_close(sampler.probabilities(), expected, rtol=1e-5, atol=0)


def test_same_arguments_in_another_sampler_do_not_share_state():
    sampler, other = laws.make_sampler(), laws.make_sampler()
    with laws.assert_unchanged(other):
        laws.train(sampler, 4)


def test_default_predictor_is_the_lstm():
    assert ImportanceSampler(4, 2).state_dict()["predictor_class"] == "LSTMPredictor"


class Smoothed(Recording):
    smoothing_fraction = 0.125


class TestSmoothingOfThePredictor:
    def smoothing(self, **arguments):
        sampler = laws.make_sampler(**arguments)
        laws.train(sampler, 8, losses=lambda indices: torch.full((len(indices),), 1.0))
        return sampler.metrics()["smoothing"]

    def test_is_the_share_of_the_mean_that_adaptive_smoothing_adds(self):
        assert self.smoothing(predictor=Smoothed) == pytest.approx(0.125)
        assert self.smoothing(predictor=make_predictor(Smoothed)) == pytest.approx(0.125)

    def test_is_one_half_if_it_says_nothing(self):
        assert self.smoothing(predictor=Recording) == pytest.approx(0.5)

    def test_gives_way_to_that_of_the_user(self):
        assert self.smoothing(predictor=Smoothed, smoothing=0.75) == 0.75
        assert self.smoothing(predictor=Smoothed, smoothing=AdaptiveSmoothing(0.25)) == pytest.approx(0.25)


class Ranking(Recording):
    """Predicts numbers that are not in the unit of what is observed."""

    own_scale = True
    judges_unseen = True

    def predict(self, indices):
        return 2.0 * super().predict(indices)


class TestSmoothingOfAPredictorWithAScaleOfItsOwn:
    @pytest.mark.parametrize("observed", [0.0, 1e-6, 1.0, 1e6])
    def test_follows_the_predictions_whatever_is_observed(self, observed):
        sampler = laws.make_sampler(predictor=Ranking)
        laws.train(sampler, 8, losses=lambda indices: torch.full((len(indices),), observed))
        assert sampler.metrics()["smoothing"] == pytest.approx(0.5 * 2.0)
        assert math.isnan(sampler.metrics()["calibration"])  # there is no unit to compare in

    def test_without_it_follows_what_is_observed(self):
        sampler = laws.make_sampler(predictor=type("Ordinary", (Ranking,), {"own_scale": False}))
        laws.train(sampler, 8, losses=lambda indices: torch.full((len(indices),), 1e6))
        assert sampler.metrics()["smoothing"] == pytest.approx(0.5 * 1e6)


class Telling(Recording):
    knows_draws = True

    def update(self, indices, observed, step, *, weights, drawn_at):
        self.shown.append((indices.clone(), weights.clone(), drawn_at))

    def metrics(self):
        return {"temperature": 36.6, "step": -1.0}


class TestPredictorThatKnowsDraws:
    @pytest.mark.parametrize("k", [1.0, 0.5])
    def test_is_told_unbiased_weights_and_when_each_was_made(self, k):
        predictor = make_predictor(Telling)
        sampler = laws.make_sampler(predictor=predictor, k=k, smoothing=0.3)
        laws.train(sampler, 4)
        sampler._drawer.proposal.set_importance(torch.arange(10), 1.0 + torch.arange(10.0))
        draws = [sampler.draw() for _ in range(3)]
        for draw in reversed(draws):
            observed = torch.ones(4)
            observed[1] = torch.nan  # left out, and its weight with it
            sampler.update(draw, observed)
            indices, weights, drawn_at = predictor.shown[-1]
            assert indices.tolist() == draw.indices[[0, 2, 3]].tolist()
            assert torch.equal(weights, 1 / (10 * draw.probabilities[[0, 2, 3]]))
            assert drawn_at == 4

    def test_reports_its_figures_but_not_in_place_of_the_samplers(self):
        sampler = laws.make_sampler(predictor=Telling)
        laws.train(sampler, 4)
        metrics = sampler.metrics()
        assert metrics["temperature"] == 36.6
        assert metrics["step"] == 4.0
