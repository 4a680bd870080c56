"""The scripts as a user runs them, and the parts of them that figures are computed with."""

import gzip
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parent.parent / "scripts"


def run_script(name, *arguments):
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False, timeout=120)


def last_checkpoint(folder):
    return torch.load(sorted(folder.glob("checkpoint-*.pt"))[-1], weights_only=True)["training"]


def evaluation(scripts, **changes):
    values = {"step": 100, "seconds": 1.0, "test_error": 0.1, "balanced_error": 0.2, "class_errors": [0.1, 0.3]}
    values |= {"train_loss": 0.5, "batch_loss": 0.5, "overhead_ms": 1.0, "overhead_percent": 2.0}
    values |= {"effective_sample_share": None, "captured": None}
    values |= {"learning_rate": 1e-3, "effective_steps": 100.0, "gain_ratio": 1.0}
    return scripts("evaluation").Evaluation(**{**values, **changes})


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


class TestTrain:
    def test_writes_config_metrics_curves_and_checkpoint(self, tmp_path):
        options = ["--dataset", "digits", "--model", "small-cnn", "--predictor", "lstm", "--observe", "upper-bound"]
        done = run_script("train.py", *options, "--steps", 20, "--eval-every", 8, "--out", tmp_path / "run")
        assert done.returncode == 0, done.stderr
        assert "overhead" in done.stderr
        rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [8, 16, 20]
        assert all(0 <= row["test_error"] <= 1 and len(row["class_errors"]) == 10 for row in rows)
        assert rows[0]["seconds"] < rows[-1]["seconds"]
        assert json.loads((tmp_path / "run" / "config.json").read_text())["observe"] == "upper-bound"
        assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
        checkpoint = last_checkpoint(tmp_path / "run")
        assert checkpoint["step"] == 20
        assert checkpoint["sampler"] is not None

    def test_with_a_gain_counts_effective_steps_and_draws_what_it_did(self, tmp_path):
        options = ["--dataset", "digits", "--model", "mlp", "--predictor", "rais", "--observe", "upper-bound"]
        options += ["--optimizer", "sgd", "--lr", 0.1, "--schedule", "step", "--gain", "--steps", 120, "--gate", "none"]
        done = run_script("train.py", *options, "--eval-every", 20, "--out", tmp_path / "run")
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert rows[0]["gain_ratio"] == 1
        assert rows[0]["effective_steps"] == rows[0]["step"] == 20
        assert rows[-1]["step"] < 120 <= rows[-1]["effective_steps"] < 130
        assert rows[-1]["learning_rate"] == pytest.approx(0.1 * 0.1**2 * rows[-1]["gain_ratio"])
        assert f"after {rows[-1]['step']} steps (worth 1" in done.stdout
        trace = [json.loads(line) for line in (tmp_path / "run" / "gain.jsonl").read_text().splitlines()]
        assert [row["step"] for row in trace] == list(range(1, rows[-1]["step"] + 1))
        assert (tmp_path / "run" / "gain.png").read_bytes().startswith(b"\x89PNG")
        checkpoint = last_checkpoint(tmp_path / "run")
        assert checkpoint["schedule"]["effective_steps"] == rows[-1]["effective_steps"]

    def test_presamples_in_the_time_of_a_uniform_step(self, tmp_path):
        options = ["--dataset", "digits", "--model", "mlp", "--predictor", "upper-bound", "--observe", "upper-bound"]
        done = run_script("train.py", *options, "--equal-time", "--steps", 400, "--out", tmp_path / "run")
        assert done.returncode == 0, done.stderr
        assert re.search("; gate (open|closed): τ = ", done.stdout)  # which of the two is a matter of time

    def test_presampling_must_observe_what_it_scores(self, scripts):
        with pytest.raises(ValueError, match="`--predictor upper-bound` needs `--observe upper-bound`"):
            scripts("configuration").Config("digits", predictor="upper-bound", gate="auto")

    @pytest.mark.parametrize("options", [{"predictor": "lstm"}, {"gate": "none"}, {"k": 0.5}])
    def test_equal_time_is_for_gated_presampling(self, scripts, options):
        options = {"predictor": "upper-bound", "observe": "upper-bound", "gate": "auto", **options}
        with pytest.raises(ValueError, match="`--equal-time` is for presampling with k = 1 and a gate"):
            scripts("configuration").Config("digits", equal_time=True, **options)

    def test_refuses_a_gain_without_a_sampler(self, tmp_path):
        done = run_script("train.py", "--predictor", "uniform", "--gain", "--out", tmp_path / "run")
        assert done.returncode == 1
        assert "`--gain` needs a sampler" in done.stderr

    def test_refuses_a_gain_of_losses(self, scripts):
        with pytest.raises(ValueError, match=r"`--gain` is a ratio of gradient norms\. Add `--observe upper-bound`"):
            scripts("configuration").Config("digits", gain=True)

    def test_the_step_schedule_falls_to_a_tenth_at_half_and_three_quarters(self, scripts):
        schedule = scripts("optimization").Schedule("step", 8)
        expected = pytest.approx([1] * 4 + [0.1] * 2 + [0.01] * 3)
        assert [schedule(step) for step in range(9)] == expected
        assert [schedule(step) for step in np.arange(9)] == expected

    def test_names_the_predictors_when_it_does_not_know_one(self, tmp_path):
        done = run_script("train.py", "--predictor", "oraculous", "--out", tmp_path / "run")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "lstm" in done.stderr
        assert "'oraculous'" in done.stderr
        assert not (tmp_path / "run").exists()


