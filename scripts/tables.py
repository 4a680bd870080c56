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
COSTS = ("captured", "step time")
FINAL = 3
"""Evaluations that what a run ends with is the mean of: the test error of one step to the next is mostly chance."""

CAPTURED_FROM_EPOCH = 2
"""Until then most samples were seen once or never."""


@dataclass(frozen=True)
class Arrival:
    """When a method first was as good as uniform's best of the same seed, over the seeds that got there.

    Attributes:
        seeds: how many did.
        compared: of so many that have a run of uniform.
        steps: steps until then, the mean.
        step_ratios: steps over those that uniform itself took, one a seed.
    """

    seeds: int
    compared: int
    steps: float
    step_ratios: tuple[float, ...]

    @property
    def is_everyone(self) -> bool:
        """Whether all seeds got there."""
        return self.seeds == self.compared


def first_at_or_below(run: Run, target: float, score: Score = TEST_ERROR) -> Evaluation | None:
    """Return the first evaluation with a score of at most `target`, or None."""
    return next((evaluation for evaluation in run if score.of(evaluation) <= target), None)


def arrival(runs: Mapping[int, Run], baselines: Mapping[int, Run], score: Score = TEST_ERROR) -> Arrival | None:
    """Return when the method reached uniform's best score, or None if no seed did."""
    pairs = []
    compared = [seed for seed in runs if seed in baselines]
    for seed in compared:
        target = min(map(score.of, baselines[seed]))
        reached, own = (first_at_or_below(run, target, score) for run in (runs[seed], baselines[seed]))
        if reached is not None and own is not None:
            pairs.append((reached.step, own.step))
    if not pairs:
        return None
    return Arrival(
        len(pairs), len(compared), fmean(step for step, _ in pairs), tuple(step / own for step, own in pairs)
    )


def at_end(run: Run, score: Score) -> float:
    """Return what a run ends with, the mean over its last evaluations."""
    return fmean(map(score.of, run[-FINAL:]))


def end_ratios(runs: Mapping[int, Run], baselines: Mapping[int, Run], score: Score) -> tuple[float, ...]:
    """Return what runs end with over what uniform ends with, one a seed; none where uniform ends with 0."""
    pairs = [(at_end(run, score), at_end(baselines[seed], score)) for seed, run in runs.items() if seed in baselines]
    return tuple(value / own for value, own in pairs) if all(own for _, own in pairs) else ()


def captured(runs: Mapping[int, Run], epoch: float) -> float | None:
    """Return the share of the ideal variance reduction, the mean over runs and evaluations after the first epochs.

    Args:
        runs: by seed.
        epoch: its steps.

    Returns:
        The share, or None where nothing was measured after the first epochs.
    """
    later = [
        row.captured_of_probe
        for run in runs.values()
        for row in run
        if row.captured_of_probe is not None and row.step >= CAPTURED_FROM_EPOCH * epoch
    ]
    return fmean(later) if later else None


def comparison_table(
    runs: Runs, score: Score = TEST_ERROR, epoch: float = 1.0, costs: Mapping[str, float] | None = None
) -> str:
    """Return the table in Markdown, its columns aligned for the terminal too.

    Args:
        runs: the runs of each method by label and seed; without uniform among them nothing is relative to it.
        score: what the methods are compared by.
        epoch: steps of an epoch.
        costs: a step's time over one of uniform, by label; a method without one gets no times. Without any costs those
            of the runs themselves count, see `relative_cost`.
    """
    if BASELINE not in runs:
        return _table(
            ("method", "seeds", f"best {score.column}", score.column, TRAIN_LOSS.column), _plain_rows(runs, score)
        )
    baselines = runs[BASELINE]
    scores = shown_scores(score, runs)
    shown = [
        column
        for each in scores
        for column in ((each.column, f"{each.short} of uniform's") if each in (score, TRAIN_LOSS) else (each.column,))
    ]
    header = (*ARRIVAL, *shown, *COSTS)
    return _table(
        header,
        [
            _row(label, own, baselines, scores, epoch, costs.get(label) if costs else relative_cost(own, baselines))
            for label, own in runs.items()
        ],
    )


