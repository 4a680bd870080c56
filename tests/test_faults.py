"""Trainings that are killed, cut off or run out of disk lose nothing."""

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import laws
import pytest
import torch

SCRIPTS = Path(__file__).parent.parent / "scripts"
TRAIN = SCRIPTS / "train.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
OPTIONS = ["--dataset", "digits", "--model", "mlp", "--predictor", "lstm", "--gate", "none", "--eval-every", "10"]
TIMES = ("seconds", "overhead_seconds", "overhead_ms", "overhead_percent")


def run(command, **options):
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=200, **options)


@pytest.fixture
def train(monkeypatch, capsys):
    """Call `scripts/train.py` in this process, with these arguments; returns what it prints on stderr."""
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("train")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        module.main()
        return capsys.readouterr().err

    return call


def train_under_torchrun(*arguments):
    return [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"),
        *(TRAIN, *arguments, "--timeout", "20"),
    ]


def checkpoints(folder):
    return sorted(folder.glob("checkpoint-*.pt"))


def last_state(folder):
    return without_times(torch.load(checkpoints(folder)[-1], weights_only=True))


def rows(folder):
    return [without_times(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(state):
    if isinstance(state, dict):
        return {name: without_times(value) for name, value in state.items() if name not in TIMES}
    return [without_times(value) for value in state] if isinstance(state, list) else state


def assert_same_runs(found, expected):
    laws.assert_same(last_state(found), last_state(expected))
    laws.assert_same(rows(found), rows(expected))


@pytest.mark.parametrize(("predictor", "workers"), [("rais", []), ("lstm", ["--workers=2", "--persistent-workers"])])
def test_a_training_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path, predictor, workers):
    kills = ["--kills", 3, "--predictor", predictor, "--steps", 60, "--out", tmp_path]
    done = run([SCRIPTS / "survive_kills.py", *kills, *workers])
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["differences"] == []
    assert result["kills"] == 3
    assert result["while_saving"] >= 1
    assert result["trainings"] >= 1


@pytest.mark.parametrize(
    ("predictor", "workers"), [("uniform", []), ("uniform", ["--workers=2", "--persistent-workers"]), ("lstm", [])]
)
def test_a_run_is_gone_on_with_by_its_folder_alone(train, tmp_path, predictor, workers):
    options = [*OPTIONS, "--predictor", predictor, "--gate", "none", "--checkpoint-every", 13, *workers]
    train(*options, "--steps", 40, "--out", tmp_path / "whole")
    train(*options, "--steps", 40, "--out", tmp_path / "cut")
    for path in checkpoints(tmp_path / "cut"):
        if path.stem.endswith("40"):
            path.unlink()
    assert [path.stem[-2:] for path in checkpoints(tmp_path / "cut")] == ["39"]
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write("{half a row")
    train("--resume", tmp_path / "cut")
    assert_same_runs(tmp_path / "cut", tmp_path / "whole")


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(train, tmp_path):
    options = [*OPTIONS, "--steps", 30, "--checkpoint-every", 10]
    train(*options, "--out", tmp_path / "whole")
    train(*options, "--out", tmp_path / "damaged")
    last = checkpoints(tmp_path / "damaged")[-1]
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert f"{last.name} is damaged" in train("--resume", tmp_path / "damaged")
    assert_same_runs(tmp_path / "damaged", tmp_path / "whole")


def test_a_run_with_other_options_is_refused(train, tmp_path):
    train(*OPTIONS, "--steps", 3, "--out", tmp_path)
    with pytest.raises(SystemExit, match="holds a run with other options"):
        train(*OPTIONS, "--steps", 4, "--out", tmp_path, "--resume", tmp_path)
    with pytest.raises(SystemExit, match=r"`--resume` must be the folder of `--out`"):
        train(*OPTIONS, "--steps", 3, "--out", tmp_path / "other", "--resume", tmp_path)


def test_a_run_that_begins_anew_is_not_confused_with_the_one_before(train, tmp_path):
    options = [*OPTIONS, "--checkpoint-every", 10]
    train(*options, "--steps", 30, "--out", tmp_path / "used", "--seed", 1)
    train(*options, "--steps", 20, "--out", tmp_path / "used", "--seed", 2)
    train(*options, "--steps", 20, "--out", tmp_path / "new", "--seed", 2)
    assert_same_runs(tmp_path / "used", tmp_path / "new")


def test_a_checkpoint_of_another_run_is_refused(train, tmp_path):
    train(*OPTIONS, "--steps", 3, "--out", tmp_path / "one")
    train(*OPTIONS, "--steps", 4, "--out", tmp_path / "other")
    last = checkpoints(tmp_path / "one")[-1]
    last.replace(tmp_path / "other" / "checkpoint-000000009.pt")
    with pytest.raises(SystemExit, match="is of a run with other options"):
        train("--resume", tmp_path / "other")


def test_ctrl_c_waits_for_the_end_of_the_step(train, tmp_path, monkeypatch):
    options = [*OPTIONS, "--steps", 30, "--checkpoint-every", 10]
    train(*options, "--out", tmp_path / "whole")
    module, steps = importlib.import_module("training"), []

    def interrupted(self, batches):
        steps.append(self.step)
        if len(steps) == 18:
            signal.raise_signal(signal.SIGINT)
        return train_step(self, batches)

    train_step = module.Training._train_step
    monkeypatch.setattr(module.Training, "_train_step", interrupted)
    with pytest.raises(SystemExit, match="stopped at step 18; --resume goes on"):
        train(*options, "--out", tmp_path / "stopped")
    train("--resume", tmp_path / "stopped")
    assert_same_runs(tmp_path / "stopped", tmp_path / "whole")


def test_a_folder_without_a_run_is_refused(train, tmp_path):
    with pytest.raises(SystemExit, match="holds no run"):
        train("--resume", tmp_path)


def test_a_full_disk_stops_no_training_but_is_said_at_the_end(train, tmp_path, monkeypatch):
    options = [*OPTIONS, "--steps", 20, "--checkpoint-every", 5, "--out", tmp_path]
    journal, saved = importlib.import_module("journal"), []

    def save(state, folder, step):
        if step > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(step)
        return save_checkpoint(state, folder, step)

    save_checkpoint = journal.save_checkpoint
    monkeypatch.setattr(journal, "save_checkpoint", save)
    with pytest.raises(SystemExit, match=r"no checkpoint at step 20: .*No space left on device"):
        train(*options)
    assert saved == [5]
    assert [path.stem[-2:] for path in checkpoints(tmp_path)] == ["05"]
    assert len(rows(tmp_path)) == 2


def test_processes_whose_comrade_is_killed_begin_again_from_the_checkpoint(tmp_path):
    options = [*OPTIONS, "--steps", 60, "--checkpoint-every", 10]
    done = run(train_under_torchrun(*options, "--out", tmp_path / "whole"))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "killed"
    command = [sys.executable, *map(str, train_under_torchrun(*options, "--out", folder, "--resume", folder))]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: checkpoints(folder))
    os.kill(second_process(process.pid), signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert_same_runs(folder, tmp_path / "whole")


def wait_until(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def second_process(parent):
    """Return the process that torchrun gave the number 1."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError("there is no second process")