class TestCompare:
    def test_second_run_trains_nothing(self, tmp_path):
        options = [
            "--methods",
            "uniform",
            "last-loss:0.5",
            "--seeds",
            1,
            "--steps",
            20,
            "--eval-every",
            10,
            "--jobs",
            1,
        ]
        first = run_script("compare.py", *options, "--out", tmp_path)
        assert first.returncode == 0, first.stderr
        written = (tmp_path / "results.jsonl").read_text()
        rows = [json.loads(line) for line in written.splitlines()]
        assert {(row["method"], row["seed"], row["step"]) for row in rows} == {
            (method, 0, step) for method in ("uniform", "last-loss:0.5") for step in (10, 20)
        }
        (tmp_path / "comparison.png").unlink()
        second = run_script("compare.py", *options, "--out", tmp_path)
        assert second.returncode == 0, second.stderr
        assert "2 of 2 runs were finished before" in second.stderr
        assert (tmp_path / "results.jsonl").read_text() == written
        assert second.stdout == first.stdout
        assert "last-loss, k = 0.5" in (tmp_path / "comparison.md").read_text()
        assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")

    def test_methods_are_written_as_predictor_k_and_observation(self, scripts):
        method = scripts("methods").Method
        assert method.parse("lstm:1:upper-bound") == method("lstm", 1.0, "upper-bound")
        assert method.parse("lstm:-0.5") == method("lstm", -0.5, "loss")
        assert method.parse("svrg@0.1") == method("svrg", lr=0.1)
        assert method.parse("rais:1:upper-bound+gain") == method("rais", 1.0, "upper-bound", gain=True)
        assert method.parse("lstm@1e-2+gate").settings["gate"] == "auto"
        assert method.parse("lstm:1.0+gate").gated

    @pytest.mark.parametrize(
        "text", ["uniform", "lstm", "lstm:0.5", "lstm:1:upper-bound@0.003+gain+gate", "scsg@0.1", "rank:0+annealed"]
    )
    def test_a_method_is_written_as_it_is_read(self, scripts, text):
        assert str(scripts("methods").Method.parse(text)) == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "lstm:",
            "lstm:x",
            "lstm:1:gradient",
            "lstm:1:loss:2",
            "uniform:0.5",
            "svrg+gain",
            "lstm@",
            "rs2+annealed",
        ],
    )
    def test_methods_written_otherwise_are_refused(self, scripts, text):
        with pytest.raises(ValueError, match=r"must be written predictor\[:k\[:observe\]\]"):
            scripts("methods").Method.parse(text)

    @pytest.mark.parametrize("text", ["lstm:0.5+gate", "oracle:0+gate", "lstm:-1:upper-bound@0.1+gain+gate"])
    def test_a_gate_is_refused_where_it_would_do_nothing(self, scripts, text):
        with pytest.raises(
            ValueError, match=rf"`\+gate` must be with k = 1, .*; got {re.escape(repr(text))}\. Leave one"
        ):
            scripts("methods").Method.parse(text)

    def test_arrival_at_uniforms_best_is_the_mean_over_seeds_that_get_there(self, scripts):
        def run(*errors):
            rows = enumerate(errors, start=1)
            return [evaluation(scripts, step=100 * n, seconds=float(n), test_error=error) for n, error in rows]

        baselines = {0: run(0.4, 0.2, 0.3, 0.3), 1: run(0.4, 0.3, 0.2, 0.1)}
        arrival = scripts("tables").arrival({0: run(0.2, 0.1, 0.1, 0.3), 1: run(0.4, 0.3, 0.2, 0.2)}, baselines)
        assert (arrival.seeds, arrival.steps) == (1, 100)
        assert arrival.step_ratios == (0.5,)
        assert not arrival.is_everyone
        assert scripts("tables").arrival({0: run(0.9), 1: run(0.9)}, baselines) is None
        assert scripts("tables").arrival({2: run(0.0)}, baselines) is None
        assert scripts("tables").arrival(baselines, baselines).step_ratios == (1, 1)


