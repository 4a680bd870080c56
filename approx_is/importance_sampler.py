"""Importance sampling over indices alone: draw, train however you like, report what you observed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from approx_is.checks import check_indices, check_not_negative, check_number, check_positive, check_seed
from approx_is.diagnostics import RunningDiagnostics
from approx_is.draw import Draw, Ticket, check_per_sample, check_ticket
from approx_is.gain import GainRatio, second_moments
from approx_is.history import LossHistory, average_duplicates
from approx_is.labels import check_labels
from approx_is.learner import Learner
from approx_is.proposal import Proposal
from approx_is.protocols import Predictor, PredictorFactory
from approx_is.registry import build_predictor
from approx_is.smoothing import Smoothing, make_smoothing
from approx_is.state import check_like
from approx_is.warm_up import WarmUp
from approx_is.weighting import check_k, importance_weights

__all__ = ["ImportanceSampler"]

STATE_VERSION = 1


class ImportanceSampler:
    r"""Draws sample indices in proportion to their predicted importance, and learns from what is observed of them.

    The first epoch visits every sample once, in random order, with weight 1. From then on samples are drawn with
    replacement from all N with probability :math:`p_i = (s_i + c) / \sum_j (s_j + c)`, s the prediction and c the
    smoothing constant, and their losses weigh :math:`(N p_i)^{-k}`. After each update the drawn samples are predicted
    anew, and so is a rolling part of the others.

    `ApproxSampler` does the same around a `DataLoader`. `gain` says what the draws gain over uniform ones; `GainLR`
    follows it.

    Reference:
        Katharopoulos & Fleuret (2017), algorithm 1.

    Args:
        num_samples: size N of the data set.
        batch_size: draws a batch, B; may exceed N.
        predictor: a name (`available_predictors()`), a factory (see `PredictorFactory`) or an instance.
        k: bias exponent in (−∞, 1]: 1 is unbiased, below it hard samples count for more.
        labels: class of each sample, integer [N] or [N, 1]; None to do without.
        num_classes: number of classes C; None for the largest label + 1; not used without labels.
        smoothing: "adaptive" (half the mean importance, or what suits the predictor), a constant ≥ 0, an
            `AdaptiveSmoothing` or `ConstantSmoothing`.
        window: observations remembered of each sample, in [1, 127].
        candidates: draw each batch from that many uniformly chosen samples, predicted just then, rather than from all:
            the paper's line 4, at most N. Rare samples are then seldom within reach. None draws from all.
        refresh: largest age of a prediction in epochs, > 0: `batch_size / refresh` samples beyond those drawn are
            predicted anew each step.
        drop_last: leave out the first epoch's last batch if it would be smaller than the others.
        seed: of all draws and of the predictor's start; the global random generators are not touched.
        device: where history, tree and predictor live; None for the CPU.
        history_dtype: of the remembered observations, float16, bfloat16, float32 or float64.
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
        self._candidates = None
        if candidates is not None:
            self._candidates = check_positive(candidates, "candidates", at_most=num_samples)
        if not check_number(refresh, "refresh") > 0:
            raise ValueError(
                f"`refresh` must be positive, in epochs; got {refresh}. Use math.inf to predict drawn samples only."
            )
        labels, num_classes = check_labels(labels, num_samples, num_classes)
        labels = None if labels is None else labels.to(self.device)
        draws, warm_up, start = (int(word) for word in np.random.SeedSequence(check_seed(seed)).generate_state(3))
        smallest_batch = batch_size if drop_last else 1
        self._warm_up = WarmUp(num_samples, seed=warm_up, smallest_batch=smallest_batch, device=self.device)
        history = LossHistory(num_samples, window, dtype=history_dtype, device=self.device, path=history_path)
        arguments = (history, labels, num_classes, torch.Generator().manual_seed(start))
        built = build_predictor(predictor, arguments, predictor_options)
        smoothing = make_smoothing(smoothing, fraction=getattr(built, "smoothing_fraction", 0.5))
        self._proposal = Proposal(num_samples, smoothing, seed=draws, device=self.device)
        self._learner = Learner(history, built, labels, num_classes, rolling=math.ceil(batch_size / refresh))
        self._diagnostics = RunningDiagnostics(device=self.device)
        self.gain = GainRatio(device=self.device)
        self._owner = object()
        self.step = 0
        self._not_finite = 0

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
            return self._make_draw(indices, self._uniform(len(indices)), is_warm_up=True)
        if self._candidates is None:
            return self._make_draw(*self._proposal.draw(batch_size))
        pool = self._proposal.draw_pool(self._candidates)
        return self._make_draw(*self._proposal.draw_from_pool(batch_size, pool, self._learner.predict(pool)))

    def update(self, draw: Draw, observed: Tensor) -> None:
        """Remember what was observed of a draw, let the predictor learn from it, and predict anew.

        Args:
            draw: a draw of this sampler, not used for an update before.
            observed: importance of each drawn sample, float [B] ≥ 0, on any device, with or without grad: the losses,
                or `upper_bound(logits, targets)`. Entries that are not finite are counted in `metrics()` and left out.

        Raises:
            TypeError: `draw` is no draw or `observed` no tensor.
            ValueError: the draw is another sampler's or was used before, the shape is wrong, or a value is negative.
                The sampler is as it was.
        """
        ticket = check_ticket(draw, self._owner)
        check_per_sample(observed, len(draw), "update(observed)")
        indices, probabilities, weights = (t.to(self.device) for t in (draw.indices, draw.probabilities, draw.weights))
        observed = observed.detach().to(self.device)
        check_not_negative(observed, "update(observed)")
        observed = observed.to(torch.float32)
        finite = observed.isfinite()
        num_left_out = len(finite) - int(finite.count_nonzero())
        if num_left_out:
            indices, probabilities, weights, observed = (t[finite] for t in (indices, probabilities, weights, observed))
        ticket.spent = True
        self.step += 1
        self._not_finite += num_left_out
        if len(indices):
            unbiased = 1 / (probabilities * self.num_samples)
            self._learn(indices, observed, weights, unbiased, ticket)

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
            return self._uniform(self.num_samples if indices is None else len(indices))
        return self._proposal.probabilities(indices)

    def metrics(self) -> dict[str, float]:
        """Return figures to log, all floats; reads one byte of every sample, so call it now and then, not every step.

        Those of `RunningDiagnostics.metrics` and of the predictor, if it has any, and `step` (updates so far),
        `coverage` (share of samples observed at least once), `smoothing` (the constant in use), `gain_ratio` (see
        `GainRatio`), `not_finite` (observations left out) and `rejected_predictions` (predictions that were negative or
        not finite, replaced by the class's mean).
        """
        return {
            **self._learner.metrics(),
            **self._diagnostics.metrics(),
            "gain_ratio": self.gain.value,
            "step": float(self.step),
            "coverage": float(self._learner.history.coverage()),
            "smoothing": float(self._proposal.constant),
            "not_finite": float(self._not_finite),
            "rejected_predictions": float(self._learner.rejected),
        }

    def restore_draw(
        self, indices: Tensor, probabilities: Tensor, weights: Tensor, *, is_warm_up: bool, drawn_at: int
    ) -> Draw:
        """Return a draw of this sampler that was made before its state was saved."""
        return Draw(indices, probabilities, weights, Ticket(self._owner, is_warm_up, drawn_at)).to(self.device)

    def take_back(self, draws: list[Draw]) -> None:
        """Forget the latest draws, none of them trained on: as many samples of the first epoch come again.

        The same ones, unless workers deliver out of turn; then a few are visited twice, and a few not yet.
        """
        self._warm_up.give_back(sum(len(draw) for draw in draws if draw.is_warm_up))

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state: with it, a sampler built with the same arguments goes on bit by bit as this one.

        Tensors are not copied, as in `torch.nn.Module.state_dict`: save it, or copy it, before training on.
        """
        return {
            "version": STATE_VERSION,
            "num_samples": self.num_samples,
            "predictor_class": type(self._learner.predictor).__qualname__,
            "step": self.step,
            "not_finite": self._not_finite,
            "proposal": self._proposal.state_dict(),
            "learner": self._learner.state_dict(),
            "warm_up": self._warm_up.state_dict(),
            "diagnostics": self._diagnostics.state_dict(),
            "gain": self.gain.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state.

        Raises:
            ValueError: the state is damaged, or of another version, data set size, predictor, window or smoothing;
                nothing was changed. Other arguments, such as k, are those that this sampler was built with.
        """
        self._check_state_dict(state)
        self._learner.load_state_dict(state["learner"])  # its predictor may refuse, and so comes first
        self._proposal.load_state_dict(state["proposal"])
        self._warm_up.load_state_dict(state["warm_up"])
        self._diagnostics.load_state_dict(state["diagnostics"])
        self.gain.load_state_dict(state["gain"])
        self.step = state["step"]
        self._not_finite = state["not_finite"]

    def _check_state_dict(self, state: Mapping[str, Any]) -> None:
        reference = self.state_dict()
        where = "load_state_dict(state)"
        if isinstance(state, Mapping):
            for name in ("version", "num_samples", "predictor_class"):
                if name in state and state[name] != reference[name]:
                    raise ValueError(
                        f"`{where}` has {name} {state[name]!r}; this sampler has {reference[name]!r}. "
                        "Was it made with another data set, predictor or release?"
                    )
        check_like(state, reference, where, skip=("learner",))
        self._proposal.check_state_dict(state["proposal"])
        self._learner.check_state_dict(state["learner"])
        self._warm_up.check_state_dict(state["warm_up"])
        self._diagnostics.check_state_dict(state["diagnostics"])
        self.gain.check_state_dict(state["gain"])

    def _uniform(self, size: int) -> Tensor:
        return torch.full((size,), 1 / self.num_samples, dtype=torch.float64, device=self.device)

    def _make_draw(self, indices: Tensor, probabilities: Tensor, *, is_warm_up: bool = False) -> Draw:
        weights = importance_weights(probabilities, self.num_samples, self.k)
        return Draw(indices, probabilities, weights, Ticket(self._owner, is_warm_up, self.step))

    def _learn(self, indices: Tensor, observed: Tensor, weights: Tensor, unbiased: Tensor, ticket: Ticket) -> None:
        warming_up = ticket.is_warm_up
        predicted = self._proposal.importance(indices)
        self._learner.learn(indices, average_duplicates(indices, observed), unbiased, self.step, ticket.drawn_at)
        self.gain.observe(second_moments(observed, unbiased, weights), len(indices), uniform=warming_up)
        observed_mean = self._diagnostics.update(weights, unbiased, observed, predicted, warming_up=warming_up)
        self._proposal.observe_mean(observed_mean)
        due = self._learner.due(indices, warming_up=warming_up)
        self._proposal.set_importance(due, self._learner.predict(due))
