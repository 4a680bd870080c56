"""Labels: what is accepted, what is refused, and where they are found in data sets."""

import numpy as np
import pytest
import torch
from sample_sets import Labelled, Numbers
from torch.utils.data import Subset, TensorDataset

from approx_is.labels import check_labels, find_labels

CLASSES = [2, 0, 1, 1]


@pytest.mark.parametrize(
    "labels",
    [
        CLASSES,
        tuple(CLASSES),
        np.array(CLASSES),
        torch.tensor(CLASSES),
        torch.tensor(CLASSES, dtype=torch.int16),
        torch.tensor(CLASSES, dtype=torch.uint16),
        torch.tensor(CLASSES).unsqueeze(1),
        [[label] for label in CLASSES],
    ],
    ids=["list", "tuple", "numpy", "int64", "int16", "uint16", "column", "lists"],
)
def test_integers_of_every_kind_are_accepted(labels):
    checked, num_classes = check_labels(labels, 4, None)
    assert checked.shape == (4,)
    assert checked.tolist() == CLASSES
    assert num_classes == 3


def test_no_labels_are_one_class():
    assert check_labels(None, 4, None) == (None, 1)


def test_booleans_are_two_classes():
    labels, num_classes = check_labels(torch.tensor([True, False]), 2, None)
    assert (labels.tolist(), num_classes) == ([1, 0], 2)


def test_classes_without_samples_count():
    assert check_labels(CLASSES, 4, 10)[1] == 10


@pytest.mark.parametrize(("num_classes", "dtype"), [(256, torch.uint8), (257, torch.int32), (10**6, torch.int32)])
def test_labels_take_the_smallest_dtype_that_holds_them(num_classes, dtype):
    labels, _ = check_labels([0, num_classes - 1], 2, None)
    assert labels.dtype == dtype
    assert labels.tolist() == [0, num_classes - 1]


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 2), (1, 4), (2, 2), (4, 1, 1), ()])
def test_labels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"`labels` must have shape \[4\], one a sample; got \["):
        check_labels(torch.zeros(shape, dtype=torch.int64), 4, None)


def test_a_single_sample_may_have_a_column_of_labels():
    assert check_labels([[2]], 1, None)[0].tolist() == [2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64])
def test_labels_that_are_not_integers_are_refused_with_a_remedy(dtype):
    with pytest.raises(ValueError, match=r"must be integer classes; got torch\..*For regression pass labels=None"):
        check_labels(torch.ones(4, dtype=dtype), 4, None)


def test_negative_labels_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"must be at least 0; got -1\. Give unlabelled samples a class of their own"):
        check_labels([0, -1, 2, 3], 4, None)


@pytest.mark.parametrize("num_classes", [2, 1])
def test_labels_above_the_number_of_classes_are_refused(num_classes):
    with pytest.raises(ValueError, match=rf"must be below `num_classes` = {num_classes}; got 2"):
        check_labels(CLASSES, 4, num_classes)


@pytest.mark.parametrize("num_classes", [0, -1])
def test_less_than_one_class_is_refused(num_classes):
    with pytest.raises(ValueError, match=rf"`num_classes` .*{num_classes}"):
        check_labels(CLASSES, 4, num_classes)


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize("make", [list, np.array, torch.tensor], ids=["list", "numpy", "tensor"])
def test_labels_are_found_under_both_names(name, make):
    assert torch.as_tensor(find_labels(Labelled(make(CLASSES), name))).tolist() == CLASSES


@pytest.mark.parametrize("make", [list, np.array, torch.tensor], ids=["list", "numpy", "tensor"])
def test_labels_are_found_through_a_subset_of_a_subset(make):
    subset = Subset(Subset(Labelled(make(CLASSES)), [3, 0, 2]), [1, 0])
    assert find_labels(subset).tolist() == [2, 1]


def test_subsets_may_repeat_samples_and_hold_ranges():
    assert find_labels(Subset(Labelled(CLASSES), [0, 0, 3])).tolist() == [2, 2, 1]
    assert find_labels(Subset(Labelled(CLASSES), range(1, 3))).tolist() == [0, 1]


def test_columns_of_labels_are_found_through_a_subset():
    found = find_labels(Subset(Labelled(torch.tensor(CLASSES).unsqueeze(1)), [3, 0]))
    assert check_labels(found, 2, None)[0].tolist() == [1, 2]


def test_targets_come_before_labels():
    dataset = Labelled(CLASSES, "targets")
    dataset.labels = [0, 0, 0, 0]
    assert find_labels(dataset) == CLASSES


def test_labels_stand_in_where_targets_are_not_classes():
    dataset = Labelled(torch.tensor([0.5, 1.5, 2.5, 3.5]), "targets")
    dataset.labels = CLASSES
    assert find_labels(dataset) == CLASSES


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0.5, 1.0, 2.0, 3.0]),
        ["cat", "dog", "cat", "cow"],
        np.array(["cat", "dog", "cat", "cow"]),
        [[0, 1], [2], [], [1]],
        [None, 1, 2, 3],
        [{"boxes": 1}] * 4,
        torch.zeros(4, 2, dtype=torch.int64),
        [0, 1, -1, 1],
        [0, 2**70, 1, 1],
    ],
    ids=["float", "texts", "numpy texts", "ragged", "none", "dicts", "one-hot", "negative", "huge"],
)
@pytest.mark.parametrize("name", ["targets", "labels"])
def test_what_is_not_a_class_a_sample_is_ignored(labels, name):
    dataset = Labelled(labels, name)
    assert find_labels(dataset) is None
    assert find_labels(Subset(dataset, [0, 1])) is None


def test_labels_of_another_length_are_ignored():
    dataset = Numbers(4)
    dataset.labels = ["cat", "dog"]
    dataset.targets = [0, 1, 2]
    assert find_labels(dataset) is None


def test_data_sets_without_labels_have_none():
    assert find_labels(Numbers(4)) is None
    assert find_labels(Subset(Numbers(4), [1])) is None
    assert find_labels(TensorDataset(torch.zeros(4, 2), torch.tensor(CLASSES))) is None
