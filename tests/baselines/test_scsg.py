"""SCSG: sizes of large batches, lengths of stages, unbiasedness given the anchor, and rest without convexity."""

import copy
import itertools
import math

import pytest
import torch
from scipy.stats import chisquare


@pytest.fixture
def build(baselines):
    def build(problem, *, model=None, loss=None, **options):
        options = {"lr": 0.3 / problem.smoothness, **options}
        return baselines("scsg").SCSG(model or problem.model(), loss or problem.loss, problem.samples, **options)

    return build


def weight(method):
    return method.param_groups[0]["params"][0].detach()


@pytest.mark.parametrize("mean", [0.5, 1, 4])
def test_lengths_of_stages_are_geometric_from_0(baselines, mean):
    generator = torch.Generator().manual_seed(0)
    geometric = baselines("scsg").geometric
    lengths = torch.tensor([geometric(mean, generator) for _ in range(3_000)])
    gamma = mean / (1 + mean)
    longest = int(math.log(0.02) / math.log(gamma)) + 1  # beyond it there are about 50, taken together
    expected = [gamma**k * (1 - gamma) for k in range(longest)] + [gamma**longest]
    counts = lengths.clamp(max=longest).bincount(minlength=longest + 1)
    assert chisquare(counts, 3_000 * torch.tensor(expected, dtype=torch.float64)).pvalue > 1e-3


def test_stages_of_the_method_are_as_long_as_drawn_and_b_j_over_b_in_the_mean(build, least_squares):
    problem = least_squares(24, [1.0, 0.5])
    method = build(problem, big_batch=12, batch_growth=0)
    steps = len([method.step(batch) for batch in problem.batches(300, 4)])
    stages = method.param_groups[0]["stage"]
    deviation = math.sqrt(3 * 4 / stages)  # that of the mean of geometric lengths of mean 3
    assert steps / stages == pytest.approx(3, abs=3 * deviation)
    assert method.gradient_evaluations == stages * 12 + steps * 8


def test_fixed_stages_have_b_j_over_b_steps(build, least_squares):
    problem = least_squares(24, [1.0, 0.5])
    method = build(problem, big_batch=10, batch_growth=0, inner="fixed")
    left = [(method.step(batch), method.param_groups[0]["left"])[1] for batch in problem.batches(9, 3)]
    assert left == [2, 1, 0] * 3


def test_large_batches_grow_as_j_to_the_three_halves_up_to_all(build, least_squares):
    problem = least_squares(30, [1.0, 0.5])
    method = build(problem, inner="fixed", chunk=30)
    for batch in problem.batches(150):
        method.step(batch)
    fetched = problem.samples.fetched
    assert [len(rows) for rows in fetched[:11]] == [1, 3, 6, 8, 12, 15, 19, 23, 27, 30, 30]
    assert all(len(rows.unique()) == len(rows) for rows in fetched)
    assert build(problem, big_batch=5, batch_growth=1).big_batch(3, 2) == 15
    assert build(problem).big_batch(2, 4) == 12


def test_large_batches_are_uniform(build, least_squares):
    problem = least_squares(6, [1.0, 0.5])
    method = build(problem, big_batch=2, batch_growth=0, inner="fixed")
    assert len([method.step(batch) for batch in problem.batches(250, 2)]) == 250
    counts = torch.cat(problem.samples.fetched).bincount(minlength=6)
    assert counts.sum() == 500
    assert chisquare(counts).pvalue > 1e-3


def test_the_estimate_is_unbiased_given_the_anchor(build, least_squares):
    problem = least_squares(6, [1.0, 1.0, 0.5])
    method = build(problem, big_batch=3, batch_growth=0, lr_exponent=0, inner="fixed")
    for batch in problem.batches(8):
        method.step(batch)
    assert method.param_groups[0]["left"] == 1
    subsets = itertools.combinations(range(6), 2)
    estimates = torch.stack([method.estimate(problem.samples.__getitems__(rows))[1][0] for rows in subsets])
    start = method.state[method.param_groups[0]["params"][0]]["snapshot"]
    error = problem.gradient(start, problem.samples.fetched[2].tolist()) - problem.gradient(start)
    assert error.norm() > 1e-2
    assert (weight(method) - start).norm() > 1e-2
    torch.testing.assert_close(estimates.mean(0), problem.gradient(weight(method)) + error)


@pytest.mark.parametrize(("exponent", "factor"), [(2 / 3, 1 / 4), (0, 1)])
def test_steps_fall_as_large_batches_grow(build, least_squares, exponent, factor):
    problem = least_squares(16, [1.0, 0.5])
    method = build(problem, big_batch=16, lr_exponent=exponent)  # b / B_j = 1 / 8
    method.step(problem.samples.__getitems__([3, 7]))
    start = torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(weight(method), -0.3 / problem.smoothness * factor * problem.gradient(start))


def saturating(outputs, targets):
    """Return mean r² / (2 (1 + r²)), which is not convex: beyond 1 / √3 it flattens."""
    squares = (outputs[0] - targets).square()
    return (squares / (1 + squares)).mean() / 2


def test_comes_to_rest_without_convexity_as_its_large_batches_grow(build, least_squares):
    problem = least_squares(40, [1.5, 1.0, 1.0], noise=0.5)
    inputs, squares = problem.samples.inputs, problem.samples.targets.square()
    curvatures = (1 - 3 * squares) / (1 + squares) ** 3  # of the losses at the start
    assert torch.linalg.eigvalsh(inputs.T @ (curvatures[:, None] * inputs) / 40).min() < -0.01
    norms = {}
    for name, options in {"growing": {}, "constant": {"big_batch": 4, "batch_growth": 0}}.items():
        method = build(problem, loss=saturating, lr=0.5, lr_exponent=0, **options)
        for batch in problem.batches(200, 2):
            method.step(batch)
        model = method._model
        everything = saturating(model(problem.samples.inputs), problem.samples.targets)
        norms[name] = torch.autograd.grad(everything, model.weight)[0].norm().item()
    assert norms["growing"] < 1e-4
    assert norms["constant"] > 1e-3  # the anchor's error stays


def test_goes_on_amid_a_stage(build, least_squares):
    problem = least_squares(12, [1.0, 0.5])
    batches = list(problem.batches(60))
    method = build(problem, seed=1)
    for batch in batches[:30]:
        method.step(batch)
    model = problem.model()
    model.load_state_dict(copy.deepcopy(method._model.state_dict()))
    resumed = build(problem, model=model, seed=2)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    for batch in batches[30:]:
        assert method.step(batch) == resumed.step(batch)
    assert torch.equal(weight(resumed), weight(method))
    assert resumed.gradient_evaluations == method.gradient_evaluations


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"big_batch": 0}, r"big_batch=\.\.\.\)` must be at least 1; got 0\. Leave it out to begin with a minibatch\."),
        ({"batch_growth": -1}, r"batch_growth=\.\.\.\)` must be at least 0; got -1\. Use 0 for a constant size\."),
        ({"lr_exponent": -1}, r"lr_exponent=\.\.\.\)` must be at least 0; got -1\. Use 0 for a constant step\."),
        ({"inner": "poisson"}, r"inner=\.\.\.\)` must be geometric or fixed; got 'poisson'\. The paper's stages"),
    ],
)
def test_refuses_what_makes_no_sense(build, least_squares, options, message):
    with pytest.raises(ValueError, match=message):
        build(least_squares(6, [1.0, 0.5]), **options)
