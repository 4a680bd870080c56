"""The history against a plain model, its files, its states, and what it refuses."""

import math
from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_all_finite, assert_same, assert_unchanged, snapshot, through_file

from approx_is import LossHistory
from approx_is.gap_codes import GapCodes

NUM_SAMPLES = 5
EVERY = torch.arange(NUM_SAMPLES)
VALUES = st.integers(0, 8000).map(lambda eighths: eighths / 8)  # their sums are exact: the order does not matter
BATCHES = st.lists(
    st.tuples(st.integers(1, 20), st.lists(st.tuples(st.integers(0, NUM_SAMPLES - 1), VALUES), max_size=8)),
    max_size=25,
)


def rounded(dtype):
    """Return what becomes of the steps between two observations in a history of that dtype."""
    if dtype.itemsize == 2:
        return lambda gap: GapCodes().decode(GapCodes().encode(torch.tensor([gap]))).item()
    return lambda gap: gap


class Model:
    """What the history does, with deques of (value, step)."""

    def __init__(self, window):
        self.window = window
        self.samples = [deque(maxlen=window) for _ in range(NUM_SAMPLES)]

    def append(self, pairs, step):
        for index in {index for index, _ in pairs}:
            values = [value for other, value in pairs if other == index]
            self.samples[index].append((sum(values) / len(values), step))

    def recent(self, dtype):
        rows = [[value for value, _ in sample] for sample in self.samples]
        return torch.tensor([self._pad(row) for row in rows], dtype=torch.float32).to(dtype)

    def gaps(self, now, rounded):
        rows = [[step for _, step in sample] for sample in self.samples]
        rows = [[after - step for step, after in zip(row, [*row, now][1:], strict=True)] for row in rows]
        rows = [[*map(rounded, row[:-1]), *row[-1:]] for row in rows]
        return torch.tensor([self._pad(row) for row in rows], dtype=torch.float32)

    def last_steps(self):
        return torch.tensor([sample[-1][1] if sample else 0 for sample in self.samples])

    def means_after(self, values):
        rows = [
            [*(value for value, _ in sample), new][-self.window :]
            for sample, new in zip(self.samples, values, strict=True)
        ]
        return torch.tensor([sum(row) / len(row) for row in rows])

    def counts(self):
        return torch.tensor([len(sample) for sample in self.samples])

    def last(self, dtype):
        last = [sample[-1][0] if sample else 0.0 for sample in self.samples]
        return torch.tensor(last, dtype=torch.float32).to(dtype)

    def _pad(self, row):
        return row + [0] * (self.window - len(row))


def append(history, pairs, step, dtype=torch.float32):
    indices = torch.tensor([index for index, _ in pairs], dtype=torch.int64)
    history.append(indices, torch.tensor([value for _, value in pairs], dtype=dtype), step)


def filled(window=4, **arguments):
    history = LossHistory(NUM_SAMPLES, window, **arguments)
    for step in range(1, 10):
        append(history, [(step % 3, float(step)), (3, 0.0)], step)
    return history


def assert_equal_to_model(history, model, step, dtype):
    assert torch.equal(history.recent(EVERY), model.recent(dtype))
    assert torch.equal(history.gaps(EVERY, step + 3), model.gaps(step + 3, rounded(dtype)))
    assert torch.equal(history.counts(EVERY), model.counts())
    assert torch.equal(history.last(EVERY), model.last(dtype))
    assert torch.equal(history.last_step(EVERY), model.last_steps().int())


@given(st.integers(1, 12), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]), BATCHES)
def test_the_history_is_a_deque_of_averaged_batches(window, dtype, batches):
    history, model = LossHistory(NUM_SAMPLES, window, dtype=dtype), Model(window)
    step = 0
    for wait, pairs in batches:
        step += wait
        append(history, pairs, step)
        model.append(pairs, step)
        assert_equal_to_model(history, model, step, dtype)


