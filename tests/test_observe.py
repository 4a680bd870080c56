"""The upper bound of the gradient norm: golden values, autograd's norms for every loss, precision, and errors."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from approx_is import upper_bound
from approx_is.observe import norm_dtype

BINARY, SQUARED = "binary-cross-entropy", "squared"

CASES = {
    "classes": {},
    "classes-smoothed": {"label_smoothing": 0.1},
    "classes-uniform": {"label_smoothing": 1.0},
    "classes-ignored": {"ignore_index": 2},
    "classes-ignored-smoothed": {"ignore_index": 2, "label_smoothing": 0.3},
    "soft": {},
    "soft-smoothed": {"label_smoothing": 0.2},
    "binary-hard": {"loss": BINARY},
    "binary-soft": {"loss": BINARY},
    "squared": {"loss": SQUARED},
}
"""Kinds of targets with their options."""

SHAPES = [(6, 5), (6, 5, 3), (6, 5, 2, 3)]
WITHOUT_CLASSES = [(kind, shape) for kind in ("binary-hard", "binary-soft", "squared") for shape in [(6,), (6, 1)]]
KINDS_AND_SHAPES = [(kind, shape) for kind in CASES for shape in SHAPES] + WITHOUT_CLASSES


def autograd_norm(logits, targets, loss="cross-entropy", **options):
    logits = logits.double().requires_grad_()
    if loss == "cross-entropy":
        losses = F.cross_entropy(logits, targets, reduction="none", **options)
    else:
        torch_loss = F.mse_loss if loss == SQUARED else F.binary_cross_entropy_with_logits
        losses = torch_loss(logits, targets.double(), reduction="none")
    losses.sum().backward()
    return logits.grad.reshape(len(logits), -1).norm(dim=1)


def random_logits(scale, seed=0, size=(50, 7)):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(size, generator=generator)
    return logits, torch.randint(size[1], (size[0], *size[2:]), generator=generator)


def random_case(kind, shape, scale=1.0, seed=0):
    """Return float64 logits, targets and options; soft targets do not sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(shape, dtype=torch.float64, generator=generator)
    uniform = torch.rand(shape, dtype=torch.float64, generator=generator)
    if kind.startswith("classes"):
        targets = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    elif kind == "binary-hard":
        targets = (uniform > 0.5).long()
    else:
        targets = uniform * scale if kind == "squared" else uniform
    return logits, targets, CASES[kind]


def test_zero_logits_of_ten_classes_give_the_golden_value():
    assert upper_bound(torch.zeros(1, 10), torch.tensor([3])).item() == pytest.approx(0.948683, abs=1e-6)


@pytest.mark.parametrize("num_classes", [1, 2, 100])
def test_zero_logits_give_the_root_of_1_minus_1_over_the_classes(num_classes):
    bound = upper_bound(torch.zeros(1, num_classes), torch.tensor([0])).item()
    assert bound == pytest.approx(math.sqrt(1 - 1 / num_classes), abs=1e-6)


def test_sure_and_wrong_reaches_the_root_of_2():
    assert upper_bound(torch.tensor([[0.0, 200.0]]), torch.tensor([0])).item() == pytest.approx(math.sqrt(2))


def test_the_other_losses_give_their_golden_values():
    outputs, targets = torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert upper_bound(outputs, targets, loss=BINARY).item() == pytest.approx(1.0)
    assert upper_bound(outputs, 3.0 * targets, loss=SQUARED).item() == pytest.approx(6 * math.sqrt(2))


@given(st.integers(0, 2**31), st.sampled_from([1e-10, 1.0, 30.0, 1e4, 1e30]))
def test_the_bound_lies_between_0_and_the_root_of_2(seed, scale):
    bound = upper_bound(*random_logits(scale, seed))
    assert bool(((bound >= 0) & (bound <= math.sqrt(2) * (1 + 1e-6))).all())


