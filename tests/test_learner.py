import math

import pytest
import torch
from laws import assert_same, assert_unchanged, make_predictor, make_sampler, snapshot, through_file, train

from approx_is.backlog import Lesson
from approx_is.learner import Learner
from approx_is.observation import Observation
from approx_is.predictors import UniformPredictor

SIZE = 10
EVERYONE = torch.arange(SIZE)
LABELS = EVERYONE % 2


class Answers(UniformPredictor):
    """Gives the answers it was told to, and keeps what it was shown."""

    judges_unseen = False
    own_scale = False

    def __init__(self, answers=None, **attributes):
        self.answers = torch.full((SIZE,), 3.0) if answers is None else answers
        self.shown = []
        vars(self).update(attributes)

    def predict(self, indices):
        return self.answers[indices]

    def update(self, indices, observed, step):
        self.shown.append((indices.tolist(), observed.tolist(), step))


def make(predictor=None, rolling=0, labels=LABELS):
    _, history = make_predictor("uniform", {}, SIZE)
    predictor = Answers() if predictor is None else predictor
    return Learner(history, predictor, labels, 1 if labels is None else 2, rolling=rolling)


def learn(learner, indices, values, step=1):
    lesson = make_lesson(torch.tensor(indices), torch.tensor(values), step=step)
    learner.learn([lesson], lesson.seen)


def make_lesson(indices, values, weights=None, step=1, drawn_at=None):
    weights = torch.ones(len(indices), dtype=torch.float64) if weights is None else weights
    seen = Observation(indices, values, weights.float(), weights, 0)
    return Lesson(seen, step, step - 1 if drawn_at is None else drawn_at)


def test_the_predictor_learns_before_the_history_grows():
    class Looking(Answers):
        def update(self, indices, observed, step):
            self.counts = learner.history.counts(indices).tolist()

    learner = make(Looking())
    learn(learner, [4, 2], [1.0, 2.0], step=1)
    assert learner.predictor.counts == [0, 0]
    assert learner.history.recent(torch.tensor([4, 2]))[:, 0].tolist() == [1.0, 2.0]


def test_the_predictor_is_shown_what_was_observed():
    learner = make()
    learn(learner, [4, 2], [1.0, 2.0], step=7)
    assert learner.predictor.shown == [([4, 2], [1.0, 2.0], 7)]


def test_what_is_remembered_is_for_history_and_class_means_not_for_the_predictor():
    learner, other = make(), make()
    indices, values, weights = torch.tensor([4, 2, 1]), torch.tensor([1.0, 3.0, 8.0]), torch.ones(3).double()
    learner.remember(indices, values, weights, step=7)
    lesson = make_lesson(indices, values, weights, step=7)
    other.learn([lesson], lesson.seen)
    assert learner.predictor.shown == []
    assert_same(snapshot(learner), snapshot(other))
    assert learner.predict(torch.tensor([0, 3])).tolist() == [2.0, 8.0]


def test_last_observations_are_nan_where_there_is_none():
    learner = make()
    learn(learner, [4, 2], [1.0, 0.0], step=1)
    learn(learner, [4], [5.0], step=2)
    last = learner.last(torch.tensor([4, 3, 2]))
    assert_same(last, torch.tensor([5.0, math.nan, 0.0]))


def test_samples_never_observed_have_the_mean_of_their_class():
    learner = make()
    learn(learner, [0, 2, 1], [1.0, 3.0, 7.0])
    assert learner.predict(torch.tensor([0, 4, 5])).tolist() == [3.0, 2.0, 7.0]


def test_a_predictor_may_judge_samples_never_observed():
    learner = make(Answers(judges_unseen=True))
    learn(learner, [0], [1.0])
    assert learner.predict(EVERYONE).tolist() == [3.0] * SIZE


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-30])
@pytest.mark.parametrize(("judges_unseen", "rejected"), [(False, 2), (True, 3)])
def test_impossible_predictions_are_replaced_and_counted(value, judges_unseen, rejected):
    answers = torch.tensor([value, 3.0, value] + [3.0] * 5 + [value, 3.0])
    learner = make(Answers(answers, judges_unseen=judges_unseen), labels=None)
    learn(learner, [0, 1, 2], [2.0, 2.0, 2.0])
    assert learner.predict(torch.tensor([0, 1, 2, 8])).tolist() == [2.0, 3.0, 2.0, 2.0]
    assert learner.rejected == rejected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_predictions_are_float32_and_detached(dtype):
    learner = make(Answers(torch.full((SIZE,), 3.0, dtype=dtype, requires_grad=True)))
    learn(learner, [0], [1.0])
    predicted = learner.predict(torch.tensor([0]))
    assert predicted.dtype == torch.float32
    assert not predicted.requires_grad


