"""Weighted batch normalisation: golden values, torch as the law at equal weights, conversion, and the block's scope."""

import copy
import functools
import io
import itertools
import math
import threading
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import CheckpointError, checkpoint

from approx_is.batch_norm import WeightedBatchNorm2d, batch_weights, centre, convert_batch_norm
from approx_is.weight_context import BatchWeights

SHAPES = {
    "1d": (nn.BatchNorm1d, (6, 3)),
    "1d with positions": (nn.BatchNorm1d, (6, 3, 5)),
    "2d": (nn.BatchNorm2d, (6, 3, 4, 5)),
    "3d": (nn.BatchNorm3d, (6, 3, 2, 3, 2)),
}
OPTIONS = [
    {},
    {"affine": False},
    {"momentum": None},
    {"momentum": 1.0},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
]
OPTION_IDS = [str(options) for options in OPTIONS]
COUNTS = torch.tensor([1, 3, 2, 1, 4, 2])

every_shape = pytest.mark.parametrize(("kind", "shape"), SHAPES.values(), ids=SHAPES)
every_option = pytest.mark.parametrize("options", OPTIONS, ids=OPTION_IDS)


def random_batch(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 + 1


def make_pair(kind, dtype=torch.float64, **options):
    """Return one BatchNorm with uneven parameters as torch has it, and the same converted."""
    plain = kind(3, dtype=dtype, **options)
    if plain.affine:
        with torch.no_grad():
            plain.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
            plain.bias.copy_(torch.tensor([0.0, 3.0, 0.1]))
    return plain, convert_batch_norm(copy.deepcopy(plain))


def run(module, batch, coefficients=None, weights=None):
    """Return output, gradients (input, then parameters) and buffers of one pass; the loss is uneven in its entries."""
    batch = batch.clone().requires_grad_()
    if weights is None:
        output = module(batch)
    else:
        with batch_weights(weights):
            output = module(batch)
    coefficients = random_batch(batch.shape, seed=1, dtype=batch.dtype) if coefficients is None else coefficients
    gradients = torch.autograd.grad((output.sin() * coefficients).sum(), [batch, *module.parameters()])
    return output.detach(), list(gradients), [buffer.clone() for buffer in module.buffers()]


def assert_equal_to_the_bit(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def golden_norm():
    module = convert_batch_norm(nn.BatchNorm1d(1, momentum=1.0, affine=False, eps=0.0, dtype=torch.float64))
    with batch_weights(torch.tensor([1.0, 2.0, 1.0])):
        return module, module(torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64))


# --- the statistics


def test_the_statistics_are_the_golden_values():
    module, _ = golden_norm()
    assert module.running_mean.item() == pytest.approx(2.25, rel=1e-9)
    assert module.running_var.item() == pytest.approx(1.9, rel=1e-9)


def test_the_output_is_normalised_with_the_biased_variance():
    _, output = golden_norm()
    expected = [(x - 2.25) / math.sqrt(1.1875) for x in (1.0, 2.0, 4.0)]
    assert output.flatten().tolist() == pytest.approx(expected, rel=1e-9)


def test_the_running_statistics_move_by_momentum():
    module = convert_batch_norm(nn.BatchNorm1d(1, momentum=0.25, dtype=torch.float64))
    with batch_weights(torch.tensor([1.0, 2.0, 1.0])):
        module(torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64))
    assert module.running_mean.item() == pytest.approx(0.25 * 2.25)
    assert module.running_var.item() == pytest.approx(0.75 + 0.25 * 1.9)
    assert module.num_batches_tracked.item() == 1


def test_without_momentum_the_running_statistics_are_means_over_the_batches():
    module = convert_batch_norm(nn.BatchNorm1d(1, momentum=None, dtype=torch.float64))
    for scale in (1.0, 2.0, 6.0):
        with batch_weights(torch.tensor([1.0, 2.0, 1.0])):
            module(scale * torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64))
    assert module.running_mean.item() == pytest.approx(2.25 * 3)
    assert module.running_var.item() == pytest.approx(1.9 * (1 + 4 + 36) / 3)


@every_option
@every_shape
def test_equal_weights_are_torch(kind, shape, options):
    plain, weighted = make_pair(kind, **options)
    for seed in range(2):
        batch = random_batch(shape, seed)
        torch.testing.assert_close(
            run(weighted, batch, weights=torch.full((6,), 0.3)), run(plain, batch), rtol=1e-12, atol=1e-12
        )