@given(st.integers(1, 12), BATCHES)
def test_a_float64_history_of_float64_values_is_a_deque_too(window, batches):
    history, model = LossHistory(NUM_SAMPLES, window, dtype=torch.float64), Model(window)
    step = 0
    for wait, pairs in batches:
        step += wait
        append(history, pairs, step, torch.float64)
        model.append(pairs, step)
    torch.testing.assert_close(history.recent(EVERY), model.recent(torch.float64), rtol=1e-6, atol=0)
    assert torch.equal(history.counts(EVERY), model.counts())


def test_twelve_updates_leave_the_last_ten_in_order():
    history = LossHistory(NUM_SAMPLES, 10)
    for step in range(12):
        append(history, [(2, 100.0 + step)], step)
    (recent,) = history.recent(torch.tensor([2]))
    assert recent.tolist() == [102.0, 103.0, 104.0, 105.0, 106.0, 107.0, 108.0, 109.0, 110.0, 111.0]
    assert history.counts(torch.tensor([2, 0])).tolist() == [10, 0]
    assert history.last(torch.tensor([2, 0])).tolist() == [111.0, 0.0]


@pytest.mark.parametrize("window", [1, 2, 127])
def test_the_ring_goes_round_many_times(window):
    history = LossHistory(1, window)
    for step in range(3 * window + 1):
        append(history, [(0, float(step))], step)
        (recent,) = history.recent(torch.tensor([0]))
        assert recent[: min(step + 1, window)].tolist() == list(range(max(0, step + 1 - window), step + 1))


@given(st.integers(1, 12), BATCHES)
def test_means_with_one_more_observation_are_those_after_it(window, batches):
    history, model = LossHistory(NUM_SAMPLES, window), Model(window)
    more = torch.tensor([0.0, 1.0, 2.5, 7.0, 100.0])
    for step, (_, pairs) in enumerate(batches, start=1):
        append(history, pairs, step)
        model.append(pairs, step)
        with assert_unchanged(history):
            means = history.means_after(EVERY, more)
        torch.testing.assert_close(means, model.means_after(more.tolist()), rtol=1e-6, atol=0)


def test_last_steps_are_32_bit_integers_and_0_where_nothing_was_observed():
    history = LossHistory(NUM_SAMPLES, 2)
    append(history, [(1, 5.0)], 3)
    append(history, [(1, 5.0), (4, 1.0)], 2**31 - 1)
    found = history.last_step(torch.tensor([0, 1, 4, 1]))
    assert found.dtype == torch.int32
    assert found.tolist() == [0, 2**31 - 1, 2**31 - 1, 2**31 - 1]


def test_a_loss_of_exactly_0_counts():
    history = LossHistory(NUM_SAMPLES, 3)
    append(history, [(1, 0.0)], 1)
    assert history.counts(EVERY).tolist() == [0, 1, 0, 0, 0]
    assert float(history.coverage()) == pytest.approx(0.2)


def test_entries_of_the_same_sample_are_averaged_in_any_order():
    history = LossHistory(NUM_SAMPLES, 3)
    append(history, [(4, 1.0), (0, 7.0), (4, 2.0), (4, 6.0)], 1)
    assert history.recent(torch.tensor([0, 4])).tolist() == [[7.0, 0.0, 0.0], [3.0, 0.0, 0.0]]
    assert history.counts(EVERY).tolist() == [1, 0, 0, 0, 1]


@pytest.mark.parametrize("gap", [1, 2, 100, 255, 256])
def test_gaps_of_up_to_256_steps_are_exact(gap):
    history = LossHistory(1, 3)
    for step in (5, 5 + gap):
        append(history, [(0, 1.0)], step)
    assert history.gaps(torch.tensor([0]), 5 + 2 * gap).tolist() == [[gap, gap, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gaps_take_a_byte_where_values_take_two(dtype):
    history, gaps = LossHistory(1, 6, dtype=dtype), [1, 2, 15, 32, 1024]
    steps = [5, *(5 + sum(gaps[: count + 1]) for count in range(5))]
    for step in steps:
        append(history, [(0, 1.0)], step)
    assert history.gaps(torch.tensor([0]), steps[-1] + 300).tolist() == [[*gaps, 300.0]]  # these are represented


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float16, 0.044), (torch.float32, 4e-3)])
def test_gaps_are_as_precise_as_the_docstring_says(dtype, rel):
    for gap in [*range(1, 300), 1_000_001]:
        history = LossHistory(1, 2, dtype=dtype)
        for step in (0, gap):
            append(history, [(0, 1.0)], step)
        assert history.gaps(torch.tensor([0]), gap)[0, 0].item() == pytest.approx(gap, rel=rel)