def shown_scores(score: Score, runs: Runs) -> tuple[Score, ...]:
    """Return the scores that are shown where methods are compared by one of them, which comes first.

    Where the test set has as many samples of each class the balanced error is the error, and is not shown twice.
    """
    if score == PERPLEXITY:
        return (PERPLEXITY, TRAIN_LOSS)
    ends = [run[-1] for own in runs.values() for run in own.values()]
    is_same = all(math.isclose(TEST_ERROR.of(end), BALANCED_ERROR.of(end), rel_tol=1e-4) for end in ends)
    other = BALANCED_ERROR if score == TEST_ERROR else TEST_ERROR
    return (score, TRAIN_LOSS) if is_same else (score, other, TRAIN_LOSS)


def notes(score: Score = TEST_ERROR) -> str:
    """Return what the columns of the table mean."""
    shown = "test perplexity" if score == PERPLEXITY else "errors (on the test set; balanced: mean over the classes)"
    return f"""\
- steps to best: the first evaluation with a {score.title} at or below the best that uniform reaches with the same seed,
  mean over the seeds that get there. Of uniform's: over the steps that uniform itself takes, the mean of
  the quotients of each seed; in seconds: the same times the step time.
- {shown} and training loss: at the end, the mean of the last
  {FINAL} evaluations; of uniform's: over what uniform ends with, the quotients of each seed. ± is the standard
  deviation over the seeds.
- captured: share of the ideal variance reduction, by the upper bounds of training samples in eval mode, the mean of
  evaluations after {CAPTURED_FROM_EPOCH} epochs; 0 is uniform, 1 ideal.
- step time: over that of uniform, all told. Where the sampler costs as much as the step it serves choose last-loss or
  class-gaussian, whatever the steps say; lstm is for steps of 30 ms and more.
"""


def _row(
    label: str,
    runs: Mapping[int, Run],
    baselines: Mapping[int, Run],
    scores: Sequence[Score],
    epoch: float,
    cost: float | None,
) -> tuple[str, ...]:
    reached = arrival(runs, baselines, scores[0])
    finals = []
    for shown in scores:
        finals.append(_spread([at_end(run, shown) for run in runs.values()], shown.decimals))
        if shown in (scores[0], TRAIN_LOSS):
            finals.append(_of_uniform(runs, baselines, shown))
    share = captured(runs, epoch)
    return (
        label,
        *_arrival_cells(reached, len(runs), cost),
        *finals,
        MISSING if share is None else f"{share:.2f}",
        MISSING if cost is None else f"{cost:.2f}",
    )


def _plain_rows(runs: Runs, score: Score) -> list[tuple[str, ...]]:
    return [
        (
            label,
            str(len(own)),
            _spread([min(map(score.of, run)) for run in own.values()], score.decimals),
            _spread([at_end(run, score) for run in own.values()], score.decimals),
            _spread([at_end(run, TRAIN_LOSS) for run in own.values()], TRAIN_LOSS.decimals),
        )
        for label, own in runs.items()
    ]


def _arrival_cells(reached: Arrival | None, seeds: int, cost: float | None) -> tuple[str, ...]:
    if reached is None:
        return (MISSING, MISSING, MISSING, f"0 of {seeds}")
    return (
        f"{reached.steps:,.0f}",
        _spread(reached.step_ratios, 2),
        MISSING if cost is None else f"{cost * fmean(reached.step_ratios):.2f}",
        f"{reached.seeds} of {reached.compared}",
    )


def _of_uniform(runs: Mapping[int, Run], baselines: Mapping[int, Run], score: Score) -> str:
    ratios = end_ratios(runs, baselines, score)
    return _spread(ratios, 2) if ratios else MISSING


def _spread(values: Sequence[float], decimals: int) -> str:
    mean = f"{fmean(values):.{decimals}f}"
    return f"{mean} ± {stdev(values):.{decimals}f}" if len(values) > 1 else mean


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([_line(header, widths), rule, *(_line(row, widths) for row in rows)]) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return "| " + " | ".join([cells[0].ljust(widths[0]), *padded[1:]]) + " |"
