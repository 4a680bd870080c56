"""The six features against their definitions, taken from scratch from everything that was ever observed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_all_finite, assert_same, assert_unchanged, snapshot, through_file

from approx_is import LossHistory
from approx_is.duplicates import average_duplicates
from approx_is.predictors import norm_features
from approx_is.predictors.norm_features import FEATURES, LARGEST_NORM, NormFeatures

NUM_SAMPLES = 6
EVERY = torch.arange(NUM_SAMPLES)
LABELS = EVERY % 2
RATE = 0.02
MEAN, LAST, DECAYED, WINDOW, CLASS, AGE = range(6)
EIGHTHS = st.integers(0, 255).map(lambda eighths: eighths / 8)  # exact in float16, and so in every history
WEIGHTS = st.floats(0.25, 4.0, width=32)
BATCHES = st.lists(
    st.tuples(
        st.integers(1, 5),  # steps since the batch before
        st.integers(0, 6),  # steps that the draw came before the last step it could have come after
        st.lists(st.tuples(st.integers(0, NUM_SAMPLES - 1), EIGHTHS, WEIGHTS), min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=12,
)


class Reference:
    """Keeps everything, and computes a feature when asked, in Python's numbers."""

    def __init__(self, window, labels):
        self.window = window
        self.labels = [0] * NUM_SAMPLES if labels is None else labels.tolist()
        self.values = [[] for _ in range(NUM_SAMPLES)]
        self.steps = [0] * NUM_SAMPLES
        self.gaps = [[] for _ in range(NUM_SAMPLES)]  # epochs before each value
        self.weighted = []
        self.largest_batch = 1

    def epochs(self, steps):
        return steps * self.largest_batch / NUM_SAMPLES

    def observe(self, entries, step):
        """Take in (sample, value, weight), values alike for a sample, and return what was known of each sample."""
        self.weighted.append(sum(value * weight for _, value, weight in entries) / len(entries))
        for index, value in {(index, value) for index, value, _ in entries}:
            self.gaps[index].append(self.epochs(step - self.steps[index]))
            self.values[index].append(value)
            self.steps[index] = step

    def mean(self):
        shares = [(1 - RATE) ** age for age in reversed(range(len(self.weighted)))]
        return sum(s * x for s, x in zip(shares, self.weighted, strict=True)) / (sum(shares) or 1)

    def decayed(self, index):
        shares = [math.exp(-sum(self.gaps[index][later:])) for later in range(1, len(self.values[index]) + 1)]
        return sum(s * v for s, v in zip(shares, self.values[index], strict=True)) / sum(shares)

    def class_mean(self, index):
        members = [each for each in range(NUM_SAMPLES) if self.labels[each] == self.labels[index] and self.values[each]]
        return sum(self.values[each][-1] for each in members) / len(members)

    def describe(self, index, step):
        mean, values = self.mean(), self.values[index]
        if not values:
            return [mean] * 6
        window = values[-self.window :]
        age = self.epochs(max(0, step - self.steps[index]))
        means = [self.decayed(index), sum(window) / len(window), self.class_mean(index)]
        return [mean, values[-1], *means, mean * min(age, 3.0)]


def make(window=4, labels=LABELS, num_samples=NUM_SAMPLES, **arguments):
    history = LossHistory(num_samples, window, **arguments)
    return NormFeatures(history, labels, 1 if labels is None else 2), history


def observe(features, history, indices, values, step, *, drawn_at=None, weights=None):
    indices, values = torch.tensor(indices), torch.tensor(values)
    weights = torch.ones(len(indices)) if weights is None else torch.tensor(weights)
    drawn_at = step - 1 if drawn_at is None else drawn_at
    averaged = average_duplicates(indices, values)
    found = features.observe(indices, averaged.clamp(max=LARGEST_NORM), weights.double(), step, drawn_at)
    history.append(indices, averaged, step)
    return found


def assert_close(found, expected):
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-5, atol=1e-5)


@given(st.integers(1, 4), st.booleans(), st.sampled_from([torch.float16, torch.float32, torch.float64]), BATCHES)
def test_every_feature_is_what_its_definition_says(window, is_labelled, dtype, batches):
    labels = LABELS if is_labelled else None
    features, history = make(window, labels, dtype=dtype)
    reference = Reference(window, labels)
    step = 0
    for wait, delay, entries in batches:
        drawn_at = max(0, step + wait - 1 - delay)
        step += wait
        indices = [index for index, _, _ in entries]
        averaged = average_duplicates(torch.tensor(indices), torch.tensor([value for _, value, _ in entries]))
        averaged = averaged.to(dtype).float().tolist()  # as the history will have them
        entries = [(i, v, w) for i, v, (_, _, w) in zip(indices, averaged, entries, strict=True)]
        reference.largest_batch = max(reference.largest_batch, len(entries))
        at_draw = [reference.describe(index, drawn_at) for index in indices]
        was_known = [bool(reference.values[index]) and reference.steps[index] <= drawn_at for index in indices]
        found, are_usable = observe(
            features, history, indices, averaged, step, drawn_at=drawn_at, weights=[w for _, _, w in entries]
        )
        assert_close(found, at_draw)
        assert are_usable.tolist() == was_known
        reference.observe(entries, step)
        for later in (0, 1, 7):
            assert_close(features.describe(EVERY, step + later), [reference.describe(i, step + later) for i in EVERY])