@pytest.mark.parametrize("shape", [(SIZE, 1), (SIZE + 1,), ()])
def test_predictions_of_another_shape_are_refused(shape):
    class Misshapen(Answers):
        def predict(self, indices):
            return torch.ones(shape)

    learner = make(Misshapen())
    with pytest.raises(ValueError, match=r"`Misshapen.predict` must return one value a sample, \[10\]; got \["):
        learner.predict(EVERYONE)


def test_autocast_is_off_for_the_predictor():
    class Multiplying(Answers):
        def predict(self, indices):
            return (torch.full((len(indices), 4), 1.001) @ torch.ones(4, 1)).squeeze(1)

        def update(self, indices, observed, step):
            self.dtype = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    learner = make(Multiplying(judges_unseen=True))
    with torch.autocast("cpu", torch.bfloat16):
        learn(learner, [0], [1.0])
        predicted = learner.predict(EVERYONE)
    assert learner.predictor.dtype == torch.float32
    assert predicted.tolist() == pytest.approx([4.004] * SIZE)


def due(learner, indices=(7,), num_batches=1, *, warming_up=False):
    return learner.due(torch.tensor(indices), num_batches, warming_up=warming_up).tolist()


def test_the_others_are_due_in_turn():
    learner = make(rolling=4)
    assert [due(learner) for _ in range(3)] == [[7, 0, 1, 2, 3], [7, 4, 5, 6, 7], [7, 8, 9, 0, 1]]


def test_no_more_than_all_are_due():
    assert due(make(rolling=50)) == [7, *range(10)]


def test_nobody_else_is_due_without_rolling():
    assert due(make(rolling=0)) == [7]


def test_others_are_due_to_a_local_predictor_for_one_round_after_the_warm_up():
    learner = make(Answers(local=True), rolling=4)
    assert due(learner, warming_up=True) == [7]
    rounds = [due(learner) for _ in range(5)]
    assert rounds == [[7, 0, 1, 2, 3], [7, 4, 5, 6, 7], [7, 8, 9, 0, 1], [7], [7]]


def test_a_predictor_may_have_a_scale_of_its_own():
    assert make(Answers(own_scale=True)).own_scale
    assert not make(Answers(own_scale=False)).own_scale
    assert not make(Answers()).own_scale


def test_a_restored_learner_goes_on_to_the_bit():
    learners = [make(rolling=4), make(rolling=4)]
    learn(learners[0], [0, 3], [1.0, 2.0])
    due(learners[0])
    learners[1].load_state_dict(through_file(learners[0].state_dict()))
    for learner in learners:
        learn(learner, [0, 1], [4.0, 2.0], step=2)
    assert due(learners[1]) == due(learners[0])
    assert_same(snapshot(learners[1]), snapshot(learners[0]))


@pytest.mark.parametrize(
    "name", ["history", "predictor", "class_mean", "cursor", "unsettled", "revision", "outdated", "rejected"]
)
def test_a_state_without_one_of_its_entries_changes_nothing(name):
    learner = make()
    state = snapshot(learner)
    del state[name]
    with assert_unchanged(learner), pytest.raises(ValueError, match=rf"missing \['{name}'\], unknown \[\]"):
        learner.load_state_dict(state)


def test_a_predictor_that_knows_draws_is_told_of_them():
    class Knowing(Answers):
        knows_draws = True

        def update(self, indices, observed, step, **draw):
            self.draw = draw

    learner = make(Knowing())
    weights = torch.tensor([0.5, 2.0], dtype=torch.float64)
    lesson = make_lesson(torch.tensor([4, 2]), torch.tensor([1.0, 2.0]), weights, step=7, drawn_at=3)
    learner.learn([lesson], lesson.seen)
    assert learner.predictor.draw.keys() == {"weights", "drawn_at"}
    assert learner.predictor.draw["drawn_at"] == 3
    assert torch.equal(learner.predictor.draw["weights"], weights)


def test_a_predictor_has_figures_of_its_own_or_none():
    class Measuring(Answers):
        def metrics(self):
            return {"temperature": 36.6}

    assert make().metrics() == {}
    assert make(Measuring()).metrics() == {"temperature": 36.6}


