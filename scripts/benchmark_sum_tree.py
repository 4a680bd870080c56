"""Time draws from the sum tree and updates of it beside other ways to draw by weight, in one run.

All contenders of a size hold their items at the same time and are timed in turns, on each number of threads, over and
over. Indices differ from call to call, so that what a call reads is in no cache because of the one before it. Memory is
what the process grew by when a contender was made and used once.

Example:
    python scripts/benchmark_sum_tree.py --out runs/bench
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from tqdm import tqdm

from contenders import Contender, ReplayBuffer, installed, resident_bytes
from machine import describe
from options import positive
from runs import write_atomically
from sum_tree_plot import plot
from sum_tree_report import Measurement, Quartiles, report

Times = tuple[float, float]
"""ns per item of a draw and of an update."""

PRESETS: dict[str, dict[str, Any]] = {
    "full": {"sizes": [10**5, 10**6, 10**7, 10**8], "repeats": 9, "calls": 1000},
    "short": {"sizes": [10**5, 10**6, 10**7], "repeats": 5, "calls": 200},
}
"""Defaults of options by the name of the preset."""

LONGEST = 0.25
"""Seconds that the calls of a repeat may take, unless it is a single call."""


def main() -> None:
    """Run the script."""
    arguments = parse_arguments()
    measurements: list[Measurement] = []
    for kind in installed():
        build(kind, Batches(1000, arguments.batch_size))  # so that what is loaded once is in nobody's memory
    for size in tqdm(arguments.sizes, unit="size", leave=False):
        measurements += measure(size, arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(arguments, name) for name in ("threads", "repeats", "calls", "batch_size")}
    content = {**machine(), **settings, "measurements": [asdict(row) for row in measurements]}
    write_atomically(arguments.out / "sum_tree.json", json.dumps(content, indent=2) + "\n")
    setting = f"batches of {arguments.batch_size}, medians of {arguments.repeats}"
    plot(measurements, f"{setting}, {machine()['cpu']}", arguments.out / "sum_tree.png")
    print(f"{setting}; {', '.join(' '.join(pair) for pair in machine().items())}\n\n{report(measurements)}")


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments; a preset changes their defaults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    option = parser.add_argument
    option("--preset", choices=PRESETS, default="full", help="defaults of the options below (default: %(default)s)")
    option("--sizes", nargs="+", type=number, metavar="N", help="numbers of items")
    option("--threads", nargs="+", type=positive, default=[1, 2], metavar="T", help="of torch (default: 1 2)")
    option("--repeats", type=positive, metavar="R", help="times that each is timed")
    option("--calls", type=positive, metavar="C", help=f"in a repeat, or as many as {LONGEST} s hold")
    option("--batch-size", type=positive, default=128, metavar="B", help="items of a call (default: %(default)s)")
    option("--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="(default: %(default)s)")
    parser.set_defaults(**PRESETS[parser.parse_args().preset])
    return parser.parse_args()


def number(text: str) -> int:
    """Parse a number of items, such as 1e5."""
    return positive(f"{float(text):.0f}")


def machine() -> dict[str, str]:
    """Return the processor and the versions of what is timed."""
    packages = ["numpy", *(["cpprb"] if ReplayBuffer in installed() else [])]
    return describe() | {name: version(name) for name in packages}


def measure(size: int, arguments: argparse.Namespace) -> list[Measurement]:
    """Time all contenders with so many items."""
    batches = Batches(size, arguments.batch_size)
    made = [build(kind, batches) for kind in installed() if size <= kind.largest]
    calls = [most_calls(contender, batches, arguments.calls) for contender, _ in made]
    times: dict[tuple[int, str], list[Times]] = {}
    for _ in range(arguments.repeats):
        for threads in arguments.threads:
            with torch_threads(threads):
                for (contender, _), count in zip(made, calls, strict=True):
                    times.setdefault((threads, contender.title), []).append(time_calls(contender, batches, count))
    return [
        Measurement(contender.title, size, threads, grown, *quartiles(times[threads, contender.title]))
        for threads in arguments.threads
        for contender, grown in made
    ]


class Batches:
    """Random indices and values of which no two calls get the same."""

    def __init__(self, num_items: int, batch_size: int) -> None:
        self.num_items = num_items
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(0)

    def take(self, contender: Contender | type[Contender], calls: int) -> list[tuple[Any, Any]]:
        """Return what so many updates of a contender are called with."""
        shape = calls, self.batch_size
        indices = torch.randint(self.num_items, shape, generator=self.generator)
        values = 1 - torch.rand(shape, generator=self.generator)
        return [contender.prepare(*batch) for batch in zip(indices, values, strict=True)]


def build(kind: type[Contender], batches: Batches) -> tuple[Contender, float | None]:
    """Return a contender that was used once, and the bytes per item by which the process grew."""
    batch = batches.take(kind, 1)[0]
    before = resident_bytes()
    contender = kind(batches.num_items)
    contender.draw(batches.batch_size)
    contender.update(*batch)
    after = resident_bytes()
    return contender, None if before is None or after is None else (after - before) / batches.num_items


def most_calls(contender: Contender, batches: Batches, calls: int) -> int:
    """Return how many of the calls take no longer than `LONGEST`, at least one."""
    seconds = max(time_calls(contender, batches, 1)) * batches.batch_size / 1e9
    return max(1, min(calls, int(LONGEST / seconds)))


def time_calls(contender: Contender, batches: Batches, calls: int) -> Times:
    """Return the ns per item of draws and of as many updates."""
    prepared = batches.take(contender, calls)
    seconds = run(contender.draw, [(batches.batch_size,)] * calls), run(contender.update, prepared)
    draw, update = (1e9 * each / (calls * batches.batch_size) for each in seconds)
    return draw, update


def run(call: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> float:
    """Return the seconds that calls take, one with each of the arguments."""
    started = perf_counter()
    for each in arguments:
        call(*each)
    return perf_counter() - started


def quartiles(times: Sequence[Times]) -> Iterator[Quartiles]:
    """Yield those of draws, of updates, and of the two together."""
    draws, updates = zip(*times, strict=True)
    for each in (draws, updates, [sum(pair) for pair in times]):
        yield Quartiles.of(each)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    main()
