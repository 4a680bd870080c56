"""Importance sampling over indices alone: draw, train however you like, report what you observed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from approx_is.checks import check_indices, check_positive, check_seed
from approx_is.class_mean import ClassMean
from approx_is.diagnostics import RunningDiagnostics
from approx_is.draw import Draw, Ticket, check_per_sample
from approx_is.history import LossHistory, average_duplicates
from approx_is.labels import check_labels
from approx_is.protocols import Predictor, PredictorFactory
from approx_is.registry import resolve_predictor
from approx_is.smoothing import Smoothing, make_smoothing, smoothed_probabilities
from approx_is.state import check_like
from approx_is.sum_tree import SumTree
from approx_is.warm_up import WarmUp
from approx_is.weighting import check_k, importance_weights

__all__ = ["ImportanceSampler"]

STATE_VERSION = 1


class ImportanceSampler:
    r"""Draws sample indices in proportion to their predicted importance, and learns from what is observed of them.

    The first N draws visit every sample once, in random order, with weight 1. From then on samples are drawn with
    replacement from all N with probability :math:`p_i = (s_i + c) / \sum_j (s_j + c)`, s the prediction and c the
    smoothing constant, and their losses weigh :math:`(N p_i)^{-k}`. After each update the drawn samples are predicted
    anew, and so is a rolling part of the others.

    `ApproxSampler` does the same around a `DataLoader`.

    Reference:
        Katharopoulos & Fleuret (2017), algorithm 1.

    Args:
        num_samples: size N of the data set.
        batch_size: draws a batch, B; may exceed N.
        predictor: a name (`available_predictors()`), a factory (see `PredictorFactory`) or an instance.
        k: bias exponent in (−∞, 1]: 1 is unbiased, below it hard samples count for more.
        labels: class of each sample, integer [N] or [N, 1]; None to do without.
        num_classes: number of classes C; None for the largest label + 1.
        smoothing: "adaptive" (half the mean importance), a constant ≥ 0, or a smoothing object.
        window: observations remembered of each sample, in [1, 127].
        candidates: draw each batch from that many uniformly chosen samples, predicted just then, rather than from all:
            the paper's line 4. Rare samples are then seldom within reach. None draws from all.
        refresh: largest age of a prediction in epochs, > 0: `batch_size / refresh` samples beyond those drawn are
            predicted anew each step.
        drop_last: leave out the first epoch's last batch if it would be smaller than the others.
        seed: of all draws and of the predictor's start; the global random generators are not touched.
        device: where history, tree and predictor live; None for the CPU.
        history_dtype: floating dtype of the remembered observations.
        history_path: a directory for a memory-mapped history, see `LossHistory`.
        predictor_options: keyword arguments of the predictor.

    Raises:
        ValueError: an argument is out of bounds; the message names it.

    Example:
        >>> sampler = ImportanceSampler(num_samples=4, batch_size=4, predictor="last-loss", k=1.0)
        >>> sampler.update(sampler.draw(), torch.ones(4))
        >>> sampler.probabilities()
        tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        predictor: str | PredictorFactory | Predictor = "lstm",
        k: float = 1.0,
        labels: Any = None,
        num_classes: int | None = None,
        smoothing: str | float | Smoothing = "adaptive",
        window: int = 10,
        candidates: int | None = None,
        refresh: float = 0.5,
        drop_last: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        history_dtype: torch.dtype = torch.float32,
        history_path: str | Path | None = None,
        predictor_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.num_samples = check_positive(num_samples, "num_samples")
        self.batch_size = check_positive(batch_size, "batch_size")
        self.k = check_k(k, "ApproxSampler")
        self.device = torch.device("cpu" if device is None else device)
        self._candidates = None if candidates is None else check_positive(candidates, "candidates")
        if not refresh > 0:
            raise ValueError(
                f"`refresh` must be positive, in epochs; got {refresh}. Use math.inf to predict drawn samples only."
            )
        labels, num_classes = check_labels(labels, num_samples, num_classes)
        self._labels = None if labels is None else labels.to(self.device)
        seeds = [int(word) for word in np.random.SeedSequence(check_seed(seed)).generate_state(4)]
        draw_seed, warm_up_seed, predictor_seed, self.worker_seed = seeds
        self._generator = torch.Generator(self.device).manual_seed(draw_seed)
        self._smoothing = make_smoothing(smoothing)
        self._history = LossHistory(num_samples, window, dtype=history_dtype, device=self.device, path=history_path)
        self._predictor = self._build_predictor(predictor, num_classes, predictor_seed, predictor_options)
        self._tree = SumTree(num_samples, device=self.device)
        self._warm_up = WarmUp(num_samples, seed=warm_up_seed, drop_last=drop_last, device=self.device)
        self._class_mean = ClassMean(num_classes, device=self.device)
        self._diagnostics = RunningDiagnostics(device=self.device)
        rolling = 0 if getattr(self._predictor, "local", False) else math.ceil(self.batch_size / refresh)
        self._rolling = torch.arange(min(rolling, num_samples), device=self.device)
        self._owner = object()
        self._step = 0
        self._cursor = 0
        self._not_finite = 0
        self._rejected = torch.zeros((), dtype=torch.int64, device=self.device)

    def draw(self, batch_size: int | None = None) -> Draw:
        """Draw a batch.

        Args:
            batch_size: number of draws B; None for the sampler's.

        Returns:
            The draw. The first epoch's last one may be smaller than asked for.

        Raises:
            ValueError: `batch_size` is not positive.
        """
        batch_size = self.batch_size if batch_size is None else check_positive(batch_size, "draw(batch_size)")
        indices = self._warm_up.take(batch_size)
        if indices is not None:
            return self._make_draw(
                indices, torch.full(indices.shape, 1 / self.num_samples, dtype=torch.float64, device=self.device)
            )
        if self._candidates is not None:
            return self._make_draw(*self._draw_from_candidates(batch_size, self._candidates))
        return self._make_draw(*self._draw_from_all(batch_size))

    def restore_draw(self, indices: Tensor, probabilities: Tensor, weights: Tensor) -> Draw:
        """Return a draw of this sampler that was made before its state was saved."""
        return Draw(
            indices.to(self.device), probabilities.to(self.device), weights.to(self.device), Ticket(self._owner)
        )

    def update(self, draw: Draw, observed: Tensor) -> None:
        """Remember what was observed of a draw, let the predictor learn from it, and predict anew.

        Args:
            draw: a draw of this sampler, not used for an update before.
            observed: importance of each drawn sample, float [B] ≥ 0, on any device, with or without grad: the losses,
                or `upper_bound(logits, targets)`. Entries that are not finite are counted in `metrics()` and left out.

        Raises:
            ValueError: the draw is another sampler's or was used before, the shape is wrong, or a value is negative.
                The sampler is as it was.
        """
        ticket = self._check_ticket(draw)
        check_per_sample(observed, len(draw), "update(observed)")
        indices, probabilities, weights = (t.to(self.device) for t in (draw.indices, draw.probabilities, draw.weights))
        observed = observed.detach().to(self.device, torch.float32)
        finite = observed.isfinite()
        if not bool(finite.all()):
            self._check_not_negative(observed[finite])
            self._not_finite += int((~finite).sum())
            indices, probabilities, weights, observed = (t[finite] for t in (indices, probabilities, weights, observed))
        else:
            self._check_not_negative(observed)
        ticket.spent = True
        self._step += 1
        if len(indices):
            self._learn(indices, observed, weights, 1 / (probabilities * self.num_samples))

    def probabilities(self, indices: Tensor | None = None) -> Tensor:
        """Return the probability of samples in the next draw.

        With `candidates` it is the probability were all samples candidates.

        Args:
            indices: samples, int64 [B]; None for all.

        Returns:
            Probabilities, float64 [B] or [N], all positive; over all samples they sum to 1.
        """
        if indices is not None:
            indices = check_indices(indices, self.num_samples, "probabilities(indices)").to(self.device)
        if not self._warm_up.finished:
            size = self.num_samples if indices is None else len(indices)
            return torch.full((size,), 1 / self.num_samples, dtype=torch.float64, device=self.device)
        importance = self._tree.all_values() if indices is None else self._tree.values(indices)
        return smoothed_probabilities(importance, self._constant(), self._tree.total, self.num_samples)

    def metrics(self) -> dict[str, float]:
        """Return figures to log, all floats; reads one byte of every sample, so call it now and then, not every step.

        Those of `RunningDiagnostics.metrics`, and `step` (updates so far), `coverage` (share of samples observed at
        least once), `smoothing` (the constant in use), `not_finite` (observations left out) and `rejected_predictions`
        (predictions that were negative or not finite, replaced by the class's mean).
        """
        return {
            **self._diagnostics.metrics(),
            "step": float(self._step),
            "coverage": float(self._history.coverage()),
            "smoothing": float(self._constant()),
            "not_finite": float(self._not_finite),
            "rejected_predictions": float(self._rejected),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state: with it, a sampler built with the same arguments goes on bit by bit as this one.

        Tensors are not copied, as in `torch.nn.Module.state_dict`: save it, or copy it, before training on.
        """
        return {
            "version": STATE_VERSION,
            "num_samples": self.num_samples,
            "predictor_class": type(self._predictor).__qualname__,
            "generator": self._generator.get_state(),
            "step": self._step,
            "cursor": self._cursor,
            "not_finite": self._not_finite,
            "rejected": self._rejected,
            "predictor": self._predictor.state_dict(),
            **{name: part.state_dict() for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state.

        Raises:
            ValueError: the state is of another version, data set size, predictor or configuration; nothing was changed.
        """
        self.check_state_dict(state)
        self._predictor.load_state_dict(state["predictor"])
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._generator.set_state(state["generator"])
        self._step = state["step"]
        self._cursor = state["cursor"]
        self._not_finite = state["not_finite"]
        self._rejected.copy_(state["rejected"])

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless `load_state_dict` would accept the state; the predictor checks its own part."""
        reference = self.state_dict()
        where = "load_state_dict(state)"
        for name, hint in {
            "version": "",
            "num_samples": " Was it made with another data set?",
            "predictor_class": " Build it with that predictor.",
        }.items():
            if isinstance(state, Mapping) and state.get(name, reference[name]) != reference[name]:
                raise ValueError(f"`{where}` has {name} {state[name]!r}; this sampler has {reference[name]!r}.{hint}")
        check_like({**state, "predictor": None}, {**reference, "predictor": None}, where)
        self._tree.check_state_dict(state["tree"])
        self._smoothing.check_state_dict(state["smoothing"])

    def _parts(self) -> dict[str, Any]:
        return {
            "history": self._history,
            "tree": self._tree,
            "warm_up": self._warm_up,
            "smoothing": self._smoothing,
            "class_mean": self._class_mean,
            "diagnostics": self._diagnostics,
        }

    def _build_predictor(
        self,
        predictor: str | PredictorFactory | Predictor,
        num_classes: int,
        seed: int,
        options: Mapping[str, Any] | None,
    ) -> Predictor:
        resolved = resolve_predictor(predictor)
        if isinstance(resolved, Predictor) and not isinstance(resolved, type):
            if options:
                raise ValueError(
                    "`predictor_options` are for a predictor given by name or factory; this one is built already."
                )
            return resolved
        arguments = (self._history, self._labels, num_classes, torch.Generator().manual_seed(seed))
        try:
            inspect.signature(resolved).bind(*arguments, **(options or {}))
        except TypeError as error:
            raise TypeError(f"`predictor_options` do not fit the predictor {predictor!r}: {error}.") from None
        return resolved(*arguments, **(options or {}))

    def _make_draw(self, indices: Tensor, probabilities: Tensor) -> Draw:
        weights = importance_weights(probabilities, self.num_samples, self.k)
        return Draw(indices, probabilities, weights, Ticket(self._owner))

    def _constant(self) -> Tensor:
        return self._smoothing.constant(self._tree.total / self.num_samples)

    def _draw_from_all(self, batch_size: int) -> tuple[Tensor, Tensor]:
        # s + c over all samples is a mixture of tree and uniform distribution: choose the component, then the sample
        total, constant = self._tree.total, self._constant()
        normaliser = total + self.num_samples * constant
        component, position = torch.rand(
            2, batch_size, dtype=torch.float64, generator=self._generator, device=self.device
        )
        weighted = self._tree.descend(self._tree.uniforms(batch_size, self._generator))
        indices = torch.where(component * normaliser < total, weighted, (position * self.num_samples).long())
        return indices, smoothed_probabilities(self._tree.values(indices), constant, total, self.num_samples)

    def _draw_from_candidates(self, batch_size: int, count: int) -> tuple[Tensor, Tensor]:
        pool = torch.randint(self.num_samples, (count,), generator=self._generator, device=self.device)
        importance = self._predict(pool).double()
        total = importance.sum()
        within = smoothed_probabilities(importance, self._smoothing.constant(total / count), total, count)
        chosen = torch.multinomial(within, batch_size, replacement=True, generator=self._generator)
        return pool[chosen], within[chosen] * (count / self.num_samples)

    def _learn(self, indices: Tensor, observed: Tensor, weights: Tensor, unbiased: Tensor) -> None:
        labels = self._classes(indices)
        averaged = average_duplicates(indices, observed)
        observed_mean = self._diagnostics.update(weights, unbiased, observed, self._tree.values(indices))
        self._smoothing.update(observed_mean)
        self._class_mean.update(labels, observed, unbiased)
        self._predictor.update(indices, averaged, self._step)
        self._history.append_averaged(indices, averaged, self._step)
        self._refresh(indices)

    def _refresh(self, indices: Tensor) -> None:
        rolling = len(self._rolling)
        if rolling:
            indices = torch.cat([indices, (self._rolling + self._cursor) % self.num_samples])
            self._cursor = (self._cursor + rolling) % self.num_samples
        self._tree.set_values(indices, self._predict(indices))

    def _predict(self, indices: Tensor) -> Tensor:
        importance = self._predictor.predict(indices).to(self.device, torch.float32)
        seen = self._history.counts(indices) > 0
        valid = importance.isfinite() & (importance >= 0)
        self._rejected += (seen & ~valid).sum()
        return torch.where(seen & valid, importance, self._class_mean.of(self._classes(indices)))

    def _classes(self, indices: Tensor) -> Tensor:
        return torch.zeros_like(indices) if self._labels is None else self._labels[indices].long()

    def _check_ticket(self, draw: Draw) -> Ticket:
        ticket = draw._ticket
        if ticket is None or ticket.owner is not self._owner:
            raise ValueError(
                "`update(draw)` must be a draw of this sampler; this one was made elsewhere. "
                "Pass on the draw that came with the batch."
            )
        if ticket.spent:
            raise ValueError(
                "`update(draw)` must be called once a draw; this one was used already. Call it once, after the step."
            )
        return ticket

    def _check_not_negative(self, observed: Tensor) -> None:
        if len(observed) and bool(observed.min() < 0):
            raise ValueError(
                f"`update(observed)` must be at least 0; got {float(observed.min())}. Where the loss can be negative, "
                "observe a gradient norm or another non-negative importance."
            )
