"""Draws by what training can still reduce."""

import math

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


def test_the_least_of_a_samples_last_observations_is_taken_off_as_far_as_they_are_alike():
    history = history_of([], [5.0], [4.0, 2.0], [3.0, 9.0, 4.0, 2.0])
    importance = torch.tensor([1.0, 5.0, 6.0, 4.0])
    expected = [1.0, 5.0, 6.0 - 1 / 2 * 2 / 3 * 2, 4.0 - 2 / 5 * 2]  # of two of three observations; of 9, 4 and 2
    torch.testing.assert_close(reducible(importance, history, EVERYONE), torch.tensor(expected))


def test_wrong_labels_lose_most_and_what_is_being_learned_little():
    steady, falling, learned = [3.1, 2.9, 3.0, 3.2, 2.8], [5.0, 4.0, 3.0, 2.0, 1.0], [0.01, 0.0, 2.0, 0.0, 0.01]
    history = history_of(steady, falling, learned, window=5)
    importance = torch.tensor([3.0, 1.0, 0.5])
    kept = reducible(importance, history, torch.arange(3)) / importance
    assert kept[0] < 0.2
    assert kept[1] > 0.6
    assert kept[2] == 1


def test_nothing_falls_below_zero():
    assert reducible(torch.tensor([1.0]), history_of([2.0, 2.0, 2.0]), torch.tensor([0])).tolist() == [0.0]


def test_observations_of_zero_take_nothing_off():
    assert reducible(torch.tensor([1.0]), history_of([0.0, 0.0, 0.0]), torch.tensor([0])).tolist() == [1.0]


def test_a_window_of_one_knows_nothing_irreducible():
    importance = torch.tensor([2.0])
    assert reducible(importance, history_of([2.0, 2.0], window=1), torch.tensor([0])).tolist() == [2.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_spread_is_of_the_observations_that_are_stored(dtype):
    history = LossHistory(4, 3, dtype=dtype)
    for step, values in enumerate([[1.0, 6.0, 4.0], [8.0, 5.0], [7.0], [9.0]]):
        history.append(torch.tensor([0, 3, 1][: len(values)]), torch.tensor(values), step)
    smallest, mean, counts = history.spread(EVERYONE)
    assert smallest.tolist() == [7.0, 4.0, 0.0, 5.0]
    assert mean.tolist() == [8.0, 4.0, 0.0, 5.5]
    assert counts.tolist() == [3, 1, 0, 2]


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
    with pytest.raises(ValueError, match=r"`reducible` must be False with UniformPredictor"):
        ImportanceSampler(4, 2, predictor="uniform", reducible=True)


def test_smoothing_follows_what_is_drawn_by():
    """Every fifth label is wrong: were the smoothing half the mean loss, all would be drawn about as often."""
    sampler = ImportanceSampler(100, 20, predictor="last-loss", k=0.5, reducible=True, gate=None)
    for step in range(200):
        draw = sampler.draw()
        losses = torch.full((100,), 0.02)
        losses[::5] = 3.0
        losses[1::10] = 1.0 * (step % 2)
        sampler.update(draw, losses[draw.indices])
    chances = 100 * sampler.probabilities()
    assert chances[1::10].mean() > 1.5 * chances[2::10].mean()
    assert math.isnan(sampler.metrics()["calibration"])


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