@every_shape
def test_equal_weights_are_torch_to_the_precision_of_float32(kind, shape):
    plain, weighted = make_pair(kind, torch.float32)
    batch = random_batch(shape, dtype=torch.float32)
    found, expected = run(weighted, batch, weights=torch.full((6,), 0.3)), run(plain, batch)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1][0], expected[1][0], rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(found[2], expected[2], rtol=1e-6, atol=1e-6)
    # sums of as many terms as there are values a channel
    torch.testing.assert_close(found[1][1:], expected[1][1:], rtol=1e-6, atol=1e-6 * batch.numel() / 3)


@every_option
@every_shape
def test_an_integer_weight_is_a_sample_that_stands_repeatedly(kind, shape, options):
    plain, weighted = make_pair(kind, **options)
    batch, coefficients = random_batch(shape), random_batch(shape, seed=1)
    counts = COUNTS.view(-1, *[1] * (len(shape) - 1))
    found = run(weighted, batch, coefficients * counts, COUNTS.double())
    repeated = run(plain, batch.repeat_interleave(COUNTS, 0), coefficients.repeat_interleave(COUNTS, 0))

    firsts = COUNTS.cumsum(0) - COUNTS
    torch.testing.assert_close(found[0], repeated[0][firsts])
    torch.testing.assert_close(found[1][0], repeated[1][0][firsts] * counts)
    torch.testing.assert_close(found[1][1:], repeated[1][1:])
    if weighted.track_running_stats:
        torch.testing.assert_close(found[2][0], repeated[2][0])