def test_a_state_with_impossible_cursors_changes_nothing():
    history = LossHistory(NUM_SAMPLES, 3)
    append(history, [(0, 1.0)], 1)
    state = snapshot(history)
    state["writes"][2] = 6
    with assert_unchanged(history), pytest.raises(ValueError, match=r"\['writes'\]` must be below 6; the state is"):
        history.load_state_dict(state)


def test_the_gap_after_the_latest_observation_is_exact_at_any_size():
    history = LossHistory(1, 2)
    append(history, [(0, 1.0)], 1)
    assert history.gaps(torch.tensor([0]), 1 + 1_000_001).tolist() == [[1_000_001.0, 0.0]]


def test_large_gaps_between_observations_are_right_to_three_parts_in_a_thousand():
    history = LossHistory(1, 2)
    for step in (0, 1_000_001):
        append(history, [(0, 1.0)], step)
    assert history.gaps(torch.tensor([0]), 1_000_001)[0, 0].item() == pytest.approx(1_000_001, rel=4e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_huge_values_become_the_largest_that_is_stored(dtype):
    history = LossHistory(2, 3, dtype=dtype)
    append(history, [(0, 1e300)], 1, torch.float64)
    assert history.last(torch.tensor([0])).item() == torch.finfo(dtype).max
    assert_all_finite(history.state_dict())


def test_1e30_in_float16_becomes_65504():
    history = LossHistory(2, 3, dtype=torch.float16)
    append(history, [(0, 1e30)], 1)
    assert history.last(torch.tensor([0])).item() == 65504.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_history_wider_than_the_values_stores_them(dtype):
    narrower = {torch.float32: torch.float16, torch.float64: torch.float32}[dtype]
    history = LossHistory(2, 3, dtype=dtype)
    append(history, [(0, 1.5)], 1, narrower)
    assert history.last(torch.tensor([0])).item() == 1.5


def test_an_empty_batch_changes_the_step_only():
    history = filled()
    before = snapshot(history)
    append(history, [], 20)
    assert_same({**snapshot(history), "step": before["step"]}, before)
    assert history.step == 20


class TestMetrics:
    def test_golden_values(self):
        history = LossHistory(NUM_SAMPLES, 3)
        append(history, [(0, 1.0), (1, 1.0)], 2)
        append(history, [(1, 1.0), (3, 1.0)], 8)
        assert history.metrics(step=10, epoch_steps=4.0) == {
            "coverage": pytest.approx(0.6),
            "epoch_coverage": pytest.approx(0.4),
            "staleness": pytest.approx(((10 - 2) + (10 - 8) + (10 - 8)) / 3 / 4),
        }

    @pytest.mark.parametrize(("step", "expected"), [(8, 1.0), (10, 1.0), (11, 0.6), (12, 0.2), (13, 0.0)])
    def test_an_epoch_is_the_steps_since_one_before(self, step, expected):
        history = LossHistory(NUM_SAMPLES, 3)
        append(history, [(0, 1.0), (2, 1.0)], 6)
        append(history, [(1, 1.0), (3, 1.0)], 7)
        append(history, [(4, 1.0)], 8)
        assert history.metrics(step, epoch_steps=5.0)["epoch_coverage"] == pytest.approx(expected)

    def test_an_epoch_of_a_part_of_a_step_more_begins_with_the_next(self):
        history = LossHistory(NUM_SAMPLES, 3)
        append(history, [(0, 1.0)], 1)
        append(history, [(1, 1.0)], 2)
        found = [history.metrics(3, epoch_steps)["epoch_coverage"] for epoch_steps in (1.0, 1.5, 2.0, 2.5)]
        assert found == pytest.approx([0.0, 0.2, 0.2, 0.4])

    def test_samples_never_observed_are_not_of_the_first_epoch(self):
        history = LossHistory(NUM_SAMPLES, 3)
        append(history, [(0, 1.0)], 1)
        metrics = history.metrics(1, epoch_steps=100.0)
        assert metrics["coverage"] == metrics["epoch_coverage"] == pytest.approx(0.2)
        assert metrics["staleness"] == 0.0

    def test_nothing_observed_has_no_age(self):
        metrics = LossHistory(NUM_SAMPLES, 3).metrics(50, epoch_steps=10.0)
        assert math.isnan(metrics.pop("staleness"))
        assert metrics == {"coverage": 0.0, "epoch_coverage": 0.0}

    @pytest.mark.parametrize("step", [5, 2**24 + 5, 2**31 - 1])
    def test_are_floats_and_exact_at_every_step(self, step):
        history = LossHistory(NUM_SAMPLES, 3)
        append(history, [(0, 1.0)], step - 2)
        append(history, [(index, 1.0) for index in range(1, NUM_SAMPLES)], step)
        metrics = history.metrics(step, epoch_steps=2.0)
        assert all(type(value) is float for value in metrics.values())
        assert metrics == {"coverage": 1.0, "epoch_coverage": 0.8, "staleness": pytest.approx(0.2)}

    @given(BATCHES)
    def test_are_those_of_the_model(self, batches):
        history, model, step = LossHistory(NUM_SAMPLES, 3), Model(3), 0
        for wait, pairs in batches:
            step += wait
            append(history, pairs, step)
            model.append(pairs, step)
        seen = model.last_steps()[model.counts() > 0]
        metrics = history.metrics(step, 2.5)
        assert metrics["coverage"] == len(seen) / NUM_SAMPLES == pytest.approx(float(history.coverage()))
        assert metrics["epoch_coverage"] == int((seen > step - 2.5).sum()) / NUM_SAMPLES
        if len(seen):
            assert metrics["staleness"] == pytest.approx(float((step - seen).double().mean()) / 2.5)


def test_reading_changes_nothing():
    history = filled()
    with assert_unchanged(history):
        history.recent(EVERY)
        history.gaps(EVERY, 20)
        history.last(EVERY)
        history.counts(EVERY)
        history.coverage()
        history.metrics(20, 3.0)


def test_reading_no_samples_gives_empty_answers():
    history, none = filled(), torch.empty(0, dtype=torch.int64)
    assert history.recent(none).shape == (0, 4)
    assert history.gaps(none, 20).shape == (0, 4)
    assert history.counts(none).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_memory_use_is_what_the_docstring_says(dtype):
    state = LossHistory(7, 10, dtype=dtype).state_dict()
    size = sum(tensor.nbytes for tensor in state.values() if isinstance(tensor, torch.Tensor))
    assert size == 7 * {torch.float16: 35, torch.float32: 65}[dtype]


def test_a_history_in_files_is_as_one_in_memory(tmp_path):
    assert_same(filled(path=tmp_path / "new" / "folder").state_dict(), filled().state_dict())


def test_what_is_observed_is_in_the_files(tmp_path):
    history = filled(path=tmp_path)
    for name, buffer in history.state_dict().items():
        if name != "step":
            content = bytearray((tmp_path / f"{name}.bin").read_bytes())
            assert torch.equal(torch.frombuffer(content, dtype=buffer.dtype).view(buffer.shape), buffer), name


def test_files_from_before_are_overwritten(tmp_path):
    filled(path=tmp_path)
    assert_same(LossHistory(NUM_SAMPLES, 4, path=tmp_path).state_dict(), LossHistory(NUM_SAMPLES, 4).state_dict())


def test_a_state_loads_into_files(tmp_path):
    restored = LossHistory(NUM_SAMPLES, 4, path=tmp_path)
    restored.load_state_dict(through_file(filled().state_dict()))
    assert_same(restored.state_dict(), filled().state_dict())
    stored = torch.frombuffer(bytearray((tmp_path / "values.bin").read_bytes()), dtype=torch.float32)
    assert torch.equal(stored.view(NUM_SAMPLES, 4), filled().state_dict()["values"])


def test_a_restored_history_goes_on_as_the_original():
    original, restored = filled(), LossHistory(NUM_SAMPLES, 4)
    restored.load_state_dict(through_file(original.state_dict()))
    for history in (original, restored):
        append(history, [(0, 3.0), (4, 2.0)], 15)
    assert_same(restored.state_dict(), original.state_dict())


@pytest.mark.parametrize(
    "other",
    [
        LossHistory(NUM_SAMPLES, 3),
        LossHistory(NUM_SAMPLES + 1, 4),
        LossHistory(NUM_SAMPLES, 4, dtype=torch.float16),
    ],
    ids=["window", "size", "dtype"],
)
def test_a_state_of_another_shape_changes_nothing(other):
    history = filled()
    with assert_unchanged(history), pytest.raises(ValueError, match=r"LossHistory\.load_state_dict.*another data set"):
        history.load_state_dict(other.state_dict())


def test_an_incomplete_state_changes_nothing():
    history = filled()
    state = LossHistory(NUM_SAMPLES, 4).state_dict()
    del state["writes"]
    with assert_unchanged(history), pytest.raises(ValueError, match=r"missing \['writes'\]"):
        history.load_state_dict(state)


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([0, 5], [1.0, 1.0], r"indices\)` must be in \[0, 5\); got entries from 0 to 5"),
        ([-1, 0], [1.0, 1.0], r"indices\)` must be in \[0, 5\); got entries from -1 to 0"),
        ([0.0, 1.0], [1.0, 1.0], r"must be an integer tensor of shape \[B\]; got torch\.float32 \[2\]"),
        ([[0, 1]], [[1.0, 1.0]], r"must be an integer tensor of shape \[B\]; got torch\.int64 \[1, 2\]"),
        ([True, False], [1.0, 1.0], r"must be an integer tensor of shape \[B\]; got torch\.bool \[2\]"),
        ([0, 1], [1.0], r"values\)` must have shape \[2\], one value each; got \[1\]"),
        ([0, 1], [[1.0], [1.0]], r"values\)` must have shape \[2\], one value each; got \[2, 1\]"),
        ([0, 1], [1.0, -1e-6], "must be finite and at least 0"),
        ([0, 1], [1.0, math.nan], "must be finite and at least 0"),
        ([0, 1], [1.0, math.inf], "must be finite and at least 0"),
        ([0, 0], [1.0, math.nan], "must be finite and at least 0"),
    ],
)
def test_bad_input_changes_nothing(indices, values, message):
    history = filled()
    with assert_unchanged(history), pytest.raises(ValueError, match=message):
        history.append(torch.tensor(indices), torch.tensor(values), 30)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_samples": 0}, ValueError, r"num_samples=\.\.\.\)` must be at least 1; got 0"),
        ({"num_samples": 2.5}, TypeError, r"num_samples=\.\.\.\)` must be an integer; got 2\.5"),
        ({"num_samples": 2, "window": 0}, ValueError, r"window=\.\.\.\)` must be in \[1, 127\]; got 0"),
        ({"num_samples": 2, "window": 128}, ValueError, r"window=\.\.\.\)` must be in \[1, 127\]; got 128"),
        ({"num_samples": 2, "dtype": torch.int32}, ValueError, r"must be one of .*; got torch\.int32"),
        ({"num_samples": 2, "device": "meta", "path": "unused"}, ValueError, "got device=meta. Drop one of the two"),
    ],
)
def test_arguments_out_of_bounds_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        LossHistory(**arguments)