class TestTasks:
    def test_shuttle_is_the_statlog_split_standardised_by_its_training_rows(self, scripts):
        task = scripts("tasks").load_task("shuttle")
        assert task.train.inputs.shape == (43_500, 9)
        assert task.test.inputs.shape == (14_500, 9)
        assert task.train.targets.bincount().tolist() == [34_108, 6_748, 2_458, 132, 37, 11, 6]
        assert task.test_counts == [11_478, 2_155, 809, 39, 13, 2, 4]
        assert task.class_names[:2] == ("Rad.Flow", "High")
        torch.testing.assert_close(task.train.inputs.mean(0), torch.zeros(9), atol=1e-5, rtol=0)
        torch.testing.assert_close(task.train.inputs.std(0), torch.ones(9))

    def test_a_batch_is_its_samples(self, scripts):
        samples = scripts("tasks").load_task("shuttle").train
        inputs, targets = samples.__getitems__([5, 3, 5])
        assert torch.equal(inputs, torch.stack([samples[5][0], samples[3][0], samples[5][0]]))
        assert torch.equal(targets, torch.stack([samples[5][1], samples[3][1], samples[5][1]]))

    def test_reads_the_files_of_fashion_mnist(self, scripts, tmp_path):
        folder = tmp_path / "fashion-mnist"
        folder.mkdir()
        images = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 256
        for split, count in {"train": 3, "t10k": 2}.items():
            write_idx(folder / f"{split}-images-idx3-ubyte.gz", images[:count])
            write_idx(folder / f"{split}-labels-idx1-ubyte.gz", np.array([9, 0, 4])[:count])
        task = scripts("tasks").load_task("fashion-mnist", tmp_path)
        assert task.input_shape == (1, 28, 28)
        torch.testing.assert_close(task.train.inputs[:, 0] * 255, torch.from_numpy(images).float())
        assert task.train.targets.tolist() == [9, 0, 4]
        assert len(task.test) == 2

    @pytest.mark.parametrize(
        "content",
        [
            b"not gzipped",
            gzip.compress(b""),
            gzip.compress(b"\0\0\x08\x01\0\0\0\x05\1\2"),
            gzip.compress(b"\0\0\x0d\x01\0\0\0\x01\1\1\1\1"),
            gzip.compress(b"\0\0\x08\x01\0\0\0\x02\1\2")[:-9],
        ],
        ids=["not gzipped", "empty", "short", "of another type", "cut off"],
    )
    def test_refuses_files_that_are_cut_short_or_of_another_kind(self, scripts, tmp_path, content):
        path = tmp_path / "labels.gz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"labels\.gz is damaged \(.+\)\. Get it anew"):
            scripts("idx").read_idx(path)

    def test_says_in_one_line_how_to_get_missing_data(self, scripts, tmp_path, monkeypatch):
        fashion_mnist = scripts("fashion_mnist")

        def refuse(*_, **__):
            raise URLError("no network")

        monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "nowhere")
        monkeypatch.setattr(fashion_mnist.urllib.request, "urlopen", refuse)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.delenv("APPROX_IS_DATA", raising=False)
        with pytest.raises(
            FileNotFoundError, match=r"^[^\n]*apt-get install dataset-fashion-mnist[^\n]*--data-dir[^\n]*$"
        ):
            fashion_mnist.find(tmp_path)

    def test_unknown_task(self, scripts):
        with pytest.raises(ValueError, match=r"must be one of cifar-10, .*, kjv, .*, shuttle; got 'imagenet'"):
            scripts("tasks").load_task("imagenet")


