"""What a run leaves on disk while it goes: its config, the rows of its metrics, and checkpoints to go on from."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from checkpoints import load_latest, save_checkpoint
from configuration import Config
from evaluation import Evaluation
from processes import is_first
from runs import CONFIG_FILE, METRICS_FILE, config_text, json_line, write_atomically
from training import Training

__all__ = ["Journal"]


class Journal:
    """Evaluates, writes and saves when it is due. Under torchrun only the first process does, with what all know.

    Args:
        training: the run.
        folder: where it is kept.
        checkpoint_every: steps between checkpoints.
    """

    def __init__(self, training: Training, folder: Path, *, checkpoint_every: int) -> None:
        self.evaluations: list[Evaluation] = []
        self._training = training
        self._folder = folder
        self._checkpoint_every = checkpoint_every

    def restore(self) -> None:
        """Go on from the latest checkpoint that is whole; without any, from the start.

        Raises:
            ValueError: it does not fit, or none is whole.
        """
        state = load_latest(self._folder)
        if state is not None:
            self._training.load_state_dict(state["training"])
            self.evaluations = [Evaluation(**row) for row in state["evaluations"]]

    def begin(self, config: Config) -> None:
        """Write the config, and the metrics up to here: those after the checkpoint will come again."""
        if is_first():
            write_atomically(self._folder / CONFIG_FILE, config_text(config))
            write_atomically(self._folder / METRICS_FILE, "".join(map(json_line, self.evaluations)))

    def note(self) -> None:
        """Take note of the step just done."""
        if self._training.evaluation_due and is_first():
            self.evaluations.append(self._training.evaluate())
            with (self._folder / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(json_line(self.evaluations[-1]))
        if self._training.step % self._checkpoint_every == 0:
            try:
                self.save()
            except OSError as error:  # training is worth more than the checkpoint
                print(f"train.py: no checkpoint at step {self._training.step}: {error}", file=sys.stderr)

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            OSError: it could not be written; the one before is as it was.
        """
        state = {"training": self._training.state_dict(), "evaluations": [asdict(row) for row in self.evaluations]}
        if is_first():
            save_checkpoint(state, self._folder, self._training.step)
