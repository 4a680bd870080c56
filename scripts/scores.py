"""What methods are compared by: one number of an evaluation, the smaller the better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluation import Evaluation

__all__ = ["BALANCED_ERROR", "PERPLEXITY", "TEST_ERROR", "TRAIN_LOSS", "Score"]


@dataclass(frozen=True)
class Score:
    """One number of an evaluation, the smaller the better.

    Attributes:
        field: the attribute of `Evaluation`.
        title: in words.
        unit: "%" for shares, else as in figures.
        column: heading in tables.
        short: the same without the unit.
        decimals: shown in tables.
    """

    field: str
    title: str
    unit: str
    column: str
    short: str
    decimals: int

    def of(self, evaluation: Evaluation) -> float:
        """Return the number in its unit: shares in percent; NaN where the evaluation has none."""
        value = getattr(evaluation, self.field)
        factor = 100 if self.unit == "%" else 1
        return math.nan if value is None else factor * float(value)

    def text(self, evaluation: Evaluation) -> str:
        """Return the number with its name, in words."""
        value = self.of(evaluation)
        return f"{self.title} {value:.2f}%" if self.unit == "%" else f"{self.title} {value:,.1f}"

    @property
    def axis(self) -> str:
        """What its axis in a figure is called."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


TEST_ERROR = Score("test_error", "test error", "%", "error %", "error", 2)
BALANCED_ERROR = Score("balanced_error", "balanced error", "%", "balanced %", "balanced", 1)
PERPLEXITY = Score("perplexity", "test perplexity", "", "perplexity", "perplexity", 1)
TRAIN_LOSS = Score("train_loss", "training loss", "nats", "train loss", "loss", 4)
