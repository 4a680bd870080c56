"""Selective-Backprop: how often each sample is selected, full batches of what was, and what is scored when."""

import copy
import math

import pytest
import torch
from scipy.stats import chisquare


@pytest.fixture
def build(baselines):
    def build(losses, batch_size=8, **options):
        return baselines("selective_backprop").SelectiveBackprop(
            len(losses), batch_size, score=losses.__getitem__, **options
        )

    return build


def test_the_probability_is_the_share_of_recent_losses_that_are_at_most_as_high(baselines):
    probabilities = baselines("selective_backprop").selection_probabilities(
        torch.tensor([0.5, 1.0, 2.5, 4.0]), torch.tensor([4.0, 1.0, 2.0, 3.0]), 2
    )
    assert probabilities.tolist() == [0.0, 1 / 16, 4 / 16, 1.0]


@pytest.mark.parametrize("beta", [0.5, 1, 3])
def test_samples_are_selected_as_often_as_the_cdf_to_the_beta(build, beta):
    losses = torch.tensor([3.0, 1.0, 5.0, 2.0, 4.0]) / 10
    chooser, epochs = build(losses, 5, beta=beta, window=5), 1_500
    taken = torch.cat([indices for _ in range(epochs) for indices, _ in chooser.epoch()]).bincount(minlength=5)
    expected = epochs * (10 * losses.double() / 5) ** beta
    always = losses.argmax()
    assert epochs - 5 < taken[always] <= epochs  # what is selected last still waits
    others = torch.arange(5) != always
    for count, mean in zip(taken[others].tolist(), expected[others].tolist(), strict=True):
        assert chisquare([count, epochs - count], [mean, epochs - mean]).pvalue > 1e-3


@pytest.mark.parametrize(("options", "share"), [({"beta": 1}, 1 / 2), ({"beta": 2}, 1 / 3), ({}, 1 / 4)])
def test_about_one_in_beta_plus_one_is_selected(build, options, share):
    losses = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    chooser = build(losses, 50, **options)
    selected = sum(len(indices) for indices, _ in chooser.epoch())
    assert selected / 20_000 == pytest.approx(share, abs=0.015)


def test_losses_are_compared_with_the_last_ones_only(build):
    losses = torch.cat([torch.full((64,), 9.0), torch.full((64,), 1.0)])
    batches = [torch.arange(row, row + 8) for row in range(0, 128, 8)]
    shares = {}
    for window in (8, 128):
        chooser = build(losses, 8, beta=1, window=window)
        chooser._candidates.begin(torch.cat(batches))  # the high ones first
        shares[window] = sum((indices >= 64).sum().item() for indices, _ in chooser.epoch()) / 64
    assert shares[8] == 1  # all of the last 8 are as high
    assert shares[128] < 0.5


def test_trains_on_full_batches_of_what_was_selected_and_keeps_the_rest(build):
    chooser = build(torch.arange(40.0), 8, beta=2)
    batches = [batch for _ in range(30) for batch in chooser.epoch()]
    assert {len(indices) for indices, _ in batches} == {8}
    assert all(torch.equal(weights, torch.ones(8)) for _, weights in batches)
    taken = torch.cat([indices for indices, _ in batches]).bincount(minlength=40)
    assert taken[39] >= 29  # the highest loss is selected once an epoch, and at most the last time waits
    assert taken[0] < 5


def test_selected_samples_keep_the_order_of_the_candidates(build):
    chooser = build(torch.ones(20), 8)  # of equal losses all are selected
    order = torch.cat([indices for _ in range(2) for indices, _ in chooser.epoch()])
    assert len(order) == 40
    assert all(sorted(part.tolist()) == list(range(20)) for part in order.split(20))


def test_scores_all_samples_with_the_network_as_it_is(build):
    losses = torch.ones(20)
    chooser = build(losses, 8)
    batches = chooser.epoch()
    next(batches)
    assert chooser._recent.tolist() == [1.0] * 8
    losses[:] = 2  # the network was trained
    next(batches)
    assert chooser._recent.tolist() == [1.0] * 8 + [2.0] * 8
    assert list(batches) == []
    assert chooser._recent.tolist() == [1.0] * 8 + [2.0] * 12
    assert len(next(chooser.epoch())[0]) == 8  # 4 waited


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_counts_as_the_highest(build, value):
    losses = torch.arange(40.0)
    losses[0] = value
    chooser = build(losses, 8, window=40)
    taken = torch.cat([indices for _ in range(20) for indices, _ in chooser.epoch()]).bincount(minlength=40)
    assert taken[0] >= 19  # at most the last time waits
    assert taken[1] < 10
    assert len(list(build(torch.full((32,), value), 8).epoch())) == 4  # a diverged network is trained on


def test_goes_on_amid_an_epoch(build):
    losses = torch.rand(100, generator=torch.Generator().manual_seed(0))
    chooser = build(losses, 8, beta=1, seed=1)
    begun = chooser.epoch()
    next(begun), next(begun)
    resumed = build(losses, 8, beta=1, seed=2)
    resumed.load_state_dict(copy.deepcopy(chooser.state_dict()))
    expected = [indices for batches in (begun, chooser.epoch()) for indices, _ in batches]
    rest = [indices for _ in range(2) for indices, _ in resumed.epoch()]
    assert len(rest) == len(expected) > 5
    assert all(map(torch.equal, rest, expected))


def test_refuses_a_beta_of_0_a_window_of_0_and_a_mean_loss(build, baselines):
    with pytest.raises(ValueError, match=r"`SelectiveBackprop\(beta=\.\.\.\)` must be above 0; got 0\."):
        build(torch.ones(3), beta=0)
    with pytest.raises(ValueError, match=r"`SelectiveBackprop\(window=\.\.\.\)` must be at least 1; got 0\."):
        build(torch.ones(3), window=0)
    chooser = baselines("selective_backprop").SelectiveBackprop(3, 2, score=lambda indices: torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"score=\.\.\.\): losses` must be one a sample, of shape \[2\]; got \[\]\."):
        next(chooser.epoch())
