"""What a run leaves on disk while it goes: its config, the rows of its metrics, and checkpoints to go on from."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from checkpoints import checkpoints_in, load_latest, save_checkpoint
from evaluation import Evaluation
from processes import is_first
from runs import CONFIG_FILE, METRICS_FILE, config_text, json_line, write_atomically
from tensorboard_log import TensorBoardLog
from training import Training

__all__ = ["Journal"]


class Journal:
    """Evaluates, writes and saves when it is due. Under torchrun only the first process does, with what all know.

    Args:
        training: the run.
        folder: where it is kept.
        checkpoint_every: steps between checkpoints.
        tensorboard: whether to write for TensorBoard too, see `TensorBoardLog`.
    """

    def __init__(self, training: Training, folder: Path, *, checkpoint_every: int, tensorboard: bool = False) -> None:
        self.evaluations: list[Evaluation] = []
        self._training = training
        self._folder = folder
        self._checkpoint_every = checkpoint_every
        self._config = config_text(training.config)
        self._is_new = True
        self._for_tensorboard = tensorboard
        self._tensorboard: TensorBoardLog | None = None

    def restore(self) -> None:
        """Go on from the latest checkpoint that is whole; without any, from the start.

        Raises:
            ValueError: it does not fit, or none is whole.
        """
        state = load_latest(self._folder)
        if state is None:
            return
        if not isinstance(state, dict) or state.keys() != self._state(None).keys():
            raise ValueError(f"the checkpoint in {self._folder} is of another release, or of something else.")
        if state["config"] != self._config:
            raise ValueError(f"the checkpoint in {self._folder} is of a run with other options.")
        self._training.load_state_dict(state["training"])
        self.evaluations = [Evaluation(**row) for row in state["evaluations"]]
        self._is_new = False

    def begin(self) -> None:
        """Write the config, and the metrics up to here: those after the checkpoint will come again.

        A run that begins anew removes the checkpoints of one that was in its folder before.

        Raises:
            ModuleNotFoundError: TensorBoard is asked for and not installed.
        """
        if not is_first():
            return
        if self._for_tensorboard:
            task, step = self._training.task, self._training.step
            self._tensorboard = TensorBoardLog(self._folder, step=step, class_names=task.class_names)
        if self._is_new:
            for old in checkpoints_in(self._folder):
                old.unlink()
        write_atomically(self._folder / CONFIG_FILE, self._config)
        self._write_metrics()

    def note(self) -> None:
        """Take note of the step just done."""
        if self._training.evaluation_due and is_first():
            self.evaluations.append(self._training.evaluate())
            try:
                with (self._folder / METRICS_FILE).open("a", encoding="utf-8") as file:
                    file.write(json_line(self.evaluations[-1]))
                if self._tensorboard is not None:
                    sampler = self._training.sampler
                    self._tensorboard.write(self.evaluations[-1], {} if sampler is None else sampler.metrics())
            except OSError as error:  # training is worth more; they are written once more at the end
                print(f"train.py: no metrics of step {self._training.step}: {error}", file=sys.stderr)
        if self._training.step % self._checkpoint_every == 0:
            try:
                self.save()
            except OSError as error:
                print(f"train.py: no checkpoint at step {self._training.step}: {error}", file=sys.stderr)

    def end(self) -> None:
        """Write what there is at the end.

        Raises:
            OSError: it could not be written; the checkpoint before is as it was.
        """
        self.save()
        if is_first():
            self._write_metrics()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            OSError: it could not be written; the one before is as it was.
        """
        state = self._state(self._training.state_dict())
        if is_first():
            save_checkpoint(state, self._folder, self._training.step)

    def _state(self, training: Any) -> dict[str, Any]:
        return {"config": self._config, "training": training, "evaluations": [asdict(row) for row in self.evaluations]}

    def _write_metrics(self) -> None:
        write_atomically(self._folder / METRICS_FILE, "".join(map(json_line, self.evaluations)))