@pytest.mark.parametrize("model", ["paper", "small-cnn", "mlp", "resnet-18"])
@pytest.mark.parametrize("input_shape", [(1, 28, 28), (1, 8, 8)])
def test_every_network_takes_images_of_either_size(scripts, model, input_shape):
    network = scripts("models").build_model(model, input_shape, 10)
    assert network(torch.zeros(2, *input_shape)).shape == (2, 10)


def test_class_errors_by_hand(scripts):
    predictions, targets = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 0])
    assert scripts("evaluation").class_errors(predictions, targets, 3) == [2 / 3, 0.0, None]


def test_methods_of_a_seed_start_from_the_same_weights(scripts):
    config, task = (
        scripts("configuration").Config("shuttle", predictor="uniform"),
        scripts("tasks").load_task("shuttle"),
    )
    trainings = [scripts("training").Training(replace(config, predictor=name), task) for name in ("uniform", "lstm")]
    weights = [torch.cat([value.flatten() for value in training.model.parameters()]) for training in trainings]
    assert torch.equal(*weights)


def test_batch_normalisation_is_weighted_by_the_draw_whatever_k(scripts):
    config, task = (
        scripts("configuration").Config("digits", "last-loss", model="resnet-18", k=0.5),
        scripts("tasks").load_task("digits"),
    )
    training = scripts("training").Training(config, task)
    images, shares = task.train.inputs[:3], torch.tensor([0.5, 0.3, 0.2])
    training._logits(images, SimpleNamespace(probabilities=1 / shares.double()))
    means = training.model[0](images).mean((2, 3))
    torch.testing.assert_close(training.model[1].running_mean, 0.1 * shares @ means)
    plain = scripts("training").Training(replace(config, predictor="uniform", k=1), task)
    assert type(plain.model[1]) is torch.nn.BatchNorm2d


@pytest.mark.parametrize("name", ["uniform", "rs2", "infobatch", "selective-backprop", "svrg", "oracle", "upper-bound"])
def test_captured_refuses_what_predicts_nothing_before_it_trains(scripts, monkeypatch, name):
    captured = scripts("captured")
    monkeypatch.setattr("sys.argv", ["captured.py", "--predictors", "lstm", name, "--steps", "1"])
    monkeypatch.setattr(captured, "run_parallel", None)
    with pytest.raises(
        SystemExit, match=rf"captured\.py: error: `--predictors` must predict .*; got {name}\. Leave that"
    ):
        captured.main()


def test_captured_by_hand(scripts):
    # two classes: the upper bound is √2 (1 - p of the target), here √2/4 and √2·3/4
    logits = torch.log(torch.tensor([[0.75, 0.25], [0.75, 0.25]]))
    samples = scripts("tasks").InMemoryDataset(logits, torch.tensor([0, 1]))
    training = SimpleNamespace(
        model=torch.nn.Identity(),
        task=SimpleNamespace(train=samples),
        device=torch.device("cpu"),
        config=scripts("configuration").Config("digits"),
        sampler=SimpleNamespace(probabilities=lambda: torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)),
        step=128,
    )
    row = scripts("captured").measure(training)
    assert row.rho == pytest.approx(5 / 4.125)  # mean of 1² and 3² over the mean of 1²/(2/3) and 3²/(4/3)
    assert row.rho_ideal == pytest.approx(5 / 2**2)
    assert row.captured == pytest.approx(math.log(5 / 4.125) / math.log(1.25))
