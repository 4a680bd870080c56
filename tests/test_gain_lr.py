import copy
import functools
import itertools
import math
import types
import weakref

import laws
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.utils.data import DataLoader

from approx_is import ApproxSampler, GainLR, GainRatio, half_batch_signal
from approx_is.gain import gain_ratio

STEPS = 24


def halve_every_5(step):
    return 0.5 ** (step // 5)


def warm_up_then_anneal(optimizer):
    parts = [LinearLR(optimizer, start_factor=0.1, total_iters=6), CosineAnnealingLR(optimizer, T_max=STEPS - 6)]
    return SequentialLR(optimizer, parts, milestones=[6])


SCHEDULES = {
    "StepLR": functools.partial(StepLR, step_size=5, gamma=0.3),
    "MultiStepLR": functools.partial(MultiStepLR, milestones=[3, 4, 11], gamma=0.3),
    "ExponentialLR": functools.partial(ExponentialLR, gamma=0.9),
    "CosineAnnealingLR": functools.partial(CosineAnnealingLR, T_max=STEPS, eta_min=1e-3),
    "CosineAnnealingWarmRestarts": functools.partial(CosineAnnealingWarmRestarts, T_0=5, T_mult=2),
    "LinearLR": functools.partial(LinearLR, start_factor=0.1, total_iters=8),
    "ConstantLR": functools.partial(ConstantLR, factor=0.1, total_iters=4),
    "PolynomialLR": functools.partial(PolynomialLR, total_iters=STEPS, power=2.0),
    "MultiplicativeLR": functools.partial(MultiplicativeLR, lr_lambda=lambda step: 0.9),
    "LambdaLR": functools.partial(LambdaLR, lr_lambda=[halve_every_5, lambda step: 1 / (1 + step)]),
    "CyclicLR": functools.partial(CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=4),
    "OneCycleLR": functools.partial(OneCycleLR, max_lr=[0.1, 0.2], total_steps=STEPS),
    "OneCycleLR-linear": functools.partial(OneCycleLR, max_lr=0.1, total_steps=STEPS, anneal_strategy="linear"),
    "SequentialLR": warm_up_then_anneal,
    "ChainedScheduler": lambda optimizer: ChainedScheduler(
        [ConstantLR(optimizer, factor=0.1, total_iters=4), ExponentialLR(optimizer, gamma=0.9)]
    ),
    "function": lambda optimizer: halve_every_5,
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


class ScriptedGain(GainRatio):
    """Has the ratios that it was told, one each time it is asked; the last one stays."""

    def __init__(self, ratios):
        super().__init__()
        self.ratios = list(ratios)
        self.signals = []

    @property
    def value(self):
        return self.ratios.pop(0) if len(self.ratios) > 1 else self.ratios[0]

    def observe_signal(self, signal, squared_norm):
        self.signals.append((signal, squared_norm))


def scripted(*ratios):
    """Return a sampler whose second step, third step, … have these ratios; that of the first is always 1."""
    return types.SimpleNamespace(gain=ScriptedGain(ratios))


def make_optimizer(kind=SGD, **options):
    """Return an optimizer of two groups with different rates."""
    groups = [{"params": [nn.Parameter(torch.ones(2))]}, {"params": [nn.Parameter(torch.ones(3))], "lr": 0.02}]
    return kind(groups, lr=0.1, **({"momentum": 0.9} if kind is SGD else {}), **options)


def make_gain_lr(name, sampler, optimizer, **arguments):
    schedule = SCHEDULES[name](optimizer)
    return GainLR(schedule, sampler, **({"optimizer": optimizer} if name == "function" else {}), **arguments)


def plain_schedule(name, optimizer):
    return LambdaLR(optimizer, halve_every_5) if name == "function" else SCHEDULES[name](optimizer)


def settings(optimizer):
    """Return what a schedule sets: rate and momentum of each group."""
    return [(group["lr"], group.get("momentum", group.get("betas"))) for group in optimizer.param_groups]


def follow(schedule, optimizer, steps=STEPS, every=1):
    """Return the settings that each of some steps is taken with."""
    taken = []
    for step in range(1, steps + 1):
        taken.append(settings(optimizer))
        optimizer.step()
        if step % every == 0:
            schedule.step()
    return taken


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


class TestWithoutGain:
    @every_schedule
    @pytest.mark.parametrize("kind", [SGD, Adam])
    def test_rates_and_momentum_are_the_schedules_to_the_bit(self, name, kind):
        optimizer, followed = make_optimizer(kind), make_optimizer(kind)
        expected = follow(plain_schedule(name, optimizer), optimizer)
        assert follow(make_gain_lr(name, scripted(1.0), followed), followed) == expected
        assert len({str(each) for each in expected}) > 1

    @every_schedule
    def test_a_schedule_in_epochs_is_stepped_once_an_epoch(self, name):
        optimizer, followed = make_optimizer(), make_optimizer()
        expected = follow(plain_schedule(name, optimizer), optimizer, 3 * STEPS, every=3)
        assert follow(make_gain_lr(name, scripted(1.0), followed, every=3), followed, 3 * STEPS) == expected

    def test_steps_are_effective_steps(self):
        optimizer = make_optimizer()
        gain_lr = make_gain_lr("StepLR", scripted(1.0), optimizer)
        assert (gain_lr.effective_steps, gain_lr.ratio) == (0.0, 1.0)
        follow(gain_lr, optimizer, 7)
        assert (gain_lr.effective_steps, gain_lr.ratio) == (7.0, 1.0)

    @pytest.mark.parametrize("predictor", ["last-loss", "uniform"])
    def test_training_is_that_with_the_schedule_to_the_bit(self, predictor):
        # in the first epoch and eight steps after; always, if nothing is gained
        steps = 60 if predictor == "uniform" else 9 + 8
        run, plain = Run(predictor=predictor, steps_of_warm_up=9), Run(predictor=predictor, steps_of_warm_up=9)
        plain.gain_lr = LambdaLR(plain.optimizer, halve_every_5)
        found, expected = run.train(steps), plain.train(steps)
        for (rate, _, parameters), (plain_rate, _, plain_parameters) in zip(found[:-1], expected[:-1], strict=True):
            assert rate == plain_rate
            laws.assert_same(parameters, plain_parameters)
        laws.assert_same(run.model.state_dict(), plain.model.state_dict())
        assert (rates(run.optimizer) == rates(plain.optimizer)) is (predictor == "uniform")


class TestFollowsTheGain:
    def test_golden_values(self):
        optimizer = make_optimizer()
        gain_lr = GainLR(lambda step: 1 / (1 + step), scripted(1.5, 2.0, 1.0), optimizer=optimizer)
        effective, taken = [], []
        for _ in range(3):
            taken.append(rates(optimizer))
            optimizer.step()
            gain_lr.step()
            effective.append(gain_lr.effective_steps)
        assert effective == [1.0, 2.5, 4.5]
        # at floor(1), floor(2.5) and floor(4.5) of the schedule, counted from 1
        expected = [[1.0 * base / 1, 1.5 * base / 2, 2.0 * base / 4] for base in (0.1, 0.02)]
        assert taken == [pytest.approx(list(each), rel=1e-12) for each in zip(*expected, strict=True)]

    @every_schedule
    def test_rates_are_the_ratio_times_the_schedule_at_the_effective_step(self, name):
        ratios = [1.0, *([1.0] * 3), 1.3, 2.0, 2.75, 1.0, 1.9, 3.3, 1.0, 1.1]
        optimizer, followed = make_optimizer(), make_optimizer()
        expected = follow(plain_schedule(name, optimizer), optimizer)
        gain_lr = make_gain_lr(name, scripted(*ratios[1:]), followed)
        taken = follow(gain_lr, followed, len(ratios))
        for step, ratio in enumerate(ratios):
            position = math.floor(sum(ratios[: step + 1])) - 1
            found = [momentum for _, momentum in taken[step]]
            assert [rate for rate, _ in taken[step]] == [ratio * rate for rate, _ in expected[position]]
            assert found == [momentum for _, momentum in expected[position]]

    @pytest.mark.parametrize(
        ("kind", "options", "scale_rate", "scales"),
        [
            (SGD, {}, None, True),
            (SGD, {"nesterov": True}, None, True),
            (SGD, {}, False, False),
            (Adam, {}, None, False),
            (AdamW, {}, None, False),
            (Adam, {}, True, True),
        ],
    )
    def test_the_ratio_scales_the_rate_of_sgd_or_where_told(self, kind, options, scale_rate, scales):
        optimizer, plain = make_optimizer(kind, **options), make_optimizer(kind, **options)
        expected = follow(StepLR(plain, 5, 0.3), plain)
        gain_lr = GainLR(StepLR(optimizer, 5, 0.3), scripted(3.0), scale_rate=scale_rate)
        for step in range(7):
            factor = 3.0 if scales and step > 0 else 1.0
            assert rates(optimizer) == [factor * rate for rate, _ in expected[3 * step]]
            assert gain_lr.get_last_lr() == rates(optimizer)
            optimizer.step()
            gain_lr.step()
        assert gain_lr.effective_steps == 1 + 3 * 6

    def test_a_schedule_in_epochs_advances_by_effective_epochs(self):
        optimizer = make_optimizer(Adam)
        loader = DataLoader(torch.arange(20), batch_size=2)
        sampler = ApproxSampler(loader, predictor="uniform")
        sampler._sampler.gain = ScriptedGain([1.0] * 9 + [2.5])
        gain_lr = GainLR(StepLR(optimizer, 1, 0.5), sampler, every=len(sampler))
        taken = [rates(optimizer)[0] for _ in range(19) if optimizer.step() is None and gain_lr.step() is None]
        # ten steps worth 1, then effective steps 12.5, 15, 17.5, 20, …: an epoch has 10
        halvings = [(math.floor(sum(([1.0] * 10 + [2.5] * 10)[:step])) - 1) // 10 for step in range(2, 21)]
        assert taken == [0.1 * 0.5**halving for halving in halvings]
        assert halvings[-1] == 3

    def test_done_tells_when_enough_effective_steps_are_done(self):
        optimizer = make_optimizer()
        gain_lr = make_gain_lr("StepLR", scripted(1.5, 2.0, 1.0), optimizer)
        answers = []
        for _ in range(4):
            answers.append((gain_lr.done(2.5), gain_lr.done(4)))
            optimizer.step()
            gain_lr.step()
        assert answers == [(False, False), (False, False), (True, False), (True, True)]

    @pytest.mark.parametrize("strategy", ["cos", "linear"])
    @pytest.mark.parametrize("ratio", [1.0, 1.7, 3.7, 10.0])
    def test_a_one_cycle_schedule_does_not_raise_when_effective_steps_overshoot(self, strategy, ratio):
        optimizer = make_optimizer()
        total = 20
        schedule = OneCycleLR(optimizer, max_lr=0.1, total_steps=total, anneal_strategy=strategy)
        gain_lr = GainLR(schedule, scripted(ratio))
        while not gain_lr.done(2 * total):
            assert all(rate > 0 for rate in rates(optimizer))
            optimizer.step()
            gain_lr.step()
        lowest = [ratio * group["min_lr"] for group in optimizer.param_groups]
        assert rates(optimizer) == pytest.approx(lowest, rel=1e-6)
        assert [group["momentum"] for group in optimizer.param_groups] == pytest.approx([0.95] * 2)

    @pytest.mark.parametrize("kind", [SGD, Adam])
    def test_tensor_rates_stay_the_tensors_they_are(self, kind):
        optimizer = make_optimizer(kind)
        tensors = []
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"])
            tensors.append(group["lr"])
        gain_lr = GainLR(ExponentialLR(optimizer, 0.5), scripted(2.0), scale_rate=True)
        for _ in range(2):
            optimizer.step()
            gain_lr.step()
        assert all(group["lr"] is tensor for group, tensor in zip(optimizer.param_groups, tensors, strict=True))
        expected = [2.0 * base * 0.5**4 for base in (0.1, 0.02)]
        assert [float(tensor) for tensor in tensors] == pytest.approx(expected, rel=1e-6)

    def test_a_rate_that_is_an_integer_is_a_number_too(self):
        optimizer = SGD([nn.Parameter(torch.ones(1))], lr=1, momentum=0.9)
        gain_lr = GainLR(StepLR(optimizer, 2), scripted(1.5))
        follow(gain_lr, optimizer, 1)
        assert gain_lr.get_last_lr() == [1.5]

    def test_the_gain_counts_the_draws_of_a_step(self):
        optimizer, gain = make_optimizer(), GainRatio(patience=1)
        gain_lr = GainLR(halve_every_5, types.SimpleNamespace(gain=gain), optimizer=optimizer)
        gain.observe_signal(0.4, 1.0)
        for _ in range(4):
            gain.observe(torch.tensor([2.5, 1.0], dtype=torch.float64), 1, uniform=False)
        optimizer.step()
        gain_lr.step()
        assert gain_lr.ratio == pytest.approx(2.05)

    def test_the_warning_of_torch_about_a_wrong_order_is_still_to_be_had(self):
        optimizer = make_optimizer()
        gain_lr = make_gain_lr("StepLR", scripted(1.0), optimizer)
        with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
            gain_lr.step()


class TestSignal:
    def run(self, steps=13, optimizer=None, gain_lr=None, **arguments):
        """Step with gradients of squared norm 20; return at which steps a signal was reported, and the signals."""
        optimizer = optimizer or make_optimizer()
        sampler = scripted(1.0)
        gain_lr = gain_lr or GainLR(StepLR(optimizer, 100), sampler, **arguments)
        at = []
        for step in range(steps):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.full_like(parameter, 2.0)
            before = len(sampler.gain.signals)
            optimizer.step()
            gain_lr.step()
            at += [step] * (len(sampler.gain.signals) - before)
        return at, sampler.gain.signals

    def test_is_reported_every_fourth_step_once_there_is_momentum(self):
        at, signals = self.run()
        assert at == [4, 8, 12]
        assert signals == [pytest.approx((20.0, 20.0), rel=1e-5)] * 3

    @pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4, 5, 6]), (3, [3, 6])])
    def test_is_reported_as_often_as_told(self, every, expected):
        at, signals = self.run(7, signal_every=every)
        assert at == expected
        assert signals == [pytest.approx((20.0, 20.0), rel=1e-5)] * len(expected)

    def test_is_no_longer_reported_to_one_that_is_gone(self):
        optimizer = make_optimizer()
        gone = GainLR(StepLR(optimizer, 100), scripted(1.0), signal_every=1)
        watch, hooks = weakref.ref(gone), len(optimizer._optimizer_step_pre_hooks)
        del gone
        assert watch() is None
        assert len(optimizer._optimizer_step_pre_hooks) == hooks - 1

    def test_is_reported_from_the_first_step_on_with_the_optimizers_state_restored(self):
        optimizer, resumed = make_optimizer(), make_optimizer()
        self.run(200, optimizer)
        resumed.load_state_dict(laws.through_file(optimizer.state_dict()))
        at, signals = self.run(9, resumed)
        assert at == [0, 4, 8]
        assert signals == [pytest.approx((20.0, 20.0), rel=1e-4)] * 3

    def test_is_that_of_the_whole_momentum_after_few_steps_and_a_resume(self):
        optimizer, resumed = make_optimizer(), make_optimizer()
        gain_lr = GainLR(StepLR(optimizer, 100), scripted(1.0), signal_every=1)
        self.run(3, optimizer, gain_lr)
        other = scripted(1.0)
        resumed_lr = GainLR(StepLR(resumed, 100), other, signal_every=1)
        resumed.load_state_dict(laws.through_file(optimizer.state_dict()))
        resumed_lr.load_state_dict(laws.through_file(gain_lr.state_dict()))
        self.run(3, resumed, resumed_lr)
        assert other.gain.signals == [pytest.approx((20.0, 20.0), rel=1e-5)] * 3

    def test_is_not_measured_where_none_is_asked_for(self):
        assert self.run(signal=None) == ([], [])

    def test_is_not_needed_of_an_optimizer_without_momentum(self):
        optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        gain_lr = GainLR(StepLR(optimizer, 2, 0.5), scripted(2.0), signal=None)
        follow(gain_lr, optimizer, 2)
        assert rates(optimizer) == [2.0 * 0.1 * 0.5**2]

    def test_reaches_the_gain_of_a_sampler(self):
        run = Run()
        run.train(40)
        assert 0 < run.sampler.gain.signal_share < 1
        assert 1 < run.sampler.gain.value < run.sampler.gain.variance_ratio

    def test_of_half_batches_can_be_reported_in_its_place(self):
        optimizer = SGD([parameter := nn.Parameter(torch.ones(2))], lr=0.1)
        gain = GainRatio(patience=1)
        gain_lr = GainLR(StepLR(optimizer, 9), types.SimpleNamespace(gain=gain), signal=None)
        gain.observe(torch.tensor([2.5, 1.0], dtype=torch.float64), 4, uniform=False)
        gain.observe_signal(*half_batch_signal([torch.tensor([1.0, 0.0])], [torch.tensor([0.25, 1.0])]))
        optimizer.step()
        gain_lr.step()
        share = 0.25 / (0.625**2 + 0.25)
        assert rates(optimizer) == [pytest.approx(0.1 * (1 + 1.5 * (1 - 0.75 * share)))]
        assert parameter.grad is None


