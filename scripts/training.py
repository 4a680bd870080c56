"""The training loop that every script shares: with `approx_is` or as it is without, timed, and evaluated at intervals.

The method called `uniform` here is the loop that users have today, `DataLoader(shuffle=True)` and a mean loss, and does
not touch `approx_is` at all: what the library is compared with is not slowed down by it. The other methods that it is
compared with are those of `baselines`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from itertools import chain, repeat
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, RandomSampler, Sampler
from torch.utils.data.distributed import DistributedSampler

from approx_is import ApproxSampler, Draw, GainLR, batch_weights, convert_batch_norm, upper_bound
from approx_is.batch_norm import WeightedBatchNorm2d
from baseline_methods import ChosenBatch, ChosenBatches, build_chooser, build_gradient_method
from capture import share_captured
from configuration import CHOOSERS, GRADIENT_METHODS, PRESAMPLING, Config
from evaluation import Evaluation, probe, probe_results, test_results
from models import initial_network
from optimization import Schedule, build_optimizer
from plain_epochs import PlainEpochs
from processes import is_first, num_processes, own_number
from published import as_published
from runs import GainRow
from samples import Task, keep_batch
from training_state import load_training_state, training_state

BATCH_LOSS_DECAY = 0.98
RANK_SEEDS = 1_000_003
"""Times its number, this keeps the dropout of one process apart from that of the next."""

Batch = tuple[Tensor, Tensor]
Chosen = Draw | ChosenBatch | None
"""What says how a batch was chosen; None for one of a plain epoch."""


class Training:
    """One run. Iterate over `steps()`; call `evaluate()` whenever `evaluation_due` says so.

    Runs of one seed start from the same weights, whatever the method: random ones, or what the task has prepared.

    Args:
        config: what to run.
        task: the data of `config.dataset`.
        device: where this process trains; None for `config.device`.

    Raises:
        ValueError: the network, the predictor or an option of either does not exist or does not fit, or the method is
            for one process and there are several.
        OSError: what the network is to start from cannot be kept or read, see `Task.prepare`.
    """

    def __init__(self, config: Config, task: Task, *, device: str | None = None) -> None:
        if num_processes() > 1 and config.predictor in (*CHOOSERS, *GRADIENT_METHODS):
            raise ValueError(
                f"`--predictor {config.predictor}` is for one process; torchrun started {num_processes()}."
            )
        self.config = config
        self.task = task
        self.device = torch.device(config.device if device is None else device)
        self.model = initial_network(task, config.model, seed=config.seed, device=self.device)
        if config.has_sampler:
            convert_batch_norm(self.model)
        self._has_batch_norm = any(isinstance(module, WeightedBatchNorm2d) for module in self.model.modules())
        self._in_step = DistributedDataParallel(self.model) if num_processes() > 1 else self.model
        if not is_first():  # dropout of its own
            torch.manual_seed(config.seed + RANK_SEEDS * own_number())
        self.own_steps = build_gradient_method(config, task, self.model)
        self.optimizer = self.own_steps or build_optimizer(config, self.model)
        self._order = torch.Generator().manual_seed(config.seed)  # apart from the workers', who may stay
        self.loader: DataLoader[Any] = DataLoader(
            task.train,
            batch_size=config.batch_size,
            sampler=self._plain_sampler(),
            num_workers=config.workers,
            persistent_workers=config.persistent_workers,
            collate_fn=keep_batch,
            generator=torch.Generator().manual_seed(config.seed),
        )
        self.plain = PlainEpochs(self.loader, self._order)
        self.chooser = build_chooser(config, task, self.model, self.device, lambda: self.step / config.steps)
        self.sampler = self._build_sampler() if config.has_sampler else None
        self.schedule = LambdaLR(self.optimizer, Schedule(config.schedule, config.steps))
        self.gain = GainLR(self.schedule, self.sampler) if config.gain and self.sampler is not None else None
        self.step = 0
        self.trace: list[GainRow] = []
        self.seconds = 0.0
        self.overhead_seconds = 0.0
        self.batch_loss = math.nan
        self._probe = probe(task.train, task.evaluated)
        self._tested = task.test if task.evaluated is None else probe(task.test, task.evaluated).samples

    def steps(self) -> Iterator[int]:
        """Train up to `config.steps`; yield the number of each step when it is done."""
        batches = chain.from_iterable(self._epoch() for _ in repeat(None))
        while not self.finished:
            loss = self._train_step(batches)
            self.step += 1
            if self.gain is not None:
                self.trace.append(GainRow(self.step, self.effective_steps, self.gain.ratio, self.learning_rate))
            before = loss if math.isnan(self.batch_loss) else self.batch_loss
            self.batch_loss = BATCH_LOSS_DECAY * before + (1 - BATCH_LOSS_DECAY) * loss
            yield self.step

    @property
    def effective_steps(self) -> float:
        """Uniform steps that the steps so far are worth."""
        return float(self.step) if self.gain is None else self.gain.effective_steps

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.effective_steps >= self.config.steps

    @property
    def evaluation_due(self) -> bool:
        """Whether the step just done is one to evaluate."""
        return self.step % self.config.eval_every == 0 or self.finished

    def evaluate(self) -> Evaluation:
        """Evaluate the network as it is now."""
        overhead_ms, overhead_percent = self.overhead()
        metrics = self.sampler.metrics() if self.sampler is not None else {}
        train_loss, losses, bounds = probe_results(self.model, self._probe.samples, self.device)
        return Evaluation(
            step=self.step,
            seconds=self.seconds,
            **test_results(self.model, self._tested, self.task, self.device),
            train_loss=train_loss,
            batch_loss=self.batch_loss,
            overhead_ms=overhead_ms,
            overhead_percent=overhead_percent,
            effective_sample_share=_finite(metrics.get("effective_sample_size", math.nan) / self._drawn_together),
            captured=_finite(metrics.get("captured", math.nan)),
            captured_of_probe=_finite(share_captured(self, self._probe.indices, losses, bounds)),
            learning_rate=self.learning_rate,
            effective_steps=self.effective_steps,
            gain_ratio=1.0 if self.gain is None else self.gain.ratio,
        )

    def overhead(self) -> tuple[float, float]:
        """Return the mean overhead of the steps so far, in ms a step and in percent of the rest of the step."""
        rest = self.seconds - self.overhead_seconds
        return 1e3 * self.overhead_seconds / self.step, 100 * self.overhead_seconds / rest

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state, see `training_state`; with several processes all of them are to ask."""
        return training_state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: it does not fit.
        """
        load_training_state(self, state)

    @property
    def _drawn_together(self) -> int:
        return self.config.batch_size * (1 if self.config.shard else num_processes())

    def _plain_sampler(self) -> Sampler[int]:
        if num_processes() > 1 and not self.config.has_sampler:
            return DistributedSampler(self.task.train, seed=self.config.seed)
        return RandomSampler(self.task.train, generator=self._order)

    def _build_sampler(self) -> ApproxSampler:
        config = self.config
        published = as_published(config) if config.annealed else {}
        return ApproxSampler(
            self.loader,
            predictor=config.predictor,
            k=published.get("k", config.k),
            num_classes=len(self.task.class_names),
            smoothing=published.get("smoothing", config.smoothing),
            refresh=config.refresh,
            update_every=config.update_every,
            reducible=config.reducible,
            gate="auto" if config.gate == "auto" else None,
            shard=config.shard,
            seed=config.seed,
            predictor_options=published.get("predictor_options", {}) | self._predictor_options(),
        )

    def _predictor_options(self) -> dict[str, Any]:
        options = dict(self.config.predictor_options)
        if self.config.predictor in PRESAMPLING:
            options["model"] = self.model
        if self.config.equal_time:
            options["equal_time"] = True
        return options

    def _epoch(self) -> Iterator[tuple[Batch, Chosen]]:
        if self.sampler is not None:
            yield from self.sampler
        elif self.chooser is not None:
            yield from ChosenBatches(self.chooser, self.task.train)
        else:
            yield from ((batch, None) for batch in self.plain)

    def _train_step(self, batches: Iterator[tuple[Batch, Chosen]]) -> float:
        started = self._now()
        batch, chosen = next(batches)
        drawn = self._now()
        if self.own_steps is not None:
            loss, trained = self.own_steps.step(batch), self._now()
        else:
            loss, trained = self._descend(batch, chosen)
        (self.gain or self.schedule).step()
        ended = self._now()
        self.seconds += ended - started
        self.overhead_seconds += (drawn - started) + (ended - trained)
        return loss

    def _descend(self, batch: Batch, chosen: Chosen) -> tuple[float, float]:
        """Step along the gradient of the batch's loss; return that, and when the step was done."""
        inputs, targets = batch[0].to(self.device), batch[1].to(self.device)
        logits = self._logits(inputs, chosen)
        losses = F.cross_entropy(logits, targets, reduction="none")
        loss = losses.mean() if chosen is None else chosen.weighted_mean(losses)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        trained = self._now()
        if isinstance(chosen, ChosenBatch):
            self.chooser.observe(chosen.indices, losses)
        elif chosen is not None:
            observed = losses if self.config.observe == "loss" else lambda: upper_bound(logits, targets)
            self.sampler.update(chosen, observed)
        return loss.item(), trained

    def _logits(self, inputs: Tensor, chosen: Chosen) -> Tensor:
        """Run the network; batch normalisation weighs its statistics so that they are the data set's, whatever k."""
        is_weighted = self._has_batch_norm and chosen is not None
        weights = batch_weights(1 / chosen.probabilities) if is_weighted else nullcontext()
        with weights:
            logits: Tensor = self._in_step(inputs)
        return logits

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter()


def check_runs(configs: Iterable[Config], task: Task) -> None:
    """Prepare one run of each method and drop it: what is wrong with a method is said before anything is trained.

    Raises:
        ValueError: see `Training`.
    """
    for config in configs:
        if config.seed == 0:
            Training(config, task)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
