"""The last-loss predictor repeats the history, or raises it to a power."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_same, assert_unchanged, make_predictor, make_sampler, observe, snapshot, through_file, train

from approx_is.predictors.last_loss import bounded_power

EVERY = torch.arange(4)
EXPONENTS = [0.0, 0.6, 2.0]
LARGEST = torch.finfo(torch.float32).max

every_exponent = pytest.mark.parametrize("exponent", EXPONENTS)


def make(labels=None, num_classes=1, **options):
    return make_predictor("last-loss", options, num_samples=4, window=2, labels=labels, num_classes=num_classes)


def observed_predictor(batches, **options):
    predictor, history = make(**options)
    observe(predictor, history, [(torch.tensor(indices), torch.tensor(values)) for indices, values in batches])
    return predictor


def test_predictions_are_the_latest_observations_and_0_where_there_is_none():
    predictor = observed_predictor([([0, 1], [5.0, 2.0]), ([1, 3], [7.0, 0.0]), ([0], [1.0])])
    assert predictor.predict(EVERY).tolist() == [1.0, 7.0, 0.0, 0.0]


def test_predictions_stay_right_when_the_window_is_full():
    predictor = observed_predictor([([2], [float(value)]) for value in range(9)])
    assert predictor.predict(torch.tensor([2, 2])).tolist() == [8.0, 8.0]


def test_updating_alone_changes_nothing():
    predictor, _ = make()
    predictor.update(torch.tensor([1]), torch.tensor([3.0]), 1)
    assert predictor.predict(EVERY).tolist() == [0.0] * 4


@pytest.mark.parametrize("exponent", [1.0, *EXPONENTS])
def test_predictions_are_local(exponent):
    assert make(exponent=exponent)[0].local is True


def test_another_predictors_state_is_refused():
    with pytest.raises(ValueError, match=r"must be empty; got .*\['moments'\]"):
        make()[0].load_state_dict({"moments": torch.zeros(2)})


class TestPowers:
    @given(st.floats(0, 1e4), st.floats(0, 3))
    def test_are_those_of_python(self, value, exponent):
        found = bounded_power(torch.tensor([value], dtype=torch.float64), exponent)
        assert found.item() == pytest.approx(value**exponent, rel=1e-6, abs=1e-44)

    @pytest.mark.parametrize("exponent", [2.0, 40.0, 1e300])
    def test_that_are_too_large_are_the_largest_number(self, exponent):
        assert bounded_power(torch.tensor([1e30, LARGEST]), exponent).tolist() == [LARGEST] * 2

    def test_of_exponent_0_are_1_even_of_0(self):
        assert bounded_power(torch.tensor([0.0, 1e-45, 7.0, LARGEST]), 0.0).tolist() == [1.0] * 4


class TestExponent:
    def test_predictions_are_powers_of_the_latest_observations(self):
        predictor = observed_predictor(
            [(EVERY.tolist(), [9.0, 9.0, 9.0, 9.0]), ([0, 1, 3], [0.0, 4.0, 0.25])], exponent=0.5
        )
        assert predictor.predict(EVERY).tolist() == [0.0, 2.0, 3.0, 0.5]

    def test_unseen_samples_have_the_mean_of_the_powers_and_not_the_power_of_the_mean(self):
        predictor = observed_predictor([([0, 1], [1.0, 3.0])], exponent=2.0)
        assert predictor.predict(EVERY).tolist() == [1.0, 9.0, 5.0, 5.0]

    def test_unseen_samples_have_the_mean_of_their_class(self):
        labels = torch.tensor([0, 1, 1, 2])
        predictor = observed_predictor([([0, 1], [1.0, 3.0])], labels=labels, num_classes=3, exponent=2.0)
        assert predictor.predict(EVERY).tolist() == [1.0, 9.0, 9.0, 5.0]

    def test_weights_of_the_draw_make_the_mean_that_of_the_data(self):
        predictor, _ = make(exponent=2.0)
        predictor.update(
            torch.tensor([0, 0, 0, 1]),
            torch.tensor([4.0, 4.0, 4.0, 2.0]),
            1,
            weights=torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0], dtype=torch.float64),
            drawn_at=0,
        )
        assert predictor.predict(torch.tensor([3])).tolist() == pytest.approx([10.0])

    def test_exponent_0_is_uniform(self):
        predictor, history = make(exponent=0.0)
        for step, batch in enumerate([([0], [0.0]), ([0, 1], [5.0, 1e30]), ([2, 2], [0.3, 0.3])], start=1):
            assert predictor.predict(EVERY).tolist() == [1.0] * 4
            observe(predictor, history, [tuple(map(torch.tensor, batch))], first_step=step)
        assert predictor.predict(EVERY).tolist() == [1.0] * 4

    @every_exponent
    def test_before_anything_was_seen_predictions_are_1(self, exponent):
        assert make(exponent=exponent)[0].predict(EVERY).tolist() == [1.0] * 4

    @every_exponent
    @pytest.mark.parametrize("values", [[0.0, 0.0], [1e-45, 1e-38], [1e30, LARGEST], [1e-30, 1e30]])
    def test_predictions_are_finite(self, exponent, values):
        predictor = observed_predictor([([0, 1], values)] * 3, exponent=exponent)
        predictions = predictor.predict(EVERY)
        assert predictions.dtype == torch.float32
        assert bool((predictions.isfinite() & (predictions >= 0)).all())

    @every_exponent
    def test_predictions_are_pure_and_do_not_depend_on_the_company(self, exponent):
        predictor, history = make(exponent=exponent)
        observe(predictor, history, [(torch.tensor([0, 1]), torch.tensor([5.0, 0.2]))])
        with assert_unchanged(predictor, history):
            together = predictor.predict(EVERY)
        alone = torch.cat([predictor.predict(index.unsqueeze(0)) for index in EVERY])
        assert torch.equal(alone, together)

    def test_half_precision_histories_are_raised_in_full(self):
        sampler = make_sampler(4, 4, predictor_options={"exponent": 2.0}, history_dtype=torch.float16)
        train(sampler, 1, losses=lambda indices: torch.full((4,), 1000.0))
        assert sampler._learner.predict(EVERY).tolist() == [1e6] * 4

    @every_exponent
    def test_answers_for_unseen_samples_in_its_own_scale(self, exponent):
        predictor, _ = make(exponent=exponent)
        assert predictor.judges_unseen is predictor.own_scale is predictor.knows_draws is True

    def test_exponent_1_is_the_predictor_without_one(self):
        predictor, history = make(exponent=1)
        observe(predictor, history, [(torch.tensor([0, 1]), torch.tensor([5.0, 2.0]))])
        assert predictor.predict(EVERY).tolist() == [5.0, 2.0, 0.0, 0.0]
        assert predictor.state_dict() == {}
        assert predictor.judges_unseen is predictor.own_scale is predictor.knows_draws is False

    def test_samplers_draw_by_powers(self):
        sampler = make_sampler(4, 4, predictor_options={"exponent": 0.5}, smoothing=0.0, k=0.5)
        train(sampler, 1, losses=lambda indices: (1.0 + indices) ** 2)
        expected = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        torch.testing.assert_close(sampler.probabilities(), expected, rtol=1e-5, atol=0)

    def test_samplers_leave_unseen_samples_the_mean_over_the_data(self):
        sampler = make_sampler(8, 8, predictor_options={"exponent": 2.0}, smoothing=0.0, k=0.5)
        train(sampler, 1, losses=lambda indices: torch.where(indices < 6, 1.0 + indices, math.nan))
        mean = sum((1.0 + index) ** 2 for index in range(6)) / 6
        assert sampler._learner.predict(torch.tensor([6, 7])).tolist() == pytest.approx([mean] * 2)


class TestState:
    @every_exponent
    def test_a_restored_predictor_goes_on_to_the_bit(self, exponent):
        (predictor, history), (resumed, resumed_history) = make(exponent=exponent), make(exponent=exponent)
        observe(predictor, history, [(torch.tensor([0, 1]), torch.tensor([5.0, 2.0]))])
        resumed_history.load_state_dict(through_file(history.state_dict()))
        resumed.load_state_dict(through_file(predictor.state_dict()))
        for each, its_history in ((predictor, history), (resumed, resumed_history)):
            observe(each, its_history, [(torch.tensor([2, 1]), torch.tensor([0.1, 9.0]))], first_step=2)
        assert torch.equal(resumed.predict(EVERY), predictor.predict(EVERY))
        assert_same(snapshot(resumed), snapshot(predictor))

    def test_learning_on_leaves_the_loaded_state_as_it_was(self):
        predictor = observed_predictor([([0, 1], [5.0, 2.0])], exponent=0.5)
        resumed, history = make(exponent=0.5)
        resumed.load_state_dict(predictor.state_dict())
        with assert_unchanged(predictor):
            observe(resumed, history, [(torch.tensor([2]), torch.tensor([7.0]))])

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"exponent": 0.6}, r"was made with exponent 0\.6; this one has 0\.5"),
            ({"extra": 1}, r"unknown \['extra'\]"),
            ({"unseen": {}}, r"\['unseen'\]` has not the expected entries: missing \['sums'\]"),
            ({"unseen": {"sums": torch.zeros(2, 3, dtype=torch.float64)}}, r"float64 \[2, 1\]; got .* \[2, 3\]"),
            ({"unseen": {"sums": torch.full((2, 1), -1.0, dtype=torch.float64)}}, r"must be at least 0; got -1"),
            ({"unseen": {"sums": torch.full((2, 1), math.nan, dtype=torch.float64)}}, "must be finite"),
        ],
    )
    def test_a_state_that_does_not_fit_changes_nothing(self, change, match):
        predictor = observed_predictor([([0, 1], [5.0, 2.0])], exponent=0.5)
        with assert_unchanged(predictor), pytest.raises(ValueError, match=match):
            predictor.load_state_dict({**snapshot(predictor), **change})

    def test_states_with_and_without_an_exponent_are_not_exchanged(self):
        with pytest.raises(ValueError, match=r"missing \['exponent', 'unseen'\]"):
            make(exponent=0.5)[0].load_state_dict(make()[0].state_dict())
        with pytest.raises(ValueError, match=r"must be empty; got entries \['exponent', 'unseen'\]"):
            make()[0].load_state_dict(make(exponent=0.5)[0].state_dict())


class TestOptions:
    @pytest.mark.parametrize("exponent", [-0.1, math.nan, math.inf])
    def test_negative_or_infinite_exponents_are_refused(self, exponent):
        with pytest.raises(
            ValueError, match=r"`LastLossPredictor\(exponent=\.\.\.\)` must be finite and at least 0; got"
        ):
            make(exponent=exponent)

    def test_an_exponent_that_is_no_number_is_refused(self):
        with pytest.raises(TypeError, match=r"`LastLossPredictor\(exponent=\.\.\.\)` must be a number; got None"):
            make(exponent=None)
