"""SVRG: an unbiased estimate whose variance vanishes at the snapshot, and linear convergence by a constant step."""

import copy
import itertools

import pytest
import torch


@pytest.fixture
def build(baselines):
    def build(problem, *, model=None, **options):
        options = {"lr": 0.1 / problem.smoothness, **options}
        return baselines("svrg").SVRG(model or problem.model(), problem.loss, problem.samples, **options)

    return build


def weight(method):
    return method.param_groups[0]["params"][0].detach()


def train(method, batches):
    for batch in batches:
        method.step(batch)
    return method


def test_the_estimate_is_unbiased_over_all_batches(build, least_squares):
    problem = least_squares(6, [1.0, 1.0, 0.5])
    method = train(build(problem), problem.batches(7, 2))
    subsets = itertools.combinations(range(6), 2)
    estimates = [method.estimate(problem.samples.__getitems__(rows))[1][0] for rows in subsets]
    assert len(estimates) == 15
    assert torch.stack(estimates).var(0).min() > 1e-6
    torch.testing.assert_close(torch.stack(estimates).mean(0), problem.gradient(weight(method)))


def test_the_variance_vanishes_at_the_snapshot_and_grows_with_the_distance(build, least_squares):
    problem = least_squares(6, [1.0, 1.0, 0.5])
    method = train(build(problem), problem.batches(7, 2))
    method._take_snapshot(torch.arange(6))
    snapshot, variances = weight(method).clone(), []
    for distance in (0.0, 1.0, 2.0):
        with torch.no_grad():
            weight(method).copy_(snapshot + distance)
        rows = [problem.samples.__getitems__([row]) for row in range(6)]
        variances.append(torch.stack([method.estimate(batch)[1][0] for batch in rows]).var(0).sum().item())
    assert variances[0] == pytest.approx(0, abs=1e-28)
    assert variances[1] > 1e-3
    assert variances[2] == pytest.approx(4 * variances[1])  # quadratic losses


def test_converges_linearly_where_sgd_stalls(build, least_squares):
    problem = least_squares(20, [1.0, 1.0, 1.0])
    method, model = build(problem, inner_steps=50), problem.model()
    sgd = torch.optim.SGD(model.parameters(), lr=method.param_groups[0]["lr"])
    distances = {"svrg": [problem.optimum.norm().item()], "sgd": []}
    for step, batch in enumerate(problem.batches(600), start=1):
        method.step(batch)
        sgd.zero_grad()
        problem.loss(model(batch[0]), batch[1]).backward()
        sgd.step()
        if step % 200 == 0:
            distances["svrg"].append((weight(method) - problem.optimum).norm().item())
            distances["sgd"].append((model.weight.detach() - problem.optimum).norm().item())
    assert all(after < 0.1 * before for before, after in itertools.pairwise(distances["svrg"]))
    assert distances["svrg"][-1] < 1e-3
    assert min(distances["sgd"]) > 0.1


def test_steps_as_the_procedure_says(build, least_squares):
    problem = least_squares(6, [1.0, 0.5])
    method, lr = build(problem, inner_steps=3), 0.1 / problem.smoothness
    expected = torch.zeros(2, dtype=torch.float64)
    for step, rows in enumerate([[0], [3, 4], [1], [5], [2, 0], [4], [1]]):
        if step % 3 == 0:
            snapshot, full = expected, problem.gradient(expected)
        loss = method.step(problem.samples.__getitems__(rows))
        assert loss == pytest.approx(
            problem.loss((problem.samples.inputs[rows] @ expected, 0), problem.samples.targets[rows]).item()
        )
        expected = expected - lr * (problem.gradient(expected, rows) - problem.gradient(snapshot, rows) + full)
        torch.testing.assert_close(weight(method), expected)


def test_counts_the_gradients_of_samples_and_has_5n_of_them_in_a_stage(build, least_squares):
    problem = least_squares(7, [1.0, 0.5])
    method = build(problem, chunk=3)
    counts = [(method.step(batch), method.gradient_evaluations)[1] for batch in problem.batches(13, 3)]
    assert counts == [7 + 6 * step for step in range(1, 13)] + [7 + 6 * 12 + 7 + 6]  # ⌈5 · 7 / 3⌉ = 12
    assert [len(rows) for rows in problem.samples.fetched] == [3, 3, 1] * 2


def test_goes_on_amid_a_stage(build, least_squares):
    problem = least_squares(6, [1.0, 0.5])
    batches = list(problem.batches(60))
    method = train(build(problem), batches[:40])
    model = problem.model()
    model.load_state_dict(copy.deepcopy(method._model.state_dict()))
    resumed = build(problem, model=model)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    train(method, batches[40:])
    train(resumed, batches[40:])
    assert torch.equal(weight(resumed), weight(method))
    assert resumed.gradient_evaluations == method.gradient_evaluations == 3 * 6 + 60 * 2 - 6


def test_refuses_what_makes_no_sense(build, least_squares):
    problem = least_squares(6, [1.0, 0.5])
    with pytest.raises(ValueError, match=r"`SVRG\(lr=\.\.\.\)` must be above 0; got 0\. Start from a tenth of 1 / L"):
        build(problem, lr=0)
    with pytest.raises(ValueError, match=r"`SVRG\(inner_steps=\.\.\.\)` must be at least 1; got 0\. Leave it out"):
        build(problem, inner_steps=0)
    with pytest.raises(ValueError, match=r"`SVRG\(chunk=\.\.\.\)` must be at least 1; got 0\."):
        build(problem, chunk=0)
    problem.samples.targets = problem.samples.targets[:0]
    with pytest.raises(ValueError, match=r"`SVRG\(samples=\.\.\.\)` must be at least one; got 0\. Pass the training"):
        build(problem)