def test_golden_values():
    features, history = make(window=2)
    observe(features, history, [0, 2], [4.0, 2.0], 1)  # a third of an epoch
    observe(features, history, [0, 1], [1.0, 7.0], 4, weights=[0.5, 1.5])
    observe(features, history, [0, 0], [2.0, 4.0], 7)  # averaged
    mean = (0.98**2 * 3.0 + 0.98 * 5.5 + 3.0) / (0.98**2 + 0.98 + 1)
    e = math.exp(-1)  # from 1 to 4 and from 4 to 7 it is an epoch each
    decayed = (e * e * 4.0 + e * 1.0 + 3.0) / (e * e + e + 1)
    expected = [mean, 3.0, decayed, 2.0, 2.5, mean * 2 / 3]
    assert features.describe(torch.tensor([0]), 9).tolist()[0] == pytest.approx(expected, rel=1e-6)


def test_features_have_names_in_the_order_of_the_columns():
    assert [FEATURES[column] for column in (MEAN, LAST, DECAYED, WINDOW, CLASS, AGE)] == list(FEATURES)
    assert FEATURES == ("mean of all", "last", "decayed mean", "window mean", "class mean", "age")


def test_a_sample_never_observed_is_described_by_the_mean_alone():
    features, history = make()
    assert features.describe(EVERY, 0).tolist() == [[0.0] * 6] * NUM_SAMPLES
    observe(features, history, [1], [3.0], 1)
    assert features.describe(torch.tensor([0, 5]), 40).tolist() == [[3.0] * 6] * 2


def test_an_observation_of_0_is_one():
    features, history = make()
    observe(features, history, [0, 1], [0.0, 3.0], 1)
    assert features.describe(torch.tensor([0]), 1).tolist() == [[1.5, 0.0, 0.0, 0.0, 0.0, 0.0]]


def test_the_mean_is_an_estimate_over_all_samples():
    features, history = make()
    observe(features, history, [0, 1], [8.0, 2.0], 1, weights=[0.25, 2.0])
    assert features.describe(torch.tensor([4]), 1)[0, MEAN].item() == 3.0


@pytest.mark.parametrize(("later", "age"), [(0, 0.0), (3, 1.5), (6, 3.0), (7, 3.0), (10**9, 3.0)])
def test_ages_are_in_epochs_and_end_at_3(later, age):
    features, history = make()
    observe(features, history, [0, 1, 2], [1.0, 1.0, 1.0], 5)
    assert features.describe(torch.tensor([0]), 5 + later)[0, AGE].item() == pytest.approx(age)


def test_a_smaller_batch_makes_no_longer_epochs():
    features, history = make()
    observe(features, history, [0, 1, 2], [1.0, 1.0, 1.0], 1)
    observe(features, history, [3], [1.0], 2)
    assert features.describe(torch.tensor([0]), 3)[0, AGE].item() == pytest.approx(1.0)


def test_a_draw_made_before_the_last_observation_has_age_0():
    features, history = make()
    observe(features, history, [0, 1], [1.0, 1.0], 9)
    found, are_usable = observe(features, history, [0, 2], [5.0, 5.0], 10, drawn_at=3)
    assert found[0, AGE].item() == 0.0
    assert are_usable.tolist() == [False, False]


@pytest.mark.parametrize("labels", [None, LABELS], ids=["unlabelled", "labelled"])
def test_class_means_are_exact_again_after_an_absurd_value_has_left(labels):
    features, history = make(labels=labels)
    observe(features, history, EVERY.tolist(), [1.0] * NUM_SAMPLES, 1)
    observe(features, history, [0], [1e30], 2)
    for step, index in enumerate(EVERY.tolist(), start=3):  # an epoch
        observe(features, history, [index], [1.0 + index], step)
    expected = [3.5] * 6 if labels is None else [3.0, 4.0] * 3
    assert features.describe(EVERY, 9)[:, CLASS].tolist() == expected


