import math

import pytest
import torch
from laws import assert_same, assert_unchanged, make_predictor, snapshot, through_file

from approx_is.learner import Learner
from approx_is.predictors import UniformPredictor

SIZE = 10
EVERYONE = torch.arange(SIZE)
LABELS = EVERYONE % 2


class Answers(UniformPredictor):
    """Gives the answers it was told to, and keeps what it was shown."""

    judges_unseen = False

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
    indices = torch.tensor(indices)
    learner.learn(indices, torch.tensor(values), torch.ones(len(indices), dtype=torch.float64), step, drawn_at=step - 1)


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


def due(learner, indices=(7,), *, warming_up=False):
    return learner.due(torch.tensor(indices), warming_up=warming_up).tolist()


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


def test_a_restored_learner_goes_on_to_the_bit():
    learners = [make(rolling=4), make(rolling=4)]
    learn(learners[0], [0, 3], [1.0, 2.0])
    due(learners[0])
    learners[1].load_state_dict(through_file(learners[0].state_dict()))
    for learner in learners:
        learn(learner, [0, 1], [4.0, 2.0], step=2)
    assert due(learners[1]) == due(learners[0])
    assert_same(snapshot(learners[1]), snapshot(learners[0]))


@pytest.mark.parametrize("name", ["history", "predictor", "class_mean", "cursor", "unsettled", "rejected"])
def test_a_state_without_one_of_its_entries_changes_nothing(name):
    learner = make()
    state = snapshot(learner)
    del state[name]
    with assert_unchanged(learner), pytest.raises(ValueError, match=rf"missing \['{name}'\], unknown \[\]"):
        learner.load_state_dict(state)
