"""The results of many runs in one file of JSON lines, a row an evaluation, which processes may write to together."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

from configuration import Config
from evaluation import Evaluation, Run
from runs import write_atomically

__all__ = ["ResultsFile", "RunKey", "digest", "read_runs"]

DIGITS = 6
"""Significant ones that are kept."""


@dataclass(frozen=True)
class RunKey:
    """What a run is known by: its config alone, so that comparisons share what they have in common.

    Attributes:
        comparison: that it is part of, or another one that has the same run.
        method: as it is written there, see `methods`.
        seed: of the run.
        config: `digest` of its config.
    """

    comparison: str = field(compare=False)
    method: str = field(compare=False)
    seed: int
    config: str


def digest(config: Config) -> str:
    """Return a hash of the fields of a run's config that are not as they are by default.

    A new field with a default that changes nothing leaves the runs of before valid. Code, what a data set is made of,
    and what the defaults are, are not in it: whoever changes these deletes the runs that they concern. Those that a
    default concerns are all that do not set the field, and a test fails until it has the new one.

    Args:
        config: of the run.
    """
    defaults = {each.name: getattr(Config(config.dataset), each.name) for each in fields(Config)}
    own = {name: value for name, value in asdict(config).items() if name != "dataset" and value != defaults[name]}
    return hashlib.sha256(json.dumps([config.dataset, own], sort_keys=True).encode()).hexdigest()[:12]


class ResultsFile:
    """Finished runs in a file. Processes that write to it at once wait for one another, and none does another's run.

    Args:
        path: of the file, in a folder that exists.
        known: another such file, which may be compressed, whose runs count as finished; it need not exist.
    """

    def __init__(self, path: Path, known: Path | None = None) -> None:
        self._path = path
        self._known = known

    def runs(self) -> dict[RunKey, list[Evaluation]]:
        """Return the finished runs."""
        return {**(read_runs(self._known) if self._known else {}), **read_runs(self._path)}

    def append(self, key: RunKey, evaluations: Run) -> None:
        """Add a finished run, all of it or nothing."""
        text = "".join(f"{json.dumps(row)}\n" for row in _rows(key, evaluations))
        with self._path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.seek(0, os.SEEK_END) and not _ends_a_line(file):
                text = f"\n{text}"
            file.write(text.encode())

    @contextmanager
    def claim(self, key: RunKey) -> Iterator[bool]:
        """Yield whether the run is this process's to do: no other is doing it, and none has finished it.

        The claim ends with the process, however that ends.
        """
        path = self._path.parent / ".claims" / f"{key.seed}-{key.config}"
        path.parent.mkdir(exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield key not in self.runs()

    def publish(self, keys: Iterable[RunKey], path: Path) -> int:
        """Write these runs, those that are finished, into a file of their own; compressed if its name ends in `.gz`.

        Returns:
            How many other runs are finished.
        """
        runs, wanted = self.runs(), list(keys)
        rows = (json.dumps(row) for key in wanted if key in runs for row in _rows(key, runs[key]))
        text = "".join(f"{row}\n" for row in rows)
        write_atomically(path, gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text)
        return len(runs.keys() - set(wanted))


def read_runs(path: Path) -> dict[RunKey, list[Evaluation]]:
    """Return the runs of a file, compressed if its name ends in `.gz`; none where there is no file.

    A run whose lines were cut short, by a full disk or a power cut, counts as not finished; of one that is there twice
    the later one counts.

    Raises:
        ValueError: a line holds something else.
    """
    if not path.is_file():
        return {}
    runs: dict[RunKey, list[Evaluation]] = {}
    complete: set[RunKey] = set()
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            try:
                key = RunKey(*(row.pop(each.name) for each in fields(RunKey)))
                is_last = row.pop("last")
                evaluation = Evaluation(**{each.name: row.get(each.name) for each in fields(Evaluation)})
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}, line {number}, is no row of a comparison's results: {error!r}.") from error
            before = runs.setdefault(key, [])
            if before and evaluation.step <= before[-1].step:
                before.clear()
            before.append(evaluation)
            (complete.add if is_last else complete.discard)(key)
    return {key: evaluations for key, evaluations in runs.items() if key in complete}


def _rows(key: RunKey, evaluations: Run) -> Iterator[dict[str, Any]]:
    for position, evaluation in enumerate(evaluations, start=1):
        is_last = position == len(evaluations)
        rounded = {name: _rounded(value) for name, value in asdict(evaluation).items()}
        values = {name: value for name, value in rounded.items() if value is not None}
        if not is_last:
            values.pop("class_errors", None)  # a third of the file, and looked at only at the end
        yield {**asdict(key), "last": is_last, **values}


def _ends_a_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None  # JSON has no other numbers