class Run:
    """Training of softmax regression where few samples matter, its rate following the gain."""

    def __init__(
        self,
        kind=SGD,
        schedule="function",
        predictor="last-loss",
        steps_of_warm_up=5,
        accumulate=1,
        batch_size=4,
        scaler=None,
        **options,
    ):
        generator = torch.Generator().manual_seed(0)
        size = batch_size * steps_of_warm_up
        self.x = torch.randn(size, 3, generator=generator)
        self.y = torch.randint(2, (size,), generator=generator)
        self.x[self.y != self.x[:, 0].lt(0).long()] *= 0.2
        self.model = nn.Linear(3, 2)
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor([[-2.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
            self.model.bias.zero_()
        options = {"lr": 0.05, **({"momentum": 0.9} if kind is SGD else {}), **options}
        self.optimizer = kind(self.model.parameters(), **options)
        self.sampler = laws.make_sampler(size, batch_size, predictor, smoothing=0.02, seed=2)
        self.gain_lr = self.follow(schedule)
        self.accumulate = accumulate
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)

    def follow(self, schedule):
        arguments = {"optimizer": self.optimizer} if schedule == "function" else {}
        made = {
            "function": lambda: halve_every_5,
            "StepLR": lambda: StepLR(self.optimizer, 5, 0.7),
            "OneCycleLR": lambda: OneCycleLR(self.optimizer, max_lr=0.05, total_steps=120),
            "SequentialLR": lambda: warm_up_then_anneal(self.optimizer),
        }
        return GainLR(made[schedule](), self.sampler, signal_every=3, **arguments)

    def train(self, steps):
        """Train some steps; return after each the rates, effective steps and parameters."""
        trace = []
        for _ in range(steps):
            self.optimizer.zero_grad()
            for _ in range(self.accumulate):
                draw = self.sampler.draw()
                losses = F.cross_entropy(self.model(self.x[draw.indices]), self.y[draw.indices], reduction="none")
                self.scaler.scale(draw.weighted_mean(losses) / self.accumulate).backward()
                self.sampler.update(draw, losses)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.gain_lr.step()
            effective = getattr(self.gain_lr, "effective_steps", None)
            trace.append([self.gain_lr.get_last_lr(), effective, copy.deepcopy(self.model.state_dict())])
        return trace

    def save(self):
        parts = (self.model, self.optimizer, self.sampler, self.gain_lr)
        return laws.through_file([part.state_dict() for part in parts])

    def load(self, states, order=(0, 1, 2, 3)):
        parts = (self.model, self.optimizer, self.sampler, self.gain_lr)
        for position in order:
            parts[position].load_state_dict(states[position])


class TestResumes:
    @pytest.mark.parametrize("schedule", ["StepLR", "OneCycleLR", "SequentialLR", "function"])
    @pytest.mark.parametrize("kind", [SGD, Adam])
    @pytest.mark.parametrize("stop", [2, 20])
    def test_to_the_bit(self, kind, schedule, stop):
        run, resumed = Run(kind, schedule), Run(kind, schedule)
        run.train(stop)
        resumed.load(run.save())
        expected, found = run.train(20), resumed.train(20)
        laws.assert_same(found, expected)
        laws.assert_same(laws.snapshot(resumed.gain_lr), laws.snapshot(run.gain_lr))
        laws.assert_same(laws.snapshot(resumed.sampler), laws.snapshot(run.sampler))
        assert run.gain_lr.effective_steps > stop + 25  # there was something to lose

    @pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
    def test_to_the_bit_whatever_is_loaded_first(self, order):
        run, resumed = Run(), Run()
        run.train(20)
        resumed.load(run.save(), order)
        laws.assert_same(resumed.train(10), run.train(10))

    @pytest.mark.parametrize("kind", [SGD, Adam])
    def test_to_the_bit_where_the_schedule_is_built_after_the_optimizer_was_loaded(self, kind):
        run, resumed = Run(kind), Run(kind)
        run.train(20)
        resumed.optimizer = kind(resumed.model.parameters(), lr=0.05, **({"momentum": 0.9} if kind is SGD else {}))
        model, optimizer, sampler, gain_lr = run.save()
        resumed.model.load_state_dict(model)
        resumed.optimizer.load_state_dict(optimizer)
        resumed.gain_lr = resumed.follow("function")  # sets the rate back
        resumed.sampler.load_state_dict(sampler)
        resumed.gain_lr.load_state_dict(gain_lr)
        laws.assert_same(resumed.train(10), run.train(10))

    @every_schedule
    def test_every_schedule(self, name):
        optimizer, resumed = make_optimizer(), make_optimizer()
        gain_lr = make_gain_lr(name, scripted(1.5), optimizer)
        follow(gain_lr, optimizer, 6)
        resumed_lr = make_gain_lr(name, scripted(1.5), resumed)
        state = laws.through_file([optimizer.state_dict(), gain_lr.state_dict()])
        resumed.load_state_dict(state[0])
        resumed_lr.load_state_dict(state[1])
        assert follow(resumed_lr, resumed, 6) == follow(gain_lr, optimizer, 6)
        laws.assert_same(laws.snapshot(resumed_lr), laws.snapshot(gain_lr))

    @every_schedule
    def test_without_changing_the_state_then_or_later(self, name):
        optimizer, resumed = make_optimizer(), make_optimizer()
        gain_lr = make_gain_lr(name, scripted(1.5), optimizer)
        follow(gain_lr, optimizer, 3)
        state = gain_lr.state_dict()
        before = copy.deepcopy(state)
        resumed_lr = make_gain_lr(name, scripted(1.5), resumed)
        resumed_lr.load_state_dict(state)
        resumed.load_state_dict(optimizer.state_dict())
        follow(resumed_lr, resumed, 6)
        laws.assert_same(state, before)


class TestDamagedStateChangesNothing:
    def assert_refused(self, change, match, schedule="StepLR", kind=SGD, made_with=None):
        source = Run(kind, made_with or schedule)
        source.train(20)
        state = copy.deepcopy(source.gain_lr.state_dict())
        state = change(state) or state
        run = Run(kind, schedule)
        run.train(3)
        with (
            laws.assert_unchanged(run.gain_lr, run.optimizer, run.sampler),
            pytest.raises(ValueError, match=match),
        ):
            run.gain_lr.load_state_dict(state)

    @pytest.mark.parametrize("name", ["effective_steps", "ratio", "scheduled", "steps", "signal", "schedule"])
    def test_without_one_of_its_entries(self, name):
        self.assert_refused(lambda state: state.pop(name) and None, rf"missing \['{name}'\], unknown \[\]")

    @pytest.mark.parametrize(
        ("path", "value", "match"),
        [
            (["effective_steps"], math.nan, r"\['effective_steps'\]` must be finite"),
            (["effective_steps"], -1.0, r"\['effective_steps'\]` must be at least 0; got -1.0"),
            (["effective_steps"], 3, "must be of type float; got int"),
            (["ratio"], 0.5, r"\['ratio'\]` must be in \[1, 10\]; got 0.5"),
            (["ratio"], 11.0, r"\['ratio'\]` must be in \[1, 10\]; got 11.0"),
            (["steps"], -1, r"\['steps'\]` must be at least 0; got -1"),
            (["scheduled"], [0.1, 0.1], r"\['scheduled'\]` must be a list of 1 entries"),
            (["scheduled"], [math.inf], r"\['scheduled'\]\[0\]` must be finite"),
            (["signal", "weights"], [1.0], "must be a list of 2 entries"),
            (["signal", "weights"], [1.0, -1.0], r"\['weights'\]` must be at least 0"),
            (["signal"], {}, r"\['signal'\]` has not the expected entries"),
            (["schedule"], [1], r"\['schedule'\]` must be a dict; got list"),
            (["schedule", "last_epoch"], "seven", r"\['last_epoch'\]` must be a finite number; got 'seven'"),
            (["schedule", "gamma"], math.nan, r"\['gamma'\]` must be a finite number; got nan"),
            (["schedule", "base_lrs"], [], r"\['base_lrs'\]` must be a list of 1 entries"),
            (["schedule", "base_lrs"], None, r"\['base_lrs'\]` must be a list of 1 entries"),
        ],
    )
    def test_or_with_a_wrong_one(self, path, value, match):
        def change(state):
            parent = state
            for name in path[:-1]:
                parent = parent[name]
            parent[path[-1]] = value

        self.assert_refused(change, match)

    def test_with_a_damaged_part_of_a_sequence(self):
        def change(state):
            del state["schedule"]["_schedulers"][1]["last_epoch"]

        self.assert_refused(change, r"\['_schedulers'\]\[1\]` has not the expected entries", schedule="SequentialLR")

    @pytest.mark.parametrize(
        ("schedule", "made_with"), [("StepLR", "OneCycleLR"), ("OneCycleLR", "function"), ("function", "SequentialLR")]
    )
    def test_of_another_schedule(self, schedule, made_with):
        match = r"\['schedule'\]` has not the expected entries"
        self.assert_refused(lambda state: None, match, schedule=schedule, made_with=made_with)

    def test_that_is_none(self):
        self.assert_refused(lambda state: [1], "must be a dict; got list")


class TestRefuses:
    @pytest.mark.parametrize("schedule", [None, 0.1, "StepLR"])
    def test_what_is_no_schedule(self, schedule):
        with pytest.raises(TypeError, match="must be a torch scheduler or a function of the step; got"):
            GainLR(schedule, scripted(1.0))

    def test_a_schedule_that_follows_a_metric(self):
        with pytest.raises(TypeError, match="ReduceLROnPlateau follows a metric"):
            GainLR(ReduceLROnPlateau(make_optimizer()), scripted(1.0))

    @every_schedule
    def test_a_schedule_that_was_stepped(self, name):
        optimizer = make_optimizer()
        schedule = plain_schedule(name, optimizer)
        follow(schedule, optimizer, 3)
        with pytest.raises(ValueError, match=r"must not have been stepped yet; it is at 3. To resume, build it anew"):
            GainLR(schedule, scripted(1.0))

    def test_a_function_without_optimizer(self):
        with pytest.raises(ValueError, match="is a function, which needs `optimizer=` beside it"):
            GainLR(halve_every_5, scripted(1.0))

    def test_a_function_with_what_is_no_optimizer(self):
        with pytest.raises(TypeError, match=r"`GainLR\(optimizer=...\)` must be a torch optimizer; got Linear"):
            GainLR(halve_every_5, scripted(1.0), optimizer=nn.Linear(1, 1))

    def test_another_optimizer_than_the_schedules(self):
        with pytest.raises(ValueError, match=r"must be the optimizer of the schedule\. Leave it out"):
            GainLR(StepLR(make_optimizer(), 5), scripted(1.0), optimizer=make_optimizer())

    @pytest.mark.parametrize("sampler", [None, object(), types.SimpleNamespace(gain=1.0), GainRatio()])
    def test_what_is_no_sampler(self, sampler):
        with pytest.raises(TypeError, match=r"`GainLR\(sampler\)` must be a sampler of approx_is; got"):
            GainLR(StepLR(make_optimizer(), 5), sampler)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"signal": "half-batch"}, r"`GainLR\(signal=...\)` must be \"momentum\" or None; got 'half-batch'"),
            ({"signal": False}, "or None; got False"),
            ({"every": 0}, r"`GainLR\(every=...\)` must be at least 1; got 0"),
            ({"signal_every": -1}, r"`GainLR\(signal_every=...\)` must be at least 1; got -1"),
        ],
    )
    def test_arguments_out_of_bounds(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            GainLR(StepLR(make_optimizer(), 5), scripted(1.0), **arguments)

    @pytest.mark.parametrize("kind", [SGD, RMSprop])
    def test_an_optimizer_without_momentum(self, kind):
        optimizer = kind([nn.Parameter(torch.ones(1))], lr=0.1)
        with pytest.raises(ValueError, match="Set momentum, or pass signal=None and report the signal of half batches"):
            GainLR(StepLR(optimizer, 5), scripted(1.0))

    def test_what_is_no_number_of_steps(self):
        gain_lr = make_gain_lr("StepLR", scripted(1.0), make_optimizer())
        with pytest.raises(TypeError, match=r"`GainLR.done\(effective_steps\)` must be a number; got 'many'"):
            gain_lr.done("many")

    @pytest.mark.parametrize("arguments", [{"every": 0}, {"signal": "half-batch"}])
    def test_bad_input_before_the_optimizer_is_touched(self, arguments):
        optimizer = make_optimizer()
        with laws.assert_unchanged(optimizer), pytest.raises(ValueError, match="`GainLR"):
            GainLR(lambda step: 0.5, scripted(1.0), optimizer=optimizer, **arguments)
        assert not optimizer._optimizer_step_pre_hooks

    def test_momentum_that_is_missing_before_the_optimizer_is_touched(self):
        optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        with laws.assert_unchanged(optimizer), pytest.raises(ValueError, match="needs SGD with momentum"):
            GainLR(lambda step: 0.5, scripted(1.0), optimizer=optimizer)


class TestInTraining:
    def test_mixed_precision_changes_neither_ratio_nor_rate(self):
        plain = Run()
        scaled = Run(scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
        for one, other in zip(plain.train(40), scaled.train(40), strict=True):
            assert other[0] == pytest.approx(one[0], rel=1e-3)
        assert plain.gain_lr.ratio > 1.5

    def test_fused_mixed_precision_changes_neither_ratio_nor_rate(self):
        plain = Run()
        scaled = Run(fused=True, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
        for one, other in zip(plain.train(40), scaled.train(40), strict=True):
            assert other[0] == pytest.approx(one[0], rel=1e-3)
        assert plain.gain_lr.ratio > 1.5

    def test_steps_that_a_scaler_left_out_report_no_signal(self):
        run = Run(scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))
        run.train(20)
        before = laws.snapshot(run.sampler.gain)["signal"]
        run.scaler = torch.amp.GradScaler("cpu", init_scale=math.inf)
        with laws.assert_unchanged(run.model):
            run.train(4)
        laws.assert_same(laws.snapshot(run.sampler.gain)["signal"], before)

    def test_gradients_accumulated_over_batches_of_one_have_the_ratio_of_one_batch(self):
        whole = Run(batch_size=4, steps_of_warm_up=10, lr=1e-3)
        parts = Run(batch_size=1, steps_of_warm_up=40, lr=1e-3, accumulate=4)
        for run in (whole, parts):
            run.train(250)
            gain = run.sampler.gain
            assert run.gain_lr.ratio == gain_ratio(gain.variance_ratio, gain.signal_share, 4)
            assert gain.signal_share > 0.1
        assert parts.gain_lr.ratio == pytest.approx(whole.gain_lr.ratio, rel=0.2)

    def test_a_loader_and_its_sampler_can_be_followed(self):
        run = Run()
        loader = DataLoader(torch.utils.data.TensorDataset(run.x, run.y), batch_size=4)
        sampler = ApproxSampler(loader, predictor="last-loss", smoothing=0.02, gate=None)
        gain_lr = GainLR(StepLR(run.optimizer, 1, 0.9), sampler, every=len(sampler))
        while not gain_lr.done(8 * len(sampler)):
            for (x, y), draw in sampler:
                losses = F.cross_entropy(run.model(x), y, reduction="none")
                run.optimizer.zero_grad()
                draw.weighted_mean(losses).backward()
                run.optimizer.step()
                sampler.update(draw, losses)
                gain_lr.step()
        assert 8 * len(sampler) <= gain_lr.effective_steps < 9 * len(sampler) * gain_lr.ratio
        assert gain_lr.ratio == sampler.gain.value > 1
