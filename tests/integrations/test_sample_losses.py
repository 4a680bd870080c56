"""Losses of samples agree with the mean losses that models return, where those weigh samples the same."""

import math

import pytest
import torch
import torch.nn.functional as F

from approx_is.integrations.sample_losses import sample_losses


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classification(smoothing):
    logits, labels = noise(4, 3), torch.tensor([0, 2, 1, 2])
    losses = sample_losses(logits, labels, label_smoothing=smoothing)
    assert torch.equal(losses, F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing))


def test_multi_label_classification_is_the_mean_over_classes():
    logits, labels = noise(4, 3), torch.tensor([[0.0, 1.0, 1.0]]).repeat(4, 1)
    losses = sample_losses(logits, labels)
    assert losses.shape == (4,)
    torch.testing.assert_close(losses.mean(), F.binary_cross_entropy_with_logits(logits, labels))


@pytest.mark.parametrize(("outputs", "wanted"), [((4, 1), (4,)), ((4, 1), (4, 1)), ((4, 3), (4, 3))])
def test_regression_is_the_mean_square_over_outputs(outputs, wanted):
    logits, labels = noise(*outputs), noise(*wanted) + 1
    losses = sample_losses(logits, labels, is_regression=True)
    assert losses.shape == (4,)
    torch.testing.assert_close(losses.mean(), F.mse_loss(logits, labels.view(outputs)))


def test_regression_takes_whole_numbers():
    assert sample_losses(torch.tensor([[1.0], [2.0]]), torch.tensor([3, 2]), is_regression=True).tolist() == [4.0, 0.0]


def test_sequences_are_means_over_their_own_labels():
    logits = noise(3, 5, 7)
    labels = torch.tensor([[1, 2, 3, 4, 5], [1, -100, 2, -100, -100], [-100] * 5])
    losses = sample_losses(logits, labels)
    by_hand = [F.cross_entropy(logits[0], labels[0]), F.cross_entropy(logits[1, [0, 2]], labels[1, [0, 2]])]
    torch.testing.assert_close(losses, torch.stack([*by_hand, torch.tensor(0.0)]))


def test_shifted_labels_are_those_of_the_next_position():
    logits, labels = noise(2, 4, 7), torch.tensor([[9, 1, 2, 3], [9, 4, -100, -100]]).clamp(max=6)
    losses = sample_losses(logits, labels, is_shifted=True)
    by_hand = [F.cross_entropy(logits[0, :3], labels[0, 1:]), F.cross_entropy(logits[1, :1], labels[1, 1:2])]
    torch.testing.assert_close(losses, torch.stack(by_hand))


def test_a_sequence_without_labels_has_no_gradient():
    logits = noise(1, 2, 3).requires_grad_()
    sample_losses(logits, torch.full((1, 2), -100)).sum().backward()
    assert logits.grad.abs().sum() == 0


def test_half_precision_is_computed_in_single():
    losses = sample_losses(torch.tensor([[30_000.0, -30_000.0]], dtype=torch.float16), torch.tensor([1]))
    assert losses.dtype == torch.float32
    assert losses.item() == 60_000
    assert not math.isinf(losses.item())


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        ((4, 3), torch.zeros(5, dtype=torch.int64)),
        ((4, 6, 3), torch.zeros(4, dtype=torch.int64)),
        ((4, 3), torch.zeros(4, 2)),
        ((4, 3), torch.zeros(3, 4)),
    ],
)
def test_labels_that_do_not_fit_are_refused(outputs, labels):
    for is_regression in (False, True):
        with pytest.raises(ValueError, match=r"`labels` must have shape \[4.*Override `sample_losses`"):
            sample_losses(noise(*outputs), labels, is_regression=is_regression)