@every_shape
def test_repeated_samples_and_integer_weights_agree_on_the_variance_but_not_on_its_correction(kind, shape):
    # copies count as draws of their own for torch, a weight does not: n_e = (Σw)²/Σw² < Σw
    plain, weighted = make_pair(kind, momentum=1.0)
    batch, positions = random_batch(shape), math.prod(shape[2:])
    run(weighted, batch, weights=COUNTS.double())
    run(plain, batch.repeat_interleave(COUNTS, 0))
    copies = positions * 13
    effective = positions * 13**2 / 35
    torch.testing.assert_close(
        weighted.running_var * (effective - 1) / effective, plain.running_var * (copies - 1) / copies
    )
    assert bool((weighted.running_var > plain.running_var).all())


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=8), st.sampled_from([1e-30, 1e-6, 1e30]))
def test_only_ratios_of_the_weights_matter(weights, scale):
    weights = torch.tensor(weights, dtype=torch.float64)
    batch = random_batch((len(weights), 3))
    found = run(make_pair(nn.BatchNorm1d)[1], batch, weights=weights * scale)
    torch.testing.assert_close(found, run(make_pair(nn.BatchNorm1d)[1], batch, weights=weights), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_weights_beyond_the_range_of_the_batch_count_too(scale):
    batch, weights = random_batch((6, 3), dtype=torch.float32), torch.rand(6, dtype=torch.float64) + 0.1
    found = run(make_pair(nn.BatchNorm1d, torch.float32)[1], batch, weights=weights * scale)
    torch.testing.assert_close(found, run(make_pair(nn.BatchNorm1d, torch.float32)[1], batch, weights=weights))


def test_the_estimates_are_unbiased_over_all_draws():
    # E[Σ w x / B] = mean of the data set, likewise of 1 and x²; the module only shows quotients, over w̄ = Σ w / B
    data = torch.tensor([[1.0], [-2.0], [4.0], [7.0]], dtype=torch.float64)
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    weights = 1 / (len(data) * probabilities)
    first = second = total = 0.0
    for drawn in itertools.product(range(len(data)), repeat=3):
        indices = torch.tensor(drawn)
        shares = weights[indices] / weights[indices].sum()
        _, mean, variance = centre(data[indices], shares)
        chance_and_weight = probabilities[indices].prod() * weights[indices].mean()
        total += chance_and_weight
        first += chance_and_weight * mean
        second += chance_and_weight * (variance + mean**2)
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(first, data.mean(0))
    torch.testing.assert_close(second, data.square().mean(0))


def test_at_equal_probabilities_the_running_variance_is_unbiased_over_all_draws():
    data = torch.tensor([[1.0], [-2.0], [4.0], [7.0]], dtype=torch.float64)
    module = convert_batch_norm(nn.BatchNorm1d(1, momentum=None, dtype=torch.float64))
    for drawn in itertools.product(range(len(data)), repeat=3):
        with batch_weights(torch.ones(3)):
            module(data[list(drawn)])
    torch.testing.assert_close(module.running_var, data.var(0, correction=0))


@pytest.mark.parametrize(("kind", "shape"), list(SHAPES.values())[:3], ids=list(SHAPES)[:3])
def test_gradients_flow_through_the_statistics(kind, shape):
    module = convert_batch_norm(kind(3, dtype=torch.float64, track_running_stats=False))
    weights = COUNTS[:4].double()

    def function(batch, scale, shift):
        with batch_weights(weights):
            return torch.func.functional_call(module, {"weight": scale, "bias": shift}, batch)

    arguments = [random_batch((4, 3, *shape[2:])), *(random_batch((3,), seed) for seed in (1, 2))]
    assert torch.autograd.gradcheck(function, [argument.requires_grad_() for argument in arguments])


def test_no_gradient_flows_into_the_weights():
    weights = torch.rand(6, dtype=torch.float64, requires_grad=True)
    _, module = make_pair(nn.BatchNorm1d)
    with batch_weights(weights):
        module(random_batch((6, 3))).sin().sum().backward()
    assert weights.grad is None
    assert not module.running_mean.requires_grad


# --- precision


def test_the_variance_does_not_cancel_where_the_mean_is_large():
    batch = random_batch((6, 3), dtype=torch.float32) + 1e4
    shares = torch.softmax(random_batch((6,)), 0)
    exact_mean = (shares.unsqueeze(1) * batch.double()).sum(0)
    exact = (shares.unsqueeze(1) * (batch.double() - exact_mean) ** 2).sum(0)
    torch.testing.assert_close(centre(batch, shares.float())[2].double(), exact, rtol=1e-4, atol=0)


@given(st.lists(st.floats(-12, 12), min_size=2, max_size=6))
def test_the_correction_is_exact_also_where_one_sample_has_nearly_all_weight(exponents):
    weights = torch.tensor(exponents, dtype=torch.float32).exp2() ** 3
    exact = [Fraction(weight) for weight in weights.tolist()]
    expected = float(1 - sum(w**2 for w in exact) / sum(exact) ** 2)
    _, spread = BatchWeights(weights).at(torch.device("cpu"), torch.float32)
    assert spread.item() == pytest.approx(expected, rel=1e-5)


def test_a_single_heavy_sample_leaves_the_running_statistics_finite():
    _, module = make_pair(nn.BatchNorm1d, torch.float32)
    with batch_weights(torch.tensor([1e30, 1e-30])):
        output = module(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    assert bool(output.isfinite().all())
    assert all(bool(buffer.isfinite().all()) for buffer in module.buffers())


def test_one_sample_of_many_positions_is_torch():
    plain, weighted = make_pair(nn.BatchNorm2d)
    batch = random_batch((1, 3, 4, 5))
    torch.testing.assert_close(run(weighted, batch, weights=torch.tensor([0.3])), run(plain, batch))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("half_module", [False, True], ids=["float32 module", "half module"])
def test_half_precision_accumulates_in_float32(dtype, half_module):
    # 300 is exact in both, the square of 300 is beyond float16, and so is the sum of a batch
    module = make_pair(nn.BatchNorm1d, torch.float32, momentum=1.0)[1]
    module = module.to(dtype) if half_module else module
    batch = (random_batch((512, 3), dtype=torch.float32) * 64 + 300).to(dtype).requires_grad_()
    weights = torch.rand(512, generator=torch.Generator().manual_seed(2)) + 0.1
    with batch_weights(weights):
        output = module(batch)
    output.sum().backward()
    reference = make_pair(nn.BatchNorm1d, torch.float32, momentum=1.0)[1]
    with batch_weights(weights):
        expected = reference(batch.detach().float())
    assert (output.dtype, batch.grad.dtype) == (dtype, dtype)
    assert_equal_to_the_bit(module.running_mean, reference.running_mean.to(module.running_mean.dtype))
    torch.testing.assert_close(output, expected.to(dtype), rtol=1e-2, atol=1e-2)


def test_autocast_leaves_the_statistics_in_float32():
    _, module = make_pair(nn.BatchNorm2d, torch.float32)
    batch = random_batch((6, 3, 4, 5), dtype=torch.float32)
    expected = run(copy.deepcopy(module), batch, weights=COUNTS.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal_to_the_bit(run(module, batch, weights=COUNTS.float()), expected)


def test_the_memory_format_is_kept():
    _, module = make_pair(nn.BatchNorm2d)
    batch = random_batch((6, 3, 4, 5)).to(memory_format=torch.channels_last)
    with batch_weights(COUNTS.double()):
        assert module(batch).is_contiguous(memory_format=torch.channels_last)


# --- what stays torch's


@every_option
@every_shape
def test_outside_the_block_a_converted_module_is_torch_to_the_bit(kind, shape, options):
    plain, converted = make_pair(kind, **options)
    with batch_weights(COUNTS.double()):
        pass
    for seed in range(2):
        batch = random_batch(shape, seed)
        assert_equal_to_the_bit(run(converted, batch), run(plain, batch))


@every_shape
def test_in_eval_mode_the_weights_change_nothing(kind, shape):
    plain, converted = make_pair(kind)
    run(plain, random_batch(shape))
    converted.load_state_dict(plain.state_dict())
    # 2 weights would not fit a batch of 6: there is nothing to weigh
    assert_equal_to_the_bit(
        run(converted.eval(), random_batch(shape, 1), weights=torch.ones(2)), run(plain.eval(), random_batch(shape, 1))
    )


@every_shape
def test_without_running_statistics_the_weights_count_in_eval_mode_too(kind, shape):
    _, module = make_pair(kind, track_running_stats=False)
    training = run(module, random_batch(shape), weights=COUNTS.double())
    assert_equal_to_the_bit(run(module.eval(), random_batch(shape), weights=COUNTS.double()), training)


def test_tracking_switched_off_later_leaves_the_buffers():
    _, module = make_pair(nn.BatchNorm1d)
    module.track_running_stats = False
    before = copy.deepcopy(module.state_dict())
    run(module, random_batch((6, 3)), weights=COUNTS.double())
    assert_equal_to_the_bit(module.state_dict(), before)


def test_batches_are_not_counted_in_eval_mode_where_the_running_statistics_were_removed():
    plain, weighted = make_pair(nn.BatchNorm1d)
    for module in (plain.eval(), weighted.eval()):
        module.running_mean = module.running_var = None
    batch = random_batch((6, 3))
    torch.testing.assert_close(run(weighted, batch, weights=torch.ones(6)), run(plain, batch))
    assert weighted.num_batches_tracked.item() == 0


@pytest.mark.parametrize("momentum", [None, 0.1])
def test_a_missing_count_of_batches_is_treated_as_by_torch(momentum):
    plain, weighted = make_pair(nn.BatchNorm1d, momentum=momentum)
    plain.num_batches_tracked = weighted.num_batches_tracked = None
    batch = random_batch((6, 3))
    torch.testing.assert_close(run(weighted, batch, weights=torch.ones(6)), run(plain, batch))


def test_an_empty_batch_leaves_the_running_statistics_as_torch_does():
    plain, weighted = make_pair(nn.BatchNorm1d)
    with batch_weights(torch.ones(2)):
        assert weighted(torch.zeros(0, 3, dtype=torch.float64)).shape == (0, 3)
    plain(torch.zeros(0, 3, dtype=torch.float64))
    assert_equal_to_the_bit(weighted.state_dict(), plain.state_dict())


# --- conversion


def make_model():
    shared = nn.BatchNorm2d(4)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), shared, nn.ReLU(), nn.Sequential(shared, nn.Flatten(), nn.LazyLinear(5)), nn.BatchNorm1d(5)
    )


def images(count=6):
    return random_batch((count, 3, 5, 5), dtype=torch.float32)


def test_the_root_is_converted_in_place():
    module = nn.BatchNorm2d(3)
    assert convert_batch_norm(module) is module
    assert type(module) is WeightedBatchNorm2d
    assert isinstance(module, nn.BatchNorm2d)


def test_modules_parameters_and_buffers_stay_the_same_objects():
    model = make_model()
    model(images())
    model[1].weight.requires_grad_(False)
    model[4].eval()
    modules, tensors = list(model.modules()), [*model.parameters(), *model.buffers()]
    flags = [module.training for module in modules], [tensor.requires_grad for tensor in tensors]
    assert convert_batch_norm(model) is model
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(a is b for a, b in zip([*model.parameters(), *model.buffers()], tensors, strict=True))
    assert flags == ([m.training for m in model.modules()], [tensor.requires_grad for tensor in tensors])
    assert model[1] is model[3][0]
    assert [type(model[i]).__name__ for i in (1, 4)] == ["WeightedBatchNorm2d", "WeightedBatchNorm1d"]


def test_an_optimizer_built_before_trains_the_converted_module():
    module = nn.BatchNorm1d(3, dtype=torch.float64)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    convert_batch_norm(module)
    with batch_weights(COUNTS.double()):
        (module(random_batch((6, 3))) * random_batch((6, 3), 1)).sum().backward()
    expected = [parameter.detach() - parameter.grad for parameter in module.parameters()]
    optimizer.step()
    assert_equal_to_the_bit([parameter.detach() for parameter in module.parameters()], expected)
    assert bool((module.weight != 1).all())


def test_hooks_still_run():
    module, calls = nn.BatchNorm1d(3, dtype=torch.float64), []
    module.register_forward_hook(lambda *_: calls.append("forward"))
    module.register_forward_pre_hook(lambda *_: calls.append("before"))
    run(convert_batch_norm(module), random_batch((6, 3)), weights=COUNTS.double())
    assert calls == ["before", "forward"]


def test_converting_twice_changes_nothing():
    model = convert_batch_norm(nn.Sequential(nn.BatchNorm1d(3)))
    before = copy.deepcopy(vars(model[0])), type(model[0])
    convert_batch_norm(model[0])
    convert_batch_norm(model)
    assert str((vars(model[0]), type(model[0]))) == str(before)


def test_state_dicts_are_interchangeable_with_torch():
    plain, weighted = make_pair(nn.BatchNorm1d)
    run(weighted, random_batch((6, 3)), weights=COUNTS.double())
    assert list(plain.state_dict()) == list(weighted.state_dict())
    plain.load_state_dict(weighted.state_dict())
    assert_equal_to_the_bit(plain.state_dict(), weighted.state_dict())
    run(plain, random_batch((6, 3)))
    weighted.load_state_dict(plain.state_dict())
    assert_equal_to_the_bit(weighted.state_dict(), plain.state_dict())


def test_states_saved_before_batches_were_counted_load():
    state = nn.BatchNorm1d(3).state_dict()
    del state["num_batches_tracked"], state._metadata
    module = convert_batch_norm(nn.BatchNorm1d(3))
    module.load_state_dict(state)
    assert module.num_batches_tracked.item() == 0


def through_torch_save(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_torch_save])
def test_copies_heed_the_weights(copied):
    module = make_pair(nn.BatchNorm2d)[1]
    twin, batch = copied(module), random_batch((6, 3, 4, 5))
    assert type(twin) is WeightedBatchNorm2d
    assert_equal_to_the_bit(run(twin, batch, weights=COUNTS.double()), run(module, batch, weights=COUNTS.double()))