@given(
    st.sampled_from([pair for pair in KINDS_AND_SHAPES if pair[0] != "squared"]),
    st.integers(0, 2**31),
    st.sampled_from([1e-10, 1.0, 30.0, 1e4, 1e30]),
)
def test_every_bound_of_the_table_holds(kind_and_shape, seed, scale):
    kind, shape = kind_and_shape
    logits, targets, options = random_case(kind, shape, scale, seed)
    bound = upper_bound(logits.float(), targets, **options)
    outputs, positions = math.prod(shape[1:]), math.prod(shape[2:])
    sums = targets.sum(1).amax().item() if kind == "soft" else 1.0 * shape[1] if kind == "soft-smoothed" else 1.0
    most = math.sqrt(outputs) if kind.startswith("binary") else sums * math.sqrt(2 * positions)
    assert bool(((bound >= 0) & (bound <= most * (1 + 1e-6))).all())


@pytest.mark.parametrize("scale", [1e-10, 1.0, 10.0, 50.0])
def test_the_bound_is_the_norm_of_the_gradient_at_the_logits(scale):
    logits, targets = random_logits(scale)
    torch.testing.assert_close(
        upper_bound(logits, targets).double(), autograd_norm(logits, targets), rtol=2e-5, atol=1e-15
    )


@pytest.mark.parametrize("scale", [1e-10, 1.0, 10.0, 1e4, 1e30])
@pytest.mark.parametrize(("kind", "shape"), KINDS_AND_SHAPES)
def test_every_loss_has_the_norm_of_its_gradient(kind, shape, scale):
    logits, targets, options = random_case(kind, shape, scale)
    bound = upper_bound(logits, targets, **options)
    assert bound.dtype == torch.float32
    # float64 in, so that what is left is the rounding of the result; autograd itself cancels below 1e-15
    torch.testing.assert_close(bound.double(), autograd_norm(logits, targets, **options), rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize(("kind", "shape"), KINDS_AND_SHAPES)
def test_float32_outputs_are_right_to_their_rounding(kind, shape):
    logits, targets, options = random_case(kind, shape, 3.0)
    expected = autograd_norm(logits, targets, **options).float()
    torch.testing.assert_close(upper_bound(logits.float(), targets, **options), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("margin", [20.0, 50.0, 80.0])
def test_the_bound_does_not_cancel_where_the_network_is_sure(margin):
    bound = upper_bound(torch.tensor([[margin, 0.0]]), torch.tensor([0])).item()
    assert bound == pytest.approx(math.sqrt(2) * math.exp(-margin), rel=1e-5, abs=0)


@pytest.mark.parametrize("margin", [20.0, 50.0, 80.0])
@pytest.mark.parametrize("share", [1.0, 3.0])
def test_one_hot_soft_targets_of_any_sum_do_not_cancel(margin, share):
    bound = upper_bound(torch.tensor([[margin, 0.0]]), torch.tensor([[share, 0.0]])).item()
    assert bound == pytest.approx(share * math.sqrt(2) * math.exp(-margin), rel=1e-5, abs=0)


@pytest.mark.parametrize("margin", [20.0, 50.0, 80.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_binary_targets_do_not_cancel_where_the_network_is_sure(margin, target):
    logits = torch.tensor([margin if target else -margin])
    bound = upper_bound(logits, torch.tensor([target]), loss=BINARY).item()
    assert bound == pytest.approx(math.exp(-margin), rel=1e-5, abs=0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_no_square_of_an_error_underflows_or_overflows(scale):
    bound = upper_bound(torch.tensor([[3.0, 4.0]]) * scale, torch.zeros(1, 2), loss=SQUARED).item()
    assert bound == pytest.approx(10 * scale, rel=1e-5, abs=0)


def test_one_hot_soft_targets_are_class_indices():
    logits, targets = random_logits(5.0)
    assert torch.equal(upper_bound(logits, F.one_hot(targets, 7).float()), upper_bound(logits, targets))


def test_a_network_that_meets_its_soft_targets_has_no_gradient():
    soft = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    assert upper_bound(soft.log(), soft).item() == pytest.approx(0, abs=1e-15)


def test_positions_count_in_quadrature():
    logits, targets = random_logits(1.0, size=(4, 5, 3))
    each = torch.stack([upper_bound(logits[:, :, i], targets[:, i]) for i in range(3)])
    torch.testing.assert_close(upper_bound(logits, targets), each.square().sum(0).sqrt())


@pytest.mark.parametrize("ignore_index", [-100, -1, 2, 255])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_ignored_positions_count_as_if_they_were_not_there(ignore_index, label_smoothing):
    logits, targets = random_logits(1.0, size=(4, 5, 3))
    targets[targets == ignore_index] = 0
    rest = upper_bound(logits[:, :, 1:], targets[:, 1:], label_smoothing=label_smoothing)
    targets[:, 0] = ignore_index
    options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    torch.testing.assert_close(upper_bound(logits, targets, **options), rest)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_sample_ignored_as_a_whole_has_0(label_smoothing):
    logits, targets = random_logits(1.0, size=(3, 5))
    expected = upper_bound(logits, targets, label_smoothing=label_smoothing)
    targets[1] = -100
    found = upper_bound(logits, targets, label_smoothing=label_smoothing)
    assert found.tolist() == [expected[0].item(), 0.0, expected[2].item()]


def test_an_excluded_class_of_negative_infinity_is_as_if_it_were_not_there():
    logits, targets = random_logits(1.0, size=(8, 5))
    excluded = torch.cat([logits, torch.full((8, 1), -math.inf)], dim=1)
    torch.testing.assert_close(upper_bound(excluded, targets), upper_bound(logits, targets))


@pytest.mark.parametrize(
    "options", [{}, {"loss": BINARY}, {"loss": SQUARED}], ids=["cross-entropy", "binary", "squared"]
)
def test_an_output_that_is_nan_gives_nan_for_its_sample_alone(options):
    logits = torch.zeros(3, 2)
    logits[1, 0] = math.nan
    bound = upper_bound(logits, torch.ones(3, 2), **options)
    assert bound.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits, targets = random_logits(3.0)
    half = logits.to(dtype)
    bound = upper_bound(half, targets)
    assert bound.dtype == torch.float32
    assert torch.equal(bound, upper_bound(half.float(), targets))


@pytest.mark.parametrize("kind", ["soft", "binary-soft", "squared"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_and_targets_are_computed_in_float32(kind, dtype):
    logits, targets, options = random_case(kind, (6, 5))
    logits, targets = logits.to(dtype), targets.to(dtype)
    assert torch.equal(upper_bound(logits, targets, **options), upper_bound(logits.float(), targets.float(), **options))


def test_targets_in_float64_are_not_rounded():
    bound = upper_bound(torch.ones(1, 1), torch.tensor([[1 + 1e-12]], dtype=torch.float64), loss=SQUARED).item()
    assert bound == pytest.approx(2e-12, rel=1e-3, abs=0)


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.float64), ("cuda", torch.float64), ("mps", torch.float32)])
def test_squares_are_summed_in_float64_where_there_is_one(device, dtype):
    assert norm_dtype(SimpleNamespace(device=torch.device(device))) == dtype


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_class_indices_of_any_integer_dtype_are_allowed(dtype):
    logits, targets = random_logits(1.0)
    assert torch.equal(upper_bound(logits, targets.to(dtype)), upper_bound(logits, targets))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
@pytest.mark.parametrize("loss", [BINARY, SQUARED])
def test_binary_targets_of_any_dtype_are_allowed(loss, dtype):
    logits, targets, _ = random_case("binary-hard", (6, 5))
    logits = logits.float()
    assert torch.equal(upper_bound(logits, targets.to(dtype), loss=loss), upper_bound(logits, targets, loss=loss))


def test_a_constant_added_to_the_logits_changes_nothing():
    logits, targets = random_logits(1.0)
    torch.testing.assert_close(upper_bound(logits + 64.0, targets), upper_bound(logits, targets), rtol=1e-4, atol=1e-6)


def test_the_bound_carries_no_gradient():
    logits, targets = random_logits(1.0)
    assert not upper_bound(logits.requires_grad_(), targets).requires_grad


@pytest.mark.parametrize("kind", CASES)
def test_outputs_and_targets_stay_and_the_bound_is_detached(kind):
    logits, targets, options = random_case(kind, (6, 5))
    copies = logits.clone(), targets.clone()
    if targets.is_floating_point():
        targets.requires_grad_()
    assert not upper_bound(logits.requires_grad_(), targets, **options).requires_grad
    assert torch.equal(logits, copies[0])
    assert torch.equal(targets, copies[1])


@pytest.mark.parametrize(
    "context",
    [torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16), torch.enable_grad],
    ids=["inference", "autocast", "grad"],
)
@pytest.mark.parametrize("kind", CASES)
def test_contexts_change_nothing(kind, context):
    logits, targets, options = random_case(kind, (6, 5))
    logits = logits.float()
    expected = upper_bound(logits, targets, **options)
    with context():
        assert torch.equal(upper_bound(logits.clone(), targets, **options), expected)


def test_outputs_of_inference_mode_can_be_observed_outside_of_it():
    logits, targets = random_logits(1.0)
    with torch.inference_mode():
        inferred = logits.clone()
    assert torch.equal(upper_bound(inferred, targets), upper_bound(logits, targets))


@pytest.mark.parametrize("kind", CASES)
def test_values_that_cannot_be_read_at_once_give_the_same_bound(kind, monkeypatch):
    logits, targets, options = random_case(kind, (6, 5, 2))
    expected = upper_bound(logits, targets, **options)
    monkeypatch.setattr("approx_is.observe._bounds", lambda values: None)
    assert torch.equal(upper_bound(logits, targets, **options), expected)


@pytest.mark.parametrize("kind", CASES)
def test_off_the_cpu_no_value_is_waited_for(kind):
    logits, targets, options = random_case(kind, (6, 5, 2))
    # a meta tensor has no values: reading one would raise
    assert upper_bound(logits.to("meta"), targets.to("meta"), **options).shape == (6,)


def test_the_bound_compiles_into_one_graph():
    logits, targets = random_logits(1.0, size=(6, 5))
    compiled = torch.compile(upper_bound, backend="eager", fullgraph=True)
    assert torch.equal(compiled(logits, targets), upper_bound(logits, targets))


class CountOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_class_indices_cost_few_operations_a_step():
    logits, targets = random_logits(1.0)
    with CountOperations() as operations:
        upper_bound(logits.requires_grad_(), targets)
    range_check = ["aminmax", "_local_scalar_dense", "_local_scalar_dense"]
    assert operations.names[:3] == range_check
    assert len(operations.names[3:]) <= 8


def test_an_empty_batch_gives_an_empty_bound():
    assert upper_bound(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize(("kind", "shape"), KINDS_AND_SHAPES)
def test_an_empty_batch_gives_an_empty_bound_for_every_loss(kind, shape):
    logits, targets, options = random_case(kind, shape)
    assert upper_bound(logits[:0], targets[:0], **options).shape == (0,)


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        ((4,), (4,)),
        ((4, 3), (3,)),
        ((4, 3), (4, 1)),
        ((4, 3), (4, 3)),
        ((4, 3, 2), (4,)),
        ((4, 3), ()),
        ((4, 3, 2), (4, 3)),
        ((4, 3, 2), (4, 2, 1)),
    ],
)
def test_shapes_that_do_not_match_are_refused(logits, targets):
    with pytest.raises(ValueError, match=r"must have shapes \[B, C\] and \[B\]; got \["):
        upper_bound(torch.zeros(logits), torch.zeros(targets, dtype=torch.int64))


@pytest.mark.parametrize(("logits", "targets"), [((4, 3), (4,)), ((4,), (4,)), ((4, 3, 2), (4, 2, 3))])
def test_soft_targets_of_another_shape_are_refused(logits, targets):
    with pytest.raises(ValueError, match=r"same shape, \[B, C, \.\.\.\], .* Class indices must be integers\."):
        upper_bound(torch.zeros(logits), torch.zeros(targets))


@pytest.mark.parametrize("loss", [BINARY, SQUARED])
@pytest.mark.parametrize(("logits", "targets"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 2), (1, 2)), ((), ())])
def test_outputs_and_targets_are_never_broadcast(loss, logits, targets):
    with pytest.raises(ValueError, match=r"same shape, \[B, \.\.\.\], .* got \[.*nothing is broadcast"):
        upper_bound(torch.zeros(logits), torch.zeros(targets), loss=loss)


