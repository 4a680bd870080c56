"""When a closed gate tries out its predictor, and how long it rests after that."""

import math

import pytest
from laws import assert_unchanged, through_file

from approx_is.trials import FIRST_REST, FOR_EVER, LONGEST_REST, Trials
from approx_is.variance_evidence import PATIENCE

EPOCH_STEPS = 99.5


def test_a_trial_takes_an_epoch_and_what_the_evidence_needs():
    trials = Trials(EPOCH_STEPS)
    assert not trials.is_running
    trials.begin()
    steps = halves = late = 0
    while trials.is_running:
        trials.learn()
        steps += 1
        halves += trials.is_half_an_epoch_old
        late += trials.is_nearly_over
        assert trials.is_half_an_epoch_old == (steps == 50)
    assert steps == trials.length == 100 + 2 * PATIENCE
    assert (halves, late) == (1, trials.length // 4 + 1)


def test_a_trial_can_be_stopped():
    trials = Trials(EPOCH_STEPS)
    trials.begin()
    trials.stop()
    assert not trials.is_running


def test_rests_become_longer_up_to_a_bound():
    trials = Trials(EPOCH_STEPS)
    lengths = []
    for _ in range(math.ceil(math.log2(LONGEST_REST / FIRST_REST)) + 2):
        trials.rest_again()
        trials.rest_for(FIRST_REST - 1)
        length = FIRST_REST - 1
        while trials.is_resting:
            trials.rest_for(1)
            length += 1
        lengths.append(length)
    assert lengths == [*(FIRST_REST * 2**doublings for doublings in range(6)), LONGEST_REST]


def test_a_rest_can_be_prolonged():
    trials = Trials(EPOCH_STEPS)
    trials.rest_again(at_least=10 * FIRST_REST)
    trials.rest_for(10 * FIRST_REST - 1)
    assert trials.is_resting
    trials.rest_for(2)
    assert not trials.is_resting


def test_a_rest_without_end_has_one():
    trials = Trials(EPOCH_STEPS)
    trials.rest_again(at_least=math.inf)
    assert trials.state_dict()["rest"] == FOR_EVER
    trials.load_state_dict(through_file(trials.state_dict()))


def test_restored_ones_go_on_as_the_original():
    original, restored = Trials(EPOCH_STEPS), Trials(EPOCH_STEPS)
    original.rest_again()
    original.begin()
    original.learn()
    restored.load_state_dict(through_file(original.state_dict()))
    for trials in (original, restored):
        trials.rest_again()
    assert restored.state_dict() == original.state_dict()
    assert original.state_dict() == {"left": original.length - 1, "rest": 2 * FIRST_REST, "next_rest": 4 * FIRST_REST}


@pytest.mark.parametrize("damage", [{"left": -1}, {"left": 1.5}, {"rest": -1}, {"next_rest": FIRST_REST - 1}])
def test_a_state_that_does_not_fit_changes_nothing(damage):
    trials = Trials(EPOCH_STEPS)
    with assert_unchanged(trials), pytest.raises(ValueError, match=next(iter(damage))):
        trials.load_state_dict({**trials.state_dict(), **damage})
