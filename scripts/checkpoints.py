"""Checkpoints on disk: each is there as a whole or not at all, damage is noticed, and the one before is kept."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

__all__ = ["DamagedCheckpointError", "checkpoints_in", "load_checkpoint", "load_latest", "save_checkpoint"]

KEPT = 2
UNFINISHED = ".unfinished"


class DamagedCheckpointError(ValueError):
    """A file that is no checkpoint, or not the one that was written."""


def save_checkpoint(state: dict[str, Any], folder: Path, step: int) -> Path:
    """Write the checkpoint of a step; return its path. Of those before it only the last is kept.

    It is written to a temporary file, flushed to the disk and renamed: whatever happens, the one before is whole.

    Raises:
        OSError: the disk is full, or the like. The checkpoints that were there still are.
    """
    path = folder / f"checkpoint-{step:09d}.pt"
    unfinished = path.with_suffix(UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _flush(folder)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # how torch tells of a failed write
            raise OSError(f"could not write {path}: {error}") from error
        raise
    paths = checkpoints_in(folder)
    before, after = paths[: paths.index(path)], paths[paths.index(path) + 1 :]  # these are of a future that was dropped
    for old in [*before[: -(KEPT - 1)], *after, *folder.glob(f"checkpoint-*{UNFINISHED}")]:
        old.unlink(missing_ok=True)
    return path


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the latest last."""
    return sorted(folder.glob("checkpoint-*.pt"))


def load_checkpoint(path: Path) -> Any:
    """Return what was saved: tensors and plain values, on the CPU.

    Raises:
        DamagedCheckpointError: the file is cut off, or a bit in it has changed.
        OSError: it cannot be read at all.
    """
    path.open("rb").close()
    try:
        with zipfile.ZipFile(path) as archive:  # as torch writes it, with a checksum of each tensor, which it ignores
            damaged = archive.testzip()
        state = None if damaged else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # there is no end to what a damaged file makes its readers raise
        raise DamagedCheckpointError(f"{path} is damaged: {error}") from error
    if damaged:
        raise DamagedCheckpointError(
            f"{path} is damaged: `{damaged}` in it has not the checksum that it was written with."
        )
    return state


def load_latest(folder: Path) -> Any:
    """Return the latest checkpoint that is whole, saying on stderr which are not; None if there is none.

    Raises:
        DamagedCheckpointError: there are checkpoints, and none is whole.
    """
    paths = checkpoints_in(folder)
    whole = (state for state in map(_load_if_whole, reversed(paths)) if state is not None)
    state = next(whole, None)
    if paths and state is None:
        raise DamagedCheckpointError(f"no checkpoint in {folder} is whole; start anew in another folder.")
    return state


def _load_if_whole(path: Path) -> Any:
    try:
        return load_checkpoint(path)
    except DamagedCheckpointError as error:
        print(f"{error} Trying the one before.", file=sys.stderr)
        return None


def _flush(folder: Path) -> None:
    """Have the disk know of the renaming."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
