"""The gate of a predictor opens when draws are measured to pay for their time, and costs little until then."""

import math
from collections import deque
from functools import partial

import pytest
import torch
from laws import assert_same, assert_same_draws, assert_unchanged, steady_losses, through_file, train

from approx_is import ImportanceSampler, VarianceGate
from approx_is.gate import PLAIN_DRAW_EVERY, SETTLE_STEPS, Look
from approx_is.predictor_gate import GLANCE_EVERY, SETTLED_FACTOR, SETTLED_STEPS, PredictorGate
from approx_is.predictors import LastLossPredictor
from approx_is.time_credit import LARGEST_ADVANCE, LEAST_ADVANCE
from approx_is.trials import FIRST_REST, FOR_EVER
from approx_is.variance_evidence import PATIENCE

N, B = 1000, 50


class World:
    """A training whose plain steps take 1 second, and a predictor that takes `cost` seconds to learn from a batch.

    To observe takes `observing` seconds, and `ahead` batches are drawn before they are needed.
    """

    def __init__(self, monkeypatch, losses, cost, *, k=1.0, observing=0.0, ahead=0, **options):
        self.time = 0.0
        self.plain = 1.0
        self.cost = cost
        self.observing = observing
        self.losses = losses
        self.learned = 0
        self.waiting = deque()
        self.ahead = ahead
        monkeypatch.setattr("approx_is.step_clock.perf_counter", lambda: self.time)
        self.sampler = ImportanceSampler(N, B, predictor=self._build, k=k, gate=VarianceGate(**options))
        self.gate = self.sampler.gate

    def _build(self, *arguments):
        world = self

        class Slow(LastLossPredictor):
            def update(self, indices, observed, step):
                world.time += world.cost
                world.learned += 1

        return Slow(*arguments)

    def run(self, steps):
        """Train, and return the draws."""
        draws = []
        for _ in range(steps):
            while len(self.waiting) <= self.ahead:
                self.waiting.append(self.sampler.draw())
            draw = self.waiting.popleft()
            self.time += self.plain
            self.sampler.update(draw, partial(self._observe, draw) if self.observing else self.losses(draw.indices))
            draws.append(draw)
        return draws

    def _observe(self, draw):
        self.time += self.observing
        return self.losses(draw.indices)


def equal(indices):
    return torch.ones(len(indices))


def rare(indices):
    """Return losses of which one in ten is large, always of the same samples."""
    return torch.where(indices % 10 == 0, 10.0, 0.1)


def uneven(indices):
    """Return losses of which ideal draws reduce the second moment 1.6 times."""
    return torch.where(indices % 10 == 0, 4.5, 1.0)


