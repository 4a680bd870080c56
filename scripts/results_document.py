"""Tables in a document in Markdown, each between two comments that name it, so that they are written by a script."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean

from configuration import BASELINE
from evaluation import Runs
from scores import Score
from tables import MISSING, arrival, end_ratio

__all__ = ["filled", "overview_table"]

PLACE = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(\n?<!-- end -->)", re.DOTALL)


def filled(document: str, tables: Mapping[str, str]) -> str:
    r"""Return the document with these tables in their places; others stay as they are.

    Example:
        >>> print(filled("<!-- table: a -->\nold\n<!-- end -->", {"a": "new"}))
        <!-- table: a -->
        <BLANKLINE>
        new
        <BLANKLINE>
        <!-- end -->
    """

    def replaced(match: re.Match[str]) -> str:
        if match["name"] not in tables:
            return match[0]
        return f"<!-- table: {match['name']} -->\n\n{tables[match['name']].strip()}\n\n<!-- end -->"

    return PLACE.sub(replaced, document)


def overview_table(
    comparisons: Mapping[str, tuple[Runs, Score]], methods: Sequence[str], costs: Mapping[str, Mapping[str, float]]
) -> str:
    """Return a table in Markdown with a row a comparison, and for each method how it did beside uniform.

    In a cell are the steps to uniform's best over uniform's, or the time, where all seeds get there, and the score at
    the end over uniform's.

    Args:
        comparisons: the runs by label, and what they are compared by, by the name of the comparison.
        methods: labels, a column each.
        costs: a step's time over one of uniform by label, by the name of the comparison, for those compared in time.
    """
    rows = []
    for name, (runs, score) in comparisons.items():
        cells = [_cell(runs, label, score, costs.get(name, {}).get(label, 1.0)) for label in methods]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([f"| | {' | '.join(methods)} |", f"|---|{'---:|' * len(methods)}", *rows])


def _cell(runs: Runs, label: str, score: Score, cost: float) -> str:
    if label not in runs or BASELINE not in runs:
        return ""
    reached = arrival(runs[label], runs[BASELINE], score)
    ratio = end_ratio(runs[label], runs[BASELINE], score)
    arrived = f"{cost * fmean(reached.step_ratios):.2f}" if reached is not None and reached.is_everyone else MISSING
    return f"{arrived} / {MISSING if ratio is None else f'{ratio:.2f}'}"