def test_a_lazy_batch_norm_is_converted_once_it_has_seen_a_batch():
    module = nn.LazyBatchNorm1d()
    with pytest.raises(TypeError, match=r"`model`, a LazyBatchNorm1d that has not seen a batch yet\. Run the model on"):
        convert_batch_norm(module)
    module(torch.randn(4, 3))
    run(convert_batch_norm(module), random_batch((6, 3), dtype=torch.float32), weights=COUNTS.double())


class NormAndReLU(nn.BatchNorm2d):
    def forward(self, batch):
        return super().forward(batch).relu()


def wrapped_forward():
    module = nn.BatchNorm2d(3)
    module.forward = functools.partial(module.forward)
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.SyncBatchNorm(3), r"`1\.part`, a SyncBatchNorm: ranks do not exchange .* Use torch\.nn\.BatchNorm1d"),
        (nn.LazyBatchNorm2d(), r"`1\.part`, a LazyBatchNorm2d that has not seen a batch yet"),
        (nn.LazyBatchNorm2d(affine=False, track_running_stats=False), r"has not seen a batch yet"),
        (NormAndReLU(3), r"`1\.part`, a NormAndReLU: its forward may be its own\. Derive it from WeightedBatchNorm1d"),
        (wrapped_forward(), r"`1\.part`, a BatchNorm2d whose forward was replaced\. Convert the model before"),
    ],
)
def test_a_norm_that_cannot_be_weighed_is_refused_and_nothing_is_changed(module, message):
    kind = type(module)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ModuleDict({"part": module}), nn.BatchNorm2d(3))
    with pytest.raises(TypeError, match=message):
        convert_batch_norm(model)
    assert [type(model[0]), type(model[1]["part"]), type(model[2])] == [nn.BatchNorm2d, kind, nn.BatchNorm2d]


