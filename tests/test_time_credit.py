"""What a predictor may take before it is known to be worth it."""

import math

import pytest
from laws import assert_unchanged, through_file

from approx_is.time_credit import LARGEST_DEBT, LEAST_ADVANCE, TimeCredit


def test_earns_by_the_step_and_is_spent_by_what_takes_longer():
    credit = TimeCredit(0.1, epoch_steps=1)
    credit.earn()
    credit.spend(0.3)
    assert credit.value == pytest.approx(LEAST_ADVANCE + 0.1 - 0.3)


def test_learning_of_unknown_length_is_charged_once_it_is_known():
    credit = TimeCredit(0.0, epoch_steps=1)
    for surcharge in (math.nan, math.nan):
        credit.spend_learning(surcharge)
    assert credit.value == LEAST_ADVANCE
    credit.spend(0.0)
    credit.spend_learning(0.5)
    assert credit.value == LEAST_ADVANCE - 3 * 0.5
    credit.spend_learning(0.5)
    assert credit.value == LEAST_ADVANCE - 4 * 0.5


def test_tells_how_long_it_will_stay_below_a_value():
    credit = TimeCredit(0.25, epoch_steps=1)
    assert credit.steps_below(LEAST_ADVANCE, 100) == 0
    steps = credit.steps_below(LEAST_ADVANCE + 2, 100)
    assert 6 <= steps < 8
    credit.earn(steps)
    assert credit.value < LEAST_ADVANCE + 2
    assert credit.steps_below(1e9, 100) == 100
    assert [TimeCredit(budget, epoch_steps=1).steps_below(1e9, 7) for budget in (0.0, 1e-310, math.inf)] == [7, 7, 0]


def test_debts_and_savings_are_bounded():
    credit = TimeCredit(math.inf, epoch_steps=1)
    credit.earn()
    assert math.isfinite(credit.value)
    credit.spend(math.inf)
    assert credit.value == -LARGEST_DEBT


def test_a_restored_one_goes_on_as_the_original():
    original, restored = TimeCredit(0.1, epoch_steps=1), TimeCredit(0.1, epoch_steps=1)
    original.spend_learning(math.nan)
    original.earn()
    restored.load_state_dict(through_file(original.state_dict()))
    for credit in (original, restored):
        credit.spend_learning(0.2)
    assert restored.value == original.value == pytest.approx(LEAST_ADVANCE + 0.1 - 0.4)


@pytest.mark.parametrize(
    "damage", [{"credit": math.nan}, {"credit": -LARGEST_DEBT - 1}, {"uncharged": -1}, {"uncharged": 1.0}]
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage):
    credit = TimeCredit(0.1, epoch_steps=1)
    with assert_unchanged(credit), pytest.raises(ValueError, match=r"TimeCredit\.load_state_dict\(state\)"):
        credit.load_state_dict({**credit.state_dict(), **damage})
