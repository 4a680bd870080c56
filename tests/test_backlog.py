"""Several updates learned from at once."""

import copy
import math

import laws
import pytest
import torch

from approx_is import VarianceGate
from approx_is.backlog import Backlog, Lesson, default_update_every
from approx_is.observation import Observation
from approx_is.predictors import UniformPredictor
from approx_is.smoothing import ConstantSmoothing

every_configuration = pytest.mark.parametrize(("predictor", "options"), laws.CONFIGURATIONS, ids=laws.CONFIGURATION_IDS)


class Recording(UniformPredictor):
    """Remembers what it was shown, and how many observations the history had of it by then."""

    knows_draws = True
    local = False

    def __init__(self, history, *arguments):
        super().__init__(history, *arguments)
        self.history, self.shown, self.asked = history, [], []

    def predict(self, indices):
        self.asked.append(indices.clone())
        return super().predict(indices)

    def update(self, indices, observed, step, *, weights, drawn_at):
        counts = self.history.counts(indices).tolist()
        self.shown.append((indices.tolist(), observed.tolist(), step, weights.tolist(), drawn_at, counts))


def lesson(indices, importance, step=1):
    indices, importance = torch.tensor(indices), torch.tensor(importance)
    weights = torch.ones(len(indices))
    return Lesson(Observation(indices, importance, weights, weights.double(), 0), step, step - 1)


def backlog(*lessons, size=4):
    held = Backlog(size, num_samples=10, device=torch.device("cpu"))
    for each in lessons:
        held.add(each, uniform=False, first=False)
    return held


def past_first_epoch(predictor="last-loss", update_every=3, **options):
    """Return a sampler that draws by importance and has learned from all it observed."""
    sampler = laws.make_sampler(12, 4, predictor=predictor, update_every=update_every, **options)
    laws.train(sampler, 3)
    return sampler


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "expected"),
    [(1, 1, 1), (8_191, 128, 1), (8_192, 128, 2), (43_500, 128, 8), (60_000, 128, 8), (10**8, 128, 8), (10, 100, 1)],
)
def test_golden_defaults(num_samples, batch_size, expected):
    assert default_update_every(num_samples, batch_size) == expected
    if num_samples < 10**6:  # more take a while to build
        assert laws.make_sampler(num_samples, batch_size).update_every == expected