def test_a_subclass_of_a_weighted_norm_keeps_its_forward():
    class Norm(WeightedBatchNorm2d):
        def forward(self, batch):
            return super().forward(batch).relu()

    batch = random_batch((6, 3, 4, 5))
    module = convert_batch_norm(nn.Sequential(Norm(3, dtype=torch.float64)))
    assert type(module[0]) is Norm
    with batch_weights(COUNTS.double()):
        assert_equal_to_the_bit(module(batch), convert_batch_norm(nn.BatchNorm2d(3, dtype=torch.float64))(batch).relu())


def test_a_model_without_batch_norms_is_returned_as_it_is():
    model = nn.Sequential(nn.Linear(2, 2), nn.InstanceNorm1d(2))
    assert [type(module) for module in convert_batch_norm(model).modules()] == [
        nn.Sequential,
        nn.Linear,
        nn.InstanceNorm1d,
    ]


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"`convert_batch_norm\(model\)` must be a torch\.nn\.Module; got list"):
        convert_batch_norm([nn.BatchNorm1d(3)])


# --- the block


def test_the_inner_block_counts_and_the_outer_is_restored():
    batch, module = random_batch((6, 3)), make_pair(nn.BatchNorm1d, track_running_stats=False)[1]
    outer, inner = COUNTS.double(), COUNTS.flip(0).double()
    expected = [run(module, batch, weights=weights)[0] for weights in (outer, inner, None)]
    with batch_weights(outer):
        found = [module(batch)]
        with batch_weights(inner):
            found.append(module(batch))
        assert_equal_to_the_bit(module(batch), found[0])
    found.append(module(batch))
    assert_equal_to_the_bit([output.detach() for output in found], expected)


