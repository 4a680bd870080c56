"""The figures of gradients: what they are computed with, and the scripts as a user runs them."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from approx_is import per_sample_gradient_norms

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 2, 9, 8, generator=generator), torch.tensor([0, 2, 1, 1, 0, 2])


def tiny_cnn():
    """Return a network with all that the Gram matrix goes by: strides, padding, dilation, layers without bias."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Conv2d(3, 4, (3, 2), dilation=(1, 2), bias=False)
    linear = nn.Linear(24, 5, bias=False), nn.Linear(5, 3)
    return nn.Sequential(
        *(convolutions[0], nn.ReLU(), convolutions[1], nn.Flatten()), *(linear[0], nn.Tanh(), nn.Dropout(), linear[1])
    )


def sample_gradients(model, inputs, targets):
    """Return each sample's gradient, float64 [n, parameters], by backpropagation with a batch size of 1."""
    model.double().eval()
    rows = []
    for start in range(len(targets)):
        loss = F.cross_entropy(model(inputs[start : start + 1].double()), targets[start : start + 1])
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(rows)


@pytest.fixture
def run_script(scripts, monkeypatch):
    """Run a script in this process, which has imported everything already."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        scripts(name).main()

    return run


class TestGradients:
    def test_the_gram_matrix_is_that_of_backpropagated_gradients(self, scripts, samples):
        model = tiny_cnn()
        _, gram = scripts("gradients").sample_scores(model, *samples)
        gradients = sample_gradients(model, *samples)
        torch.testing.assert_close(gram, gradients @ gradients.T)

    def test_the_gram_matrix_does_not_depend_on_how_many_patches_are_laid_out(self, scripts, samples, monkeypatch):
        gradients = scripts("gradients")
        _, whole = gradients.sample_scores(tiny_cnn(), *samples)
        monkeypatch.setattr(gradients, "UNFOLDED_SAMPLES", 4)
        torch.testing.assert_close(gradients.sample_scores(tiny_cnn(), *samples)[1], whole)

    def test_scores_by_definition(self, scripts, samples):
        inputs, targets = samples
        model = tiny_cnn()
        scores, _ = scripts("gradients").sample_scores(model, inputs, targets)
        logits = model.double().eval()(inputs.double()).detach()
        expected = {
            "loss": -logits.log_softmax(1)[range(6), targets],
            "upper-bound": (logits.softmax(1) - F.one_hot(targets, 3)).norm(dim=1),
            "gradient-norm": per_sample_gradient_norms(model, F.cross_entropy, inputs.double(), targets).double(),
        }
        assert scores.keys() == expected.keys()
        for name, values in expected.items():
            torch.testing.assert_close(scores[name], values, rtol=1e-6, atol=0)

    def test_leaves_the_model_as_it_was(self, scripts, samples):
        model = tiny_cnn()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        scripts("gradients").sample_scores(model, *samples)
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())

    def test_refuses_parameters_that_it_would_miss(self, scripts):
        layer = nn.Linear(3, 3)
        for model in (nn.Sequential(nn.LayerNorm(3), layer), nn.Sequential(layer, layer)):
            with pytest.raises(ValueError, match="in `Linear` and `Conv2d` layers only, each layer used once"):
                scripts("gradients").sample_scores(model, torch.ones(2, 3), torch.tensor([0, 1]))

    def test_distances_are_those_of_weighted_minibatches(self, scripts, samples):
        gradients = sample_gradients(tiny_cnn(), *samples)
        probabilities = torch.tensor([0.1, 0.3, 0.05, 0.25, 0.2, 0.1], dtype=torch.float64)
        drawn = torch.tensor([[1, 1, 4], [2, 0, 5]])
        weighted = gradients[drawn] / (6 * probabilities[drawn]).unsqueeze(2)
        expected = (weighted.mean(1) - gradients.mean(0)).norm(dim=1)
        combinations = scripts("gradients").coefficients(drawn, probabilities)
        torch.testing.assert_close(scripts("gradients").distances(gradients @ gradients.T, combinations), expected)

    def test_minibatches_are_unbiased_by_enumeration(self, scripts):
        probabilities = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
        pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
        combinations = scripts("gradients").coefficients(pairs, probabilities)
        expectation = probabilities[pairs].prod(1) @ combinations
        torch.testing.assert_close(expectation, torch.full((3,), 1 / 3, dtype=torch.float64))

    def test_the_mean_distance_falls_with_the_batch_size_as_its_root(self, scripts):
        # orthonormal gradients, uniform draws: the expected square is (1 - 1/n) / b
        gradients = scripts("gradients")
        uniform = torch.full((16,), 1 / 16, dtype=torch.float64)
        gram = torch.eye(16, dtype=torch.float64)
        for batch_size in (32, 128):
            mean = gradients.mean_distance(gram, uniform, batch_size=batch_size, resamples=2_000, seed=0)
            assert mean == pytest.approx(math.sqrt((1 - 1 / 16) / batch_size), rel=0.03)

    def test_draws_in_proportion_to_the_norm_of_parallel_gradients_are_exact(self, scripts):
        gradients = scripts("gradients")
        norms = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
        options = {"batch_size": 4, "resamples": 10, "seed": 0}
        ideal = gradients.mean_distance(torch.outer(norms, norms), gradients.proportional(norms), **options)
        assert ideal == pytest.approx(0, abs=1e-7)


class TestWatchedTraining:
    @pytest.fixture
    def training(self, scripts):
        tasks, watched = scripts("tasks"), scripts("watched_training")
        generator = torch.Generator().manual_seed(0)
        inputs, targets = torch.randn(1_100, 4, generator=generator), torch.arange(1_100) % 2
        train = tasks.InMemoryDataset(inputs + targets[:, None], targets)
        task = tasks.Task("two", "Two classes", train, train, ("a", "b"))
        config = scripts("configuration").Config("two", predictor="uniform", model="mlp", steps=20)
        return lambda *predictors: watched.WatchedTraining(config, task, predictors)

    def test_watchers_train_the_same_network_and_see_all_of_it(self, training):
        alone, watched = training(), training("class-gaussian", "lstm", "rais")
        assert list(alone.steps()) == list(watched.steps()) == list(range(1, 21))
        for name, value in alone.model.state_dict().items():
            assert torch.equal(value, watched.model.state_dict()[name])
        for sampler in watched.samplers.values():
            assert sampler.metrics()["coverage"] == 1
            assert sampler.metrics()["gate_learning"] == 1

    def test_watchers_draw_the_same_plain_epochs_for_ever(self, training):
        watched = training("class-gaussian", "lstm")
        assert watched.steps_per_epoch == 9
        assert len(list(watched.steps())) > 2 * watched.steps_per_epoch
        draws = [sampler.draw() for sampler in watched.samplers.values()]
        for draw in draws:
            assert torch.equal(draw.indices, draws[0].indices)
            assert draw.weights.eq(1).all()
        assert len(draws[0].indices.unique()) == 128

    def test_predictors_would_draw_by_what_they_saw(self, training):
        watched = training("lstm")
        list(watched.steps())
        images = watched.choose_images()
        would = {name: sampler.probabilities(images, gated=False) for name, sampler in watched.samplers.items()}
        assert would["uniform"].max() == pytest.approx(would["uniform"].min().item())
        assert would["lstm"].max() > 1.2 * would["lstm"].min()

    def test_images_are_the_same_for_a_seed_and_others_each_time(self, training):
        first, second = training(), training("lstm")
        images = [first.choose_images(), first.choose_images()]
        assert torch.equal(images[0], second.choose_images())
        assert not torch.equal(*images)
        assert len(images[0].unique()) == 1_024

    def test_refuses_too_few_images(self, scripts):
        few = scripts("tasks").InMemoryDataset(torch.zeros(9, 4), torch.arange(9) % 2)
        task = scripts("tasks").Task("few", "Few", few, few, ("a", "b"))
        with pytest.raises(ValueError, match=r"must have at least 1,024 samples; got 9"):
            scripts("watched_training").WatchedTraining(scripts("configuration").Config("few", "uniform"), task)


class TestVariance:
    def test_writes_rows_and_figure(self, run_script, tmp_path, capsys):
        options = ["--dataset", "digits", "--model", "mlp", "--steps", 30, "--every", 10, "--resamples", 20]
        run_script("figure_variance", *options, "--predictors", "class-gaussian", "--out", tmp_path)
        rows = [json.loads(line) for line in (tmp_path / "variance.jsonl").read_text().splitlines()]
        assert sorted({row["step"] for row in rows}) == [10, 20, 30]
        assert {row["method"] for row in rows} == {"loss", "upper-bound", "gradient-norm", "uniform", "class-gaussian"}
        assert all(row["of_uniform"] == 1 for row in rows if row["method"] == "uniform")
        predicted = [row["of_uniform"] for row in rows if row["method"] == "class-gaussian"]
        assert predicted[0] == 1  # the first epoch is uniform
        assert predicted[2] != 1
        assert "| uniform | 1.00 |" in capsys.readouterr().out
        assert (tmp_path / "variance.png").read_bytes().startswith(b"\x89PNG")

    def test_the_table_is_of_the_second_half_the_best_first(self, scripts):
        script = scripts("figure_variance")
        values = {"uniform": [1, 1, 1, 1], "loss": [9, 9, 0.25, 0.75]}
        rows = [
            script.Distance(name, 10 * step, 0.0, 1.0, values[name][step - 1])
            for step in (1, 2, 3, 4)
            for name in values
        ]
        assert script.table(rows).splitlines()[2:] == ["| loss | 0.50 |", "| uniform | 1.00 |"]

    def test_labels_move_apart_no_more_than_they_must(self, scripts):
        spread = scripts("figure_variance").spread
        np.testing.assert_allclose(spread([0.9, 0.5, 0.1, 0.5], 0.2), [0.9, 0.4, 0.1, 0.6])
        np.testing.assert_allclose(spread([0.3, 0.1], 0.2), [0.3, 0.1])

    def test_refuses_an_unknown_predictor_in_one_line(self, run_script, tmp_path):
        with pytest.raises(SystemExit, match=r"^figure_variance\.py: error: [^\n]*'oraculous'[^\n]*$"):
            run_script("figure_variance", "--dataset", "digits", "--predictors", "oraculous", "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestCorrelation:
    def test_writes_rows_and_figure(self, run_script, tmp_path, capsys):
        options = ["--dataset", "digits", "--model", "mlp", "--steps", 28, "--out", tmp_path]
        run_script("figure_correlation", *options)
        rows = [json.loads(line) for line in (tmp_path / "correlation.jsonl").read_text().splitlines()]
        assert (len(rows), rows[0]["step"], rows[-1]["step"]) == (16, 12, 28)
        for row in rows:
            assert all(sum(row[name]) == pytest.approx(1) for name in ("by_loss", "by_upper_bound", "by_gradient_norm"))
        assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["loss", "upper bound"]
        assert (tmp_path / "correlation.png").read_bytes().startswith(b"\x89PNG")

    def test_errors_add_up_over_the_moments(self, scripts):
        script = scripts("figure_correlation")
        rows = [
            script.Moment(1, 0.1, [3, 5], by_loss=[0.5, 0.5], by_upper_bound=[0.2, 0.8], by_gradient_norm=[0.2, 0.8]),
            script.Moment(2, 0.2, [4, 6], by_loss=[1.0, 0.0], by_upper_bound=[0.9, 0.1], by_gradient_norm=[0.8, 0.2]),
        ]
        errors = script.errors(rows)
        assert errors == {"loss": pytest.approx(2 * 0.3**2 + 2 * 0.2**2), "upper bound": pytest.approx(2 * 0.1**2)}

    def test_moments_are_spread_from_the_first_epochs_end_to_the_last_step(self, scripts):
        moments = sorted(scripts("figure_correlation").moments(469, 4_000))
        assert (len(moments), moments[0], moments[-1]) == (16, 469, 4_000)
        assert set(np.diff(moments)) <= {235, 236}
        with pytest.raises(ValueError, match=r"`--steps` must be at least 484, 16 from .+; got 483"):
            scripts("figure_correlation").moments(469, 483)
