"""The gate of presampling is open while τ promises more than scoring costs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_unchanged, through_file

from approx_is import VarianceGate
from approx_is.gate import SETTLE_STEPS, AlwaysOpen, Look
from approx_is.gates import make_gate
from approx_is.predictor_gate import PredictorGate
from approx_is.presampling_gate import MEASURED_FOR, PresamplingGate

ONES = torch.ones(4)


def make(least_threshold=2.0, **options):
    return PresamplingGate(VarianceGate(**options), least_threshold=least_threshold)


def scores_of(tau, size=10_000):
    """Return scores whose τ is that: one in so many is 1, and the others are 0."""
    return (torch.arange(size) % round(tau**2) == 0).float()


class TestTau:
    def test_of_the_golden_run(self):
        gate, updates = make(threshold=2.0), 0
        while not gate.is_open:
            gate.observe_scores(scores_of(3.0, 9_000))
            updates += 1
        assert updates == 11
        assert gate.tau == pytest.approx(2.05857, abs=1e-5)

    @given(st.lists(st.floats(0, 100, width=32), min_size=2, max_size=9))
    def test_is_never_below_1_nor_above_the_root_of_the_number(self, scores):
        gate = make(decay=0.0)
        gate.observe_scores(torch.tensor(scores))
        assert 1 <= gate.tau <= math.sqrt(len(scores)) * (1 + 1e-6)

    def test_is_of_uniform_batches_and_of_candidates_but_not_of_chosen_ones(self):
        gate = make()
        gate.observe(scores_of(2.0), torch.ones(10_000), drawn=False, predicted=None, last=None)
        once = gate.metrics()["gate_tau"]
        gate.observe(scores_of(3.0), torch.ones(10_000), drawn=True, predicted=None, last=None)
        assert gate.metrics()["gate_tau"] == once == pytest.approx(0.2)


class TestThreshold:
    def test_can_be_given(self):
        gate = make(threshold=1.5, decay=0.0)
        gate.observe_scores(scores_of(2.0))
        assert gate.is_open
        assert gate.verdict == "open: τ = 2.00 > 1.50"

    def test_is_otherwise_what_presampling_costs_in_theory(self):
        gate = make(2.0, decay=0.0)
        gate.observe_scores(scores_of(2.0))
        assert not gate.is_open
        assert gate.verdict == "closed: τ = 2.00 ≤ 2.00"

    def test_or_what_it_is_measured_to_cost(self, monkeypatch):
        time = [0.0]
        monkeypatch.setattr("approx_is.step_clock.perf_counter", lambda: time[0])
        gate = make(2.0, decay=0.0)
        gate.observe_scores(scores_of(3.0))
        assert not gate.is_open  # before it is known what a uniform step takes
        for drawn, seconds in ((False, 1.0), (True, 4.0)):
            for _ in range(8 + 3):
                time[0] += seconds
                gate.end_step(Look.LEARN, drawn=drawn)
            assert gate.is_open is not drawn
        assert gate.threshold == 4.0
        assert not gate.is_open
        assert gate.metrics()["gate_step_time_ratio"] == 4.0
        for _ in range(MEASURED_FOR):
            time[0] += 1.0
            gate.end_step(Look.GLANCE, drawn=False)
        assert gate.is_open  # to be measured anew

    def test_without_what_uniform_steps_are_observed_with(self, monkeypatch):
        time = [0.0]
        monkeypatch.setattr("approx_is.step_clock.perf_counter", lambda: time[0])
        gate = make(2.0)
        for drawn, own, observing in ((False, 1.0, 0.5), (True, 3.0, 0.5)):
            for _ in range(8 + 3):
                time[0] += own
                look = gate.look(drawn=drawn)
                gate.begin_update(look)
                time[0] += observing
                gate.end_step(look, drawn=drawn)
        assert gate.metrics()["gate_step_time_ratio"] == 3.5

    def test_is_not_measured_where_the_cost_is_given(self):
        assert make(2.0, relative_cost=2.5).threshold == 2.5
        assert make(2.0, relative_cost=1.5).threshold == 2.0


def looks(gate, steps):
    """Return what it does with uniform batches."""
    found = []
    for _ in range(steps):
        found.append(gate.look(drawn=False))
        gate.end_step(found[-1], drawn=False)
    return found


def test_uniform_batches_are_only_glanced_at():
    assert looks(make(threshold=1.5), 100) == [Look.GLANCE] * 100
    assert make().look(drawn=True) is Look.LEARN


def test_and_only_two_in_eight_where_the_threshold_is_measured():
    found = looks(make(), SETTLE_STEPS + 16)
    assert found[:SETTLE_STEPS] == [Look.GLANCE] * SETTLE_STEPS
    assert found[SETTLE_STEPS:] == ([Look.GLANCE] * 2 + [Look.AWAY] * 6) * 2


def test_a_restored_gate_goes_on_as_the_original():
    original, restored = make(decay=0.5), make(decay=0.5)
    original.observe_scores(scores_of(3.0))
    restored.load_state_dict(through_file(original.state_dict()))
    for gate in (original, restored):
        gate.observe_scores(scores_of(4.0))
    assert restored.metrics() == pytest.approx(original.metrics(), nan_ok=True)
    assert restored.verdict == original.verdict


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("average", -1.0, "must be at least 0"),
        ("average", 1, "must be of type float"),
        ("closed_steps", -1, "must be at least 0"),
        ("clock", {"uniform": [], "drawn": [math.nan]}, "finite and ≥ 0"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(entry, value, message):
    gate = make()
    with assert_unchanged(gate), pytest.raises(ValueError, match=message):
        gate.load_state_dict({**gate.state_dict(), entry: value})


class Scorer:
    least_tau = 2.0

    def __init__(self, needs_tau=False):
        self.needs_tau = needs_tau


class TestChoice:
    def make(self, gate, k=1.0, scorer=None):
        return make_gate(gate, k=k, scorer=scorer, epoch_steps=10)

    def test_auto_is_a_gate_where_draws_are_unbiased(self):
        assert isinstance(self.make("auto"), PredictorGate)
        assert isinstance(self.make("auto", scorer=Scorer()), PresamplingGate)

    @pytest.mark.parametrize("k", [0.5, 0.0, lambda step: 1.0])
    def test_auto_is_none_where_they_are_not(self, k):
        assert isinstance(self.make("auto", k=k), AlwaysOpen)

    def test_none_is_none(self):
        gate = self.make(None)
        assert gate.is_open
        assert gate.metrics() == {}
        assert gate.verdict == "open: there is no gate"

    def test_given_options_count_for_every_k(self):
        assert isinstance(self.make(VarianceGate(), k=0.5), PredictorGate)

    @pytest.mark.parametrize("gate", ["open", 1.0, True, VarianceGate])
    def test_something_else_is_refused(self, gate):
        with pytest.raises(ValueError, match=r'`gate` must be "auto", None or a VarianceGate; got'):
            self.make(gate)

    def test_there_must_be_one_where_the_batch_size_follows_it(self):
        with pytest.raises(ValueError, match=r"`gate` must be a VarianceGate where the batch size follows τ"):
            self.make(None, scorer=Scorer(needs_tau=True))


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("threshold", -0.1),
            ("decay", 1.0),
            ("decay", -0.1),
            ("margin", -0.1),
            ("relative_cost", 0.99),
            ("budget", -0.1),
            ("rate", 0.0),
            ("rate", 1.1),
            *((option, math.nan) for option in ("threshold", "decay", "margin", "relative_cost", "budget", "rate")),
        ],
    )
    def test_out_of_bounds_are_refused(self, option, value):
        with pytest.raises(ValueError, match=rf"`VarianceGate\({option}=\.\.\.\)` must be .*; got {value}"):
            VarianceGate(**{option: value})

    def test_of_another_type_are_refused(self):
        with pytest.raises(TypeError, match=r"`VarianceGate\(margin=\.\.\.\)` must be a number; got 'wide'"):
            VarianceGate(margin="wide")