def test_an_exception_ends_the_block():
    batch, module = random_batch((6, 3)), make_pair(nn.BatchNorm1d, track_running_stats=False)[1]
    with pytest.raises(KeyError, match="lost"), batch_weights(COUNTS.double()):
        raise KeyError("lost")
    assert_equal_to_the_bit(run(module, batch), run(make_pair(nn.BatchNorm1d, track_running_stats=False)[0], batch))


def test_refused_weights_leave_the_outer_block():
    batch, module = random_batch((6, 3)), make_pair(nn.BatchNorm1d, track_running_stats=False)[1]
    with batch_weights(COUNTS.double()):
        before = module(batch)
        with pytest.raises(ValueError, match="must be finite and positive"), batch_weights(-COUNTS.double()):
            pass
        assert_equal_to_the_bit(module(batch), before)


def test_threads_do_not_see_each_others_weights():
    plain, module = make_pair(nn.BatchNorm1d, track_running_stats=False)
    batch, found = random_batch((6, 3)), {}

    def other():
        found["before"] = module(batch)
        with batch_weights(COUNTS.flip(0).double()):
            found["inside"] = module(batch)

    with batch_weights(COUNTS.double()):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        found["after"] = module(batch)
    assert_equal_to_the_bit(found["before"], plain(batch))
    assert_equal_to_the_bit(found["inside"].detach(), run(module, batch, weights=COUNTS.flip(0).double())[0])
    assert_equal_to_the_bit(found["after"].detach(), run(module, batch, weights=COUNTS.double())[0])


def test_float64_and_float32_layers_share_a_block():
    modules = [make_pair(nn.BatchNorm1d, dtype)[1] for dtype in (torch.float32, torch.float64)]
    batch = random_batch((6, 3))
    with batch_weights(COUNTS.float()):
        single, double = modules[0](batch.float()), modules[1](batch)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def checkpointed(function):
    """Return output and input gradient of `function`, whose forward pass runs again in `backward()`."""
    batch = random_batch((6, 3)).requires_grad_()
    with batch_weights(COUNTS.double()):
        output = function(batch)
    output.sin().sum().backward()
    return output.detach(), batch.grad


