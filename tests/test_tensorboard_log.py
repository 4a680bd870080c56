"""What TensorBoard is given: every evaluation once, also by a run that was stopped and gone on with."""

import json
import math
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
OPTIONS = ["--dataset", "digits", "--model", "mlp", "--gate", "none", "--eval-every", 5, "--checkpoint-every", 7]


@pytest.fixture
def train(scripts, monkeypatch):
    """Call `scripts/train.py` in this process, with these arguments; it draws nothing."""
    module = scripts("train")
    monkeypatch.setattr(module, "plot_runs", lambda *_: None)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        module.main()

    return call


@pytest.fixture
def read():
    """Read the scalars in a folder as TensorBoard does: (step, value) pairs by tag."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def call(folder):
        events = accumulators.EventAccumulator(str(folder)).Reload()
        return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    return call


def evaluation(scripts, step):
    values = {"seconds": 1.0, "test_error": 0.1, "balanced_error": 0.2, "class_errors": [0.1, None], "train_loss": 0.5}
    values |= {"batch_loss": 0.5, "overhead_ms": 1.0, "overhead_percent": 2.0, "effective_sample_share": None}
    values |= {"captured": None, "learning_rate": 1e-3, "effective_steps": 5.0, "gain_ratio": 1.0}
    return scripts("evaluation").Evaluation(step=step, **values)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_evaluation_is_there_once_also_of_a_run_that_is_gone_on_with(train, read, tmp_path):
    train(*OPTIONS, "--predictor", "last-loss", "--steps", 20, "--out", tmp_path, "--tensorboard")
    (tmp_path / "checkpoint-000000020.pt").unlink()
    train("--resume", tmp_path, "--tensorboard")
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2
    scalars, metrics = read(tmp_path), rows(tmp_path)
    assert [row["step"] for row in metrics] == [5, 10, 15, 20]
    for name in ("test_error", "train_loss", "seconds", "effective_sample_share"):
        assert scalars[f"evaluation/{name}"] == [(row["step"], pytest.approx(row[name])) for row in metrics]
    assert scalars["class error/7"] == [(row["step"], pytest.approx(row["class_errors"][7])) for row in metrics]
    assert "evaluation/perplexity" not in scalars
    assert scalars["sampler/step"] == [(5, 5), (10, 10), (15, 15), (20, 20)]
    assert all(value > 1 for _, value in scalars["sampler/effective_sample_size"])


def test_a_run_that_begins_anew_removes_the_events_of_the_last(scripts, read, tmp_path):
    for steps in ([5, 10], [5]):
        log = scripts("tensorboard_log").TensorBoardLog(tmp_path, step=0, class_names="ab")
        for step in steps:
            log.write(evaluation(scripts, step), {})
        log.close()
    assert [step for step, _ in read(tmp_path)["evaluation/test_error"]] == [5]


def test_what_is_not_known_or_not_finite_is_left_out(scripts, read, tmp_path):
    log = scripts("tensorboard_log").TensorBoardLog(tmp_path, step=0, class_names="ab")
    log.write(evaluation(scripts, 5), {"captured": math.nan, "coverage": 0.5})
    scalars = read(tmp_path)  # without being closed
    assert {tag for tag in scalars if "/" in tag and not tag.startswith("evaluation/")} == {
        "class error/a",
        "sampler/coverage",
    }
    assert "evaluation/captured" not in scalars
    assert scalars["evaluation/balanced_error"] == [(5, pytest.approx(0.2))]
    log.close()


def test_says_in_one_line_what_to_install(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SystemExit, match=r"^train\.py: error: [^\n]*pip install tensorboard$"):
        train(*OPTIONS, "--predictor", "uniform", "--steps", 5, "--out", tmp_path, "--tensorboard")
    assert not (tmp_path / "config.json").exists()
