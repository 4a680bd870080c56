"""Checkpoints on disk survive whatever happens to the one being written."""

import importlib
import random
import resource
from pathlib import Path

import laws
import pytest
import torch

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def checkpoints(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("checkpoints")


def state_of(step):
    generator = torch.Generator().manual_seed(step)
    return {
        "weights": torch.randn(40, 30, generator=generator),
        "counts": torch.arange(7),
        "nested": [{"step": step, "name": "lstm", "nothing": None, "rate": 0.1}],
        "generator": generator.get_state(),
    }


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_comes_back(checkpoints, tmp_path):
    path = checkpoints.save_checkpoint(state_of(5), tmp_path, 5)
    laws.assert_same(checkpoints.load_checkpoint(path), state_of(5))
    laws.assert_same(checkpoints.load_latest(tmp_path), state_of(5))


def test_two_are_kept_and_nothing_else(checkpoints, tmp_path):
    (tmp_path / "checkpoint-000000001.unfinished").write_bytes(b"of one that was killed")
    (tmp_path / "metrics.jsonl").write_text("{}")
    for step in (3, 9, 10, 200):
        checkpoints.save_checkpoint(state_of(step), tmp_path, step)
    assert names(tmp_path) == ["checkpoint-000000010.pt", "checkpoint-000000200.pt", "metrics.jsonl"]
    laws.assert_same(checkpoints.load_latest(tmp_path), state_of(200))


def test_an_empty_folder_has_none(checkpoints, tmp_path):
    assert checkpoints.load_latest(tmp_path) is None


@pytest.mark.parametrize("kept", [0, 1, 20, 0.1, 0.5, 0.9, 0.999])
def test_of_one_cut_off_the_one_before_is_used(checkpoints, tmp_path, capsys, kept):
    checkpoints.save_checkpoint(state_of(1), tmp_path, 1)
    path = checkpoints.save_checkpoint(state_of(2), tmp_path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(checkpoints.DamagedCheckpointError, match=r"checkpoint-000000002\.pt is damaged: "):
        checkpoints.load_checkpoint(path)
    laws.assert_same(checkpoints.load_latest(tmp_path), state_of(1))
    assert "checkpoint-000000002.pt is damaged" in capsys.readouterr().err


def test_a_flipped_bit_is_noticed_or_of_no_consequence(checkpoints, tmp_path):
    path = checkpoints.save_checkpoint(state_of(3), tmp_path, 3)
    whole, chances, noticed = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        place, bit = chances.randrange(len(whole)), chances.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        try:
            laws.assert_same(checkpoints.load_checkpoint(path), state_of(3))
        except checkpoints.DamagedCheckpointError:
            noticed += 1
    assert noticed > 150  # the rest is padding, and times


def test_if_all_are_damaged_that_is_said(checkpoints, tmp_path):
    path = checkpoints.save_checkpoint(state_of(3), tmp_path, 3)
    path.write_bytes(b"rubbish")
    with pytest.raises(checkpoints.DamagedCheckpointError, match=r"^no checkpoint in .+ is whole; start anew"):
        checkpoints.load_latest(tmp_path)


def test_a_full_disk_leaves_the_old_one(checkpoints, tmp_path):
    checkpoints.save_checkpoint(state_of(1), tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        with pytest.raises(OSError):  # noqa: PT011  # which of them is the file system's choice
            checkpoints.save_checkpoint(state_of(2), tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["checkpoint-000000001.pt"]
    laws.assert_same(checkpoints.load_latest(tmp_path), state_of(1))