@pytest.mark.parametrize(
    ("targets", "ignore_index", "found"),
    [
        ([0, 3], -100, "from 0 to 3"),
        ([-1, 2], -100, "from -1 to 2"),
        ([-100, 3], -100, "from 0 to 3"),
        ([1, -100], 1, "from -100 to 0"),
    ],
)
def test_class_indices_out_of_range_are_refused(targets, ignore_index, found):
    with pytest.raises(
        ValueError, match=rf"must be in \[0, 3\); got entries {found}\. .*`ignore_index`, {ignore_index}"
    ):
        upper_bound(torch.zeros(2, 3), torch.tensor(targets), ignore_index=ignore_index)


@pytest.mark.parametrize("targets", [[-1.0, 1.0], [0.0, 1.5], [2, 0]])
def test_binary_targets_out_of_range_are_refused(targets):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\] for binary cross-entropy; got entries from"):
        upper_bound(torch.zeros(2), torch.tensor(targets), loss=BINARY)


def test_boolean_class_indices_are_refused():
    with pytest.raises(TypeError, match=r"must be integer class indices; got torch\.bool"):
        upper_bound(torch.zeros(2, 2), torch.tensor([True, False]))


def test_outputs_that_are_not_floating_are_refused():
    with pytest.raises(TypeError, match=r"`upper_bound\(logits\)` must be floating; got torch\.int64"):
        upper_bound(torch.tensor([[1, 2]]), torch.tensor([0]))


