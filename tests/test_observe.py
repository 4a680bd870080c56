"""The upper bound of the gradient norm: golden values, precision, and shapes."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from approx_is import upper_bound


def autograd_norm(logits, targets):
    logits = logits.double().requires_grad_()
    F.cross_entropy(logits, targets, reduction="sum").backward()
    return logits.grad.norm(dim=1)


def random_logits(scale, seed=0, size=(50, 7)):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(size, generator=generator)
    return logits, torch.randint(size[1], size[:1], generator=generator)


def test_zero_logits_of_ten_classes_give_the_golden_value():
    assert upper_bound(torch.zeros(1, 10), torch.tensor([3])).item() == pytest.approx(0.948683, abs=1e-6)


@pytest.mark.parametrize("num_classes", [1, 2, 100])
def test_zero_logits_give_the_root_of_1_minus_1_over_the_classes(num_classes):
    bound = upper_bound(torch.zeros(1, num_classes), torch.tensor([0])).item()
    assert bound == pytest.approx(math.sqrt(1 - 1 / num_classes), abs=1e-6)


def test_sure_and_wrong_reaches_the_root_of_2():
    assert upper_bound(torch.tensor([[0.0, 200.0]]), torch.tensor([0])).item() == pytest.approx(math.sqrt(2))


@given(st.integers(0, 2**31), st.sampled_from([1e-10, 1.0, 30.0, 1e4, 1e30]))
def test_the_bound_lies_between_0_and_the_root_of_2(seed, scale):
    bound = upper_bound(*random_logits(scale, seed))
    assert bool(((bound >= 0) & (bound <= math.sqrt(2) * (1 + 1e-6))).all())


@pytest.mark.parametrize("scale", [1e-10, 1.0, 10.0, 50.0])
def test_the_bound_is_the_norm_of_the_gradient_at_the_logits(scale):
    logits, targets = random_logits(scale)
    torch.testing.assert_close(
        upper_bound(logits, targets).double(), autograd_norm(logits, targets), rtol=2e-5, atol=1e-15
    )


@pytest.mark.parametrize("margin", [20.0, 50.0, 80.0])
def test_the_bound_does_not_cancel_where_the_network_is_sure(margin):
    bound = upper_bound(torch.tensor([[margin, 0.0]]), torch.tensor([0])).item()
    assert bound == pytest.approx(math.sqrt(2) * math.exp(-margin), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits, targets = random_logits(3.0)
    half = logits.to(dtype)
    bound = upper_bound(half, targets)
    assert bound.dtype == torch.float32
    assert torch.equal(bound, upper_bound(half.float(), targets))


def test_a_constant_added_to_the_logits_changes_nothing():
    logits, targets = random_logits(1.0)
    torch.testing.assert_close(upper_bound(logits + 64.0, targets), upper_bound(logits, targets), rtol=1e-4, atol=1e-6)


def test_the_bound_carries_no_gradient():
    logits, targets = random_logits(1.0)
    assert not upper_bound(logits.requires_grad_(), targets).requires_grad


def test_an_empty_batch_gives_an_empty_bound():
    assert upper_bound(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize(
    ("logits", "targets"),
    [((4,), (4,)), ((4, 3), (3,)), ((4, 3), (4, 1)), ((4, 3), (4, 3)), ((4, 3, 2), (4,)), ((4, 3), ())],
)
def test_shapes_that_do_not_match_are_refused(logits, targets):
    with pytest.raises(ValueError, match=r"must have shapes \[B, C\] and \[B\]; got \["):
        upper_bound(torch.zeros(logits), torch.zeros(targets, dtype=torch.int64))
