"""The benchmark of the sum tree in tables: what was measured, and the verdict on its targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from contenders import CONTENDERS, ReplayBuffer, Tree
from tables import MISSING

NOT_MEASURED = "not measured"
OWN = Tree.title

COMPARED_SIZE = 10**7
SMALLEST, LARGEST = 10**5, 10**8
"""Sizes between which the time may grow `MOST_GROWTH` times."""

AIM = 600
MOST_GROWTH = 3
MOST_BYTES = 2 * 10**9
PUBLISHED = {"cpprb": 1_486, "TorchRL": 1_289}
"""Draw + update of 128 of `COMPARED_SIZE` items on one thread, ns per item, measured elsewhere."""


@dataclass(frozen=True)
class Quartiles:
    """Of the repeats' times, ns per item."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Quartiles:
        """Return the quartiles of times."""
        lower, median, upper = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
        return cls(lower, median, upper)


@dataclass(frozen=True)
class Measurement:
    """One contender with so many items.

    Attributes:
        contender: its title.
        size: number of items N.
        threads: of torch.
        bytes_per_item: by which the process's memory grew, or None where that is not known.
        draw: time of a draw.
        update: time of an update.
        both: sum of the two in the same repeat.
    """

    contender: str
    size: int
    threads: int
    bytes_per_item: float | None
    draw: Quartiles
    update: Quartiles
    both: Quartiles


@dataclass(frozen=True)
class Target:
    """What is to be reached, the figure beside it, and whether it was; None where that was not measured."""

    what: str
    figure: str
    met: bool | None


def targets(measurements: Iterable[Measurement]) -> list[Target]:
    """Return the verdict on each target."""
    found = {(row.contender, row.size): row for row in measurements if row.threads == 1}
    times = {contender: row.both.median for (contender, size), row in found.items() if size == COMPARED_SIZE}
    own, where = times.pop(OWN, None), f"draw + update at N = {short(COMPARED_SIZE)}, one thread"
    limits = {f"below {peer} beside it": time for peer, time in times.items()}
    limits |= {f"below {peer} measured elsewhere": time for peer, time in PUBLISHED.items()}
    limits |= {"aim": AIM}
    return [
        *(_time_target(f"{where}: {what}", own, limit) for what, limit in limits.items()),
        _growth_target(found.get((OWN, SMALLEST)), found.get((OWN, LARGEST))),
        _memory_target(found.get((OWN, LARGEST))),
    ]


def report(measurements: Sequence[Measurement]) -> str:
    """Return all tables in Markdown."""
    threads = dict.fromkeys(row.threads for row in measurements)
    tables = [*(time_table(measurements, count) for count in threads), memory_table(measurements)]
    return "\n\n".join([*tables, target_table(targets(measurements))])


def time_table(measurements: Iterable[Measurement], threads: int) -> str:
    """Return each contender's times on so many threads."""
    rows = [row for row in measurements if row.threads == threads]
    cells = {}
    for name in ("draw", "update", "both"):
        for row in rows:
            what = f"{row.contender}, {'draw + update' if name == 'both' else name}"
            cells[what, row.size] = f"{getattr(row, name).median:,.0f}"
    return _table(f"ns per item, {threads} {'thread' if threads == 1 else 'threads'}", cells, rows)


def memory_table(measurements: Iterable[Measurement]) -> str:
    """Return the memory that each contender takes."""
    rows = list(measurements)
    known = ((row.contender, row.size, row.bytes_per_item) for row in rows)
    cells = {(name, size): MISSING if value is None else f"{value:.1f}" for name, size, value in known}
    return _table("bytes per item", cells, rows)


def target_table(verdicts: Iterable[Target]) -> str:
    """Return the verdicts."""
    words = {True: "met", False: "not met", None: MISSING}
    lines = [f"| {target.what} | {target.figure} | {words[target.met]} |" for target in verdicts]
    return "\n".join(["| target | measured | |", "|---|---:|---|", *lines])


def short(number: int) -> str:
    """Return a number in three digits.

    Example:
        >>> short(10_000_000)
        '1e7'
    """
    return f"{number:.3g}".replace("e+0", "e")


def _time_target(what: str, own: float | None, limit: float) -> Target:
    if own is None:
        return Target(f"{what}, {limit:,.0f} ns", NOT_MEASURED, None)
    return Target(f"{what}, {limit:,.0f} ns", f"{own:,.0f} ns", own < limit)


def _growth_target(small: Measurement | None, large: Measurement | None) -> Target:
    what = (
        f"draw + update, one thread: growth from N = {short(SMALLEST)} to {short(LARGEST)}, at most {MOST_GROWTH} times"
    )
    if small is None or large is None:
        return Target(what, NOT_MEASURED, None)
    growth = large.both.median / small.both.median
    return Target(what, f"{growth:.2f} times", growth <= MOST_GROWTH)


def _memory_target(large: Measurement | None) -> Target:
    what = f"memory at N = {short(LARGEST)}, at most {MOST_BYTES / 1e9:.0f} GB"
    if large is None or large.bytes_per_item is None:
        return Target(what, NOT_MEASURED, None)
    size = large.bytes_per_item * large.size
    return Target(what, f"{size / 1e9:.2f} GB", size <= MOST_BYTES)


def _table(title: str, cells: dict[tuple[str, int], str], rows: Iterable[Measurement]) -> str:
    """Return a line for each first key of the cells, a column for each second."""
    sizes = list(dict.fromkeys(row.size for row in rows))
    lines = [f"| {title} | {' | '.join(f'N = {short(size)}' for size in sizes)} |", "|---|" + "---:|" * len(sizes)]
    names = sorted(dict.fromkeys(name for name, _ in cells), key=_position)
    if not any(name.startswith(ReplayBuffer.title) for name in names):
        names.append(f"{ReplayBuffer.title}: not installed")
    bodies = (" | ".join(cells.get((name, size), MISSING) for size in sizes) for name in names)
    return "\n".join([*lines, *(f"| {name} | {body} |" for name, body in zip(names, bodies, strict=True))])


def _position(name: str) -> int:
    """Return the place of a contender of which the name of a line begins with the title."""
    return next(place for place, contender in enumerate(CONTENDERS) if name.startswith(contender.title))