class TestRevision:
    """A sweep over everyone, here of 3 or 4 samples a step."""

    @pytest.fixture(autouse=True)
    def small_sweep(self, monkeypatch):
        monkeypatch.setattr("approx_is.learner.SWEEP", 4)

    def test_everyone_is_due_within_a_sweep(self):
        learner = make(Answers(local=False, revision=0), rolling=1)
        assert due(learner) == [7, 0]
        learner.predictor.revision = 1
        rounds = [due(learner) for _ in range(4)]
        assert rounds == [[7, 1, 2, 3, 4], [7, 5, 6, 7, 8], [7, 9, 0], [7, 1]]

    @pytest.mark.parametrize("sweep", [1, 3, 4, 10, 50])
    @pytest.mark.parametrize("rolling", [0, 2])
    @pytest.mark.parametrize("head_start", [0, 3])
    def test_it_takes_no_more_steps_than_it_must(self, sweep, rolling, head_start, monkeypatch):
        monkeypatch.setattr("approx_is.learner.SWEEP", sweep)
        learner = make(Answers(local=False, revision=0), rolling=rolling)
        for _ in range(head_start):
            due(learner)
        learner.predictor.revision = 5
        steps = math.ceil(SIZE / max(sweep, rolling))
        swept = [index for _ in range(steps) for index in due(learner)[1:]]
        assert set(swept) == set(range(SIZE))
        assert len(due(learner)) == 1 + rolling

    def test_rolling_that_is_wider_than_a_sweep_stays_so(self):
        learner = make(Answers(local=False, revision=0), rolling=6)
        learner.predictor.revision = 1
        assert [len(due(learner)) for _ in range(3)] == [7, 7, 7]

    def test_another_one_in_its_midst_begins_it_anew(self):
        learner = make(Answers(local=False, revision=0))
        learner.predictor.revision = 1
        assert due(learner) == [7, 0, 1, 2, 3]
        learner.predictor.revision = 2
        swept = [due(learner)[1:] for _ in range(4)]
        assert swept == [[4, 5, 6, 7], [8, 9, 0, 1], [2, 3], []]

    def test_more_samples_than_it_would_be_through_with_are_left_to_the_rolling_round(self, monkeypatch):
        monkeypatch.setattr("approx_is.learner.LARGEST_SWEPT", SIZE - 1)
        learner = make(Answers(local=False, revision=0), rolling=1)
        learner.predictor.revision = 1
        assert [len(due(learner)) for _ in range(3)] == [2, 2, 2]

    def test_that_a_predictor_begins_with_is_none(self):
        assert due(make(Answers(local=False, revision=3))) == [7]

    def test_it_happens_during_the_warm_up_too(self):
        learner = make(Answers(local=False, revision=0))
        learner.predictor.revision = 1
        assert due(learner, warming_up=True) == [7, 0, 1, 2, 3]

    @pytest.mark.parametrize("steps", [0, 1, 2, 3, 4])
    def test_resumed_in_its_midst_it_goes_on(self, steps):
        class Stateful(Answers):
            def state_dict(self):
                return {"revision": self.revision}

            def load_state_dict(self, state):
                self.revision = state["revision"]

        learner, resumed = (make(Stateful(local=False, revision=0), rolling=1) for _ in range(2))
        due(learner)
        learner.predictor.revision = 1
        for _ in range(steps):
            due(learner)
        resumed.load_state_dict(through_file(learner.state_dict()))
        assert_same(snapshot(resumed), snapshot(learner))
        assert [due(resumed) for _ in range(6)] == [due(learner) for _ in range(6)]

    def test_all_predictions_of_a_sampler_are_those_of_the_revision(self):
        class Revised(Answers):
            local = False
            revision = 0

            def __init__(self, *arguments):
                super().__init__()

            def predict(self, indices):
                return torch.full((len(indices),), 1.0 + self.revision)

        sampler = make_sampler(SIZE, 2, predictor=Revised, refresh=math.inf)
        train(sampler, 5)
        predictor = sampler._learner.predictor
        predictor.revision = 6
        renewed = []
        for _ in range(4):
            train(sampler, 1)
            renewed.append((sampler._drawer.proposal.importance(EVERYONE) == 7.0).sum().item())
        assert renewed[0] < SIZE
        assert renewed[2:] == [SIZE, SIZE]
