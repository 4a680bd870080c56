"""Draws: the weighted mean, moving between devices, and what losses must look like."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from laws import make_sampler

from approx_is.draw import Draw, Ticket, check_per_sample


def make_draw(weights=(1.25, 0.625), ticket=None):
    size = len(weights)
    return Draw(torch.arange(size), torch.full((size,), 0.25, dtype=torch.float64), torch.tensor(weights), ticket)


def test_length_is_the_batch_size():
    assert len(make_draw((1.0, 2.0, 3.0))) == 3


def test_weighted_mean_divides_by_the_batch_size_not_by_the_weights():
    assert make_draw((3.0, 1.0)).weighted_mean(torch.tensor([2.0, 4.0])).item() == 5.0


def test_gradient_of_the_weighted_mean_is_weight_over_batch_size():
    losses = torch.tensor([2.0, 4.0], requires_grad=True)
    make_draw((3.0, 1.0)).weighted_mean(losses).backward()
    assert losses.grad.tolist() == [1.5, 0.5]


def test_weighted_mean_with_weight_1_is_the_mean():
    losses = torch.tensor([2.0, 4.0, 9.0])
    assert torch.equal(make_draw((1.0, 1.0, 1.0)).weighted_mean(losses), losses.mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weighted_mean_is_at_least_as_precise_as_the_losses(dtype):
    assert make_draw().weighted_mean(torch.ones(2, dtype=dtype)).dtype == dtype


def test_weighted_mean_goes_to_the_device_of_the_losses():
    assert make_draw().weighted_mean(torch.ones(2, device="meta")).device.type == "meta"


def test_a_moved_draw_keeps_dtypes_and_ticket():
    ticket = Ticket(owner=object())
    draw = make_draw(ticket=ticket)
    moved = draw.to("meta")
    for name in ("indices", "probabilities", "weights"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(moved, name).dtype == getattr(draw, name).dtype
    assert moved._ticket is ticket


def test_spending_a_moved_draw_spends_the_original():
    draw = make_draw(ticket=Ticket(owner=object()))
    draw.to("cpu")._ticket.spent = True
    assert draw._ticket.spent


def test_a_draw_cannot_be_changed():
    with pytest.raises(FrozenInstanceError, match="weights"):
        make_draw().weights = torch.ones(2)


def test_a_draw_does_not_show_its_ticket():
    assert "icket" not in repr(make_draw(ticket=Ticket(owner=object())))


def test_a_mean_loss_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r'Draw\.weighted_mean\(losses\)` must have shape \[2\].*reduction="none"'):
        make_draw().weighted_mean(torch.tensor(1.0))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), (1, 2), (0,)])
def test_losses_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"must have shape \[2\].*got shape \[.*Pass losses rather"):
        make_draw().weighted_mean(torch.ones(shape))


@pytest.mark.parametrize("losses", [[1.0, 2.0], None, 1.0])
def test_losses_that_are_no_tensor_are_refused(losses):
    with pytest.raises(TypeError, match=r"must be a tensor of shape \[2\]; got "):
        check_per_sample(losses, 2, "losses")


def test_one_value_a_sample_passes():
    check_per_sample(torch.ones(2), 2, "losses")
    check_per_sample(torch.ones(0), 0, "losses")


def test_a_draw_knows_how_many_updates_came_before_it():
    sampler = make_sampler()
    early = [sampler.draw(), sampler.draw()]
    assert [draw.drawn_at for draw in early] == [0, 0]
    sampler.update(early[0], torch.ones(4))
    late = sampler.draw()
    sampler.update(early[1], torch.ones(4))
    assert (early[1].drawn_at, late.drawn_at, sampler.draw().drawn_at) == (0, 1, 2)
    assert late.to("meta").drawn_at == 1


def test_a_draw_without_a_sampler_was_drawn_at_0():
    assert make_draw().drawn_at == 0
