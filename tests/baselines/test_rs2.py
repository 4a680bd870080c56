"""RS2: subsets of rN distinct samples, independent or in passes."""

import copy

import pytest
import torch
from scipy.stats import chisquare


def subsets(chooser, epochs):
    return [torch.cat([indices for indices, _ in chooser.epoch()]) for _ in range(epochs)]


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize(("num_samples", "fraction", "size"), [(100, 0.07, 7), (9, 0.01, 1), (9, 0.4, 4), (9, 1, 9)])
def test_an_epoch_is_a_share_of_the_samples_and_has_none_twice(baselines, num_samples, fraction, size, replacement):
    chooser = baselines("rs2").RS2(num_samples, 3, fraction=fraction, replacement=replacement)
    for subset in subsets(chooser, 20):
        assert len(subset) == len(subset.unique()) == size
        assert 0 <= subset.min() <= subset.max() < num_samples


def test_batches_are_full_but_for_the_last_and_weigh_1(baselines):
    batches = list(baselines("rs2").RS2(100, 8, fraction=0.3).epoch())
    assert [len(indices) for indices, _ in batches] == [8, 8, 8, 6]
    assert all(torch.equal(weights, torch.ones(len(indices))) for indices, weights in batches)


def test_every_pair_of_samples_is_as_probable_as_any_other(baselines):
    counts = torch.zeros(5, 5)
    for first, second in subsets(baselines("rs2").RS2(5, 2, fraction=0.4), 2_000):
        counts[first, second] += 1
    assert counts.diagonal().sum() == 0
    assert chisquare(counts[~torch.eye(5, dtype=torch.bool)]).pvalue > 1e-3


def test_independent_subsets_cover_by_chance_and_passes_cover_all(baselines):
    rs2 = baselines("rs2").RS2
    by_chance = torch.cat(subsets(rs2(2_000, 100, fraction=0.2), 5)).unique()
    assert len(by_chance) / 2_000 == pytest.approx(1 - 0.8**5, abs=4 * (0.67 * 0.33 / 2_000) ** 0.5)
    assert len(torch.cat(subsets(rs2(2_000, 100, fraction=0.2, replacement=False), 5)).unique()) == 2_000


def test_passes_stay_balanced_where_the_subset_does_not_divide_them(baselines):
    chooser = baselines("rs2").RS2(10, 4, fraction=0.4, replacement=False)
    seen = torch.zeros(10, dtype=torch.int64)
    for subset in subsets(chooser, 25):
        seen += subset.bincount(minlength=10)
        assert seen.max() - seen.min() <= 1
    assert seen.tolist() == [10] * 10


@pytest.mark.parametrize("replacement", [True, False])
def test_goes_on_amid_an_epoch(baselines, replacement):
    def build(seed):
        return baselines("rs2").RS2(50, 4, fraction=0.4, replacement=replacement, seed=seed)

    chooser = build(1)
    subsets(chooser, 3)
    begun = chooser.epoch()
    next(begun), next(begun)
    resumed = build(2)
    resumed.load_state_dict(copy.deepcopy(chooser.state_dict()))
    rest, expected = subsets(resumed, 3), [torch.cat([indices for indices, _ in begun]), *subsets(chooser, 2)]
    assert len(expected[0]) == 12
    assert all(map(torch.equal, rest, expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, 0.5), r"`RS2\(num_samples=\.\.\.\)` must be at least 1; got 0\. Pass len\(dataset\)\."),
        ((9, 0, 0.5), r"`RS2\(batch_size=\.\.\.\)` must be at least 1; got 0\. 128 is usual\."),
        ((9, 8, 0), r"`RS2\(fraction=\.\.\.\)` must be in \(0, 1\]; got 0\. Use 1 for plain epochs\."),
        ((9, 8, 1.5), r"`RS2\(fraction=\.\.\.\)` must be in \(0, 1\]; got 1\.5\."),
    ],
)
def test_refuses_what_makes_no_sense(baselines, arguments, message):
    num_samples, batch_size, fraction = arguments
    with pytest.raises(ValueError, match=message):
        baselines("rs2").RS2(num_samples, batch_size, fraction=fraction)
