"""Draws: the weighted mean, moving between devices, and what losses must look like."""

import pickle

import pytest
import torch
from laws import make_sampler, train

from approx_is.draw import Draw, Ticket, check_candidates, check_per_sample, check_ticket, uniform_draw
from approx_is.stretch import Entries, Stretch


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
    with pytest.raises(AttributeError, match="weights"):
        make_draw().weights = torch.ones(2)


def test_a_draw_unpacks_into_its_tensors():
    draw = make_draw()
    indices, probabilities, weights = draw
    assert indices is draw.indices
    assert probabilities is draw.probabilities
    assert weights is draw.weights


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


class TestKinds:
    """A batch of a plain epoch, one drawn by importance, and candidates for one."""

    @pytest.mark.parametrize(
        ("ticket", "is_uniform", "is_batch"),
        [
            (None, False, True),
            (Ticket(None), False, True),
            (Ticket(None, place=0), True, True),
            (Ticket(None, place=7), True, True),
            (Ticket(None, choose=2), False, False),
        ],
        ids=["by hand", "by importance", "first of a plain epoch", "of a plain epoch", "candidates"],
    )
    def test_are_told_apart_on_every_device(self, ticket, is_uniform, is_batch):
        for draw in (make_draw(ticket=ticket), make_draw(ticket=ticket).to("meta")):
            assert draw.is_uniform is is_uniform
            assert draw.is_batch is is_batch

    def test_of_a_sampler(self):
        sampler = make_sampler(4, 4)
        draws = train(sampler, 2)
        assert [draw.is_uniform for draw in draws] == [True, False]
        assert all(draw.is_batch for draw in draws)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_of_a_plain_epoch_has_the_same_weighted_mean_as_with_its_weights(self, dtype):
        losses = torch.tensor([0.1, 2.3, 7.7], dtype=dtype)
        plain, weighed = make_draw((1.0,) * 3, Ticket(None, place=0)), make_draw((1.0,) * 3)
        found, expected = plain.weighted_mean(losses), weighed.weighted_mean(losses)
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)

    def test_of_a_plain_epoch_takes_integers_as_the_others_do(self):
        losses = torch.tensor([1, 2, 6])
        plain, weighed = make_draw((1.0,) * 3, Ticket(None, place=0)), make_draw((1.0,) * 3)
        assert torch.equal(plain.weighted_mean(losses), weighed.weighted_mean(losses))

    def test_of_a_plain_epoch_has_its_gradient(self):
        losses = torch.tensor([2.0, 4.0], requires_grad=True)
        make_draw((1.0, 1.0), Ticket(None, place=0)).weighted_mean(losses).backward()
        assert losses.grad.tolist() == [0.5, 0.5]

    def test_of_a_plain_epoch_wants_one_loss_a_sample_too(self):
        with pytest.raises(ValueError, match=r'Draw\.weighted_mean\(losses\)` must have shape \[2\].*reduction="none"'):
            make_draw((1.0, 1.0), Ticket(None, place=0)).weighted_mean(torch.tensor(1.0))


