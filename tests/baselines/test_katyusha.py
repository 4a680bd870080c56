"""Katyusha: its iterates by hand, and fewer gradients than SVRG where the problem is ill-conditioned."""

import copy
import math

import pytest
import torch


@pytest.fixture
def build(baselines):
    def build(problem, *, model=None, **options):
        options = {"lr": 1 / (3 * problem.smoothness), "weight_decay": problem.ridge, **options}
        model = problem.model(ridge=False) if model is None else model
        return baselines("katyusha").Katyusha(model, problem.loss, problem.samples, **options)

    return build


def weight(method):
    return method.param_groups[0]["params"][0].detach()


def by_hand(slopes, targets, rows, *, lr, sigma, steps, tau1=None):
    """Algorithms 1 and 2 on f_i(x) = (a_i x - c_i)² / 2 with ψ(x) = σ x² / 2, in floats; return each y and snapshot."""

    def gradient(row, x):
        return slopes[row] * (slopes[row] * x - targets[row])

    y = z = snapshot = 0.0
    path, snapshots = [], []
    for first in range(0, len(rows), steps):
        full = sum(gradient(row, snapshot) for row in range(len(slopes))) / len(slopes)
        stage = first // steps
        momentum = tau1 or (min(math.sqrt(steps * sigma * lr), 0.5) if sigma else 2 / (stage + 4))
        alpha = lr / momentum
        ys = []
        for row in rows[first : first + steps]:
            x = momentum * z + 0.5 * snapshot + (0.5 - momentum) * y
            estimate = gradient(row, x) - gradient(row, snapshot) + full
            z = (z - alpha * estimate) / (1 + alpha * sigma)
            y = (x - lr * estimate) / (1 + lr * sigma)
            ys.append(y)
        path += ys
        shares = [(1 + alpha * sigma) ** j for j in range(len(ys))]
        snapshots.append(snapshot)
        snapshot = sum(share * y for share, y in zip(shares, ys, strict=True)) / sum(shares)
    return path, snapshots


@pytest.mark.parametrize(("ridge", "tau1"), [(0.3, None), (3.0, None), (0.0, None), (0.0, 0.2), (0.3, 0.4)])
def test_steps_as_the_algorithm_says(build, least_squares, ridge, tau1):
    problem = least_squares(4, [1.5], ridge=ridge)
    problem.samples.inputs *= torch.tensor([[1.0], [0.5], [0.8], [0.2]])
    rows = [0, 3, 2, 1, 1, 0, 2, 3, 1, 0, 2]
    slopes, targets = problem.samples.inputs[:, 0].tolist(), problem.samples.targets.tolist()
    lr = 1 / (3 * problem.smoothness)
    path, snapshots = by_hand(slopes, targets, rows, lr=lr, sigma=ridge, steps=4, tau1=tau1)
    method = build(problem, inner_steps=4, tau1=tau1)
    for step, (row, expected) in enumerate(zip(rows, path, strict=True)):
        method.step(problem.samples.__getitems__([row]))
        assert weight(method).item() == pytest.approx(expected, rel=1e-12)
        state = method.state[method.param_groups[0]["params"][0]]
        assert state["snapshot"].item() == pytest.approx(snapshots[step // 4], rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_takes_fewer_gradients_than_svrg_where_ill_conditioned(baselines, build, least_squares, batch_size):
    problem = least_squares(20, [1.0, 0.3, 0.1, 0.03, 0.01], ridge=1e-3)
    assert problem.smoothness / problem.ridge > 30 * len(problem.samples)
    start, budget = problem.excess(torch.zeros(5, dtype=torch.float64)), 2_000
    inner_steps = 2 * len(problem.samples) // batch_size
    excess = {}
    svrg = baselines("svrg").SVRG
    for name, method in {
        "katyusha": build(problem),
        "svrg": svrg(
            problem.model(), problem.loss, problem.samples, lr=1 / problem.smoothness, inner_steps=inner_steps
        ),
    }.items():
        for batch in problem.batches(budget, batch_size):
            if method.gradient_evaluations >= budget:
                break
            method.step(batch)
        assert budget <= method.gradient_evaluations <= budget + 24
        excess[name] = problem.excess(weight(method)) / start
    assert excess["katyusha"] < 1e-2
    assert excess["katyusha"] < excess["svrg"] / 5  # though its step size, 1 / L, is the best of several for SVRG


def test_converges_to_the_optimum_of_the_sum_with_the_ridge(build, least_squares):
    problem = least_squares(8, [1.0, 0.5], ridge=0.1)
    method = build(problem)
    for batch in problem.batches(250):
        method.step(batch)
    torch.testing.assert_close(weight(method), problem.optimum, atol=1e-6, rtol=0)


def test_stages_are_2n_gradients_on_batches_and_begin_at_the_paper_s_momentum(build, least_squares):
    problem = least_squares(8, [1.0, 0.5], ridge=1e-3)
    method = build(problem)
    counts = [(method.step(batch), method.gradient_evaluations)[1] for batch in problem.batches(7, 3)]
    assert counts == [8 + 6 * step for step in range(1, 7)] + [8 + 6 * 6 + 8 + 6]  # ⌈2 · 8 / 3⌉ = 6
    assert method.param_groups[0]["tau1"] == pytest.approx(math.sqrt(6 * 1e-3 / (3 * problem.smoothness)))


def test_goes_on_amid_a_stage(build, least_squares):
    problem = least_squares(6, [1.0, 0.5], ridge=0.01)
    batches = list(problem.batches(40))
    method = build(problem)
    for batch in batches[:30]:
        method.step(batch)
    model = problem.model(ridge=False)
    model.load_state_dict(copy.deepcopy(method._model.state_dict()))
    resumed = build(problem, model=model)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    for batch in batches[30:]:
        assert method.step(batch) == resumed.step(batch)
    assert torch.equal(weight(resumed), weight(method))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": -1}, r"weight_decay=\.\.\.\)` must be at least 0; got -1\."),
        ({"inner_steps": 0}, r"inner_steps=\.\.\.\)` must be at least 1; got 0\. Leave it out for 2 N / B\."),
        ({"tau2": 0.6}, r"tau2=\.\.\.\)` must be in \[0, 0\.5\]; got 0\.6\. The paper uses 0\.5\."),
        ({"tau1": 0.6}, r"tau1=\.\.\.\)` must be above 0 and at most 1 - tau2 = 0\.5; got 0\.6\. Leave it out\."),
        ({"lr": -1}, r"`Katyusha\(lr=\.\.\.\)` must be above 0; got -1\."),
    ],
)
def test_refuses_what_makes_no_sense(build, least_squares, options, message):
    with pytest.raises(ValueError, match=message):
        build(least_squares(6, [1.0, 0.5]), **options)
