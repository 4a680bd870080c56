"""The table of a comparison: how soon each method is as good as uniform's best, how good it ends, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from configuration import BASELINE
from evaluation import Evaluation, Run, Runs
from scores import BALANCED_ERROR, PERPLEXITY, TEST_ERROR, TRAIN_LOSS, Score

MISSING = "-"
ARRIVAL = ("method", "steps to best", "seconds", "of uniform's", "seeds")
OVERHEAD = ("overhead ms", "overhead %")


@dataclass(frozen=True)
class Arrival:
    """When a method first was as good as uniform's best of the same seed, mean over the seeds that got there.

    Attributes:
        seeds: how many did.
        steps: steps until then.
        seconds: training time until then.
        of_uniform: steps over the steps that uniform itself took, in the same seeds.
    """

    seeds: int
    steps: float
    seconds: float
    of_uniform: float


def first_at_or_below(run: Run, target: float, score: Score = TEST_ERROR) -> Evaluation | None:
    """Return the first evaluation with a score of at most `target`, or None."""
    return next((evaluation for evaluation in run if score.of(evaluation) <= target), None)


def arrival(runs: Sequence[Run], baselines: Sequence[Run], score: Score = TEST_ERROR) -> Arrival | None:
    """Return when the method reached uniform's best score, or None if no seed did."""
    targets = [min(map(score.of, baseline)) for baseline in baselines]
    pairs = [
        (reached, first_at_or_below(baseline, target, score))
        for run, baseline, target in zip(runs, baselines, targets, strict=True)
        if (reached := first_at_or_below(run, target, score)) is not None
    ]
    if not pairs:
        return None
    steps = fmean(reached.step for reached, _ in pairs)
    return Arrival(
        seeds=len(pairs),
        steps=steps,
        seconds=fmean(reached.seconds for reached, _ in pairs),
        of_uniform=steps / fmean(own.step for _, own in pairs if own is not None),
    )


def comparison_table(runs: Runs, score: Score = TEST_ERROR) -> str:
    """Return the table in Markdown, its columns aligned for the terminal too.

    Args:
        runs: the runs of each method by label.
        score: what the methods are compared by.
    """
    baselines = runs.get(BASELINE)
    header = (*ARRIVAL, *(shown.column for shown in shown_scores(score)), *OVERHEAD)
    rows = [header, *(_row(label, method_runs, baselines, score) for label, method_runs in runs.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [_line(row, widths) for row in rows]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def shown_scores(score: Score) -> tuple[Score, ...]:
    """Return the scores that are shown where methods are compared by one of them."""
    return (PERPLEXITY, TRAIN_LOSS) if score == PERPLEXITY else (TEST_ERROR, BALANCED_ERROR, TRAIN_LOSS)


def notes(score: Score = TEST_ERROR) -> str:
    """Return what the columns of the table mean."""
    shown = "test perplexity" if score == PERPLEXITY else "errors (on the test set; balanced: mean over the classes)"
    return f"""\
- steps to best: the first evaluation with a {score.title} at or below the best that uniform reaches with the same seed,
  mean over the seeds that get there; seconds: of training until then; of uniform's: steps over those of uniform.
- {shown} and training loss: of the last evaluation, mean ± standard
  deviation over the seeds.
- overhead: time a step spent drawing, fetching and updating the sampler, in percent of the rest of the step; for
  uniform that of its plain loader. Above 100 % the sampler costs more than the step it serves: on a network so small
  choose last-loss or class-gaussian, whatever the steps say; lstm is for steps of 30 ms and more.
"""


def _row(label: str, runs: Sequence[Run], baselines: Sequence[Run] | None, score: Score) -> tuple[str, ...]:
    reached = arrival(runs, baselines, score) if baselines else None
    return (
        label,
        *_arrival_cells(reached, f"{reached.seeds if reached else 0} of {len(runs)}" if baselines else MISSING),
        *(_mean_and_deviation(runs, shown) for shown in shown_scores(score)),
        f"{fmean(run[-1].overhead_ms for run in runs):.2f}",
        f"{fmean(run[-1].overhead_percent for run in runs):.0f}",
    )


def _arrival_cells(reached: Arrival | None, seeds: str) -> tuple[str, ...]:
    if reached is None:
        return (MISSING, MISSING, MISSING, seeds)
    return (
        f"{reached.steps:,.0f}",
        f"{reached.seconds:.1f}",
        f"{reached.of_uniform:.2f}",
        seeds,
    )


def _mean_and_deviation(runs: Sequence[Run], score: Score) -> str:
    values = [score.of(run[-1]) for run in runs]
    mean = f"{fmean(values):.{score.decimals}f}"
    return f"{mean} ± {stdev(values):.{score.decimals}f}" if len(values) > 1 else mean


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return "| " + " | ".join([cells[0].ljust(widths[0]), *padded[1:]]) + " |"