def test_a_checkpoint_needs_the_block_in_its_context_function():
    module = make_pair(nn.BatchNorm1d, track_running_stats=False)[1]
    again = functools.partial(checkpoint, module, use_reentrant=False)

    def context_fn():
        return batch_weights(COUNTS.double()), batch_weights(COUNTS.double())

    expected = checkpointed(module)
    assert_equal_to_the_bit(checkpointed(functools.partial(again, context_fn=context_fn)), expected)
    with pytest.raises(CheckpointError, match="different number of tensors was saved"):
        checkpointed(again)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_function_may_enter_the_block_itself(reentrant):
    module = make_pair(nn.BatchNorm1d, track_running_stats=False)[1]

    def function(batch):
        with batch_weights(COUNTS.double()):
            return module(batch)

    found = checkpointed(lambda batch: checkpoint(function, batch, use_reentrant=reentrant))
    assert_equal_to_the_bit(found, checkpointed(module))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_a_compiled_model_heeds_each_blocks_weights():
    model = convert_batch_norm(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.BatchNorm1d(3)))
    compiled, batches = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True), range(3)
    for weights in [*(torch.rand(6, generator=torch.Generator().manual_seed(i)) + 0.1 for i in batches), None]:
        batch = random_batch((6, 3), dtype=torch.float32)
        torch.testing.assert_close(run(compiled, batch, weights=weights), run(model, batch, weights=weights))


# --- what is refused


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        (torch.ones(2, 3), r"torch\.float32 \[2, 3\]"),
        (torch.tensor(1.0), r"torch\.float32 \[\]"),
        (torch.ones(0), r"torch\.float32 \[0\]"),
        (torch.ones(3, dtype=torch.int64), r"torch\.int64 \[3\]"),
        (torch.ones(3, dtype=torch.bool), r"torch\.bool \[3\]"),
        (torch.ones(3, dtype=torch.complex64), r"torch\.complex64 \[3\]"),
    ],
)
def test_weights_of_another_kind_are_refused(weights, found):
    with (
        pytest.raises(ValueError, match=rf"must be real floating of shape \[B\], one weight a sample; got {found}"),
        batch_weights(weights),
    ):
        pass


@pytest.mark.parametrize("weights", [[1.0, 2.0], 1.0, None])
def test_weights_that_are_no_tensor_are_refused(weights):
    with (
        pytest.raises(TypeError, match=rf"must be a tensor; got {type(weights).__name__}\. Pass draw\.weights"),
        batch_weights(weights),
    ):
        pass


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_weights_that_are_not_finite_and_positive_are_refused(bad):
    with (
        pytest.raises(ValueError, match=r"must be finite and positive; got entries from .* to .*\. Leave other"),
        batch_weights(torch.tensor([1.0, bad])),
    ):
        pass


def refuse(module, batch, weights, message, error=ValueError):
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(error, match=message), batch_weights(weights):
        module(batch)
    assert_equal_to_the_bit(module.state_dict(), before)


def test_a_batch_of_another_size_is_refused_at_the_layer_by_name():
    model = convert_batch_norm(nn.Sequential(nn.Sequential(nn.BatchNorm1d(3))))
    message = (
        r"`batch_weights\(weights\)` has 4 entries; the batch at `0\.0` has 8\. Pass the weights of this very batch"
    )
    refuse(model, torch.randn(8, 3), torch.ones(4), message)


def test_a_root_is_named_by_its_class():
    module = convert_batch_norm(nn.BatchNorm1d(3))
    refuse(module, torch.randn(8, 3), torch.ones(4), r"the batch at `WeightedBatchNorm1d` has 8")


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1)])
def test_a_single_value_a_channel_is_refused_as_by_torch(shape):
    message = "Expected more than 1 value per channel when training"
    plain, weighted = make_pair(nn.BatchNorm1d, torch.float32)
    with pytest.raises(ValueError, match=message):
        plain(torch.randn(shape))
    refuse(weighted, torch.randn(shape), torch.ones(1), message)


def test_other_channels_are_refused():
    refuse(
        convert_batch_norm(nn.BatchNorm1d(1)), torch.randn(4, 3), torch.ones(4), r"must get 1 channels; got .*\[4, 3\]"
    )


def test_other_dimensions_are_refused_as_by_torch():
    refuse(
        convert_batch_norm(nn.BatchNorm2d(3)), torch.randn(4, 3), torch.ones(4), r"expected 4D input \(got 2D input\)"
    )


def test_integer_batches_are_refused_as_by_torch():
    module = convert_batch_norm(nn.BatchNorm1d(3, track_running_stats=False))
    refuse(
        module, torch.ones(4, 3, dtype=torch.int64), torch.ones(4), "not implemented for 'Long'", NotImplementedError
    )