class TestLearning:
    def test_is_put_off_until_there_are_enough_updates(self):
        sampler = past_first_epoch(Recording)
        predictor, history = sampler._learner.predictor, sampler._learner.history
        with laws.assert_unchanged(history, sampler._drawer.proposal._tree, sampler._drawer.proposal._smoothing):
            draws = laws.train(sampler, 2)
        assert len(predictor.shown) == 3
        draws += laws.train(sampler, 1)
        assert len(predictor.shown) == 6
        assert history.step == sampler.step == 6
        drawn = torch.cat([draw.indices for draw in draws]).unique()
        assert bool((history.last_step(drawn) == 6).all())
        assert bool((history.counts(drawn) == 2).all())  # one of the first epoch, one of all three batches

    def test_shows_the_predictor_batch_by_batch_what_it_should_have_predicted(self):
        sampler = past_first_epoch(Recording)
        draws = laws.train(sampler, 3)
        for step, (draw, shown) in enumerate(zip(draws, sampler._learner.predictor.shown[3:], strict=True), start=4):
            indices, observed, at, weights, drawn_at, counts = shown
            assert indices == draw.indices.tolist()
            assert observed == laws.steady_losses(draw.indices).tolist()
            assert at == step
            assert weights == pytest.approx((1 / (12 * draw.probabilities)).tolist())
            assert drawn_at == step - 1
            assert counts == [1] * 4

    def test_a_sample_seen_by_several_updates_enters_the_history_once_with_the_mean(self):
        sampler = laws.make_sampler(4, 2, predictor=Recording, update_every=2)
        for indices, observed in ([0, 1], [1.0, 5.0]), ([1, 2], [3.0, 7.0]):
            chances, ones = torch.full((2,), 0.25).double(), torch.ones(2)
            draw = sampler.restore_draw(torch.tensor(indices), chances, ones, place=None, drawn_at=0, choose=0)
            sampler.update(draw, torch.tensor(observed))
        shown = [(indices, observed) for indices, observed, *_ in sampler._learner.predictor.shown]
        assert shown == [([0, 1], [1.0, 4.0]), ([1, 2], [4.0, 7.0])]
        history = sampler._learner.history
        assert history.counts(torch.arange(4)).tolist() == [1, 1, 1, 0]
        assert history.last(torch.arange(4)).tolist() == [1.0, 4.0, 7.0, 0.0]

    def test_predicts_those_drawn_and_as_many_others_as_that_many_updates_would(self):
        sampler = past_first_epoch(Recording, refresh=2)
        draws = laws.train(sampler, 3)
        asked = sampler._learner.predictor.asked[-1]
        assert torch.equal(asked[:12], torch.cat([draw.indices for draw in draws]))
        assert len(asked) == 12 + 3 * 2

    def test_does_not_wait_at_the_end_of_plain_epochs(self):
        sampler = laws.make_sampler(10, 4, predictor=Recording, update_every=4)
        laws.train(sampler, 3)
        assert len(sampler._learner.predictor.shown) == 0
        laws.train(sampler, 1)
        assert [step for _, _, step, *_ in sampler._learner.predictor.shown] == [1, 2, 3]

    def test_averages_are_as_after_so_many_equal_batches(self):
        together, one_by_one = (past_first_epoch(update_every=every, smoothing=0.5) for every in (3, 1))
        for sampler in (together, one_by_one):  # the same draws, since the proposal is constant
            sampler._drawer.proposal.set_importance = lambda indices, importance: None
            sampler._drawer.proposal._tree.set_values(torch.arange(12), torch.ones(12))
        for sampler in (together, one_by_one):
            laws.train(sampler, 300, losses=lambda indices: torch.full((len(indices),), 2.0))
        found, expected = together.metrics(), one_by_one.metrics()
        for name in ("observed_importance", "variance_ratio", "effective_sample_size", "calibration"):
            assert found[name] == pytest.approx(expected[name], rel=1e-9), name
        assert together.gain._batches == one_by_one.gain._batches == 300
        assert together.gain._batch_size == one_by_one.gain._batch_size == 4

    def test_a_closed_gate_that_remembers_learns_what_came_before_first(self):
        sampler = laws.make_sampler(8, 4, predictor=Recording, gate=VarianceGate(margin=math.inf), update_every=5)
        feedback, history = sampler._feedback, sampler._learner.history
        held = lesson([1, 2], [4.0, 6.0])
        feedback._backlog.add(held, uniform=True, first=True)
        feedback._remember(lesson([2, 3], [1.0, 2.0], step=2))
        assert history.recent(torch.tensor([2]))[0, :2].tolist() == [6.0, 1.0]
        assert history.last(torch.tensor([1, 2, 3])).tolist() == [4.0, 1.0, 2.0]

    @pytest.mark.parametrize("smoothing", ["adaptive", ConstantSmoothing(0.1)])
    def test_draws_are_from_the_probabilities_announced_all_along(self, smoothing):
        sampler = past_first_epoch(smoothing=smoothing)
        for _ in range(10):
            draw = laws.assert_draws_are_from(sampler)
            sampler.update(draw, laws.steady_losses(draw.indices))

    def test_that_fails_leaves_what_was_observed_in_the_history(self):
        class Failing(Recording):
            fails = False

            def update(self, indices, observed, step, **draw):
                if self.fails:
                    raise RuntimeError("no")
                super().update(indices, observed, step, **draw)

        sampler = past_first_epoch(Failing)
        sampler._learner.predictor.fails = True
        laws.train(sampler, 2)
        draw = sampler.draw()
        with pytest.raises(RuntimeError, match="no"):
            sampler.update(draw, laws.steady_losses(draw.indices))
        assert bool((sampler._learner.history.last_step(draw.indices) == 6).all())
        sampler._learner.predictor.fails = False
        laws.train(sampler, 1)
        assert [shown[2] for shown in sampler._learner.predictor.shown] == [1, 2, 3]
        laws.train(sampler, 2)
        assert [shown[2] for shown in sampler._learner.predictor.shown] == [1, 2, 3, 7, 8, 9]


