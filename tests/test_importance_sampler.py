import math

import laws
import pytest
import torch

from approx_is import AdaptiveSmoothing, ImportanceSampler
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
        restored = sampler.restore_draw(draw.indices, draw.probabilities, draw.weights, is_warm_up=True, drawn_at=0)
        sampler.update(restored, torch.ones(4))
        assert sampler.metrics()["step"] == 1.0


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

    def test_asking_changes_nothing(self):
        sampler = laws.make_sampler()
        laws.train(sampler, 4)
        with laws.assert_unchanged(sampler):
            sampler.probabilities()
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
            torch.tensor([1, 2, 1]), torch.full((3,), 0.25).double(), torch.ones(3), is_warm_up=False, drawn_at=0
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
        assert metrics["coverage"] == 0.5
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
        sampler._proposal.set_importance(torch.arange(10), 1.0 + torch.arange(10.0))
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
