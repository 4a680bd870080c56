"""Whatever order things happen in, the laws hold: draws, updates, saves, loads and broken epochs at random."""

import math

import laws
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from approx_is import ApproxSampler, VarianceGate

SIZE, BATCH = 11, 4
LABELS = torch.arange(SIZE) % 3
every_configuration = pytest.mark.parametrize(("predictor", "options"), laws.CONFIGURATIONS, ids=laws.CONFIGURATION_IDS)

OPENING = VarianceGate(relative_cost=1.0, margin=0.0, rate=0.5)
losses = st.sampled_from([0.0, 1e-6, 0.3, 2.0, 1e4, 1e30, math.nan, math.inf])
steps = st.one_of(
    st.tuples(st.just("update"), st.lists(losses, min_size=BATCH, max_size=BATCH)),
    st.tuples(st.sampled_from(["skip", "break", "save", "load", "refuse"]), st.none()),
)


def build(predictor, options, seed=0, **arguments):
    loader = DataLoader(TensorDataset(torch.arange(SIZE)), batch_size=BATCH)
    arguments = {"gate": None, "labels": LABELS, "window": 3, **arguments}
    return ApproxSampler(loader, predictor=predictor, predictor_options=options, seed=seed, **arguments)


class Run:
    """A training loop that does what it is told."""

    def __init__(self, make):
        self.make = make
        self.sampler = make()
        self.batches = iter(())
        self.saved = laws.through_file(self.sampler.state_dict())

    def next_draw(self):
        for _ in range(3):  # one may be over, and of the next, a restored one, nothing may be left
            for (indices,), draw in self.batches:
                assert torch.equal(indices, draw.indices)
                return draw
            self.batches = iter(self.sampler)
        raise AssertionError("an epoch has no batches")

    def do(self, what, values):
        if what == "update":
            draw = self.next_draw()
            self.sampler.update(draw, torch.tensor(values[: len(draw)]))
        elif what == "skip":
            self.next_draw()
        elif what == "break":
            self.batches = iter(())
        elif what == "save":
            self.saved = laws.through_file(self.sampler.state_dict())
        elif what == "load":
            self.sampler = self.make(seed=99)
            self.sampler.load_state_dict(self.saved)
            self.batches = iter(())
        elif what == "refuse":
            draw = self.next_draw()
            with laws.assert_unchanged(self.sampler), pytest.raises(ValueError, match="at least 0"):
                self.sampler.update(draw, torch.full((len(draw),), -1.0))


def assert_laws(sampler):
    inner = sampler._sampler
    tree = inner._drawer.proposal._tree
    laws.assert_is_distribution(sampler.probabilities())
    laws.assert_is_distribution(sampler.probabilities(gated=False))
    leaves = tree.all_values().tolist()
    assert float(tree.total) == pytest.approx(math.fsum(leaves), rel=1e-12)
    assert all(math.isfinite(leaf) and leaf >= 0 for leaf in leaves)
    assert float(sampler.probabilities(gated=False).min()) > 1e-12  # nobody is ever out of reach
    counts = inner._learner.history.counts(torch.arange(SIZE))
    assert bool(((counts >= 0) & (counts <= 3)).all())
    assert all(not math.isinf(value) for value in sampler.metrics().values())
    state = sampler.state_dict()
    laws.assert_all_finite({name: state["sampler"][name] for name in ("learner", "drawer", "diagnostics", "gain")})


@every_configuration
@pytest.mark.parametrize("update_every", [1, 3])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.lists(steps, min_size=8, max_size=24))
def test_laws_hold_after_every_step(predictor, options, update_every, sequence):
    run = Run(lambda seed=0: build(predictor, options, seed, update_every=update_every))
    for what, values in sequence:
        run.do(what, values)
        assert_laws(run.sampler)


@pytest.mark.parametrize("gate", [OPENING, VarianceGate(relative_cost=1.0, margin=math.inf)], ids=["opens", "closed"])
@settings(max_examples=25)
@given(sequence=st.lists(steps, min_size=8, max_size=40))
def test_laws_hold_with_a_gate(gate, sequence):
    run = Run(lambda seed=0: build("last-loss", {}, seed, gate=gate, update_every=2))
    for what, values in sequence:
        run.do(what, values)
        assert_laws(run.sampler)


@every_configuration
@settings(max_examples=6)
@given(before=st.lists(steps, min_size=1, max_size=14), after=st.lists(steps, min_size=6, max_size=10))
def test_a_state_taken_anywhere_goes_on_to_the_bit(predictor, options, before, after):
    run = Run(lambda seed=0: build(predictor, options, seed, update_every=2))
    for what, values in before:
        run.do(what, values)
    twin = Run(run.make)
    twin.sampler = run.make(seed=99)
    twin.sampler.load_state_dict(laws.through_file(run.sampler.state_dict()))
    run.saved = twin.saved = laws.through_file(run.sampler.state_dict())
    run.sampler.load_state_dict(run.saved)  # ends the epoch's iterator, as the twin has none
    run.batches = iter(())
    for what, values in after:
        for each in (run, twin):
            each.do(what, values)
        laws.assert_same(laws.snapshot(twin.sampler), laws.snapshot(run.sampler))