def test_an_unknown_loss_is_refused_with_the_known_ones():
    known = "'cross-entropy', 'binary-cross-entropy', 'squared'; got 'hinge'"
    with pytest.raises(ValueError, match=rf"`upper_bound\(loss=\.\.\.\)` must be one of {known}"):
        upper_bound(torch.zeros(1, 2), torch.tensor([0]), loss="hinge")


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.1, math.nan])
def test_label_smoothing_outside_0_to_1_is_refused(label_smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing=\.\.\.\)` must be in \[0, 1\]; got"):
        upper_bound(torch.zeros(1, 2), torch.tensor([0]), label_smoothing=label_smoothing)


@pytest.mark.parametrize("loss", [BINARY, SQUARED])
def test_label_smoothing_belongs_to_cross_entropy(loss):
    with pytest.raises(ValueError, match=rf"label_smoothing=\.\.\.\)` must be left out for loss='{loss}'; got 0\.1"):
        upper_bound(torch.zeros(2), torch.zeros(2), loss=loss, label_smoothing=0.1)


@pytest.mark.parametrize("loss", ["cross-entropy", BINARY, SQUARED])
def test_ignore_index_belongs_to_class_indices(loss):
    with pytest.raises(ValueError, match=r"ignore_index=\.\.\.\)` must be left out unless .* got 3"):
        upper_bound(torch.zeros(2, 2), torch.zeros(2, 2), loss=loss, ignore_index=3)
