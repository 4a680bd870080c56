"""Draws by what training can still reduce."""

import pytest
import torch
from laws import train

from approx_is import ApproxSampler, ImportanceSampler, LossHistory
from approx_is.reducible import reducible

EVERYONE = torch.arange(4)


def history_of(*losses, window=3):
    """Return the history of samples with these losses, oldest first, one list a sample."""
    history = LossHistory(len(losses), window)
    for step in range(max(map(len, losses))):
        for sample, own in enumerate(losses):
            if step < len(own):
                history.append(torch.tensor([sample]), torch.tensor([own[step]]), step)
    return history


def test_what_a_sample_kept_through_its_last_observations_is_taken_off():
    history = history_of([], [5.0], [4.0, 2.0], [3.0, 9.0, 3.0, 4.0])
    importance = torch.tensor([1.0, 5.0, 6.0, 4.0])
    expected = [1.0, 5.0, 6.0 - 2.0 / 2, 4.0 - 3.0]  # one of two observations more than the first; two of two
    assert reducible(importance, history, EVERYONE).tolist() == expected


def test_nothing_falls_below_zero():
    assert reducible(torch.tensor([1.0]), history_of([2.0, 2.0, 2.0]), torch.tensor([0])).tolist() == [0.0]


def test_a_window_of_one_knows_nothing_irreducible():
    importance = torch.tensor([2.0])
    assert reducible(importance, history_of([2.0, 2.0], window=1), torch.tensor([0])).tolist() == [2.0]


def test_the_smallest_observation_is_of_those_that_are_stored():
    history = history_of([1.0, 8.0, 7.0, 9.0], [6.0], [], [4.0, 5.0])
    assert history.smallest(EVERYONE).tolist() == [7.0, 6.0, 0.0, 4.0]


@pytest.mark.parametrize("predictor", ["last-loss", "lstm", "rais", "class-gaussian"])
def test_samples_that_stay_hard_are_drawn_less_and_learned_ones_as_before(predictor):
    """Every fourth sample keeps its loss, another fourth swings, the rest is easy."""

    def run(*, is_reducible):
        sampler = ImportanceSampler(64, 16, predictor=predictor, k=0.5, reducible=is_reducible, gate=None)
        swings = torch.where(torch.arange(64) % 4 == 1, 1.0, 0.0)
        for step in range(80):
            draw = sampler.draw()
            losses = torch.full((64,), 0.05) + 0.5 * (step % 2) * swings
            losses[::4] = 2.0
            sampler.update(draw, losses[draw.indices])
        return sampler.probabilities()

    plain, with_it = run(is_reducible=False), run(is_reducible=True)
    assert with_it[::4].sum() < 0.75 * plain[::4].sum()
    assert with_it[1::4].sum() > plain[1::4].sum()


def test_a_predictor_with_a_scale_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"`reducible` must be False with RankPredictor.*Use another predictor"):
        ImportanceSampler(4, 2, predictor="rank", reducible=True)


def test_the_loaders_sampler_takes_it_too():
    loader = torch.utils.data.DataLoader(range(8), batch_size=4, shuffle=True)
    sampler = ApproxSampler(loader, predictor="last-loss", k=0.5, reducible=True)
    for _ in range(12):
        for batch, draw in sampler:
            sampler.update(draw, (batch == 3).float() + 0.01)
    assert sampler.probabilities()[3] < 0.3  # 0.7 and more by the loss alone


def test_goes_on_from_a_state_bit_by_bit():
    one, other = (
        ImportanceSampler(20, 5, predictor="lstm", k=0.5, reducible=True, gate=None, seed=seed) for seed in (0, 1)
    )
    train(one, 12)
    other.load_state_dict(one.state_dict())
    train(one, 6), train(other, 6)
    assert torch.equal(one.probabilities(), other.probabilities())
