"""All comparisons in one table: a row each, and how every method did beside uniform; and what gates cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from configuration import BASELINE
from equal_time import Costs, WholeRun
from evaluation import Runs
from scores import Score
from tables import MISSING, arrival, end_ratios

__all__ = ["OverviewRow", "gates_table", "overview_table"]


@dataclass(frozen=True)
class OverviewRow:
    """A comparison in the overview.

    Attributes:
        title: what the row is called.
        runs: by label and seed, of uniform too.
        score: that methods are compared by.
        seeds: that each method is to have.
        costs: a step's time over one of uniform by label; none where steps are compared and not time.
    """

    title: str
    runs: Runs
    score: Score
    seeds: int
    costs: Costs = field(default_factory=dict)


def overview_table(rows: Sequence[OverviewRow], methods: Sequence[str]) -> str:
    """Return a table in Markdown with a row a comparison, and for each method how it did beside uniform.

    In a cell are the steps to uniform's best over uniform's, or the time, where all seeds get there, and the score at
    the end over uniform's; and how many seeds have run, if that is not all of them.

    Args:
        rows: of the table.
        methods: labels, a column each.
    """
    lines = [f"| {row.title} | {' | '.join(_cell(row, label) for label in methods)} |" for row in rows]
    return "\n".join([f"| | {' | '.join(methods)} |", f"|---|{'---:|' * len(methods)}", *lines])


def gates_table(runs: Mapping[str, Mapping[str, Sequence[WholeRun]]]) -> str:
    """Return a table in Markdown of what whole runs with a gate take beside uniform's.

    Args:
        runs: one a seed, by the title of the comparison and the label of the method.
    """
    header = ("", "method", "a step of uniform", "time of the run", "gate in the end", "second moment reduced")
    lines = [f"| {' | '.join(header)} |", "|---|---|---:|---:|---:|---:|"]
    for title, methods in runs.items():
        for label, own in methods.items():
            ratios = [run.ratio for run in own]
            gains = [run.variance_ratio for run in own if run.variance_ratio is not None]
            num_open = sum(run.is_open for run in own)
            cells = (
                title,
                label,
                f"{median(run.step_ms for run in own):.2g} ms",
                f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                "closed" if num_open == 0 else "open" if num_open == len(own) else f"open in {num_open} of {len(own)}",
                f"{min(gains):.1f} to {max(gains):.1f} times" if gains else MISSING,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: OverviewRow, label: str) -> str:
    if label not in row.runs:
        return ""
    runs, baselines = row.runs[label], row.runs[BASELINE]
    reached, ratios = arrival(runs, baselines, row.score), end_ratios(runs, baselines, row.score)
    arrived = MISSING
    if reached is not None and reached.is_everyone:
        arrived = f"{row.costs.get(label, 1.0) * fmean(reached.step_ratios):.2f}"
    counted = "" if len(runs) >= row.seeds else f" ({len(runs)} of {row.seeds} seeds)"
    return f"{arrived} / {f'{fmean(ratios):.2f}' if ratios else MISSING}{counted}"
