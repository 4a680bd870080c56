import itertools
import math

import laws
import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop
from torch.optim.lr_scheduler import OneCycleLR

from approx_is import half_batch_signal
from approx_is.gradient_signal import MomentumSignal

GRADIENTS = [torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([0.25, -1.0, 2.0])]
SQUARED_NORM = sum(float(gradient.square().sum()) for gradient in GRADIENTS)
EVERY_GRADIENT = [True] * 12

SGD_OPTIONS = [
    {"momentum": 0.9},
    {"momentum": 0.5},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "dampening": 0.4},
    {"momentum": 0.9, "maximize": True},
    {"momentum": 0.9, "foreach": False},
    {"momentum": 0.9, "foreach": True},
    {"momentum": 0.9, "fused": True},
]
OTHERS = [
    (Adam, {}),
    (Adam, {"betas": (0.5, 0.9), "amsgrad": True}),
    (Adam, {"maximize": True}),
    (Adam, {"fused": True}),
    (AdamW, {}),
    (AdamW, {"weight_decay": 0.5}),
    (NAdam, {}),
    (NAdam, {"weight_decay": 0.5, "decoupled_weight_decay": True}),
    (RAdam, {}),
    (RAdam, {"weight_decay": 0.5, "decoupled_weight_decay": True}),
    (Adamax, {}),
]
OPTIMIZERS = [*((SGD, options) for options in SGD_OPTIONS), *OTHERS]
every_optimizer = pytest.mark.parametrize(
    ("kind", "options"), OPTIMIZERS, ids=[f"{kind.__name__}-{options}" for kind, options in OPTIMIZERS]
)


def make_parameters(dtype=torch.float32):
    """Return parameters that are not 0, of the shapes of `GRADIENTS`."""
    return [nn.Parameter(torch.full_like(gradient, 0.7, dtype=dtype)) for gradient in GRADIENTS]


