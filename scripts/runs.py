"""Runs on disk: a folder with `config.json`, `metrics.jsonl`, one row an evaluation, and `gain.jsonl`, one a step."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configuration import Config

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
GAIN_FILE = "gain.jsonl"


@dataclass(frozen=True)
class GainRow:
    """What the gain did to a step.

    Attributes:
        step: number of steps done.
        effective_steps: what they are worth in uniform steps.
        ratio: gain ratio of the next step.
        learning_rate: of the next step.
    """

    step: int
    effective_steps: float
    ratio: float
    learning_rate: float


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that is either there as a whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    unfinished.replace(path)


def json_line(row: Any) -> str:
    """Return a row, a dataclass, as a line of a JSON Lines file."""
    return json.dumps(asdict(row)) + "\n"


def config_text(config: Config) -> str:
    """Return the text of `config.json`."""
    return json.dumps(asdict(config), indent=2) + "\n"
