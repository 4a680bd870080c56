"""What is compared: methods on a workload, over seeds. `EVIDENCE` is what `make results` runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from configuration import Config
from methods import Method

__all__ = ["DEMO", "EVIDENCE", "Comparison"]

DRAWN = (
    *("uniform", "last-loss:0.5", "class-gaussian:0.5", "lstm:0.5"),
    *("lstm:1:upper-bound", "rais:1:upper-bound"),
)
"""Methods in figures, unless a comparison names others; they are run first."""

OVERVIEW = ("last-loss:0.5", "class-gaussian:0.5", "lstm:0.5", "lstm:1:upper-bound", "rais:1:upper-bound")
"""Methods of the overview of all comparisons."""

FIRST_SEEDS = 3
"""Seeds of theirs that are run before all other methods."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods on one workload, over seeds.

    Attributes:
        name: in the results, in the names of figures, and in `--only`.
        methods: as they are written, see `methods`.
        settings: fields of `Config` that all runs have in common; a `dataset` at least.
        seeds: how many, from 0.
        drawn: methods in the figure; those of `methods` where none of these is among them.
        options: keyword arguments by predictor.
        title: in overviews; that of the data set where there is none.
        like: name of the comparison whose step times count, see `step_times.py`: a method gets as many steps as fit
            into the time that `steps` take uniform. None for the same number of steps for all.
    """

    name: str
    methods: tuple[str, ...]
    settings: dict[str, Any]
    seeds: int = 3
    drawn: tuple[str, ...] = DRAWN
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    title: str = ""
    like: str | None = None

    @property
    def parsed(self) -> dict[str, Method]:
        """The methods by how they are written, each once.

        Raises:
            ValueError: one is not written as it should be.
        """
        methods = [Method.parse(text) for text in self.methods]
        return {str(method): method for method in methods}

    def config(self, text: str, **changes: Any) -> Config:
        """Return what a run by a method does, which is written so, with some fields of it changed."""
        method = self.parsed[text]
        options = self.options.get(method.predictor, {})
        return Config(**{**self.settings, **method.settings, "predictor_options": options, **changes})


OTHERS = ("rs2", "infobatch", "selective-backprop")
PEERS = ("last-loss:1:upper-bound", "last-loss:0.5", "last-loss:0", "rank:1:upper-bound", "rank:0.5", "rank:0")
AS_PUBLISHED = ("rank:0+annealed", "last-loss:0.4+annealed")
"""Online batch selection and prioritised replay, see `published.as_published`."""
PRESAMPLED = ("upper-bound:1:upper-bound", "oracle:1", "oracle:0.5", "oracle:0")
PREDICTED = (
    *("class-gaussian:1:upper-bound", "class-gaussian:0.5", "class-gaussian:0"),
    *("lstm:1:upper-bound", "lstm:0.5", "lstm:0"),
    *("rais:1:upper-bound", "rais:0.5", "rais:0"),
)
GATED = ("lstm:1:upper-bound+gate", "upper-bound:1:upper-bound+gate")
ALL = ("uniform", *PREDICTED, *PEERS, *AS_PUBLISHED, *OTHERS, *PRESAMPLED, *GATED)
PRIMARY = (*DRAWN, GATED[0])
EACH = (*DRAWN, *GATED, "rank:0.5", *AS_PUBLISHED, "upper-bound:1:upper-bound", "oracle:1", *OTHERS, "lstm:0")
"""One of each kind, where a step takes long; `ALL` where every k is affordable."""
IN_TIME = (*DRAWN, *GATED, "rank:0.5", "upper-bound:1:upper-bound", *OTHERS)
RATES_IN_TIME = {
    "shuttle": 0.003,
    "fashion-mnist-lt": 0.003,
    "fashion-mnist-small": 0.006,
    "fashion-mnist-finetune": 0.01,
    "fashion-mnist-rows": 0.01,
    "kjv": 0.01,
}
"""Of the comparisons that are run in equal time too, the rate there: the one with which uniform reaches its best, and
for rows, where two tie in that, the one with which it ends lower."""
ON_NOISE = (
    *("uniform", "lstm:1:upper-bound", "lstm:0.5", "lstm:0.5+reducible", "lstm:0", "lstm:0+reducible"),
    *("last-loss:0.5", "last-loss:0.5+reducible", "last-loss:0", "last-loss:0+reducible"),
)
WITH_SGD = (
    *("uniform", "lstm:1:upper-bound", "lstm:1:upper-bound+gain", "rais:1:upper-bound", "rais:1:upper-bound+gain"),
    *("lstm:1:upper-bound@0.01+gain", "rais:1:upper-bound@0.01+gain", "svrg@0.3", "katyusha@0.3", "scsg@0.3"),
)
GRADIENT_OPTIONS = {"scsg": {"big_batch": 4_096, "batch_growth": 0.0, "lr_exponent": 0.0, "inner": "fixed"}}
"""Stages of 32 minibatches and a constant rate, as in its authors' code, but minibatches of plain epochs, where theirs
are parts of the stage's large batch. With the step sizes of the theory it stalls."""