def test_class_means_never_drift():
    features, history = make()
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 400):
        values = torch.rand(4, generator=generator) * 10.0 ** (step % 13)
        indices = torch.randperm(NUM_SAMPLES, generator=generator)[:4]
        observe(features, history, indices.tolist(), values.tolist(), step)
    last = history.last(EVERY)
    expected = torch.stack([last[label == LABELS].mean() for label in LABELS])
    torch.testing.assert_close(features.describe(EVERY, 400)[:, CLASS], expected, rtol=1e-5, atol=0)


def test_sums_in_chunks_are_the_same(monkeypatch):
    states = []
    for chunk in (norm_features.CHUNK, 2):
        monkeypatch.setattr(norm_features, "CHUNK", chunk)
        features, history = make()
        for step in range(1, 5):
            observe(features, history, EVERY.tolist(), [step + index / 8 for index in EVERY.tolist()], step)
        states.append(snapshot(features))
    assert_same(states[1], states[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-30, 1e30, 3e38], ids=str)
def test_absurd_norms_leave_features_finite(value, dtype):
    features, history = make(dtype=dtype)
    for step in range(1, 9):
        observe(features, history, [0, 1, 1], [value, value, value], step, weights=[1e6] * 3)
        found = features.describe(EVERY, step + 1)
        assert bool((found.isfinite() & (found >= 0)).all())
    assert_all_finite(snapshot(features))


def test_an_absurd_norm_leaves_the_window_after_as_many_observations():
    features, history = make(window=2)
    for step, value in enumerate([3e38, 3e38, 1.0, 2.0], start=1):
        observe(features, history, [0], [value], step)
    assert features.describe(torch.tensor([0]), 5)[0, [LAST, WINDOW]].tolist() == [2.0, 1.5]


def test_describing_changes_nothing():
    features, history = make()
    observe(features, history, [0, 1], [1.0, 2.0], 1)
    with assert_unchanged(features, history):
        features.describe(EVERY, 5).zero_()
        features.describe(EVERY[:0], 5)


def test_what_a_batch_knew_is_not_changed_by_taking_it_in():
    features, history = make()
    observe(features, history, [0, 1], [1.0, 2.0], 1)
    before = features.describe(torch.tensor([0, 1]), 3)
    found, _ = observe(features, history, [0, 1], [7.0, 9.0], 4)
    assert torch.equal(found, before)


def bytes_a_sample(num_samples):
    features, _ = make(num_samples=num_samples, labels=None)
    tensors = [value for value in vars(features).values() if isinstance(value, torch.Tensor)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_a_sample_takes_16_bytes():
    assert bytes_a_sample(3000) - bytes_a_sample(2000) == 16 * 1000


class TestState:
    def filled(self, steps, features=None):
        features, history = make() if features is None else features
        generator = torch.Generator().manual_seed(steps)
        for step in range(history.step + 1, history.step + 1 + steps):
            indices = torch.randint(NUM_SAMPLES, (4,), generator=generator).tolist()
            observe(features, history, indices, torch.rand(4, generator=generator).tolist(), step)
        return features, history

    @pytest.mark.parametrize("steps", [0, 1, 2, 7])
    def test_restored_features_go_on_to_the_bit(self, steps):
        original, resumed = self.filled(steps), self.filled(3)
        for one, other in zip(resumed, original, strict=True):
            one.load_state_dict(through_file(other.state_dict()))
        assert torch.equal(resumed[0].describe(EVERY, 50), original[0].describe(EVERY, 50))
        for each in (original, resumed):
            self.filled(5, each)
        assert_same(snapshot(resumed[0]), snapshot(original[0]))
        assert torch.equal(resumed[0].describe(EVERY, 50), original[0].describe(EVERY, 50))

    def test_a_loaded_state_is_a_copy(self):
        original, resumed = self.filled(4), make()
        for one, other in zip(resumed, original, strict=True):
            one.load_state_dict(other.state_dict())
        with assert_unchanged(*original):
            self.filled(3, resumed)

    @pytest.mark.parametrize("name", ["rows", "class_sums", "mean", "batch_size", "since_summed"])
    def test_a_state_without_one_of_its_entries_changes_nothing(self, name):
        features, _ = self.filled(3)
        state = snapshot(features)
        del state[name]
        with assert_unchanged(features), pytest.raises(ValueError, match=rf"missing \['{name}'\], unknown \[\]"):
            features.load_state_dict(state)

    def test_a_state_of_other_classes_changes_nothing(self):
        features, _ = self.filled(3)
        with assert_unchanged(features), pytest.raises(ValueError, match=r"\['class_sums'\]` must be torch.float64 \["):
            features.load_state_dict(make(labels=None)[0].state_dict())
