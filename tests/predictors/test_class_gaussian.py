"""The class Gaussian: golden values, batches against single samples, and options."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_unchanged, make_predictor, through_file

from approx_is.predictors.class_gaussian import class_moving_average

LABELS = torch.arange(12) % 10
CLASS_3 = torch.tensor([3])


def make(num_classes=10, labels=LABELS, **options):
    return make_predictor("class-gaussian", options, labels=labels, num_classes=num_classes)[0]


def update(predictor, indices, values, step=1):
    predictor.update(torch.tensor(indices), torch.tensor(values), step)


def test_every_class_starts_at_the_loss_of_a_guess():
    assert make().predict(torch.arange(12)).tolist() == pytest.approx([2.302585] * 12, abs=1e-5)
    assert make().state_dict()["moments"][1].tolist() == [1.0] * 10


def test_a_single_class_starts_at_1():
    assert make(1, None).predict(torch.arange(12)).tolist() == [1.0] * 12


def test_the_mean_follows_the_golden_values():
    predictor = make()
    update(predictor, [3], [1.0])
    assert predictor.predict(CLASS_3).item() == pytest.approx(2.172327, abs=1e-5)
    update(predictor, [3], [4.0])
    assert predictor.predict(CLASS_3).item() == pytest.approx(2.355094, abs=1e-5)


def test_fifty_equal_losses_lead_to_the_golden_value():
    predictor = make()
    update(predictor, [3] * 50, [2.0] * 50)
    assert predictor.predict(CLASS_3).item() == pytest.approx(2.001559, abs=1e-5)


def test_other_classes_stay():
    predictor = make()
    update(predictor, [3], [1.0])
    others = torch.tensor([0, 1, 2, 4, 5, 6, 7, 8, 9])
    assert predictor.predict(others).tolist() == pytest.approx([math.log(10)] * 9)


def test_samples_of_a_class_share_its_mean():
    predictor = make()
    update(predictor, [11], [5.0])
    assert predictor.predict(torch.tensor([1, 11])).tolist() == pytest.approx([0.9 * math.log(10) + 0.5] * 2)


@given(st.lists(st.tuples(st.integers(0, 11), st.floats(0, 64, width=32)), min_size=1, max_size=30))
def test_a_batch_counts_as_its_samples_one_by_one(pairs):
    together, one_by_one = make(), make()
    update(together, [index for index, _ in pairs], [value for _, value in pairs])
    for index, value in pairs:
        update(one_by_one, [index], [value])
    torch.testing.assert_close(
        together.state_dict()["moments"], one_by_one.state_dict()["moments"], rtol=1e-12, atol=1e-12
    )


def test_the_order_within_a_class_matters_as_one_by_one():
    averages = torch.tensor([[8.0, 1.0]])
    later_large = class_moving_average(averages, torch.tensor([0, 0]), torch.tensor([[0.0, 4.0]]), 0.5)
    later_small = class_moving_average(averages, torch.tensor([0, 0]), torch.tensor([[4.0, 0.0]]), 0.5)
    assert (later_large.tolist(), later_small.tolist()) == ([[4.0, 1.0]], [[3.0, 1.0]])


def test_without_decay_the_last_sample_of_a_class_is_its_mean():
    predictor = make(decay=0.0)
    update(predictor, [3, 1, 3, 1], [1.0, 2.0, 7.0, 5.0])
    assert predictor.predict(torch.tensor([3, 1])).tolist() == [7.0, 5.0]


def test_an_empty_batch_changes_nothing():
    predictor = make()
    with assert_unchanged(predictor):
        predictor.update(torch.empty(0, dtype=torch.int64), torch.empty(0), 1)


def test_std_adds_deviations_to_the_mean():
    predictors = [make(std=std, decay=0.5) for std in (0.0, 1.0, 2.0)]
    for predictor in predictors:
        update(predictor, [3], [0.0])
        update(predictor, [3], [8.0])
    mean = 0.25 * math.log(10) + 4.0
    deviation = math.sqrt(0.25 + 32.0 - mean**2)
    found = [predictor.predict(CLASS_3).item() for predictor in predictors]
    assert found == pytest.approx([mean, mean + deviation, mean + 2 * deviation], rel=1e-6)


def test_a_second_moment_below_the_squared_mean_is_no_deviation():
    # the start of the paper's package: mean log 10, second moment 1
    assert make(std=3.0).predict(CLASS_3).item() == pytest.approx(math.log(10))


def test_a_restored_predictor_goes_on_as_the_original():
    original, restored = make(), make()
    update(original, [3, 4], [1.0, 5.0])
    restored.load_state_dict(through_file(original.state_dict()))
    for predictor in (original, restored):
        update(predictor, [3], [2.0])
    assert torch.equal(restored.predict(torch.arange(12)), original.predict(torch.arange(12)))


def test_a_loaded_state_is_a_copy():
    predictor = make()
    state = make().state_dict()
    predictor.load_state_dict(state)
    state["moments"].zero_()
    assert predictor.predict(CLASS_3).item() == pytest.approx(math.log(10))


def test_a_state_of_other_classes_changes_nothing():
    predictor = make()
    with (
        assert_unchanged(predictor),
        pytest.raises(ValueError, match=r"float64 \[2, 10\]; got torch\.float64 \[2, 1\]"),
    ):
        predictor.load_state_dict(make(1, None).state_dict())


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_decays_outside_0_to_1_are_refused(decay):
    with pytest.raises(ValueError, match=r"decay=\.\.\.\)` must be in \[0, 1\); got"):
        make(decay=decay)


@pytest.mark.parametrize("std", [-0.1, math.nan, math.inf])
def test_a_negative_or_infinite_std_is_refused(std):
    with pytest.raises(ValueError, match=r"std=\.\.\.\)` must be finite and at least 0; got"):
        make(std=std)