ADAM_RATES = (0.0003, 0.001, 0.003, 0.01)

SHUTTLE = {"dataset": "shuttle", "steps": 8_000, "eval_every": 200}
SMALL = {"dataset": "fashion-mnist", "model": "small-cnn", "steps": 3_000, "eval_every": 150}
PAPER = {"dataset": "fashion-mnist", "model": "paper", "steps": 6_000, "eval_every": 300}
LONG_TAILED = {"dataset": "fashion-mnist-lt", "model": "mlp", "steps": 3_000, "eval_every": 150}
NOISY = {"model": "mlp", "steps": 6_000, "eval_every": 300}
FINE_TUNED = {"dataset": "fashion-mnist-finetune", "model": "small-cnn", "steps": 1_500, "eval_every": 100}
ROWS = {"dataset": "fashion-mnist", "model": "row-lstm", "steps": 2_000, "eval_every": 125}
BIBLE = {"dataset": "kjv-small", "steps": 1_300, "eval_every": 100}


FALLING = {"schedule": "linear"}
"""To 0, in equal time."""


def tuning(
    name: str,
    settings: dict[str, Any],
    *,
    rates: tuple[float, ...] = ADAM_RATES,
    methods: tuple[str, ...] = ("uniform",),
    seeds: int = 1,
) -> Comparison:
    """Return the comparison that the learning rate of uniform and of other baselines is chosen by."""
    written = tuple(f"{method}@{rate:g}" for method in methods for rate in rates)
    return Comparison(f"{name}-rates", written, settings, seeds=seeds, drawn=(), options=GRADIENT_OPTIONS)


def noisy(dataset: str, settings: dict[str, Any]) -> Comparison:
    """Return the comparison on wrong labels, where methods may draw by what training can still reduce."""
    drawn = ("uniform", "lstm:1:upper-bound", "lstm:0.5", "lstm:0.5+reducible", "lstm:0", "lstm:0+reducible")
    return Comparison(dataset, ON_NOISE, {**settings, "dataset": dataset}, drawn=drawn)


def in_time(comparison: Comparison) -> Comparison:
    """Return the comparison in the time that uniform takes, with a learning rate that falls to 0 within it."""
    settings = {**comparison.settings, **FALLING, "lr": RATES_IN_TIME[comparison.name]}
    return replace(comparison, name=f"{comparison.name}-time", methods=IN_TIME, settings=settings, like=comparison.name)


