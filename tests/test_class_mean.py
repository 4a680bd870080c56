"""Mean importance by class: what unseen samples are expected to matter."""

import pytest
import torch
from laws import assert_unchanged, through_file

from approx_is.class_mean import ClassMean


def update(mean, labels, observed, weights):
    mean.update(torch.tensor(labels), torch.tensor(observed), torch.tensor(weights, dtype=torch.float64))


def of(mean, labels):
    return mean.of(torch.tensor(labels)).tolist()


def test_the_mean_is_1_before_anything_was_observed():
    assert of(ClassMean(3), [0, 2, 2]) == [1.0, 1.0, 1.0]


def test_means_are_weighted_by_class():
    mean = ClassMean(2)
    update(mean, [0, 1, 0], [2.0, 5.0, 6.0], [3.0, 1.0, 1.0])
    assert of(mean, [0, 1]) == [3.0, 5.0]


def test_a_class_not_seen_yet_has_the_weighted_mean_of_the_others():
    mean = ClassMean(3)
    update(mean, [0, 1], [2.0, 6.0], [3.0, 1.0])
    assert of(mean, [2]) == [3.0]


def test_a_class_of_observed_zeros_has_mean_0():
    mean = ClassMean(2)
    update(mean, [0, 1], [0.0, 4.0], [1.0, 1.0])
    assert of(mean, [0, 1]) == [0.0, 4.0]


def test_older_batches_count_less():
    mean = ClassMean(1, decay=0.5)
    update(mean, [0], [4.0], [1.0])
    update(mean, [0], [1.0], [1.0])
    assert of(mean, [0]) == [2.0]


def test_a_class_keeps_its_mean_while_others_are_observed():
    mean = ClassMean(2)
    update(mean, [1], [5.0], [1.0])
    for _ in range(1000):
        update(mean, [0], [1.0], [1.0])
    assert of(mean, [0, 1]) == pytest.approx([1.0, 5.0])


def test_a_class_keeps_its_mean_however_long_others_are_observed():
    mean = ClassMean(2, decay=1e-10)  # 40 steps of it are 91,000 of the default
    update(mean, [1], [5.0], [1.0])
    for _ in range(40):
        update(mean, [0], [1.0], [1.0])
    assert of(mean, [1]) == pytest.approx([5.0])


def test_means_are_float32():
    assert ClassMean(2).of(torch.tensor([0])).dtype == torch.float32


def test_restored_means_go_on_as_the_original():
    original, restored = ClassMean(2), ClassMean(2)
    update(original, [0, 1], [2.0, 6.0], [3.0, 1.0])
    restored.load_state_dict(through_file(original.state_dict()))
    for mean in (original, restored):
        update(mean, [1], [3.0], [0.3])
    assert of(restored, [0, 1]) == of(original, [0, 1])


def test_a_state_of_other_classes_changes_nothing():
    mean = ClassMean(2)
    update(mean, [0], [2.0], [1.0])
    with assert_unchanged(mean), pytest.raises(ValueError, match=r"ClassMean\.load_state_dict\(state\)\['sums'\]"):
        mean.load_state_dict(ClassMean(3).state_dict())


def test_several_batches_at_once_age_what_was_before_as_often():
    mean = ClassMean(1, decay=0.5)
    one, ones = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.float64)
    mean.update(one, torch.tensor([8.0, 8.0]), ones)
    mean.update(one, torch.tensor([1.0, 1.0]), ones, 3)
    assert mean.of(one[:1]).item() == pytest.approx((8 / 8 + 1) / (1 / 8 + 1))
