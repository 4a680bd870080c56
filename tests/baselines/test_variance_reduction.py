"""What SVRG, Katyusha and SCSG share, seen through SVRG: anchors in chunks, networks with state, schedules."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn


@pytest.fixture
def build(baselines):
    def build(problem, **options):
        options = {"lr": 0.1 / problem.smoothness, **options}
        return baselines("svrg").SVRG(problem.model(), problem.loss, problem.samples, **options)

    return build


def weight(method):
    return method.param_groups[0]["params"][0].detach()


def test_chunks_of_the_full_gradient_count_by_their_sizes(build, least_squares):
    problem = least_squares(7, [1.0, 0.5])
    method = build(problem, chunk=3)
    method.step(next(problem.batches(1)))
    anchor = method.state[method.param_groups[0]["params"][0]]["anchor"]
    torch.testing.assert_close(anchor, problem.gradient(torch.zeros(2, dtype=torch.float64)))


def test_a_schedule_moves_its_step_size(build, least_squares):
    problem = least_squares(6, [1.0, 0.5])
    method = build(problem)
    schedule = torch.optim.lr_scheduler.LambdaLR(method, lambda step: float(step < 2))
    moved = []
    for batch in problem.batches(3):
        before = weight(method).clone()
        method.step(batch)
        schedule.step()
        moved.append(not torch.equal(before, weight(method)))
    assert moved == [True, True, False]


@pytest.mark.parametrize("name", ["svrg", "scsg"])
def test_weight_decay_is_that_of_a_ridge(baselines, least_squares, name):
    problem = least_squares(6, [1.0, 0.5], ridge=0.3)
    build = getattr(baselines(name), name.upper())
    options = {"lr": 0.1 / problem.smoothness}
    ridge = build(problem.model(), problem.loss, problem.samples, **options)
    decay = build(problem.model(ridge=False), problem.loss, problem.samples, weight_decay=0.3, **options)
    for batch in problem.batches(40, 2):
        ridge.step(batch)
        decay.step(batch)
        torch.testing.assert_close(weight(decay), weight(ridge))
    assert weight(ridge).norm() > 0.1


def test_refuses_a_negative_weight_decay(build, least_squares):
    with pytest.raises(ValueError, match=r"`SVRG\(weight_decay=\.\.\.\)` must be at least 0; got -1\. Use 0 for none"):
        build(least_squares(6, [1.0, 0.5]), weight_decay=-1)


def network(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)]
    return nn.Sequential(*layers)


@pytest.fixture
def classes(in_memory):
    generator = torch.Generator().manual_seed(0)
    return in_memory(torch.randn(12, 3, generator=generator), torch.randint(2, (12,), generator=generator))


def test_both_gradients_of_a_batch_see_the_same_dropout(baselines, classes):
    model = network()
    method = baselines("svrg").SVRG(model, F.cross_entropy, classes, lr=1e-30)
    method.step(classes.__getitems__([0, 1, 2]))
    _, estimate = method.estimate(classes.__getitems__([3, 4, 5]))
    for value, gradient in zip(model.parameters(), estimate, strict=True):
        torch.testing.assert_close(gradient, method.state[value]["anchor"])


def test_running_statistics_are_those_of_plain_training(baselines, classes):
    model, plain = network(), network()
    model[3].p = plain[3].p = 0.0
    method = baselines("svrg").SVRG(model, F.cross_entropy, classes, lr=1e-30, inner_steps=1)
    for rows in ([0, 1, 2], [3, 4, 5]):
        method.step(classes.__getitems__(rows))
        plain(classes.inputs[rows])
    assert model[1].num_batches_tracked == 2
    assert torch.equal(model[1].running_mean, plain[1].running_mean)


def test_frozen_parameters_stay_and_gradients_of_the_user_too(baselines, classes):
    model = network()
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.clone()
    trained = model[4].weight.clone()
    baselines("svrg").SVRG(model, F.cross_entropy, classes, lr=0.1).step(classes.__getitems__([0, 1, 2]))
    assert not torch.equal(model[4].weight, trained)
    assert torch.equal(model[0].weight, frozen)
    assert all(value.grad is None for value in model.parameters())