RATES = (
    tuning("shuttle", SHUTTLE, seeds=2),
    tuning("shuttle-sgd", {**SHUTTLE, "optimizer": "sgd"}, rates=(0.01, 0.03, 0.1, 0.3), seeds=2),
    tuning(
        "shuttle-gradients",
        {**SHUTTLE, "optimizer": "sgd"},
        rates=(0.1, 0.3, 1.0),
        methods=("svrg", "katyusha", "scsg"),
        seeds=2,
    ),
    tuning("fashion-mnist-lt", LONG_TAILED, seeds=2),
    tuning("fashion-mnist-noisy-10", {"dataset": "fashion-mnist-noisy-10", **NOISY}),
    tuning("fashion-mnist-small", SMALL, seeds=2),
    tuning("fashion-mnist-finetune", FINE_TUNED),
    tuning("fashion-mnist-rows", ROWS, rates=(*ADAM_RATES, 0.03)),
    tuning("kjv", BIBLE, rates=(0.001, 0.003, 0.01)),
    tuning("fashion-mnist", PAPER, rates=(0.0003, 0.001, 0.003)),
    tuning("shuttle-time", SHUTTLE | FALLING, seeds=2),
    tuning("fashion-mnist-lt-time", LONG_TAILED | FALLING, seeds=2),
    tuning("fashion-mnist-small-time", SMALL | FALLING, rates=(0.001, 0.003, 0.006, 0.01, 0.03), seeds=3),
    tuning("fashion-mnist-finetune-time", FINE_TUNED | FALLING, rates=(0.001, 0.003, 0.006, 0.01, 0.03), seeds=3),
    tuning("fashion-mnist-rows-time", ROWS | FALLING, rates=(0.003, 0.01, 0.02, 0.03), seeds=3),
    tuning("kjv-time", BIBLE | FALLING, rates=(0.001, 0.003, 0.006, 0.01, 0.03), seeds=3),
)
# the rates are those of `RATES` with which uniform reaches its best
AT_EQUAL_STEPS = (
    Comparison(
        "shuttle", (*ALL, "gradient-norm:1:upper-bound", "lstm:0.5+reducible"), SHUTTLE | {"lr": 0.001}, seeds=10
    ),
    Comparison("fashion-mnist-lt", ALL, LONG_TAILED | {"lr": 0.003}),
    Comparison("fashion-mnist-small", EACH, SMALL | {"lr": 0.003}, title="Fashion-MNIST, small CNN"),
    Comparison("fashion-mnist-finetune", ALL, FINE_TUNED | {"lr": 0.003}),
    Comparison("fashion-mnist-rows", EACH, ROWS | {"lr": 0.01}, title="Fashion-MNIST by rows, LSTM"),
    Comparison("kjv", EACH, BIBLE | {"lr": 0.003}),
    Comparison(
        "shuttle-sgd",
        WITH_SGD,
        {**SHUTTLE, "optimizer": "sgd", "lr": 0.1},
        seeds=10,
        drawn=WITH_SGD,
        options=GRADIENT_OPTIONS,
        title="Shuttle, SGD",
    ),
    noisy("shuttle-noisy-10", SHUTTLE | {"lr": 0.001}),
    noisy("shuttle-noisy-20", SHUTTLE | {"lr": 0.001}),
    noisy("fashion-mnist-noisy-10", NOISY | {"lr": 0.001}),
    noisy("fashion-mnist-noisy-20", NOISY | {"lr": 0.001}),
    Comparison("fashion-mnist", PRIMARY, PAPER | {"lr": 0.001}, title="Fashion-MNIST, the paper's network"),
)
EVIDENCE = (*RATES, *AT_EQUAL_STEPS, *(in_time(each) for each in AT_EQUAL_STEPS if each.name in RATES_IN_TIME))
"""The paper's network comes last: a run of it takes half an hour on one core."""

DEMO = Comparison(
    "comparison",
    ("uniform", "last-loss:0.5", "lstm:1:upper-bound", "lstm:0.5"),
    {"dataset": "shuttle", "steps": 3_000, "eval_every": 100},
    seeds=2,
    drawn=(),
)
