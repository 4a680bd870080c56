"""Overheads in words, tables and JSON, beside what they should be at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from overhead_measure import Measurement
from workloads import RECIPES

PARTS = ("drawing", "scoring", "weighting", "history", "training", "prediction", "tree", "rest", "refits")
"""Parts of a sampler's time, in the order in which they come in a step."""

Percents = Mapping[str, Mapping[str, float]]

TARGETS: dict[str, dict[tuple[str, str], float]] = {
    "cpu": {
        ("paper", "lstm"): 3.0,
        ("paper", "rais"): 1.5,
        ("paper", "class-gaussian"): 0.5,
        ("paper", "last-loss"): 0.5,
        ("small-cnn", "lstm"): 15.0,
    },
    "cuda": {("resnet-18", "lstm"): 2.0},
}
"""Largest overheads in percent of a uniform step of 128 samples, by the type of the device; on two cores of a CPU."""


@dataclass(frozen=True)
class Verdict:
    """An overhead beside its target, both in percent of a uniform step."""

    model: str
    predictor: str
    percent: float
    target: float

    @property
    def is_met(self) -> bool:
        """Whether the overhead is as small as it should be."""
        return self.percent <= self.target

    def __str__(self) -> str:
        """Return it as a sentence."""
        which = f"`{self.predictor}` beside the {RECIPES[self.model].title}: {self.percent:.2f} % of a step"
        return f"{which}, target at most {self.target:g} %: {'met' if self.is_met else 'not met'}"


def verdicts(percents: Percents, device_type: str) -> list[Verdict]:
    """Return the targets that were measured, with what was measured.

    Args:
        percents: overheads, by model and predictor.
        device_type: "cpu" or "cuda".
    """
    return [
        Verdict(model, predictor, percents[model][predictor], target)
        for (model, predictor), target in TARGETS.get(device_type, {}).items()
        if predictor in percents.get(model, {})
    ]


def percents_of(measurements: Mapping[str, Measurement], device: str) -> dict[str, dict[str, float]]:
    """Return the overheads by model and predictor: on an accelerator of whole loops, as to time parts is to wait."""
    return {
        model: {
            predictor: overhead.percent if device == "cpu" else overhead.loop_percent
            for predictor, overhead in measured.overheads.items()
        }
        for model, measured in measurements.items()
    }


def as_json(measured: Measurement) -> dict[str, Any]:
    """Return what was measured beside a workload for the JSON file; times in ms."""
    return {
        "rounds": measured.rounds,
        "uniform_step_ms": measured.uniform_step,
        "loading_ms": measured.loading,
        "predictors": {
            predictor: {
                "parts_ms": {part: overhead.parts[part] for part in PARTS if part in overhead.parts},
                "total_ms": overhead.total,
                "percent": overhead.percent,
                "loop_percent": overhead.loop_percent,
            }
            for predictor, overhead in measured.overheads.items()
        },
    }


def table(model: str, measured: Measurement) -> str:
    """Return the overheads beside a workload, in Markdown; parts in ms."""
    shown = [part for part in PARTS if any(part in overhead.parts for overhead in measured.overheads.values())]
    lines = [
        f"{RECIPES[model].title}: a uniform step takes {measured.uniform_step:.2f} ms, {measured.loading:.2f} ms of it "
        f"to load the batch (medians of {measured.rounds})\n",
        f"| ms | {' | '.join(shown)} | sum | % of the step | % by whole loops |",
        "|---|" + "---:|" * (len(shown) + 3),
    ]
    for predictor, overhead in measured.overheads.items():
        cells = [f"{overhead.parts[part]:.3f}" if part in overhead.parts else "" for part in shown]
        cells += [f"{overhead.total:.3f}", f"{overhead.percent:.2f}", f"{overhead.loop_percent:.2f}"]
        lines.append(f"| {predictor} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