class TestState:
    @every_configuration
    @pytest.mark.parametrize("steps", [3, 4, 5])
    def test_a_run_is_resumed_to_the_bit_wherever_it_was_saved(self, predictor, options, steps):
        arguments = {"update_every": 3, "predictor_options": options, "labels": torch.arange(12) % 3}
        original, resumed = (laws.make_sampler(12, 4, predictor=predictor, **arguments) for _ in range(2))
        laws.train(original, steps)
        resumed.load_state_dict(laws.through_file(original.state_dict()))
        laws.assert_same_draws(laws.train(resumed, 7), laws.train(original, 7))
        laws.assert_same(laws.snapshot(resumed), laws.snapshot(original))

    def test_between_the_draw_and_the_update_too(self):
        original, resumed = past_first_epoch(), past_first_epoch()
        laws.train(original, 1)
        draws = [original.draw(), original.draw()]
        resumed.load_state_dict(laws.through_file(original.state_dict()))
        laws.assert_same_draws([resumed.draw()], [original.draw()])
        assert len(draws) == 2

    @pytest.mark.parametrize(
        ("damage", "match"),
        [
            (lambda state: state.update(lessons={}), "must be a list"),
            (lambda state: state["lessons"][0].update(indices=torch.tensor([3, 10])), r"must be in \[0, 10\)"),
            (lambda state: state["lessons"][0].update(importance=torch.tensor([3.0, -1.0])), "finite and at least 0"),
            (lambda state: state["lessons"][0].update(unbiased=torch.ones(3).double()), r"\[2\]"),
            (lambda state: state["lessons"][0].update(step=-1), "at least 0"),
            (lambda state: state["lessons"][0].pop("weights"), "missing"),
            (lambda state: state["lessons"].append(None), "must be a dict"),
            (lambda state: state.update(uniform=0), "type bool"),
        ],
    )
    def test_a_damaged_one_changes_nothing(self, damage, match):
        state = laws.snapshot(backlog(lesson([1, 2], [1.0, 2.0])))
        damage(state)
        other = backlog(lesson([5], [3.0], step=4))
        with laws.assert_unchanged(other), pytest.raises(ValueError, match=match):
            other.load_state_dict(state)

    def test_is_a_copy(self):
        one, other = backlog(lesson([1, 2], [1.0, 2.0])), backlog()
        other.load_state_dict(one.state_dict())
        before = copy.deepcopy(other.state_dict())
        one.lessons[0].seen.importance.fill_(9.0)
        laws.assert_same(other.state_dict(), before)


@pytest.mark.parametrize("update_every", [0, -1])
def test_less_than_one_update_is_refused(update_every):
    with pytest.raises(ValueError, match=r"`update_every` must be at least 1; got"):
        laws.make_sampler(update_every=update_every)


def test_a_refused_observation_leaves_what_is_held_as_it_was():
    sampler = past_first_epoch()
    laws.train(sampler, 1)
    draw = sampler.draw()
    with laws.assert_unchanged(sampler), pytest.raises(ValueError, match="at least 0"):
        sampler.update(draw, torch.tensor([1.0, 2.0, -3.0, 4.0]))


def test_a_predictor_that_joins_batches_is_called_once():
    class Joining(UniformPredictor):
        joins_batches = True
        shown = ()

        def update(self, indices, observed, step, *, num_batches):
            self.shown = (*self.shown, (len(indices), step, num_batches))

    sampler = laws.make_sampler(12, 4, predictor=Joining, update_every=3)
    laws.train(sampler, 6)
    assert sampler._learner.predictor.shown == ((12, 3, 3), (12, 6, 3))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("class-gaussian", {}),
        ("class-gaussian", {"std": 1.0}),
        ("lstm", {}),
        ("lstm", {"objective": "squared", "inputs": "loss"}),
        ("lstm", {"train_every": 2}),
    ],
)
def test_predictors_that_join_batches_learn_from_each(name, options):
    joined, one_by_one = (
        laws.make_predictor(name, options, labels=torch.arange(12) % 3, num_classes=3)[0] for _ in range(2)
    )
    assert joined.joins_batches
    batches = [(torch.tensor([1, 2]), torch.tensor([1.0, 4.0])), (torch.tensor([0, 1]), torch.tensor([7.0, 2.0]))]
    joined.update(*(torch.cat(values) for values in zip(*batches, strict=True)), 2, num_batches=2)
    for step, (indices, values) in enumerate(batches, start=1):
        one_by_one.update(indices, values, step)
    everyone = torch.arange(12)
    torch.testing.assert_close(joined.predict(everyone), one_by_one.predict(everyone), rtol=1e-5, atol=0)
