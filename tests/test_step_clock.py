"""The clock of steps, with the time that a test says."""

import math

import pytest
from laws import assert_same, assert_unchanged, snapshot, through_file

from approx_is.step_clock import DROPPED, StepClock

KINDS = ("plain", "drawn")


class Time:
    """A clock that moves when told to."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def make(window=31):
    """Return a clock that was started, and its time."""
    time = Time()
    clock = StepClock(KINDS, window=window, now=time)
    clock.tick("plain")  # where the first step begins
    return clock, time


def tick(clock, time, kind, *durations):
    """Let steps of a kind take so long."""
    for seconds in durations:
        time.seconds += seconds
        clock.tick(kind)


def settled(window=31, **durations):
    """Return a clock, and its time, that has seen steps of these durations after those it drops."""
    clock, time = make(window)
    for kind, seconds in durations.items():
        tick(clock, time, kind, *[99.0] * DROPPED, *seconds)
    return clock, time


class TestMeasures:
    def test_the_time_since_the_step_before(self):
        clock, _ = settled(plain=[2.0, 4.0, 9.0])
        assert clock.count("plain") == 3
        assert clock.median("plain") == 4.0

    def test_nothing_before_there_are_two_ticks(self):
        clock = StepClock(KINDS, now=Time())
        assert clock.count("plain") == 0
        clock.tick("plain")
        assert clock.count("plain") == 0
        assert math.isnan(clock.median("plain"))

    def test_from_where_it_is_started(self):
        clock, time = settled(plain=[2.0])
        clock.tick("plain", waited=False)
        time.seconds += 5.0
        clock.start()
        tick(clock, time, "plain", 3.0)
        assert clock.median("plain") == 2.5

    def test_to_where_it_is_stopped(self):
        clock, time = settled()
        tick(clock, time, "plain", 9.0)  # dropped
        for own, other in ((2.0, 7.0), (4.0, 8.0)):
            time.seconds += own
            clock.stop()
            tick(clock, time, "plain", other)
        assert clock.median("plain") == 3.0
        tick(clock, time, "plain", 5.0)
        assert clock.median("plain") == 4.0

    def test_not_the_first_steps_of_a_kind(self):
        clock, time = make()
        for kind in KINDS:
            for dropped in range(DROPPED):
                assert clock.count(kind) == 0, dropped
                tick(clock, time, kind, 99.0)
            tick(clock, time, kind, 1.0)
            assert clock.count(kind) == 1
            assert clock.median(kind) == 1.0

    def test_a_step_by_the_kind_that_it_ends_with(self):
        clock, time = settled(plain=[], drawn=[])
        for _ in range(3):
            tick(clock, time, "plain", 1.0)
            tick(clock, time, "drawn", 2.5)
        assert clock.median("plain") == 1.0
        assert clock.median("drawn") == 2.5

    def test_the_first_tick_starts_only(self):
        time = Time()
        clock = StepClock(KINDS, now=time)
        for kind in ("drawn", *["plain"] * DROPPED):
            tick(clock, time, kind, 50.0)
        tick(clock, time, "plain", 1.0)
        assert clock.count("drawn") == 0
        assert clock.median("plain") == 1.0

    def test_real_time_by_default(self):
        clock = StepClock(KINDS)
        for _ in range(1 + DROPPED + 5):
            clock.tick("plain")
        assert clock.count("plain") == 5
        assert 0 <= clock.median("plain") < 60


class TestMedian:
    @pytest.mark.parametrize(
        ("seconds", "expected"), [([3.0], 3.0), ([3.0, 1.0], 2.0), ([1.0, 1.0, 500.0], 1.0), ([0.0], 0.0)]
    )
    def test_does_not_see_an_evaluation_now_and_then(self, seconds, expected):
        assert settled(plain=seconds)[0].median("plain") == expected

    def test_is_of_the_last_steps(self):
        clock, time = settled(window=3, plain=[1.0, 1.0, 1.0])
        tick(clock, time, "plain", 5.0, 6.0, 7.0)
        assert clock.count("plain") == 3
        assert clock.median("plain") == 6.0

    def test_is_nan_if_there_are_none(self):
        assert math.isnan(make()[0].median("drawn"))


class TestRatio:
    def test_is_that_of_the_medians(self):
        clock, _ = settled(plain=[2.0, 4.0, 9.0], drawn=[6.0, 1.0, 50.0])
        assert clock.ratio("drawn", "plain") == 1.5
        assert clock.ratio("plain", "drawn") == pytest.approx(2 / 3)
        assert clock.ratio("plain", "plain") == 1.0

    @pytest.mark.parametrize(
        "durations", [{}, {"plain": [1.0]}, {"drawn": [1.0]}, {"plain": [0.0], "drawn": [1.0]}], ids=str
    )
    def test_is_nan_while_one_is_not_known_or_takes_no_time(self, durations):
        assert math.isnan(settled(**durations)[0].ratio("drawn", "plain"))

    def test_of_no_time_to_some_is_0(self):
        assert settled(plain=[1.0], drawn=[0.0])[0].ratio("drawn", "plain") == 0.0


class TestForget:
    def test_is_of_one_kind(self):
        clock, time = settled(plain=[1.0], drawn=[7.0])
        clock.forget("drawn")
        assert (clock.count("plain"), clock.count("drawn")) == (1, 0)
        tick(clock, time, "drawn", 3.0)
        assert clock.median("drawn") == 3.0

    def test_of_nothing_is_fine(self):
        clock, _ = settled(plain=[1.0])
        with assert_unchanged(clock):
            clock.forget("drawn")


class TestState:
    def test_comes_back_through_a_file(self):
        clock, _ = settled(plain=[2.0, 4.0, 9.0], drawn=[6.0])
        restored, _ = settled(plain=[77.0] * 5)
        restored.load_state_dict(through_file(clock.state_dict()))
        assert_same(snapshot(restored), snapshot(clock))
        assert restored.ratio("drawn", "plain") == 1.5

    def test_the_time_until_it_is_loaded_is_no_step_nor_are_the_first_ones_after(self):
        clock, time = settled(plain=[2.0, 4.0])
        clock.load_state_dict(snapshot(clock))
        tick(clock, time, "plain", 5000.0, *[99.0] * DROPPED)
        assert clock.median("plain") == 3.0
        tick(clock, time, "plain", 9.0)
        assert clock.median("plain") == 4.0

    def test_is_a_copy(self):
        clock, time = settled(plain=[2.0])
        state = clock.state_dict()
        tick(clock, time, "plain", 8.0)
        assert state["plain"] == [2.0]
        restored, restored_time = make()
        restored.load_state_dict(state)
        tick(restored, restored_time, "plain", *[1.0] * 9)
        assert state["plain"] == [2.0]

    def test_of_a_full_window_fits(self):
        clock, _ = settled(window=3, plain=[1.0, 2.0, 3.0, 4.0])
        restored, _ = make(window=3)
        restored.load_state_dict(snapshot(clock))
        assert restored.median("plain") == 3.0

    @pytest.mark.parametrize(
        ("damage", "match"),
        [
            (lambda state: state.pop("drawn"), r"missing \['drawn'\]"),
            (lambda state: state.update(other=[]), r"unknown \['other'\]"),
            (lambda state: state.update(drawn=1.0), r"\['drawn'\]` must be a list of at most 3 numbers"),
            (lambda state: state.update(drawn=None), r"\['drawn'\]` must be a list of at most 3 numbers"),
            (lambda state: state.update(plain=[1.0] * 4), r"\['plain'\]` must be a list of at most 3 numbers"),
            (
                lambda state: state.update(plain=[1.0, -1.0]),
                r"\['plain'\]` must hold seconds, finite and ≥ 0; got -1.0",
            ),
            (lambda state: state.update(plain=[math.nan]), "must hold seconds, finite and ≥ 0; got nan"),
            (lambda state: state.update(plain=[math.inf]), "must hold seconds, finite and ≥ 0; got inf"),
            (lambda state: state.update(plain=[1]), "must hold seconds, finite and ≥ 0; got 1"),
            (lambda state: state.update(plain=["1"]), "must hold seconds, finite and ≥ 0; got '1'"),
        ],
    )
    def test_that_is_damaged_changes_nothing(self, damage, match):
        clock, _ = settled(window=3, plain=[1.0], drawn=[2.0, 3.0])
        state = snapshot(clock)
        damage(state)
        with (
            assert_unchanged(clock),
            pytest.raises(ValueError, match=r"StepClock\.load_state_dict\(state\).*" + match),
        ):
            clock.load_state_dict(state)

    @pytest.mark.parametrize("state", [None, [1.0], 3])
    def test_that_is_none_is_refused(self, state):
        clock, _ = settled(plain=[1.0])
        with (
            assert_unchanged(clock),
            pytest.raises(ValueError, match=r"`StepClock\.load_state_dict\(state\)` must be a dict; got"),
        ):
            clock.load_state_dict(state)


def test_only_steps_from_wait_to_wait_count():
    times = iter([0.0, 1.0, 3.0, 10.0, 11.0, 12.0])
    clock = StepClock(["plain"], now=lambda: next(times))
    for waited in (True, True, True, False, True, True):
        clock.tick("plain", waited=waited)
    # the first is the start, the second is dropped; the fourth and the one after it are not known
    assert clock.state_dict() == {"plain": [2.0, 1.0]}


class TestSpans:
    def make(self):
        time = Time()
        clock = StepClock(KINDS, spans={"drawn": 3}, now=time)
        clock.tick("plain")
        tick(clock, time, "drawn", *[99.0] * 3 * DROPPED)
        return clock, time

    def test_the_mean_of_so_many_steps_counts_as_one(self):
        clock, time = self.make()
        tick(clock, time, "drawn", 1.0, 1.0, 7.0)
        assert clock.median("drawn") == 3.0
        assert clock.count("drawn") == 3
        tick(clock, time, "drawn", 1.0, 1.0)
        assert clock.count("drawn") == 3

    def test_steps_of_other_kinds_may_come_between(self):
        clock, time = self.make()
        for _ in range(3):
            tick(clock, time, "drawn", 2.0)
            tick(clock, time, "plain", 50.0)
        assert clock.median("drawn") == 2.0
        assert clock.median("plain") == 50.0

    def test_two_means_at_least_are_believed(self):
        clock, time = self.make()
        known = []
        for _ in range(9):
            tick(clock, time, "drawn", 1.0)
            known.append(clock.is_known("drawn"))
        assert known == [False] * 8 + [True]

    def test_half_a_mean_is_forgotten_with_the_others(self):
        clock, time = self.make()
        tick(clock, time, "drawn", 8.0)
        clock.forget("drawn")
        tick(clock, time, "drawn", 1.0, 1.0, 1.0)
        assert clock.median("drawn") == 1.0
