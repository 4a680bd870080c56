"""The variance ratio, from draws and from what would have been drawn, is that of the enumerated world."""

import math

import pytest
import torch
from laws import assert_unchanged, through_file

from approx_is.diagnostics import variance_ratio
from approx_is.variance_evidence import PATIENCE, VarianceEvidence

V = torch.tensor([0.1, 0.5, 1.0, 4.0]).double()
Z = torch.tensor([0.3, 0.4, 1.1, 2.2]).double()
P = Z / Z.sum()


def test_of_uniform_batches_is_that_of_draws_in_proportion():
    evidence = VarianceEvidence(rate=0.1)
    for _ in range(PATIENCE):
        evidence.observe_uniform(V, Z)
    assert evidence.ratio == pytest.approx(variance_ratio(V, P))


def test_of_draws_is_the_same():
    evidence = VarianceEvidence(rate=0.5)
    generator = torch.Generator().manual_seed(0)
    indices = torch.multinomial(P, 200_000, replacement=True, generator=generator)
    for batch in indices.view(PATIENCE, -1):
        evidence.observe_drawn(V[batch], 1 / (4 * P[batch]))
    assert evidence.ratio == pytest.approx(variance_ratio(V, P), rel=0.05)


def test_leaves_out_what_was_not_predicted():
    evidence = VarianceEvidence(rate=0.1)
    v, z = torch.cat([V, torch.tensor([9.0, 9.0])]), torch.cat([Z, torch.tensor([math.nan] * 2)])
    for _ in range(PATIENCE):
        evidence.observe_uniform(v, z)
    assert evidence.ratio == pytest.approx(variance_ratio(V, P))


@pytest.mark.parametrize(
    "z", [torch.tensor([1.0, math.nan, math.nan, math.nan]), torch.zeros(4)], ids=["hardly any known", "all 0"]
)
def test_batches_that_tell_nothing_do_not_count(z):
    evidence = VarianceEvidence(rate=0.1)
    with assert_unchanged(evidence):
        evidence.observe_uniform(V, z.double())


def test_is_not_believed_too_early_nor_after_a_reset():
    evidence = VarianceEvidence(rate=0.1)
    for _ in range(PATIENCE - 1):
        evidence.observe_uniform(V, Z)
    assert math.isnan(evidence.ratio)
    evidence.observe_uniform(V, Z)
    assert not math.isnan(evidence.ratio)
    evidence.reset()
    assert math.isnan(evidence.ratio)


def test_is_1_where_nothing_matters():
    evidence = VarianceEvidence(rate=0.1)
    for _ in range(PATIENCE):
        evidence.observe_drawn(torch.zeros(4).double(), torch.ones(4).double())
    assert evidence.ratio == 1.0


def test_a_restored_one_goes_on_as_the_original():
    original, restored = VarianceEvidence(rate=0.1), VarianceEvidence(rate=0.1)
    for _ in range(PATIENCE):
        original.observe_uniform(V, Z)
    restored.load_state_dict(through_file(original.state_dict()))
    for evidence in (original, restored):
        evidence.observe_uniform(Z, V)
    assert restored.ratio == original.ratio


@pytest.mark.parametrize(("entry", "value"), [("batches", -1), ("batches", 1.0), ("moments", {})])
def test_a_damaged_state_is_refused_and_changes_nothing(entry, value):
    evidence = VarianceEvidence(rate=0.1)
    with assert_unchanged(evidence), pytest.raises(ValueError, match=r"VarianceEvidence\.load_state_dict\(state\)"):
        evidence.load_state_dict({**evidence.state_dict(), entry: value})
