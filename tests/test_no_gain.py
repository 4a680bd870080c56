"""What a sampler costs where there is nothing to gain: the tasks, the turns with plain training, and the table."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from approx_is import registry


@pytest.fixture
def noise(scripts, monkeypatch):
    """Return the tasks' module; they are small."""
    module = scripts("noise")
    monkeypatch.setattr(module, "TRAIN_ROWS", 2_000)
    monkeypatch.setattr(module, "TEST_ROWS", 50)
    return module


@pytest.fixture
def no_gain(scripts, monkeypatch):
    """Return the script, whose turns are of three steps; what it changes for the process is undone."""
    module = scripts("no_gain")
    monkeypatch.setattr(module, "TURN", 3)
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return module


@pytest.fixture
def config(scripts):
    return scripts("configuration").Config("noise", "uniform", model="mlp", steps=8, gate="auto")


class TestTasks:
    def test_noise_has_labels_that_are_random_and_stay(self, noise):
        task = noise.make_noise()
        assert (task.input_shape, len(task.train), len(task.test)) == ((1, 28, 28), 2_000, 50)
        assert chisquare(task.train.targets.bincount(minlength=10)).pvalue > 1e-3
        first, again = (task.train.__getitems__(range(2_000))[1] for _ in range(2))
        assert torch.equal(first, again)
        assert torch.equal(noise.make_noise().train.inputs, task.train.inputs)

    def test_one_in_twenty_is_an_outlier_and_each_time_another(self, noise):
        task = noise.make_outliers()
        (inputs, first), (_, second) = (task.train.__getitems__(range(2_000)) for _ in range(2))
        assert torch.equal(inputs, task.train.inputs)
        for targets in (first, second):  # of the random labels one in ten is right; 45 in a thousand ± 5
            assert (targets != 0).double().mean().item() == pytest.approx(0.045, abs=0.02)
        both = ((first != 0) & (second != 0)).sum().item()
        assert both < 20  # 4 by chance, 90 if they were the same
        assert (first.max(), task.train.targets.max(), task.test.targets.max()) == (9, 0, 0)


class TestTurns:
    def alone(self, scripts, config, task):
        training = scripts("training").Training(config, task)
        assert len(list(training.steps())) == config.steps
        return scripts("evaluation").mean_loss(training.model, task.train, training.device)

    @pytest.mark.parametrize("predictor", ["uniform", "last-loss"])
    def test_each_run_ends_as_it_does_alone(self, scripts, no_gain, noise, config, predictor):
        task, config = noise.make_noise(), replace(config, predictor=predictor)
        outcome = no_gain.take_turns(config, task)
        plain = self.alone(scripts, replace(config, predictor="uniform"), task)
        assert (outcome.plain_loss, outcome.loss) == (plain, self.alone(scripts, config, task))
        assert min(outcome.ratio, outcome.turn_ratio) > 0
        assert outcome.verdict.partition(":")[0] == ("closed" if predictor == "last-loss" else "")

    def test_a_row_is_of_means_and_the_last_verdict(self, no_gain):
        outcomes = [no_gain.Outcome(1.0, 1.5, 2.0, 3.0, "open: a"), no_gain.Outcome(2.0, 1.5, 2.0, 5.0, "closed: b")]
        cells = "lstm | 1.500 | 1.500 | 2.0000 ± 0.0000 | 4.0000 ± 1.4142 | closed: b"
        assert no_gain.row("lstm", outcomes) == f"| {cells} |"
        assert no_gain.row("lstm", outcomes[:1]) == "| lstm | 1.000 | 1.500 | 2.0000 | 3.0000 | open: a |"


class TestScript:
    def start(self, no_gain, monkeypatch, *arguments):
        monkeypatch.setattr("sys.argv", ["no_gain.py", *arguments])
        no_gain.main()

    def test_prints_plain_training_and_what_is_asked_for(self, no_gain, monkeypatch, capsys):
        options = ("--dataset", "digits", "--model", "mlp", "--steps", "4", "--seeds", "2")
        self.start(no_gain, monkeypatch, *options, "--predictors", "uniform-predictor", "oracle")
        header, _, *rows = capsys.readouterr().out.splitlines()
        assert header.endswith("| gate of the last seed |")
        assert [row.split(" | ")[0] for row in rows] == ["| uniform", "| uniform-predictor", "| oracle"]
        assert all(row.count(" | ") == header.count(" | ") for row in rows)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--dataset", "digits", "--predictors", "foo"), "`predictor` must be one of .*; got 'foo'"),
            (("--dataset", "kjv-small"), "`--model` must be one of lstm for `--task lm`; got 'small-cnn'"),
        ],
    )
    def test_says_in_a_line_what_does_not_fit(self, no_gain, monkeypatch, capsys, options, message):
        with pytest.raises(SystemExit, match=rf"^no_gain\.py: error: {message}"):
            self.start(no_gain, monkeypatch, *options)
        assert capsys.readouterr().out == ""
