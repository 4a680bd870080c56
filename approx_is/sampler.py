"""Importance sampling around a DataLoader: the few lines that a training loop changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.utils.data import DataLoader

from approx_is.batches import ScoreError
from approx_is.draw import Draw
from approx_is.gain import GainRatio
from approx_is.gate import Gate, VarianceGate
from approx_is.importance_sampler import ImportanceSampler
from approx_is.labels import find_labels
from approx_is.loader import check_loader, rebuild_loader
from approx_is.pending import PendingDraws
from approx_is.protocols import Predictor, PredictorFactory
from approx_is.smoothing import Smoothing
from approx_is.state import check_at_least, check_like

__all__ = ["ApproxSampler"]

logger = logging.getLogger(__name__)


class ApproxSampler:
    """Iterates a DataLoader's batches, drawn by predicted importance, together with the draw that each came from.

    The loader is rebuilt with its data set, batch size, workers, collate function, pinning, prefetching and timeout;
    only which samples make up a batch changes. Weights belong to the moment of the draw, so batches that workers fetch
    ahead are weighed correctly. The first epoch visits every sample once, in random order, with weight 1; later ones
    are as many batches drawn with replacement, or plain ones while a gate is closed, as at k = 1 it is by default until
    importance sampling is measured to pay: see `VarianceGate`.

    Args:
        loader: the loader you have; its own shuffling and random generator are not used.
        predictor: a name (`available_predictors()`), a factory (see `PredictorFactory`) or an instance.
        k: bias exponent in (−∞, 1]: 1 is unbiased, below it hard samples count for more; or a function of the number of
            updates so far, such as `LinearAnnealing`.
        labels: class of each sample, integer [N] or [N, 1]; None for the data set's `targets` or `labels` (through
            `Subset` too) if they are integers in [0, N), else for no classes.
        num_classes: number of classes C; None for the largest label + 1; not used without labels.
        smoothing: "adaptive" (half the mean importance, or what suits the predictor), a constant ≥ 0, an
            `AdaptiveSmoothing` or `ConstantSmoothing`.
        window: observations remembered of each sample, in [1, 127].
        candidates: draw each batch from that many uniformly chosen samples, see `ImportanceSampler`.
        gate: a `VarianceGate` to draw by importance only while it pays; None to do so always; "auto" for the former at
            k = 1, and the latter otherwise.
        refresh: largest age of a prediction in epochs, > 0.
        update_every: updates that are learned from together, see `ImportanceSampler`.
        reducible: draw by the part of the predicted importance that training can still reduce: less what a sample kept
            through all of its last observations, as those with wrong labels do. For k < 1 on noisy labels. Its
            predictor's predictions must be in the scale of what is observed.
        process_group: ranks that train together, each with a loader of its own of the same data set and batch size;
            None for all ranks, if `torch.distributed` was initialised. See `ImportanceSampler` and `docs/scaling.md`.
        shard: whether each rank holds only every W-th sample, and draws from those by itself.
        seed: of all draws, of the predictor's start and of the workers; the global random generators are not touched.
        device: where history, tree and predictor live; None for the CPU.
        history_dtype: of the remembered observations, float16, bfloat16, float32 or float64.
        history_path: a directory for a memory-mapped history, see `LossHistory`.
        predictor_options: keyword arguments of the predictor.

    Raises:
        TypeError: `loader` is not a `DataLoader`.
        ValueError: an argument is out of bounds, or the loader's batches are not ours to choose.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> x = torch.linspace(-1, 1, 6).unsqueeze(1)
        >>> loader = DataLoader(TensorDataset(x, 2 * x), batch_size=3, shuffle=True)
        >>> model = torch.nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> sampler = ApproxSampler(loader, predictor="last-loss", k=0.5)
        >>> for (x, y), draw in sampler:
        ...     losses = (model(x) - y).square().mean(1)
        ...     optimizer.zero_grad()
        ...     draw.weighted_mean(losses).backward()
        ...     optimizer.step()
        ...     sampler.update(draw, losses)
        >>> sampler.metrics()["coverage"]
        1.0
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        *,
        predictor: str | PredictorFactory | Predictor = "lstm",
        k: float | Callable[[int], float] = 1.0,
        labels: Any = None,
        num_classes: int | None = None,
        smoothing: str | float | Smoothing = "adaptive",
        window: int = 10,
        candidates: int | None = None,
        gate: str | VarianceGate | None = "auto",
        refresh: float = 0.5,
        update_every: int | None = None,
        reducible: bool = False,
        process_group: ProcessGroup | None = None,
        shard: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        history_dtype: torch.dtype = torch.float32,
        history_path: str | Path | None = None,
        predictor_options: Mapping[str, Any] | None = None,
    ) -> None:
        num_samples, batch_size = check_loader(loader)
        self._sampler = ImportanceSampler(
            num_samples,
            batch_size,
            predictor=predictor,
            k=k,
            labels=find_labels(loader.dataset) if labels is None else labels,
            num_classes=num_classes,
            smoothing=smoothing,
            window=window,
            candidates=candidates,
            gate=gate,
            refresh=refresh,
            update_every=update_every,
            reducible=reducible,
            drop_last=loader.drop_last,
            process_group=process_group,
            shard=shard,
            seed=seed,
            device=device,
            history_dtype=history_dtype,
            history_path=history_path,
            predictor_options=predictor_options,
        )
        num_batches = self._sampler.num_batches(drop_last=loader.drop_last)
        if num_batches == 0:
            raise ValueError(
                f"`ApproxSampler(loader)` would have no batches: {num_samples} samples are fewer than all ranks take, "
                f"{batch_size} each. Use drop_last=False or smaller batches."
            )
        self._pending = PendingDraws(self._sampler, num_batches)
        self._worker_seed = seed
        self._worker_epoch = -1  # epochs begun, less one: workers are seeded anew for each
        self._worker_generator = torch.Generator()
        self._loader = rebuild_loader(loader, self._pending, self._worker_generator)
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return self._pending.num_batches

    def __iter__(self) -> Iterator[tuple[Any, Draw]]:
        """Iterate one epoch, or the rest of one after `load_state_dict`, as (batch, draw).

        Breaking off is fine: the next iteration begins a new epoch, and batches fetched ahead are forgotten.
        """
        if not self._pending.is_resuming:
            self._worker_epoch += 1
        iteration = self._pending.begin()
        key = (1, self._worker_epoch, self._sampler.rank)
        (seed,) = np.random.SeedSequence(self._worker_seed, spawn_key=key).generate_state(1)
        self._worker_generator.manual_seed(int(seed))
        try:
            batches = iter(self._loader)
            while self._pending.is_unfinished(iteration):
                serial, batch = next(batches)
                draw = self._pending.find(serial, iteration)
                if not draw.is_batch:
                    batch, draw = self._choose(batch, draw)
                self._pending.hand_over(serial)
                yield batch, draw
            self.epoch += 1
            if self._sampler.step == 0:
                logger.warning("An epoch went by without `update`: nothing was learned, and draws stay uniform.")
        except ScoreError:
            del batches  # ends its workers, which the traceback would keep
            self._pending.pause(iteration)
            raise
        finally:
            self._pending.end(iteration)

    def begin_epoch(self) -> None:
        """Let the next iteration begin a new epoch, rather than go on with the one that a loaded state was taken in.

        For loops that count epochs themselves, and know that this one is over.
        """
        self._pending.break_off()

    @property
    def num_taken(self) -> int:
        """Batches of the epoch under way that were handed over, 0 between epochs."""
        return self._pending.num_taken

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch number, as samplers of distributed training have it; draws do not depend on it."""
        self.epoch = int(epoch)

    def update(self, draw: Draw, observed: Tensor | Callable[[], Tensor]) -> None:
        """Remember what was observed of a batch, let the predictor learn from it, and predict anew.

        See `ImportanceSampler.update` for arguments and errors. With a predictor that scores candidates, such as
        `upper-bound`, pass what is of the same kind as the scores: the gate compares them.
        """
        self._sampler.update(draw, observed)

    @property
    def num_samples(self) -> int:
        """Number of samples N of the data set."""
        return self._sampler.num_samples

    @property
    def rank(self) -> int:
        """Number of this rank, 0 without others."""
        return self._sampler.rank

    @property
    def is_sharded(self) -> bool:
        """Whether this rank's state is its own, since it holds samples that others do not."""
        return self._sampler.is_sharded

    @property
    def gain(self) -> GainRatio:
        """How many uniform steps one of these steps is worth, for `GainLR` to follow."""
        return self._sampler.gain

    @property
    def gate(self) -> Gate:
        """The gate: `gate.is_open`, and `gate.verdict` in words."""
        return self._sampler.gate

    def probabilities(self, indices: Tensor | None = None, *, gated: bool = True) -> Tensor:
        """Return the probability of samples in the next draw, float64, see `ImportanceSampler.probabilities`."""
        return self._sampler.probabilities(indices, gated=gated)

    def metrics(self) -> dict[str, float]:
        """Return figures to log, all floats.

        What is measured of observations is NaN until there are any, as it is while a gate sleeps.

        - `observed_importance`: estimated mean of the observed importance over the data set.
        - `effective_sample_size`: how many equally weighted draws a batch was worth.
        - `variance_ratio`: second moment of uniform draws over that of these (at k = 1); above 1, these are better.
        - `captured`: the same as a share of the best possible, in logarithms: 1 the oracle, 0 uniform, below 0 worse.
        - `tau`, `batch_size_increment`: what ideal draws would be worth, and what these are: their squares are second
          moments of uniform draws over theirs.
        - `calibration`: predicted over observed importance; near 1 is healthy. NaN for predictions in a unit of their
          own.
        - `coverage`, `epoch_coverage`: share of samples remembered ever, and within the last epoch.
        - `staleness`: mean age of the latest observations remembered, in epochs.
        - `gain_ratio`: how many uniform steps a step is worth, see `GainRatio`; at most, unless `GainLR` measures it.
        - `gate_…`: what the gate decides by, see `gate.verdict` for the same in words.
        - `step`, `smoothing`, `not_finite`, `rejected_predictions`: see `ImportanceSampler.metrics`.
        - what the predictor adds, as `rais` its `robust_bound`.
        """
        return self._sampler.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state, with the draws that workers hold, so that a resumed run goes on bit by bit.

        Take it after `update`, between two batches or two epochs, and load it with as many workers. Tensors are not
        copied. Taken inside the loop, it resumes that epoch, of which nothing may be left. What draws from torch's
        global generators, as dropout does, is yours to save. What workers add at random to
        the samples themselves, as augmentation does, is the same again from the next epoch on, and with persistent
        workers is not, since those keep generators of their own.
        """
        return {
            "sampler": self._sampler.state_dict(),
            "pending": self._pending.state_dict(),
            "worker_seed": self._worker_seed,
            "worker_epoch": self._worker_epoch,
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; the next iteration goes on where it was taken.

        Raises:
            ValueError: the state does not fit this sampler; nothing was changed.
        """
        reference = self.state_dict()
        where = "ApproxSampler.load_state_dict(state)"
        check_like(state, reference, where, skip=("sampler", "pending"))
        check_at_least(state, {"worker_seed": 0, "worker_epoch": -1, "epoch": 0}, where)
        self._pending.check_state_dict(state["pending"])
        self._sampler.load_state_dict(state["sampler"])
        self._pending.load_state_dict(state["pending"])
        self._worker_seed, self._worker_epoch = state["worker_seed"], state["worker_epoch"]
        self.epoch = state["epoch"]

    def _choose(self, batch: Any, candidates: Draw) -> tuple[Any, Draw]:
        scorer = self._sampler.scorer
        assert scorer is not None
        scores = scorer.score(batch, len(candidates), self._sampler.batch_size)
        draw, positions = self._sampler.choose(candidates, scores)
        return scorer.select(batch, positions.cpu()), draw
