"""What comparisons have come to: tables, figures, and a document that has both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comparisons import OVERVIEW, Comparison
from configuration import BASELINE
from equal_time import StepTimes
from evaluation import Runs
from jobs import Job, finished_runs
from methods import Method
from overview import OverviewRow, gates_table, overview_table
from overview_plot import plot_overview
from plots import plot_runs
from results_document import filled
from results_file import ResultsFile
from runs import write_atomically
from tables import comparison_table, notes
from tasks import load_task

__all__ = ["Report", "write_documents"]


class Report:
    """What one comparison has come to.

    Args:
        comparison: that it is about.
        jobs: its runs, one at least.
        results: where the finished ones are.
        times: that were measured for it, if any; without them those of the runs count, see `comparison_table`.

    Attributes:
        name: of the comparison.
        is_in_time: whether it is one in equal time.
        title: of what is trained on, and with what.
        score: that methods are compared by.
        runs: the finished ones by the methods' labels.
        costs: a step's time over one of uniform, by label.
        gated: runs with a gate that were timed, by label.
        table: in Markdown; empty without a finished run.
    """

    def __init__(
        self, comparison: Comparison, jobs: Sequence[Job], results: ResultsFile, times: StepTimes | None = None
    ) -> None:
        self._config = jobs[0].config
        self._task = load_task(self._config.dataset, jobs[0].data_dir)
        self.name, self.score, self.title = comparison.name, self._task.score, comparison.title or self._task.title
        labels, found = {job.key.method: job.label for job in jobs}, finished_runs(jobs, results)
        self.runs: Runs = {label: found[method] for method, label in labels.items() if method in found}
        self._drawn: Runs = {labels[method]: found[method] for method in comparison.drawn if method in found}
        self._seeds, self.is_in_time = comparison.seeds, comparison.like is not None
        self._one_rate = any(method.lr is None for method in comparison.parsed.values())
        costs, whole = (times.costs, times.runs) if times is not None else ({}, {})
        self.costs = {label: costs[method] for method, label in labels.items() if method in costs}
        self.gated = {
            label: whole[text] for text, label in labels.items() if text in whole and comparison.parsed[text].gated
        }
        epoch = len(self._task.train) / self._config.batch_size
        self.table = comparison_table(self.runs, self.score, epoch, self.costs) if self.runs else ""

    def __str__(self) -> str:
        """Return the table and what its columns mean."""
        return f"{self.name}\n\n{self.table}\n{notes(self.score)}"

    def write(self, folder: Path) -> None:
        """Write the table and the figure."""
        write_atomically(folder / f"{self.name}.md", f"{self.table}\n{notes(self.score)}")
        self.draw(folder)

    def draw(self, folder: Path) -> None:
        """Write the figure."""
        path, drawn = folder / f"{self.name}.png", self._drawn or self.runs
        plot_runs(drawn, self._task, self._config, path, self.costs, in_time=self.is_in_time, one_rate=self._one_rate)

    def row(self) -> OverviewRow:
        """Return what the overview shows of it."""
        return OverviewRow(self.title, self.runs, self.score, self._seeds, self.costs if self.is_in_time else {})


def write_documents(paths: Sequence[Path], reports: Sequence[Report]) -> None:
    """Put the tables into their places in documents, and the figures into a folder beside the first, with its name.

    Args:
        paths: of the documents; a table's place is between `<!-- table: name -->` and `<!-- end -->`.
        reports: of comparisons that have finished runs.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    figures = paths[0].with_suffix("")
    figures.mkdir(exist_ok=True)
    tables = {report.name: report.table for report in reports}
    methods = [Method.parse(written).label for written in OVERVIEW]
    for name, in_time in (("overview", False), ("overview-time", True)):
        if rows := [each.row() for each in reports if is_shown(each, in_time=in_time)]:
            tables[name] = overview_table(rows, methods)
            plot_overview(rows, methods, figures / f"{name}.png", in_time=in_time)
    if gated := {each.title: each.gated for each in reports if each.gated and is_shown(each, in_time=False)}:
        tables["gates"] = gates_table(gated)
    for report in reports:
        if any(f"{figures.name}/{report.name}.png" in text for text in texts.values()):
            report.draw(figures)
    for path, text in texts.items():
        write_atomically(path, filled(text, tables))


def is_shown(report: Report, *, in_time: bool) -> bool:
    """Return whether a comparison has a row in the overview of those at equal steps or of those in equal time."""
    return BASELINE in report.runs and report.is_in_time == in_time and len(report.runs) > 1