class TestTickets:
    OWNER = object()

    def make(self, **attributes):
        return make_draw(ticket=Ticket(self.OWNER, **attributes))

    @pytest.mark.parametrize("attributes", [{}, {"place": 3}, {"drawn_at": 8}])
    def test_of_a_batch_of_the_owner_are_good_for_an_update(self, attributes):
        draw = self.make(**attributes)
        assert check_ticket(draw, self.OWNER) is draw._ticket

    @pytest.mark.parametrize(
        ("draw", "match"),
        [
            (make_draw(), "made elsewhere"),
            (make_draw(ticket=Ticket(object())), "made elsewhere"),
            (make_draw(ticket=Ticket(OWNER, spent=True)), "was used already"),
            (make_draw(ticket=Ticket(OWNER, choose=2)), r"must be a batch; these are candidates\. Score them"),
            (make_draw(ticket=Ticket(object(), choose=2)), "made elsewhere"),
        ],
        ids=["by hand", "another's", "spent", "candidates", "another's candidates"],
    )
    def test_of_other_draws_are_not(self, draw, match):
        with pytest.raises(ValueError, match=match):
            check_ticket(draw, self.OWNER)

    def test_of_candidates_of_the_owner_are_good_to_choose_from(self):
        check_candidates(self.make(choose=2), self.OWNER)

    @pytest.mark.parametrize(
        "draw",
        [
            make_draw(),
            make_draw(ticket=Ticket(object(), choose=2)),
            make_draw(ticket=Ticket(OWNER)),
            make_draw(ticket=Ticket(OWNER, place=0)),
        ],
        ids=["by hand", "another's", "batch", "of a plain epoch"],
    )
    def test_of_what_is_no_candidates_of_the_owner_are_not(self, draw):
        with pytest.raises(ValueError, match=r"`choose\(candidates\)` must be candidates of this sampler"):
            check_candidates(draw, self.OWNER)

    @pytest.mark.parametrize("draw", [None, torch.ones(2), [1, 2]])
    def test_are_of_draws(self, draw):
        with pytest.raises(TypeError, match=r"`update\(draw, observed\)` must get a Draw first; got "):
            check_ticket(draw, self.OWNER)
        with pytest.raises(TypeError, match=r"`choose\(candidates, scores\)` must get a Draw first; got "):
            check_candidates(draw, self.OWNER)


class TestUniform:
    """The tensors of a plain draw are made when they are asked for."""

    def draw(self):
        return uniform_draw(self.stretch(), 8, Ticket(object(), place=0), torch.device("cpu"))

    def stretch(self):
        return Stretch(Entries(torch.tensor([5, 3, 1, 0])), 1, 2)

    def test_has_equal_chances_and_weights(self):
        indices, probabilities, weights = self.draw()
        assert (indices.dtype, indices.tolist()) == (torch.int64, [3, 1])
        assert (probabilities.dtype, probabilities.tolist()) == (torch.float64, [1 / 8, 1 / 8])
        assert (weights.dtype, weights.tolist()) == (torch.float32, [1.0, 1.0])

    def test_indices_are_the_callers_own(self):
        stretch = self.stretch()
        draw, other = (uniform_draw(stretch, 8, Ticket(object(), place=0), torch.device("cpu")) for _ in range(2))
        draw.listed().sort()
        draw.indices.zero_()
        assert draw.listed() == other.indices.tolist() == other.listed() == [3, 1]

    def test_asked_for_in_inference_mode_they_can_be_trained_with(self):
        draw, losses = self.draw(), torch.ones(2, requires_grad=True)
        with torch.inference_mode():
            assert draw.weights.sum() == 2
            assert not draw.indices.is_inference()
        (draw.weights * losses).sum().backward()
        assert losses.grad.tolist() == [1, 1]

    def test_the_default_dtype_changes_nothing(self):
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            draw = self.draw()
            before = draw.weighted_mean(torch.ones(2, dtype=torch.float32))
            assert draw.weights.dtype == torch.float32
            assert draw.weighted_mean(torch.ones(2, dtype=torch.float32)).dtype == before.dtype == torch.float32
        finally:
            torch.set_default_dtype(default)

    def test_a_copy_is_the_same(self):
        draw = uniform_draw(self.stretch(), 8, Ticket("owner", place=0), torch.device("cpu"))
        copied = pickle.loads(pickle.dumps(draw))
        assert (len(copied), copied.listed(), copied.indices.tolist()) == (2, [3, 1], [3, 1])
        assert copied.indices.untyped_storage().nbytes() == 2 * 8  # nothing that is not its own goes with it
        assert copied.probabilities.tolist() == [1 / 8, 1 / 8]
        assert copied.to("cpu").weights.tolist() == [1.0, 1.0]
