"""What determines a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

BASELINE = "uniform"
"""The plain loop without `approx_is`, see `training`."""

CHOOSERS = ("rs2", "infobatch", "selective-backprop")
"""Other methods that choose the samples, see `baselines.protocol`."""

GRADIENT_METHODS = ("svrg", "katyusha", "scsg")
"""Methods that reduce the variance of the gradient of uniform batches, see `baselines.variance_reduction`."""

WITHOUT_SAMPLER = (BASELINE, *CHOOSERS, *GRADIENT_METHODS)
"""What `approx_is` is compared with, and has no part in."""

OBSERVATIONS = ("loss", "upper-bound")
PRESAMPLING = {"oracle": "loss", "upper-bound": "upper-bound", "gradient-norm": "upper-bound"}
"""Predictors that score candidates with the network, and what is to be observed for their gate."""

ANNEALED = ("rank", "last-loss")
"""Predictors whose papers change draws or weights in the course of training, see `published.as_published`."""

GATES = ("auto", "none")
OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "step", "linear")


@dataclass(frozen=True)
class Config:
    """What determines a run, but for the machine it runs on.

    Attributes:
        dataset: name of the task.
        predictor: `uniform` for the plain loop, a predictor of `approx_is`, or another method `WITHOUT_SAMPLER`.
        k: bias exponent, at most 1; 1 is unbiased.
        observe: what the sampler learns from, the `loss` or the `upper-bound` of the gradient norm.
        gate: `auto` to draw by importance only while that pays (at k = 1), `none` to do so always.
        equal_time: whether presampling shrinks the batch so that a step takes no longer than a uniform one.
        steps: minibatches to train on; with `gain`, what they are worth in uniform ones.
        batch_size: samples a minibatch.
        optimizer: `adam`, or `sgd` with momentum 0.9. The `GRADIENT_METHODS` step themselves.
        lr: the optimizer's learning rate, at first.
        weight_decay: of the weights in each step, times the learning rate; for Adam decoupled, as in AdamW.
        schedule: `constant`; `step`: a tenth after half of the steps, a hundredth after three quarters; or `linear`:
            falling to 0 with the last step.
        gain: whether learning rate and schedule follow the gain, see `approx_is.GainLR`.
        eval_every: steps between evaluations; the last step is always evaluated.
        seed: of the initial weights, dropout and the draws.
        model: name of the network; by default the one that suits the task.
        workers: processes that load data, none for `CHOOSERS`. The samples are in memory, so 0 is fastest.
        smoothing: "adaptive" or a constant that is added to every importance.
        refresh: largest age of a prediction in epochs.
        update_every: updates that the sampler learns from together; by default a 32nd of an epoch, 8 at most.
        reducible: whether samples are drawn by what training can still reduce of their importance.
        annealed: whether the predictor is as in its paper, where draws or weights change in the course of training.
        predictor_options: keyword arguments of the predictor, or of the class in `baselines`.
        persistent_workers: whether these processes stay from epoch to epoch.
        shard: whether each process under torchrun holds a shard of the samples.
        device: where the network trains.
    """

    dataset: str
    predictor: str = "lstm"
    k: float = 1.0
    observe: str = "loss"
    gate: str = "none"
    equal_time: bool = False
    steps: int = 4_000
    batch_size: int = 128
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "constant"
    gain: bool = False
    eval_every: int = 100
    seed: int = 0
    model: str | None = None
    workers: int = 0
    smoothing: str | float = "adaptive"
    refresh: float = 0.5
    update_every: int | None = None
    reducible: bool = False
    annealed: bool = False
    predictor_options: dict[str, Any] = field(default_factory=dict)
    persistent_workers: bool = False
    shard: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Raise `ValueError` for what nothing further down would refuse."""
        choices = {"observe": OBSERVATIONS, "gate": GATES, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"`--{name}` must be one of {', '.join(known)}; got {getattr(self, name)!r}.")
        for name in ("steps", "batch_size", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`--{name.replace('_', '-')}` must be at least 1; got {getattr(self, name)}.")
        if self.seed < 0:
            raise ValueError(f"`--seed` must be at least 0; got {self.seed}.")
        if self.predictor == BASELINE and self.predictor_options:
            raise ValueError(f"`--predictor {BASELINE}` is plain training, without predictor options.")
        if not self.has_sampler and self.k != 1:
            raise ValueError(f"`--predictor {self.predictor}` has no weights of approx_is, and so no k; got {self.k}.")
        if self.predictor in CHOOSERS and self.workers:
            raise ValueError(
                f"`--workers` must be 0 for `--predictor {self.predictor}`, which chooses no batch ahead of training; "
                f"got {self.workers}. Leave it out."
            )
        if not self.has_sampler and self.reducible:
            raise ValueError(f"`reducible` needs a sampler; `--predictor {self.predictor}` has none.")
        if self.annealed and self.predictor not in ANNEALED:
            raise ValueError(f"`annealed` is for {' and '.join(ANNEALED)}; got {self.predictor}. Leave it out.")
        if self.annealed and self.gate != "none":
            raise ValueError("`annealed` is as in the papers, which have no gate. Leave one of them out.")
        if not self.has_sampler and self.gain:
            raise ValueError(f"`--gain` needs a sampler; `--predictor {self.predictor}` has none.")
        if self.gain and self.observe == "loss":
            raise ValueError("`--gain` is a ratio of gradient norms. Add `--observe upper-bound`.")
        needed = PRESAMPLING.get(self.predictor, self.observe)
        if self.gate != "none" and self.observe != needed:
            raise ValueError(f"`--predictor {self.predictor}` needs `--observe {needed}` for its gate.")
        if self.equal_time and (self.predictor not in PRESAMPLING or self.gate == "none" or self.k != 1):
            raise ValueError("`--equal-time` is for presampling with k = 1 and a gate: add `--predictor upper-bound`.")
        try:
            torch.zeros(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"`--device` must be one that torch has here; got {self.device!r}: {error}") from None

    @property
    def has_sampler(self) -> bool:
        """Whether `approx_is` draws the samples."""
        return self.predictor not in WITHOUT_SAMPLER