class Unpredictable:
    """Losses of which one in ten is large, each time of other samples."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, indices):
        return torch.where(torch.rand(len(indices), generator=self.generator) < 0.1, 10.0, 0.1)


class TestOpens:
    def test_where_draws_pay(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02)
        draws = world.run(400)
        assert world.gate.is_open
        assert not draws[-1].is_uniform
        assert world.gate.verdict.startswith("open: draws reduce the second moment ")
        metrics = world.sampler.metrics()
        assert metrics["gate_open"] == 1.0
        assert metrics["gate_step_time_ratio"] == pytest.approx(1.02)
        assert metrics["gate_variance_ratio"] > 3
        assert metrics["gate_speedup"] == pytest.approx(metrics["gate_variance_ratio"] / 1.02)

    def test_at_the_variance_ratio_that_the_draws_then_have(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02, margin=math.inf, relative_cost=1.0)
        world.run(400)
        closed = world.gate.variance_ratio
        probabilities = world.sampler.probabilities(gated=False)
        v = rare(torch.arange(N)).double()
        truth = v.square().mean() / (v.square() / (N * probabilities)).mean()
        assert closed == pytest.approx(float(truth), rel=0.05)
        opened = World(monkeypatch, rare, cost=0.02)
        opened.run(800)
        assert opened.gate.variance_ratio == pytest.approx(float(truth), rel=0.05)

    def test_not_before_there_are_predictions(self, monkeypatch):
        draws = World(monkeypatch, rare, cost=0.0).run(N // B)
        assert all(draw.is_uniform for draw in draws)

    def test_only_if_the_gain_exceeds_the_cost(self, monkeypatch):
        world = World(monkeypatch, rare, cost=6.0, budget=math.inf)  # gains a factor of about 6, takes 7 times as long
        draws = world.run(600)
        assert all(draw.is_uniform for draw in draws)
        assert world.gate.verdict.startswith("closed: draws would reduce the second moment ")
        assert 1 < world.gate.variance_ratio < world.gate.relative_cost

    def test_with_a_given_cost_without_a_clock(self, monkeypatch):
        def fail():
            raise AssertionError("the clock was read")

        monkeypatch.setattr("approx_is.step_clock.perf_counter", fail)
        sampler = ImportanceSampler(N, B, predictor="last-loss", gate=VarianceGate(relative_cost=1.01))
        train(sampler, 400, rare)
        assert sampler.gate.is_open
        assert sampler.gate.relative_cost == 1.01

    def test_not_where_observing_takes_what_would_be_gained(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02, observing=9.0, budget=math.inf)  # what plain steps do without
        world.run(400)
        assert not world.gate.is_open
        assert world.gate.relative_cost == pytest.approx(10.02)

    def test_where_plain_steps_have_become_longer_while_it_slept(self, monkeypatch):
        world = World(monkeypatch, equal, cost=0.3)
        world.run(200)
        world.plain = 6.0
        world.run(16 * GLANCE_EVERY)
        world.losses = uneven
        world.run(200)
        assert world.gate.is_open
        assert world.gate.relative_cost == pytest.approx(1.05)

    def test_for_biased_draws_too_if_asked_to(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02, k=0.5)
        world.run(400)
        assert world.gate.is_open


class TestTrial:
    """What a predictor that takes more than the budget has to prove itself."""

    def test_is_held_once_the_last_observations_foretell_enough(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.25)
        world.run(70)
        assert world.learned <= 12  # to know what it takes
        world.run(450)
        assert world.gate.is_open
        assert world.learned > 200

    def test_is_not_held_where_they_do_not(self, monkeypatch):
        world = World(monkeypatch, Unpredictable(), cost=0.5)
        world.run(1500)
        assert world.learned <= 12
        assert "by the last observation" in world.gate.verdict

    def test_that_is_dear_waits_until_what_is_foretold_would_have_paid_for_it(self, monkeypatch):
        world = World(monkeypatch, rare, cost=1.0, relative_cost=2.0)
        world.run(450)  # it takes the time of 84 steps, four times that of which a speed-up of three saves in 490
        assert "by the last observation 6." in world.gate.verdict
        assert world.learned == 0
        world.run(100)
        assert world.gate.is_open

    def test_that_is_lost_is_followed_by_a_rest(self, monkeypatch):
        class Wrong(LastLossPredictor):
            def predict(self, indices):
                return 1.0 / (0.01 + super().predict(indices))

        gate = VarianceGate(relative_cost=1.5)
        sampler = ImportanceSampler(N, B, predictor=Wrong, gate=gate)
        train(sampler, 1000, rare)
        assert not sampler.gate.is_open
        trials = sampler.state_dict()["drawer"]["gate"]["trials"]
        assert trials["next_rest"] > FIRST_REST
        assert trials["rest"] > 0.5 * (N / B) / 0.015 - 1000
        assert sampler.gate.variance_ratio < 1

    def test_that_would_not_pay_any_more_does_not_keep_old_times(self, monkeypatch):
        monkeypatch.setattr("approx_is.predictor_gate.REMEASURE_EVERY", 256)
        world = World(monkeypatch, uneven, cost=0.5, budget=0.05)
        while not world.gate.state_dict()["trials"]["left"]:
            world.run(1)
        world.losses = equal
        while world.gate.metrics()["gate_learning"]:
            world.run(1)
        world.cost, world.losses = 0.02, uneven
        world.run(600)
        assert world.gate.is_open

    def test_of_a_budget_next_to_nothing_is_followed_by_the_longest_rest(self):
        gate = PredictorGate(VarianceGate(relative_cost=1.5, budget=1e-310), epoch_steps=20)
        gate._end_trial()
        assert gate.state_dict()["trials"]["rest"] == FOR_EVER
        gate.load_state_dict(through_file(gate.state_dict()))

    def test_is_held_at_last_where_the_budget_has_been_saved(self, monkeypatch):
        world = World(monkeypatch, Unpredictable(), cost=0.1)
        world.run(800)
        assert world.learned > PATIENCE
        assert world.time < 800 * 1.02


class TestPlainSteps:
    def test_come_now_and_then_while_it_is_open_and_change_no_gain(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02)
        world.run(500)
        gain = world.sampler.gain.value
        assert gain > 1
        kinds = [draw.is_uniform for draw in world.run(2 * PLAIN_DRAW_EVERY)]
        assert sum(kinds) == 2
        assert world.sampler.gain.value > 1

    def test_come_one_at_a_time_however_many_are_drawn_at_once(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02)
        world.run(6 * PLAIN_DRAW_EVERY)
        assert world.gate.is_open
        kinds = []
        for _ in range(2 * PLAIN_DRAW_EVERY // 8):
            world.waiting.extend(world.sampler.draw() for _ in range(8))
            kinds += [draw.is_uniform for draw in world.run(8)]
        assert sum(kinds) == 2

    def test_show_when_plain_steps_have_become_faster(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.3)
        world.run(1000)
        assert world.gate.is_open
        world.plain = 0.02  # an eighth of what would pay
        world.run(40 * PLAIN_DRAW_EVERY)
        assert not world.gate.is_open

    def test_and_a_machine_that_slows_down_is_no_reason_to_stay_closed(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02)
        world.run(500)
        world.plain, world.cost = 8.0, 0.16
        world.run(5000)
        assert world.gate.is_open


class TestStaysClosed:
    @pytest.mark.parametrize("cost", [0.001, 0.04, 8.0])
    def test_and_learns_nothing_where_there_is_nothing_to_gain(self, monkeypatch, cost):
        world = World(monkeypatch, equal, cost)
        draws = world.run(1000)
        assert all(draw.is_uniform for draw in draws)
        assert world.learned == 0
        assert "ideally 1.00 times" in world.gate.verdict

    @pytest.mark.parametrize("cost", [0.001, 0.04, 1.0, 8.0])
    def test_and_keeps_within_its_budget_where_losses_cannot_be_predicted(self, monkeypatch, cost):
        world = World(monkeypatch, Unpredictable(), cost)
        draws = world.run(3000)
        assert all(draw.is_uniform for draw in draws)
        assert world.learned > 0
        assert (
            world.time / 3000 - 1 < 0.02 + 2 * cost / 3000
        )  # the budget, what is advanced, and two before it is known

    @pytest.mark.parametrize("cost", [0.005, 0.1])
    def test_and_what_observing_takes_is_within_its_budget(self, monkeypatch, cost):
        world = World(monkeypatch, Unpredictable(), cost, observing=0.14)
        world.run(1500)
        assert world.learned > 0
        assert world.time / 1500 < 1.02

    def test_until_learning_has_become_cheap(self, monkeypatch):
        monkeypatch.setattr("approx_is.predictor_gate.REMEASURE_EVERY", 256)
        world = World(monkeypatch, rare, cost=9.0, budget=1.0)
        world.run(200)
        assert world.gate.relative_cost == 10.0
        world.cost = 0.02
        world.run(600)
        assert world.gate.is_open

    def test_with_an_infinite_margin(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.0, margin=math.inf)
        assert all(draw.is_uniform for draw in world.run(400))

    def test_in_plain_epochs(self, monkeypatch):
        world = World(monkeypatch, equal, cost=0.1)
        for _ in range(3):
            draws = world.run(N // B)
            assert sorted(torch.cat([draw.indices for draw in draws]).tolist()) == list(range(N))
            assert all(bool((draw.weights == 1).all()) for draw in draws)


class TestCloses:
    def test_when_losses_can_no_longer_be_predicted(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02)
        world.run(400)
        assert world.gate.is_open
        world.losses = Unpredictable()
        world.run(400)
        assert not world.gate.is_open

    def test_when_steps_by_importance_turn_out_too_long(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02)
        world.run(400)
        world.cost = 9.0
        world.run(PATIENCE + 40)
        assert not world.gate.is_open

    def test_and_late_draws_do_not_keep_it_closed(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02, ahead=16)
        world.run(400)
        world.cost = 9.0
        while world.gate.is_open and world.sampler.step < 600:
            world.run(1)
        assert not world.gate.is_open
        world.run(16)  # that were drawn before
        world.cost = 0.02
        world.run(FIRST_REST + PATIENCE)
        assert world.gate.is_open

    def test_and_rests_before_it_opens_again(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02)
        world.run(400)
        world.losses = Unpredictable()
        while world.gate.is_open and world.sampler.step < 5000:
            world.run(1)
        world.losses = rare
        closed_at = world.sampler.step
        while not world.gate.is_open and world.sampler.step < 5000:
            world.run(1)
        assert world.sampler.step - closed_at >= FIRST_REST

    def test_and_a_draw_made_before_still_counts(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02)
        world.run(400)
        late = world.sampler.draw()
        world.losses = Unpredictable()
        while world.gate.is_open and world.sampler.step < 5000:
            world.run(1)
        learned = world.learned
        world.sampler.update(late, rare(late.indices))
        assert world.learned == learned + 1
        assert not world.gate.is_open


def looks_of(world, steps):
    """Train, and return how much each step looked at."""
    looks, look = [], world.gate.look

    def noted(*, drawn):
        looks.append(look(drawn=drawn))
        return looks[-1]

    world.gate.look = noted
    world.run(steps)
    world.gate.look = look
    return looks


class TestLooksAway:
    def gate(self, **options):
        return PredictorGate(VarianceGate(**options), epoch_steps=20)

    def test_while_it_settles_and_where_nothing_is_to_be_gained(self):
        gate = self.gate()
        looks = []
        for _ in range(3 * GLANCE_EVERY):
            look = gate.look(drawn=False)
            looks.append(look)
            if look is Look.GLANCE:
                gate.observe(torch.ones(8), torch.ones(8), drawn=False, predicted=None, last=None)
            gate.end_step(look, drawn=False)
        glances = {*range(SETTLE_STEPS), *range(0, 3 * GLANCE_EVERY, GLANCE_EVERY)}
        expected = [Look.GLANCE if step in glances else Look.AWAY for step in range(3 * GLANCE_EVERY)]
        assert looks == expected

    @pytest.mark.parametrize(("seconds", "factor"), [(0.001, SETTLED_FACTOR), (0.1, 1)])
    def test_looks_grow_rare_where_steps_are_short(self, monkeypatch, seconds, factor):
        world = World(monkeypatch, equal, cost=0.1)
        world.plain = seconds
        world.run(SETTLED_STEPS)
        looks = looks_of(world, 8 * GLANCE_EVERY)
        assert looks.count(Look.GLANCE) == 8 // factor
        assert looks.count(Look.AWAY) == 8 * GLANCE_EVERY - 8 // factor

    def test_while_what_learning_takes_is_not_known_and_cannot_be_afforded(self, monkeypatch):
        world = World(monkeypatch, Unpredictable(), cost=5.0)
        looks = looks_of(world, 700)
        assert math.isnan(world.gate.relative_cost)
        assert looks.count(Look.AWAY) > 600
        learned = [step for step, look in enumerate(looks) if look is Look.LEARN]
        assert len(learned) > 1
        assert all(looks[step - 1] in (Look.GLANCE, Look.LEARN) for step in learned)  # whose end was waited for

    def test_never_from_a_batch_drawn_by_importance(self):
        assert self.gate().look(drawn=True) is Look.LEARN

    def test_never_where_learning_costs_nothing(self):
        gate = self.gate(relative_cost=1.0)
        for _ in range(100):
            assert gate.look(drawn=False) is Look.LEARN
            gate.observe(torch.ones(8), torch.ones(8), drawn=False, predicted=None, last=None)
            gate.end_step(Look.LEARN, drawn=False)

    def test_now_and_then_to_time_a_step_without(self, monkeypatch):
        world = World(monkeypatch, Unpredictable(), cost=0.001)
        world.run(SETTLE_STEPS)
        assert world.learned == 0
        world.run(4 * GLANCE_EVERY)
        assert world.learned == 4 * GLANCE_EVERY - 4

    def test_and_does_not_ask_for_what_it_does_not_read(self, monkeypatch):
        world = World(monkeypatch, equal, cost=0.1)
        asked = []
        for step in range(65):
            draw = world.sampler.draw()
            world.sampler.update(draw, lambda step=step, draw=draw: asked.append(step) or equal(draw.indices))
        assert asked == [*range(SETTLE_STEPS), 32, 64]

    def test_but_shapes_are_checked_all_the_same(self, monkeypatch):
        world = World(monkeypatch, equal, cost=0.1)
        world.run(3)
        draw = world.sampler.draw()
        with assert_unchanged(world.sampler), pytest.raises(ValueError, match=r"must have shape \[50\]"):
            world.sampler.update(draw, torch.ones(3))

    def test_and_the_gain_is_1(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.02)
        world.run(500)
        assert world.sampler.gain.value > 1
        world.losses = equal
        world.run(1000)
        assert not world.gate.is_open
        assert world.sampler.gain.value == 1.0


def test_the_first_epoch_is_advanced_up_to_a_bound(monkeypatch):
    gates = [PredictorGate(VarianceGate(budget=0.5), epoch_steps=steps) for steps in (1, 6, 1e6)]
    assert [gate.state_dict()["credit"]["credit"] for gate in gates] == [LEAST_ADVANCE, 3.0, LARGEST_ADVANCE]


class Turning:
    """Losses of which for a while there is nothing to gain."""

    def __init__(self):
        self.calls = 0

    def __call__(self, indices):
        self.calls += 1
        return (equal if 200 < self.calls < 700 else rare)(indices)


class TestNaps:
    """Where a gate is sure to look away for some steps, it is not asked about each: that must make no difference."""

    def run(self, monkeypatch, losses, *, cost, plain, steps=SETTLED_STEPS + 300, interrupted=False, **options):
        world = World(monkeypatch, losses() if isinstance(losses, type) else losses, cost, **options)
        world.plain = plain
        looks = []
        original = world.gate.end_step
        monkeypatch.setattr(
            world.gate, "end_step", lambda look, *, drawn: (looks.append(look), original(look, drawn=drawn))
        )
        for step in range(steps):
            world.run(1)
            if interrupted and step % 7 == 0:
                world.gate.state_dict()
        return looks, world.gate.state_dict()

    @pytest.mark.parametrize("plain", [1.0, 0.001])
    @pytest.mark.parametrize(
        ("losses", "cost", "options"),
        [
            (equal, 0.5, {}),
            (Unpredictable, 3.0, {}),
            (Unpredictable, 3.0, {"budget": 0.001}),
            (rare, 6.0, {"budget": 0.0}),
            (rare, 6.0, {"relative_cost": 7.0}),
        ],
    )
    def test_change_nothing(self, monkeypatch, losses, cost, options, plain):
        self.check(monkeypatch, losses, cost=cost * plain, plain=plain, **options)

    @pytest.mark.parametrize("ahead", [0, 8])
    def test_change_nothing_around_a_closing_and_an_opening(self, monkeypatch, ahead, caplog):
        caplog.set_level("INFO", logger="approx_is")
        self.check(monkeypatch, Turning, cost=0.001, plain=1.0, ahead=ahead, steps=1000)
        moves = [record.getMessage().split(":")[0] for record in caplog.records]
        assert moves == 3 * ["Gate open", "Gate closed", "Gate open"]

    def check(self, monkeypatch, losses, **arguments):
        napping = self.run(monkeypatch, losses, **arguments)
        interrupted = self.run(monkeypatch, losses, interrupted=True, **arguments)
        monkeypatch.setattr(PredictorGate, "_sure_to_look_away", lambda gate: 0)
        awake = self.run(monkeypatch, losses, **arguments)
        assert Look.AWAY in awake[0]
        assert napping[0] == interrupted[0] == awake[0]
        assert_same(napping[1], awake[1])
        assert_same(interrupted[1], awake[1])

    def test_are_taken(self, monkeypatch):
        world = World(monkeypatch, equal, 0.5)
        world.run(SETTLE_STEPS + 1)
        looked = []
        monkeypatch.setattr(PredictorGate, "_patience", property(looked.append))
        world.run(8)
        assert not looked


class TestState:
    def test_goes_on_to_the_bit_with_a_given_cost(self):
        def build():
            return ImportanceSampler(N, B, predictor="last-loss", gate=VarianceGate(relative_cost=1.05, budget=0.02))

        original, resumed = build(), build()
        for steps in (70, 60, 200):
            train(original, steps, rare)
            resumed.load_state_dict(through_file(original.state_dict()))
            following = train(original, 40, rare)
            assert_same_draws(train(resumed, 40, rare), following)
            assert_same(resumed.state_dict(), original.state_dict())
        assert original.gate.is_open

    def test_keeps_the_times(self, monkeypatch):
        world = World(monkeypatch, rare, cost=0.25)
        world.run(400)
        other = ImportanceSampler(N, B, predictor=world._build, gate=VarianceGate())
        other.load_state_dict(through_file(world.sampler.state_dict()))
        assert other.gate.relative_cost == world.gate.relative_cost
        assert other.gate.verdict == world.gate.verdict

    @pytest.mark.parametrize(
        ("entry", "value", "message"),
        [
            ("trials", {"left": -1, "rest": 0, "next_rest": FIRST_REST}, "must be at least 0"),
            ("credit", {"credit": math.nan, "uncharged": 0}, "must be finite"),
            ("credit", {"credit": 0.0, "uncharged": -1}, "must be at least 0"),
            ("open", 1, "must be of type bool"),
            ("clock", {}, "StepClock.load_state_dict"),
            ("ideal", {}, "has not the expected entries"),
        ],
    )
    def test_damaged_is_refused_and_changes_nothing(self, entry, value, message):
        sampler = ImportanceSampler(N, B, predictor="last-loss", gate=VarianceGate(relative_cost=1.0))
        train(sampler, 30, steady_losses)
        state = through_file(sampler.state_dict())
        state["drawer"]["gate"][entry] = value
        with assert_unchanged(sampler), pytest.raises(ValueError, match=message):
            sampler.load_state_dict(state)
