"""Where data sets are looked for that are not bundled."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["candidate_folders", "first_folder"]


def candidate_folders(data_dir: Path | None, *names: str) -> list[Path]:
    """Return the folders to look in: `data_dir` and that of APPROX_IS_DATA, of each the `names` within, then itself."""
    named = [data_dir, os.environ.get("APPROX_IS_DATA")]
    return [path for parent in named if parent for path in (*(Path(parent) / name for name in names), Path(parent))]


def first_folder(folders: list[Path], is_it: Callable[[Path], bool], *, missing: str) -> Path:
    """Return the first of the folders that holds a data set.

    Args:
        folders: from `candidate_folders`.
        is_it: says whether a folder does.
        missing: the message if none does.

    Raises:
        FileNotFoundError: none does.
    """
    for folder in folders:
        if is_it(folder):
            return folder
    raise FileNotFoundError(missing)