def step(signal, optimizer, gradients):
    """Set gradients, measure, and step; return what was measured."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.to(parameter.dtype, copy=True)
    measured = signal.measure()
    signal.count_step()
    optimizer.step()
    return measured


def assert_constant_gradients_are_all_signal(optimizer, gradients=GRADIENTS, rel=1e-5, steps=12):
    signal = MomentumSignal(optimizer)
    assert step(signal, optimizer, gradients) is None
    squared_norm = sum(float(gradient.double().square().sum()) for gradient in gradients)
    for _ in range(steps):
        assert step(signal, optimizer, gradients) == pytest.approx((squared_norm, squared_norm), rel=rel)


def record_each_step(signal, optimizer):
    """Return a list that grows by what is measured before each step that the optimizer takes."""
    found = []

    def measure(*_):
        found.append(signal.measure())
        signal.count_step()

    optimizer.register_step_pre_hook(measure)
    return found


class TestHalfBatches:
    def test_agree_with_numpy(self):
        generator = np.random.default_rng(0)
        shapes = [(3, 4), (5,), (), (2, 1, 3)]
        first, second = ([generator.standard_normal(shape) for shape in shapes] for _ in range(2))
        signal = sum(float((a * b).sum()) for a, b in zip(first, second, strict=True))
        norm = sum(float((((a + b) / 2) ** 2).sum()) for a, b in zip(first, second, strict=True))
        found = half_batch_signal(*([torch.tensor(half) for half in halves] for halves in (first, second)))
        assert found == pytest.approx((signal, norm), rel=1e-12)

    def test_are_unbiased_by_enumeration_of_independent_draws(self):
        generator = torch.Generator().manual_seed(0)
        gradients = torch.randn(4, 3, dtype=torch.float64, generator=generator)
        probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        weighted = gradients / (4 * probabilities.unsqueeze(1))
        signal = norm = expected_norm = 0.0
        for a, b in itertools.product(range(4), repeat=2):
            chance = float(probabilities[a] * probabilities[b])
            found = half_batch_signal([weighted[a]], [weighted[b]])
            signal += chance * found[0]
            norm += chance * found[1]
            expected_norm += chance * float(weighted[[a, b]].mean(0).square().sum())
        assert signal == pytest.approx(float(gradients.mean(0).square().sum()), rel=1e-12)
        assert norm == pytest.approx(expected_norm, rel=1e-12)

    def test_that_are_equal_are_all_signal(self):
        assert half_batch_signal(GRADIENTS, GRADIENTS) == pytest.approx((SQUARED_NORM, SQUARED_NORM))

    def test_that_are_opposite_have_no_gradient(self):
        found = half_batch_signal(GRADIENTS, [-gradient for gradient in GRADIENTS])
        assert found == pytest.approx((-SQUARED_NORM, 0.0), abs=1e-5)

    def test_of_no_parameters_are_0(self):
        assert half_batch_signal([], []) == (0.0, 0.0)

    def test_may_be_iterators(self):
        assert half_batch_signal(iter(GRADIENTS), iter(GRADIENTS)) == half_batch_signal(GRADIENTS, GRADIENTS)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_of_half_precision_do_not_overflow(self, dtype):
        half = [torch.full((100,), 300.0, dtype=dtype)]
        squared_norm = 100 * float(half[0][0]) ** 2  # beyond the largest float16
        assert half_batch_signal(half, half) == pytest.approx((squared_norm, squared_norm), rel=1e-6)

    def test_may_be_sparse_on_either_side(self):
        dense = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]])
        other = torch.tensor([[5.0, 1.0], [3.0, 4.0], [0.0, 2.0]])
        expected = half_batch_signal([dense], [other])
        assert half_batch_signal([dense.to_sparse()], [other]) == expected
        assert half_batch_signal([dense.to_sparse()], [other.to_sparse()]) == expected

    def test_with_entries_written_twice_in_a_sparse_gradient_are_summed(self):
        indices, values = torch.tensor([[1, 1]]), torch.tensor([1.0, 2.0])
        twice = torch.sparse_coo_tensor(indices, values, (3,), check_invariants=True)
        assert half_batch_signal([twice], [torch.tensor([0.0, 4.0, 0.0])]) == (12.0, 12.25)

    def test_of_complex_parameters_count_both_parts(self):
        first, second = torch.tensor([1.0 + 2.0j]), torch.tensor([3.0 - 1.0j])
        assert half_batch_signal([first], [second]) == (1.0, 4.25)

    def test_do_not_keep_the_graph(self):
        half = torch.ones(2, requires_grad=True) * 2
        signal, norm = half_batch_signal([half], [half])
        assert (type(signal), type(norm)) == (float, float)
        assert (signal, norm) == (8.0, 8.0)

    @pytest.mark.parametrize(
        ("second", "match"),
        [
            (GRADIENTS[:1], r"same parameters in the same order; got shapes \[\[2, 2\], \[3\]\] and \[\[2, 2\]\]"),
            (GRADIENTS[::-1], r"and \[\[3\], \[2, 2\]\]"),
            ([GRADIENTS[0], GRADIENTS[1][:1]], r"and \[\[2, 2\], \[1\]\]"),
        ],
    )
    def test_of_other_shapes_are_refused(self, second, match):
        with pytest.raises(ValueError, match=match):
            half_batch_signal(GRADIENTS, second)

    def test_with_a_parameter_without_gradient_are_refused(self):
        with pytest.raises(TypeError, match="got a gradient that is none"):
            half_batch_signal(GRADIENTS, [GRADIENTS[0], None])


class TestConstantGradientsAreAllSignal:
    @every_optimizer
    def test_from_the_second_step_on(self, kind, options):
        assert_constant_gradients_are_all_signal(kind(make_parameters(), lr=0.01, **options))

    @pytest.mark.parametrize("unit", [1e-12, 1e12])
    @pytest.mark.parametrize(("kind", "options"), [(SGD, {"momentum": 0.9}), (Adam, {})])
    def test_of_any_size(self, kind, options, unit):
        optimizer = kind(make_parameters(), lr=1e-15, **options)
        assert_constant_gradients_are_all_signal(optimizer, [unit * gradient for gradient in GRADIENTS])

    def test_with_several_groups_of_different_momentum(self):
        first, second = make_parameters()
        groups = [{"params": [first], "momentum": 0.5, "maximize": True}, {"params": [second], "dampening": 0.3}]
        assert_constant_gradients_are_all_signal(SGD(groups, lr=0.01, momentum=0.9))

    def test_with_several_groups_of_different_betas(self):
        first, second = make_parameters()
        groups = [{"params": [first], "betas": (0.5, 0.99)}, {"params": [second]}]
        assert_constant_gradients_are_all_signal(Adam(groups, lr=0.01))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize(("kind", "options"), [(SGD, {"momentum": 0.5}), (Adam, {"betas": (0.5, 0.9)})])
    def test_in_other_precisions(self, kind, options, dtype):
        rel = 1e-12 if dtype == torch.float64 else 0.03
        assert_constant_gradients_are_all_signal(kind(make_parameters(dtype), lr=0.001, **options), rel=rel)

    def test_in_half_precision_beyond_its_largest_number(self):
        optimizer = SGD([nn.Parameter(torch.zeros(64, dtype=torch.float16))], lr=1e-6, momentum=0.5)
        assert_constant_gradients_are_all_signal(optimizer, [torch.full((64,), 256.0)], rel=1e-3)

    def test_in_another_memory_format(self):
        parameter = nn.Parameter(torch.zeros(2, 3, 4, 5))
        gradient = torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last)
        optimizer = SGD([parameter], lr=1e-6, momentum=0.9)
        signal = MomentumSignal(optimizer)
        step(signal, optimizer, [gradient.contiguous()])
        found = step(signal, optimizer, [gradient])
        assert found == pytest.approx((float(gradient.square().sum()),) * 2, rel=1e-5)

    @pytest.mark.parametrize(
        ("kind", "options"),
        [(SGD, {"momentum": 0.9}), (SGD, {"momentum": 0.9, "dampening": 0.4}), (Adam, {}), (NAdam, {})],
    )
    @pytest.mark.parametrize("present", ["0001111", "1011010", "1000001"])
    def test_of_a_parameter_that_gets_none_in_some_steps(self, kind, options, present):
        optimizer = kind(make_parameters(), lr=0.001, **options)
        signal = MomentumSignal(optimizer)
        step(signal, optimizer, [GRADIENTS[0], GRADIENTS[1] if present[0] == "1" else None])
        for position, is_present in enumerate(present[1:], start=1):
            measured = step(signal, optimizer, [GRADIENTS[0], GRADIENTS[1] if is_present == "1" else None])
            counts = is_present == "1" and "1" in present[:position]
            squared_norm = SQUARED_NORM if counts else float(GRADIENTS[0].square().sum())
            assert measured == pytest.approx((squared_norm, squared_norm), rel=1e-5)

    @pytest.mark.parametrize(("kind", "options"), [(SGD, {"momentum": 0.9}), (Adam, {})])
    def test_while_a_one_cycle_schedule_changes_the_momentum(self, kind, options):
        optimizer = kind(make_parameters(), lr=0.01, **options)
        schedule = OneCycleLR(optimizer, max_lr=0.01, total_steps=20, base_momentum=0.5)
        signal = MomentumSignal(optimizer)
        step(signal, optimizer, GRADIENTS)
        for _ in range(18):
            schedule.step()
            assert step(signal, optimizer, GRADIENTS) == pytest.approx((SQUARED_NORM, SQUARED_NORM), rel=1e-5)

    @pytest.mark.parametrize("kind", [SGD, Adam])
    def test_after_the_momentum_was_thrown_away(self, kind):
        optimizer = kind(make_parameters(), lr=0.001, **({"momentum": 0.9} if kind is SGD else {}))
        signal = MomentumSignal(optimizer)
        for _ in range(5):
            step(signal, optimizer, GRADIENTS)
        optimizer.state.clear()
        assert step(signal, optimizer, GRADIENTS) is None
        assert step(signal, optimizer, GRADIENTS) == pytest.approx((SQUARED_NORM, SQUARED_NORM), rel=1e-5)


class TestWeightDecay:
    @pytest.mark.parametrize("maximize", [False, True])
    @pytest.mark.parametrize("kind", [SGD, Adam, NAdam, RAdam, Adamax])
    def test_is_taken_out_of_the_momentum_exactly_while_parameters_stay(self, kind, maximize):
        options = {"momentum": 0.9} if kind is SGD else {}
        optimizer = kind(make_parameters(), lr=0.0, weight_decay=0.5, maximize=maximize, **options)
        assert_constant_gradients_are_all_signal(optimizer)

    @pytest.mark.parametrize("weight_decay", [0.01, 0.1])
    def test_is_taken_out_to_first_order_while_parameters_move(self, weight_decay):
        errors = []
        for rate in (1e-3, 5e-4):
            optimizer = SGD(make_parameters(), lr=rate, momentum=0.9, weight_decay=weight_decay)
            signal = MomentumSignal(optimizer)
            for _ in range(20):
                measured = step(signal, optimizer, GRADIENTS)
            errors.append(abs(measured[0] / SQUARED_NORM - 1))
        assert errors[0] < 0.1 * weight_decay
        assert errors[1] == pytest.approx(errors[0] / 2, rel=0.1)

    def test_that_is_decoupled_does_not_enter_the_momentum(self):
        optimizer = AdamW(make_parameters(), lr=0.01, weight_decay=0.9)
        assert_constant_gradients_are_all_signal(optimizer)

    def test_of_adamw_is_decoupled_also_where_its_groups_do_not_say_so(self):
        optimizer = AdamW(make_parameters(), lr=0.01, weight_decay=0.9)
        signal = MomentumSignal(optimizer)
        step(signal, optimizer, GRADIENTS)
        flag = optimizer.param_groups[0].pop("decoupled_weight_decay", True)  # absent in older releases of torch
        for parameter, gradient in zip(optimizer.param_groups[0]["params"], GRADIENTS, strict=True):
            parameter.grad = gradient.clone()
        assert flag
        assert signal.measure() == pytest.approx((SQUARED_NORM, SQUARED_NORM), rel=1e-5)


class TestNoise:
    @pytest.mark.parametrize(
        ("kind", "options"), [(SGD, {"momentum": 0.9}), (SGD, {"momentum": 0.9, "maximize": True}), (Adam, {})]
    )
    def test_averages_out(self, kind, options):
        generator = torch.Generator().manual_seed(0)
        optimizer = kind([nn.Parameter(torch.zeros(50))], lr=0.0, **options)
        signal = MomentumSignal(optimizer)
        mean = torch.full((50,), 0.2)  # squared norm 2, beside 50 of noise
        noisy = (mean + torch.randn(50, generator=generator) for _ in range(3000))
        measured = [step(signal, optimizer, [gradient]) for gradient in noisy]
        signals, norms = torch.tensor(measured[1:], dtype=torch.float64).mean(0).tolist()
        assert signals == pytest.approx(2.0, rel=0.1)
        assert norms == pytest.approx(52.0, rel=0.05)

    def test_of_this_step_is_not_in_the_momentum_it_is_compared_with(self):
        optimizer = SGD(make_parameters(), lr=0.0, momentum=0.9)
        signal = MomentumSignal(optimizer)
        step(signal, optimizer, GRADIENTS)
        found = step(signal, optimizer, [-3 * gradient for gradient in GRADIENTS])
        assert found == pytest.approx((-3 * SQUARED_NORM, 9 * SQUARED_NORM), rel=1e-6)


class TestSparse:
    def test_gradients_are_left_out(self):
        table, linear = nn.Embedding(5, 2, sparse=True), nn.Linear(2, 1, bias=False)
        optimizer = SGD([*table.parameters(), *linear.parameters()], lr=1e-6, momentum=0.9)
        signal = MomentumSignal(optimizer)
        found = []
        for _ in range(3):
            optimizer.zero_grad()
            linear(table(torch.tensor([1, 3]))).sum().backward()
            found.append(signal.measure())
            signal.count_step()
            optimizer.step()
        squared_norm = float(linear.weight.grad.square().sum())
        assert table.weight.grad.is_sparse
        assert found[0] is None
        assert found[1:] == [pytest.approx((squared_norm, squared_norm), rel=1e-3)] * 2

    def test_gradients_alone_give_no_signal(self):
        parameter = nn.Parameter(torch.zeros(3))
        optimizer = SGD([parameter], lr=0.1, momentum=0.9)
        signal = MomentumSignal(optimizer)
        for _ in range(3):
            parameter.grad = torch.tensor([0.0, 1.0, 0.0]).to_sparse()
            assert signal.measure() is None
            signal.count_step()
            optimizer.step()


class TestGradScaler:
    @pytest.mark.parametrize("fused", [False, True])
    @pytest.mark.parametrize(("kind", "options"), [(SGD, {"momentum": 0.9, "weight_decay": 0.01}), (Adam, {})])
    def test_of_mixed_precision_does_not_change_the_signal(self, kind, options, fused):
        plain, scaled = self.run(kind, options), self.run(kind, {**options, "fused": fused}, scale=1024.0)
        assert len(scaled) == len(plain)
        for one, other in zip(scaled[1:], plain[1:], strict=True):
            assert one == pytest.approx(other, rel=1e-4)

    @pytest.mark.parametrize("fused", [False, True])
    @pytest.mark.parametrize("kind", [SGD, Adam])
    def test_that_overflowed_takes_no_step_into_account(self, kind, fused):
        parameter = nn.Parameter(torch.ones(3))
        optimizer = kind([parameter], lr=1e-6, fused=fused, **({"momentum": 0.9} if kind is SGD else {}))
        signal = MomentumSignal(optimizer)
        found = record_each_step(signal, optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for factor in (1.0, math.inf, 1.0, math.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale((factor * parameter).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        measured = [each for each in found if each is not None and all(map(math.isfinite, each))]
        assert measured == [pytest.approx((3.0, 3.0), rel=1e-4)] * 2

    def run(self, kind, options, scale=None):
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        optimizer = kind(model.parameters(), lr=0.01, **options)
        signal = MomentumSignal(optimizer)
        found = record_each_step(signal, optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for _ in range(6):
            optimizer.zero_grad()
            scaler.scale(model(torch.randn(8, 4)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        return found


class TestRefuses:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            (SGD, {}),
            (SGD, {"momentum": 1.0}),
            (Adam, {"betas": (0.0, 0.9)}),
            (RMSprop, {}),
            (RMSprop, {"momentum": 0.9}),  # of gradients divided by their size
            (Adagrad, {}),
        ],
    )
    def test_an_optimizer_without_momentum_of_gradients(self, kind, options):
        optimizer = kind(make_parameters(), lr=0.1, **options)
        match = rf"got {kind.__name__} without. Set momentum, or pass signal=None and report the signal of half batches"
        with pytest.raises(ValueError, match=match):
            MomentumSignal(optimizer)

    @pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this release of torch has no Muon")
    def test_muon_whose_momentum_is_not_sgds(self):
        with pytest.raises(ValueError, match="got Muon without"):
            MomentumSignal(torch.optim.Muon([nn.Parameter(torch.ones(2, 2))], lr=0.1))

    def test_a_group_without_momentum_among_others(self):
        first, second = make_parameters()
        groups = [{"params": [first]}, {"params": [second], "momentum": 0.0}]
        with pytest.raises(ValueError, match=r"needs SGD with momentum in \(0, 1\)"):
            MomentumSignal(SGD(groups, lr=0.1, momentum=0.9))


class TestState:
    @pytest.mark.parametrize(("kind", "options"), [(SGD, {"momentum": 0.9}), (Adam, {})])
    def test_goes_on_to_the_bit_from_a_file(self, kind, options):
        optimizer = kind(make_parameters(), lr=0.001, **options)
        signal, resumed = MomentumSignal(optimizer), MomentumSignal(optimizer)
        step(signal, optimizer, [None, GRADIENTS[1]])
        step(signal, optimizer, GRADIENTS)
        resumed.load_state_dict(laws.through_file(signal.state_dict()))
        laws.assert_same(laws.snapshot(resumed), laws.snapshot(signal))
        for _ in range(2):
            measured = resumed.measure()  # of the gradients of the step before, which are those of the next
            resumed.count_step()
            assert step(signal, optimizer, GRADIENTS) == measured
            assert measured == pytest.approx((SQUARED_NORM, SQUARED_NORM), rel=1e-5)

    @pytest.mark.parametrize(
        ("kind", "options"), [(SGD, {"momentum": 0.9}), (SGD, {"momentum": 0.9, "dampening": 0.4}), (Adam, {})]
    )
    def test_restored_of_the_optimizer_alone_is_taken_for_one_of_many_steps(self, kind, options):
        optimizer = kind(make_parameters(), lr=1e-5, **options)
        accounted = MomentumSignal(optimizer)
        for _ in range(300):
            step(accounted, optimizer, GRADIENTS)
        fresh = MomentumSignal(optimizer)
        for _ in range(3):
            assert step(fresh, optimizer, GRADIENTS) == pytest.approx((SQUARED_NORM, SQUARED_NORM), rel=1e-4)

    @pytest.mark.parametrize(
        ("weights", "match"),
        [
            ([1.0], r"\['weights'\]` must be a list of 2 entries"),
            ([1.0, math.nan], r"\['weights'\]\[1\]` must be finite"),
            ([1.0, -1.0], r"\['weights'\]` must be at least 0; got -1.0"),
            ([1, 2], "must be of type float; got int"),
        ],
    )
    def test_damaged_changes_nothing(self, weights, match):
        optimizer = SGD(make_parameters(), lr=0.01, momentum=0.9)
        signal = MomentumSignal(optimizer)
        step(signal, optimizer, GRADIENTS)
        with laws.assert_unchanged(signal), pytest.raises(ValueError, match=match):
            signal.load_state_dict({"weights": weights})


def test_measuring_touches_neither_gradients_nor_optimizer():
    optimizer = Adam(make_parameters(), lr=0.01)
    signal = MomentumSignal(optimizer)
    step(signal, optimizer, GRADIENTS)
    gradients = [parameter.grad.clone() for parameter in optimizer.param_groups[0]["params"]]
    with laws.assert_unchanged(optimizer, signal):
        signal.measure()
    for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_a_parameter_that_is_frozen_is_not_missed():
    parameters = make_parameters()
    parameters[1].requires_grad_(requires_grad=False)
    optimizer = SGD(parameters, lr=0.01, momentum=0.9)
    signal = MomentumSignal(optimizer)
    for _ in range(3):
        measured = step(signal, optimizer, [GRADIENTS[0], None])
    assert measured == pytest.approx((float(GRADIENTS[0].square().sum()),) * 2, rel=1e-6)
    assert signal.state_dict()["weights"][1] == 0.0
