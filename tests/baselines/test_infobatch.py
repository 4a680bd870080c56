"""InfoBatch: what is pruned, that its weighted gradient is unbiased, and that its epochs end."""

import copy
import math

import pytest
import torch


@pytest.fixture
def build(baselines):
    def build(num_samples, batch_size=8, *, done=0.0, losses=None, **options):
        chooser = baselines("infobatch").InfoBatch(num_samples, batch_size, progress=lambda: done, **options)
        if losses is not None:
            chooser.observe(torch.arange(num_samples), losses)
        return chooser

    return build


def epoch(chooser):
    indices, weights = zip(*chooser.epoch(), strict=True)
    return torch.cat(indices), torch.cat(weights)


def test_easy_are_the_samples_whose_last_loss_is_below_the_mean(baselines):
    scores = torch.tensor([0.0, 1.0, 2.0, 5.0])
    kept = baselines("infobatch").keep_probabilities(scores, 0.3)
    torch.testing.assert_close(kept, torch.tensor([0.7, 0.7, 1.0, 1.0], dtype=torch.float64))


def test_samples_without_a_loss_are_kept_and_no_part_of_the_mean(baselines):
    scores = torch.tensor([math.inf, 1.0, 2.0, math.inf])
    assert baselines("infobatch").keep_probabilities(scores, 0.5).tolist() == [1.0, 0.5, 1.0, 1.0]
    assert baselines("infobatch").keep_probabilities(torch.full((3,), math.inf), 0.5).tolist() == [1.0] * 3


def test_a_kept_sample_weighs_the_reciprocal_of_the_probability_that_it_is_kept(build):
    losses = torch.rand(64, generator=torch.Generator().manual_seed(0))
    chooser = build(64, ratio=0.6, losses=losses)
    propensities = chooser.propensities(torch.arange(64), losses)
    assert 0 < (propensities < 1).sum() < 64
    for _ in range(5):
        indices, weights = epoch(chooser)
        torch.testing.assert_close(weights.double() * propensities[indices], torch.ones(len(indices)).double())


def test_an_epoch_prunes_with_these_probabilities_and_weighs_by_them(build):
    losses = torch.linspace(0, 1, 1_001)[torch.randperm(1_001, generator=torch.Generator().manual_seed(1))]
    chooser = build(1_001, ratio=0.3, losses=losses)
    easy = losses < losses.double().mean()
    taken, epochs = torch.zeros(1_001), 40
    for _ in range(epochs):
        indices, weights = epoch(chooser)
        assert len(indices.unique()) == len(indices)
        torch.testing.assert_close(weights, torch.where(easy[indices], 1 / 0.7, 1.0))
        taken += indices.bincount(minlength=1_001)
    assert (taken[~easy] == epochs).all()
    deviation = (0.3 * 0.7 / (easy.sum() * epochs)) ** 0.5
    assert taken[easy].mean() / epochs == pytest.approx(0.7, abs=3 * deviation.item())
    assert taken[easy].var().item() == pytest.approx(epochs * 0.3 * 0.7, rel=0.25)  # each by itself, anew every epoch


def test_the_first_epoch_is_a_full_one(build):
    indices, weights = epoch(build(100))
    assert indices.sort().values.tolist() == list(range(100))
    assert indices.tolist() != list(range(100))
    assert (weights == 1).all()


@pytest.mark.parametrize(("done", "full"), [(0.87, False), (0.875, True), (1.0, True)])
def test_the_last_epochs_are_full_ones(build, done, full):
    indices, weights = epoch(build(200, losses=torch.arange(200.0), done=done))
    assert (len(indices) == 200) is full
    assert bool((weights == 1).all()) is full


def test_epochs_end_with_a_smaller_last_batch(build):
    chooser = build(21, losses=torch.ones(21))
    assert [[len(indices) for indices, _ in chooser.epoch()] for _ in range(2)] == [[8, 8, 5]] * 2


def test_remembers_the_last_loss_of_each_sample(build):
    chooser = build(4, losses=torch.tensor([1.0, 1.0, 1.0, 9.0]), ratio=0.999_999_999)
    assert epoch(chooser)[0].tolist() == [3]
    losses = torch.tensor([9.0, 8.0], requires_grad=True)
    chooser.observe(torch.tensor([2, 0]), losses)  # the mean is 6.75
    assert epoch(chooser)[0].sort().values.tolist() == [0, 2, 3]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_keeps_its_sample_and_leaves_the_others(build, value):
    chooser = build(4, losses=torch.tensor([1.0, 1.0, 9.0, value]), ratio=0.999_999_999)
    assert epoch(chooser)[0].sort().values.tolist() == [2, 3]


def test_goes_on_amid_an_epoch(build):
    losses = torch.arange(50.0)
    chooser = build(50, losses=losses, seed=1)
    begun = chooser.epoch()
    next(begun)
    resumed = build(50, seed=2)
    resumed.load_state_dict(copy.deepcopy(chooser.state_dict()))
    expected = [torch.cat([indices for indices, _ in begun]), epoch(chooser)[0]]
    assert all(map(torch.equal, [epoch(resumed)[0], epoch(resumed)[0]], expected))


def test_refuses_a_mean_loss_and_a_ratio_of_1(build):
    with pytest.raises(ValueError, match=r"losses` must be one a sample, of shape \[2\]; got \[\]\. .*reduction"):
        build(4).observe(torch.tensor([0, 1]), torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"`InfoBatch\(ratio=\.\.\.\)` must be at least 0 and below 1; got 1\."):
        build(4, ratio=1)
    with pytest.raises(ValueError, match=r"`InfoBatch\(delta=\.\.\.\)` must be in \[0, 1\]; got 2\."):
        build(4, delta=2)
