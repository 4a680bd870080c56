"""What TensorBoard shows of a run: its evaluations and the figures of its sampler, as scalars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation import Evaluation

__all__ = ["TensorBoardLog"]

EVENT_FILES = "events.out.tfevents.*"


class TensorBoardLog:
    """Scalars in the event files of a run's folder.

    `evaluation/...` are the fields of `Evaluation`, `class error/...` the errors of each class, and `sampler/...` the
    sampler's metrics. What is not known, or not finite, is left out.

    Args:
        folder: of the run.
        step: steps done. If it is 0, the files of an earlier run are removed; else what they hold of later steps, which
            come again, is no longer shown.
        class_names: one a class, in the order of the labels.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, *, step: int, class_names: Sequence[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "`--tensorboard` needs TensorBoard; install it with: pip install tensorboard"
            ) from None
        if step == 0:
            for old in folder.glob(EVENT_FILES):
                old.unlink()
        self._writer: Any = SummaryWriter(folder, purge_step=step + 1 if step else None)
        self._class_names = class_names

    def write(self, evaluation: Evaluation, metrics: Mapping[str, float]) -> None:
        """Write an evaluation, and the sampler's metrics at that step; they are on disk afterwards.

        Raises:
            OSError: they could not be written.
        """
        row = asdict(evaluation)
        step, errors = row.pop("step"), row.pop("class_errors") or []
        groups = {
            "evaluation": row,
            "class error": dict(zip(self._class_names, errors, strict=False)),
            "sampler": metrics,
        }
        for group, values in groups.items():
            for name, value in values.items():
                if value is not None and math.isfinite(value):
                    self._writer.add_scalar(f"{group}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
