"""The table of a comparison: how soon each method is as good as uniform's best, how good it ends, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from configuration import BASELINE
from equal_time import relative_cost
from evaluation import Evaluation, Run, Runs
from scores import BALANCED_ERROR, PERPLEXITY, TEST_ERROR, TRAIN_LOSS, Score

MISSING = "-"
ARRIVAL = ("method", "steps to best", "of uniform's", "in seconds", "seeds")
COSTS = ("captured", "step time", "overhead ms")
CAPTURED_FROM_EPOCH = 2
"""Until then most samples were seen once or never."""


@dataclass(frozen=True)
class Arrival:
    """When a method first was as good as uniform's best of the same seed, over the seeds that got there.

    Attributes:
        seeds: how many did.
        steps: steps until then, the mean.
        step_ratios: steps over those that uniform itself took, one a seed.
        time_ratios: the same of the seconds of training.
    """

    seeds: int
    steps: float
    step_ratios: tuple[float, ...]
    time_ratios: tuple[float, ...]


def first_at_or_below(run: Run, target: float, score: Score = TEST_ERROR) -> Evaluation | None:
    """Return the first evaluation with a score of at most `target`, or None."""
    return next((evaluation for evaluation in run if score.of(evaluation) <= target), None)


def arrival(runs: Mapping[int, Run], baselines: Mapping[int, Run], score: Score = TEST_ERROR) -> Arrival | None:
    """Return when the method reached uniform's best score, or None if no seed did."""
    pairs = []
    for seed, run in runs.items():
        target = min(map(score.of, baselines[seed])) if seed in baselines else math.nan
        reached, own = (first_at_or_below(each, target, score) for each in (run, baselines.get(seed, ())))
        if reached is not None and own is not None:
            pairs.append((reached, own))
    if not pairs:
        return None
    return Arrival(
        seeds=len(pairs),
        steps=fmean(reached.step for reached, _ in pairs),
        step_ratios=tuple(reached.step / own.step for reached, own in pairs),
        time_ratios=tuple(reached.seconds / own.seconds for reached, own in pairs),
    )


def comparison_table(runs: Runs, score: Score = TEST_ERROR, epoch: float = 1.0) -> str:
    """Return the table in Markdown, its columns aligned for the terminal too.

    Args:
        runs: the runs of each method by label and seed.
        score: what the methods are compared by.
        epoch: steps of an epoch.
    """
    baselines = runs.get(BASELINE, {})
    shown = [column for each in shown_scores(score) for column in (each.column, f"{each.short} of uniform's")]
    header = (*ARRIVAL, *shown, *COSTS)
    rows = [header, *(_row(label, method_runs, baselines, score, epoch) for label, method_runs in runs.items())]
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
  mean over the seeds that get there. Of uniform's: over the steps that uniform itself takes; in seconds: the same in
  time of training, evaluations left out. Means over seeds, each compared with uniform's run of the same seed.
- {shown} and training loss: of the last evaluation, mean ± standard
  deviation over the seeds; of uniform's: the mean over seeds of the quotient.
- captured: share of the ideal variance reduction, the mean of evaluations from epoch {CAPTURED_FROM_EPOCH} on; 0 is
  uniform, 1 ideal; with training samples in eval mode.
- step time: over uniform's, all told; overhead: what of a step is drawing, fetching and updating the sampler, for
  uniform its plain loader. Where the sampler costs as much as the step it serves choose last-loss or class-gaussian,
  whatever the steps say; lstm is for steps of 30 ms and more.
"""


def _row(
    label: str, runs: Mapping[int, Run], baselines: Mapping[int, Run], score: Score, epoch: float
) -> tuple[str, ...]:
    reached = arrival(runs, baselines, score)
    finals = []
    for shown in shown_scores(score):
        ends = [shown.of(run[-1]) for run in runs.values()]
        finals += [_spread(ends, shown.decimals), _of_uniform(runs, baselines, shown)]
    values = [
        evaluation.captured_of_probe
        for run in runs.values()
        for evaluation in run
        if evaluation.captured_of_probe is not None and evaluation.step >= CAPTURED_FROM_EPOCH * epoch
    ]
    cost = relative_cost(runs, baselines)
    return (
        label,
        *_arrival_cells(reached, f"{reached.seeds if reached else 0} of {len(runs)}" if baselines else MISSING),
        *finals,
        f"{fmean(values):.2f}" if values else "0" if _draws_uniformly(runs) else MISSING,
        MISSING if cost is None else f"{cost:.2f}",
        f"{fmean(run[-1].overhead_ms for run in runs.values()):.2f}",
    )


def _draws_uniformly(runs: Mapping[int, Run]) -> bool:
    return all(evaluation.captured_of_probe is None for run in runs.values() for evaluation in run)


def _arrival_cells(reached: Arrival | None, seeds: str) -> tuple[str, ...]:
    if reached is None:
        return (MISSING, MISSING, MISSING, seeds)
    return (
        f"{reached.steps:,.0f}",
        _spread(reached.step_ratios, 2),
        _spread(reached.time_ratios, 2),
        seeds,
    )


def _of_uniform(runs: Mapping[int, Run], baselines: Mapping[int, Run], score: Score) -> str:
    pairs = [(score.of(run[-1]), score.of(baselines[seed][-1])) for seed, run in runs.items() if seed in baselines]
    return f"{fmean(value / own for value, own in pairs):.2f}" if pairs and all(own for _, own in pairs) else MISSING


def _spread(values: Sequence[float], decimals: int) -> str:
    mean = f"{fmean(values):.{decimals}f}"
    return f"{mean} ± {stdev(values):.{decimals}f}" if len(values) > 1 else mean


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return "| " + " | ".join([cells[0].ljust(widths[0]), *padded[1:]]) + " |"
