"""Ranks: golden values, when they are made and of what, the selection pressure, and the laws of predictors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_same, assert_unchanged, make_sampler, observe, snapshot, through_file, train

import approx_is.predictors.rank as rank_module
from approx_is import LossHistory
from approx_is.annealing import GeometricAnnealing
from approx_is.predictors.rank import RankPredictor, descending_ranks, mean_rank_score, rank_scores
from approx_is.protocols import Predictor

ALL = torch.arange(12)
LOSSES = torch.tensor([3.0, 8.0, 1.0, 5.0, 11.0, 2.0, 7.0, 12.0, 4.0, 9.0, 6.0, 10.0])
RANKS = [9, 4, 11, 7, 1, 10, 5, 0, 8, 3, 6, 2]
AGAIN = (torch.tensor([2, 2, 7]), torch.tensor([20.0, 20.0, 0.5]))
HARD = {
    "all zero": torch.zeros(12),
    "all equal": torch.full((12,), 3.0),
    "tiny": torch.full((12,), 1e-45),
    "enormous": torch.full((12,), 3e38),
    "many orders of magnitude": torch.logspace(-40, 38, 12),
}


def make(num_samples=12, **options):
    history = LossHistory(num_samples, 2)
    return RankPredictor(history, None, 1, torch.Generator(), **options), history


def make_ranked(losses=LOSSES, **options):
    """Return a predictor, and its history, just after its first ranking, by `losses`."""
    predictor, history = make(len(losses), every=1, **options)
    observe(predictor, history, [(torch.arange(len(losses)), losses)])
    predictor.update(torch.tensor([0]), torch.tensor([0.0]), 2)
    return predictor, history


def ranks(predictor):
    return predictor.state_dict()["ranks"].tolist()


class TestScores:
    @pytest.mark.parametrize(("pressure", "ratio"), [(83.1764, 82.8095), (1.0, 1.0), (100.0, 99.5405)])
    def test_golden_ratio_of_the_largest_to_the_smallest(self, pressure, ratio):
        losses = torch.rand(1000, generator=torch.Generator().manual_seed(0))
        importance = make_ranked(losses, pressure=pressure)[0].predict(torch.arange(1000)).double()
        assert float(importance.max() / importance.min()) == pytest.approx(ratio, rel=1e-5)

    def test_golden_values(self):
        predictor, _ = make_ranked(torch.tensor([1.0, 9.0, 4.0, 7.0]), pressure=16.0)
        assert predictor.predict(torch.tensor([1, 3, 2, 0])).tolist() == [1.0, 0.5, 0.25, 0.125]

    def test_without_pressure_all_scores_are_1(self):
        assert make_ranked(pressure=1)[0].predict(ALL).tolist() == [1.0] * 12

    @given(st.floats(1, 1e30), st.integers(1, 50))
    def test_fall_by_equal_factors(self, pressure, num_samples):
        scores = rank_scores(torch.arange(num_samples, dtype=torch.int32), num_samples, pressure).double()
        assert scores[0] == 1
        factor = pressure ** (-1 / num_samples)
        torch.testing.assert_close(scores[1:] / scores[:-1], torch.full_like(scores[1:], factor), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("pressure", [1.0, 1 + 1e-15, 1.5, 100.0, 1e6, 1e300])
    def test_mean_is_that_of_many_samples(self, pressure):
        num_samples = 10**6
        mean = float(rank_scores(torch.arange(num_samples), num_samples, pressure).double().mean())
        assert mean_rank_score(pressure) == pytest.approx(mean, rel=1e-3)

    @pytest.mark.parametrize(("pressure", "mean"), [(1.0, 1.0), (100.0, 0.2149758), (math.e, 0.6321206)])
    def test_golden_means(self, pressure, mean):
        assert mean_rank_score(pressure) == pytest.approx(mean, rel=1e-6)


class TestRanks:
    @given(st.lists(st.sampled_from([0.0, 1.0, 2.0]) | st.floats(0, 2.0**127, width=32), min_size=1, max_size=30))
    def test_are_a_stable_permutation_by_falling_value(self, values):
        found = descending_ranks(torch.tensor(values))
        assert found.dtype == torch.int32
        expected = sorted(range(len(values)), key=lambda index: (-values[index], index))
        assert found.argsort().tolist() == expected

    @pytest.mark.parametrize("chunk", [1, 5, 12])
    def test_do_not_depend_on_the_size_of_a_chunk(self, chunk, monkeypatch):
        monkeypatch.setattr(rank_module, "CHUNK", chunk)
        predictor, history = make(every=1)
        observe(predictor, history, [(torch.tensor([1, 3]), torch.tensor([8.0, 2.0])), *[AGAIN] * 2])
        assert ranks(predictor) == [2, 1, 0, 10, 3, 4, 5, 11, 6, 7, 8, 9]  # the unseen at (8 + 2 + 20 + 0.5) / 4

    def test_are_of_the_latest_observations_of_all_samples(self):
        predictor, history = make(every=2)
        observe(predictor, history, [(ALL, LOSSES.flip(0)), (ALL, LOSSES), AGAIN])
        assert ranks(predictor) == RANKS  # what this update observed is not in the history yet
        observe(predictor, history, [AGAIN], first_step=4)
        assert ranks(predictor) == RANKS
        observe(predictor, history, [AGAIN], first_step=5)
        later = LOSSES.clone()
        later[2], later[7] = 20.0, 0.5
        assert ranks(predictor) == descending_ranks(later).tolist()
        assert ranks(predictor) != RANKS

    def test_unseen_samples_stand_at_the_mean_of_the_seen(self):
        predictor, history = make(6, every=1)
        observe(predictor, history, [(torch.tensor([0, 2, 4, 5]), torch.tensor([1.0, 6.0, 2.0, 3.0]))])
        predictor.update(torch.tensor([0]), torch.tensor([0.0]), 2)
        assert ranks(predictor) == [5, 1, 0, 2, 4, 3]  # the mean is 3, as sample 5's

    def test_the_mean_of_enormous_observations_does_not_overflow(self):
        predictor, history = make(4, every=1)
        observe(predictor, history, [(torch.tensor([0, 2, 3]), torch.tensor([3e38, 1e38, 3e38]))])
        predictor.update(torch.tensor([0]), torch.tensor([0.0]), 2)
        assert ranks(predictor) == [0, 2, 3, 1]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_are_those_of_a_history_of_any_dtype(self, dtype):
        history = LossHistory(12, 2, dtype=dtype)
        predictor = RankPredictor(history, None, 1, torch.Generator(), every=1)
        observe(predictor, history, [(ALL, LOSSES), AGAIN])
        assert ranks(predictor) == RANKS


class TestTime:
    def test_before_the_first_ranking_all_have_the_mean_score(self):
        predictor, history = make(pressure=100)
        for step in (1, 2):
            assert predictor.predict(ALL).tolist() == pytest.approx([0.2149758] * 12, rel=1e-6)
            assert predictor.revision == 0
            observe(predictor, history, [(ALL[:6], LOSSES[:6])], first_step=step)

    @pytest.mark.parametrize(
        ("batch_size", "expected"),
        [(5, [0, 0, 0, 1, 1, 1, 2]), (4, [0, 0, 0, 1, 1, 1, 2]), (12, [0, 1, 2, 3, 4, 5, 6])],
    )
    def test_an_epoch_of_observations_is_waited_for(self, batch_size, expected):
        predictor, history = make()
        revisions = []
        for step in range(1, 8):
            observe(predictor, history, [(ALL[:batch_size], LOSSES[:batch_size])], first_step=step)
            revisions.append(predictor.revision)
        assert revisions == expected

    @pytest.mark.parametrize(
        ("every", "expected"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 0, 1, 1, 2, 2]), (5, [0, 0, 0, 0, 0, 1])]
    )
    def test_updates_between_rankings_are_counted(self, every, expected):
        predictor, history = make(every=every)
        revisions = []
        for step in range(1, 7):
            observe(predictor, history, [(ALL, LOSSES)], first_step=step)
            revisions.append(predictor.revision)
        assert revisions == expected

    def test_between_rankings_predictions_stay(self):
        predictor, history = make(every=3)
        observe(predictor, history, [(ALL, LOSSES)] * 4)
        before = predictor.predict(ALL)
        observe(predictor, history, [(ALL, LOSSES.flip(0)), AGAIN], first_step=5)
        assert torch.equal(predictor.predict(ALL), before)
        observe(predictor, history, [AGAIN], first_step=7)
        assert not torch.equal(predictor.predict(ALL), before)

    def test_pressure_is_that_of_the_ranking(self):
        predictor, history = make(pressure=GeometricAnnealing(100, 1, 4), every=2)
        spreads = []
        for step in range(1, 9):
            observe(predictor, history, [(ALL, LOSSES)], first_step=step)
            scores = predictor.predict(ALL)
            spreads.append(float(scores.max() / scores.min()) ** (12 / 11))
        at_3 = 100**0.25
        assert spreads == pytest.approx([1, 1, at_3, at_3, 1, 1, 1, 1], rel=1e-5)

    def test_pressure_at_step_0_is_that_before_the_first_ranking(self):
        predictor, _ = make(pressure=GeometricAnnealing(100, 1, 4))
        assert predictor.predict(ALL).tolist() == pytest.approx([0.2149758] * 12, rel=1e-6)


class TestLaws:
    def test_is_a_predictor_with_a_scale_of_its_own(self):
        predictor, _ = make()
        assert isinstance(predictor, Predictor)
        assert RankPredictor.judges_unseen is True
        assert RankPredictor.own_scale is True
        assert RankPredictor.smoothing_fraction == 0.0
        assert not hasattr(predictor, "local")  # others' predictions change with a ranking

    @pytest.mark.parametrize("losses", HARD.values(), ids=HARD.keys())
    @pytest.mark.parametrize("pressure", [1.0, 100.0, 1e308])
    def test_predictions_are_finite_and_between_0_and_1(self, losses, pressure):
        predictor, _ = make_ranked(losses, pressure=pressure)
        for indices in (ALL, torch.tensor([], dtype=torch.int64), torch.tensor([3, 3, 0])):
            scores = predictor.predict(indices)
            assert (scores.shape, scores.dtype, scores.requires_grad) == (indices.shape, torch.float32, False)
            assert bool(((scores >= 0) & (scores <= 1)).all())

    def test_predictions_are_pure(self):
        predictor, history = make_ranked()
        with assert_unchanged(predictor, history):
            assert torch.equal(predictor.predict(ALL), predictor.predict(ALL))

    @pytest.mark.parametrize("is_ranked", [False, True])
    def test_predictions_do_not_depend_on_the_company(self, is_ranked):
        predictor = (make_ranked() if is_ranked else make())[0]
        together = predictor.predict(ALL)
        assert torch.equal(torch.cat([predictor.predict(index.unsqueeze(0)) for index in ALL]), together)
        assert torch.equal(predictor.predict(ALL.flip(0)), together.flip(0))

    def test_labels_and_generator_make_no_difference(self):
        history = LossHistory(12, 2)
        generator = torch.Generator().manual_seed(7)
        before = generator.get_state()
        labelled = RankPredictor(history, ALL % 3, 3, generator, every=1)
        observe(labelled, history, [(ALL, LOSSES), AGAIN])
        assert torch.equal(labelled.predict(ALL), make_ranked()[0].predict(ALL))
        assert torch.equal(generator.get_state(), before)


class TestState:
    def test_a_restored_predictor_goes_on_to_the_bit(self):
        options = {"pressure": GeometricAnnealing(100, 1, 20), "every": 2}
        (predictor, history), (resumed, resumed_history) = make(**options), make(**options)
        observe(predictor, history, [(ALL, LOSSES)] * 4)
        resumed_history.load_state_dict(through_file(history.state_dict()))
        resumed.load_state_dict(through_file(predictor.state_dict()))
        assert torch.equal(resumed.predict(ALL), predictor.predict(ALL))
        assert resumed.revision == predictor.revision == 1
        for step, batch in enumerate([AGAIN, (ALL[:3], LOSSES[:3]), AGAIN], start=5):
            for each, its_history in ((predictor, history), (resumed, resumed_history)):
                observe(each, its_history, [batch], first_step=step)
            assert torch.equal(resumed.predict(ALL), predictor.predict(ALL))
        assert_same(snapshot(resumed), snapshot(predictor))
        assert predictor.revision == 3

    def test_learning_on_leaves_the_loaded_state_as_it_was(self):
        predictor, _ = make_ranked()
        resumed, history = make(every=1)
        resumed.load_state_dict(predictor.state_dict())
        with assert_unchanged(predictor):
            observe(resumed, history, [AGAIN, AGAIN], first_step=3)
        assert ranks(resumed) != ranks(predictor)

    def test_a_loaded_state_is_a_copy(self):
        state = snapshot(make_ranked()[0])
        predictor, _ = make()
        predictor.load_state_dict(state)
        state["ranks"].zero_()
        assert ranks(predictor) == RANKS

    @pytest.mark.parametrize(
        ("entry", "value", "match"),
        [
            ("ranks", torch.zeros(11, dtype=torch.int32), r"must be torch.int32 \[12\]; got torch.int32 \[11\]"),
            ("ranks", torch.zeros(12, dtype=torch.int64), r"must be torch.int32 \[12\]; got torch.int64 \[12\]"),
            ("ranks", torch.full((12,), -1, dtype=torch.int32), r"\['ranks'\]` must be at least 0; got -1"),
            ("ranks", torch.full((12,), 12, dtype=torch.int32), r"\['ranks'\]` must be below 12; got 12"),
            ("pressure", 0.5, r"\['pressure'\]` must be at least 1; got 0.5"),
            ("pressure", math.inf, r"\['pressure'\]` must be finite; got inf"),
            ("rankings", -1, r"\['rankings'\]` must be at least 0; got -1"),
            ("updates", -1, r"\['updates'\]` must be at least 0; got -1"),
            ("observations", -1, r"\['observations'\]` must be at least 0; got -1"),
            ("observations", 1.0, r"\['observations'\]` must be of type int; got float"),
            ("extra", 1, r"unknown \['extra'\]"),
        ],
    )
    def test_a_damaged_state_changes_nothing(self, entry, value, match):
        predictor, _ = make_ranked()
        with assert_unchanged(predictor), pytest.raises(ValueError, match=match):
            predictor.load_state_dict({**snapshot(predictor), entry: value})

    def test_missing_entries_are_named(self):
        predictor, _ = make_ranked()
        for entry in predictor.state_dict():
            state = snapshot(predictor)
            del state[entry]
            with assert_unchanged(predictor), pytest.raises(ValueError, match=f"missing.*{entry}"):
                predictor.load_state_dict(state)


class TestOptions:
    @pytest.mark.parametrize("pressure", [0.99, 0, -5.0, math.nan, math.inf])
    def test_pressure_below_1_or_not_finite_is_refused(self, pressure):
        with pytest.raises(ValueError, match=r"`RankPredictor\(pressure=\.\.\.\)` must be finite and at least 1; got"):
            make(pressure=pressure)

    def test_pressure_that_is_no_number_is_refused(self):
        with pytest.raises(TypeError, match=r"`RankPredictor\(pressure=\.\.\.\)` must be a number; got \[\]"):
            make(pressure=[])

    def test_a_function_is_tried_at_once(self):
        with pytest.raises(ValueError, match=r"pressure=\.\.\.\)\(0\)` must be finite and at least 1; got 0\.5"):
            make(pressure=lambda step: 0.5)

    def test_a_function_that_goes_wrong_later_changes_nothing(self):
        predictor, history = make(pressure=lambda step: 3.0 - step, every=1)
        observe(predictor, history, [(ALL, LOSSES), AGAIN])
        with assert_unchanged(predictor), pytest.raises(ValueError, match=r"\(3\)` must be finite and at .*; got 0\.0"):
            predictor.update(ALL, LOSSES, 3)

    def test_every_must_be_a_positive_integer(self):
        with pytest.raises(ValueError, match=r"`RankPredictor\(every=\.\.\.\)` must be at least 1; got 0"):
            make(every=0)
        with pytest.raises(TypeError, match=r"`RankPredictor\(every=\.\.\.\)` must be an integer; got 0\.5"):
            make(every=0.5)


class TestInSampler:
    def test_draws_end_by_rank(self):
        options = {"pressure": 100.0, "every": 1}
        sampler = make_sampler(50, 50, predictor=RankPredictor, predictor_options=options, k=0.0)
        train(sampler, 6, losses=lambda indices: 1e-6 * (1.0 + indices))  # of whatever scale
        expected = 100.0 ** (-np.arange(49, -1, -1) / 50)
        probabilities = sampler.probabilities().numpy()
        assert probabilities == pytest.approx(expected / expected.sum(), rel=1e-4)

    def test_resumes_to_the_bit(self):
        arguments = {"predictor": RankPredictor, "predictor_options": {"every": 2}, "k": 0.0}
        sampler, resumed = make_sampler(12, 4, **arguments), make_sampler(12, 4, **arguments)
        train(sampler, 9)
        resumed.load_state_dict(through_file(sampler.state_dict()))
        train(sampler, 7)
        train(resumed, 7)
        assert_same(snapshot(resumed), snapshot(sampler))
