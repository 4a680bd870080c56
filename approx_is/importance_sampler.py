"""Importance sampling over indices alone: draw, train however you like, report what you observed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from approx_is.backlog import default_update_every
from approx_is.checks import check_importance, check_indices, check_number, check_positive, check_seed
from approx_is.diagnostics import RunningDiagnostics
from approx_is.distributed import find_ranks
from approx_is.draw import Draw, Ticket, check_candidates, check_ticket
from approx_is.drawer import Drawer
from approx_is.feedback import Feedback
from approx_is.gain import GainRatio
from approx_is.gate import Gate, Look, VarianceGate
from approx_is.gates import make_gate
from approx_is.history import LossHistory
from approx_is.labels import check_labels
from approx_is.learner import Learner
from approx_is.proposal import Proposal
from approx_is.protocols import Predictor, PredictorFactory, ScoringPredictor
from approx_is.reader import Reader
from approx_is.registry import build_predictor
from approx_is.smoothing import Smoothing, make_smoothing
from approx_is.state import check_like
from approx_is.uniform_epochs import UniformEpochs
from approx_is.weighting import check_exponent

__all__ = ["ImportanceSampler"]

STATE_VERSION = 3


class ImportanceSampler:
    r"""Draws sample indices in proportion to their predicted importance, and learns from what is observed of them.

    The first epoch visits every sample once, in random order, with weight 1. From then on samples are drawn with
    replacement from all N with probability :math:`p_i = (s_i + c) / \sum_j (s_j + c)`, s the prediction and c the
    smoothing constant, and their losses weigh :math:`(N p_i)^{-k}`. After each update the drawn samples are predicted
    anew, and so is a rolling part of the others.

    With a gate, the default at k = 1, all that begins when it pays, and as long as it does not epochs stay as plain as
    the first: see `VarianceGate`.

    `ApproxSampler` does the same around a `DataLoader`. `gain` says what the draws gain over uniform ones; `GainLR`
    follows it.

    Reference:
        Katharopoulos & Fleuret (2017), algorithm 1.

    Args:
        num_samples: size N of the data set.
        batch_size: draws a batch, B; may exceed N.
        predictor: a name (`available_predictors()`), a factory (see `PredictorFactory`) or an instance.
        k: bias exponent in (−∞, 1]: 1 is unbiased, below it hard samples count for more; or a function of the number of
            updates so far, such as `LinearAnnealing`.
        labels: class of each sample, integer [N] or [N, 1]; None to do without.
        num_classes: number of classes C; None for the largest label + 1; not used without labels.
        smoothing: "adaptive" (half the mean importance, or what suits the predictor), a constant ≥ 0, an
            `AdaptiveSmoothing` or `ConstantSmoothing`.
        window: observations remembered of each sample, in [1, 127].
        candidates: draw each batch from that many uniformly chosen samples, predicted just then, rather than from all:
            the paper's line 4, at most N. Rare samples are then seldom within reach. None draws from all.
        gate: a `VarianceGate` to draw by importance only while it pays; None to do so always; "auto" for the former at
            k = 1, where that is a matter of variance, and the latter otherwise.
        refresh: largest age of a prediction in epochs, > 0: `batch_size / refresh` samples beyond those drawn are
            predicted anew each step.
        update_every: updates that are learned from together, at least 1, which costs little more than learning from one
            of them; what they observe has its effect when the last of them has come. None for a 32nd of an epoch, 8 at
            most.
        reducible: draw by the part of the predicted importance that training can still reduce: less what a sample kept
            through all of its last observations, as those with wrong labels do. For k < 1 on noisy labels. Its
            predictor's predictions must be in the scale of what is observed.
        drop_last: leave out the first epoch's last batch if it would be smaller than the others.
        process_group: ranks that train together, each on `batch_size` samples of a draw of all; None for all ranks, if
            `torch.distributed` was initialised. To be independent of the others, a rank needs a group of its own.
        shard: whether each rank holds only every W-th sample, and draws from those by itself.
        seed: of all draws and of the predictor's start; the global random generators are not touched.
        device: where history, tree and predictor live; None for the CPU.
        history_dtype: of the remembered observations, float16, bfloat16, float32 or float64.
        history_path: a directory for a memory-mapped history, see `LossHistory`; each rank has a folder in it.
        predictor_options: keyword arguments of the predictor.

    Raises:
        ValueError: an argument is out of bounds; the message names it.

    Example:
        >>> sampler = ImportanceSampler(num_samples=4, batch_size=4, predictor="last-loss", k=0.5)
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
        drop_last: bool = False,
        process_group: ProcessGroup | None = None,
        shard: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        history_dtype: torch.dtype = torch.float32,
        history_path: str | Path | None = None,
        predictor_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.num_samples = check_positive(num_samples, "num_samples")
        self.batch_size = check_positive(batch_size, "batch_size")
        self._exponent = check_exponent(k, "ApproxSampler")
        self.step = 0
        self.device = torch.device("cpu" if device is None else device)
        if candidates is not None:
            candidates = check_positive(candidates, "candidates", at_most=num_samples)
        if not check_number(refresh, "refresh") > 0:
            raise ValueError(
                f"`refresh` must be positive, in epochs; got {refresh}. Use math.inf to predict drawn samples only."
            )
        self._ranks = find_ranks(num_samples, batch_size, process_group, shard=shard)
        self.num_held = self._ranks.num_held
        together = batch_size * self._ranks.num_drawing_together
        epoch_steps = self.num_held / together
        if update_every is None:
            update_every = default_update_every(self.num_held, together)
        self.update_every = check_positive(update_every, "update_every")
        labels, num_classes = check_labels(labels, num_samples, num_classes)
        self._ranks.check_agreement(
            {
                "num_samples": num_samples,
                "batch_size": batch_size,
                "predictor": predictor if isinstance(predictor, str) else type(predictor).__qualname__,
                "k": self.k,
                "num_classes": num_classes,
                "labels": None if labels is None else int(labels.sum()),
                "smoothing": smoothing if isinstance(smoothing, str | int | float) else type(smoothing).__qualname__,
                "window": window,
                "candidates": candidates,
                "gate": repr(gate),
                "refresh": refresh,
                "update_every": update_every,
                "reducible": reducible,
                "drop_last": drop_last,
                "shard": shard,
                "seed": seed,
                "history_dtype": str(history_dtype),
                "predictor_options": sorted(predictor_options or {}),
            }
        )
        stream = (self._ranks.rank,) if shard and self._ranks.size > 1 else ()
        words = np.random.SeedSequence(check_seed(seed), spawn_key=stream).generate_state(3)
        draws, epochs, start = (int(word) for word in words)
        if history_path is not None and self._ranks.size > 1:
            history_path = Path(history_path) / f"rank-{self._ranks.rank}"
        history = LossHistory(self.num_held, window, dtype=history_dtype, device=self.device, path=history_path)
        labels = self._ranks.held(labels)
        labels = None if labels is None else labels.to(self.device)
        arguments = (history, labels, num_classes, torch.Generator().manual_seed(start))
        built = build_predictor(predictor, arguments, predictor_options)
        self.scorer = built if isinstance(built, ScoringPredictor) else None
        if self.scorer is not None and candidates is not None:
            raise ValueError(
                f"`candidates` must be None with a predictor that scores samples; got {candidates}. "
                'It has its own: predictor_options={"presample": ...}.'
            )
        if reducible and getattr(built, "own_scale", False):
            raise ValueError(
                f"`reducible` must be False with {type(built).__name__}, which does not predict what is observed; got "
                'True. Use another predictor, such as "lstm".'
            )
        smoothing = make_smoothing(smoothing, fraction=getattr(built, "smoothing_fraction", 0.5))
        self._drawer = Drawer(
            self.num_held,
            UniformEpochs(
                self.num_held,
                seed=epochs,
                smallest_batch=min(together, self.num_held) if drop_last else 1,
            ),
            Proposal(self.num_held, smoothing, seed=draws, device=self.device, ahead=self.update_every),
            make_gate(
                gate,
                k=k,
                scorer=self.scorer,
                epoch_steps=epoch_steps,
                update_every=self.update_every,
                now=self._ranks.clock,
            ),
            exponent=self._exponent,
            scorer=self.scorer,
            candidates=candidates,
            num_ranks=self._ranks.num_drawing_together,
        )
        self._epoch_steps = epoch_steps
        self._learner = Learner(
            *(history, built, labels, num_classes), rolling=math.ceil(together / refresh), reducible=reducible
        )
        self._diagnostics = RunningDiagnostics(device=self.device)
        self._reader = Reader(self._ranks, self.device, expected=self._learner.expect)
        self.gain = GainRatio(device=self.device, mean=self._ranks.mean)
        self._feedback = Feedback(
            *(self._drawer, self._learner, self.gain, self._diagnostics), update_every=self.update_every
        )

    @property
    def k(self) -> float:
        """The bias exponent of the next draw."""
        return self._exponent(self.step)

    @property
    def rank(self) -> int:
        """Number of this rank, 0 without others."""
        return self._ranks.rank

    @property
    def is_sharded(self) -> bool:
        """Whether this rank's state is its own, since it holds samples that others do not."""
        return self.num_held < self.num_samples

    def num_batches(self, *, drop_last: bool) -> int:
        """Return the number of batches an epoch, which is that of every rank.

        Args:
            drop_last: whether to leave out a last batch smaller than the others.
        """
        together = self.batch_size * self._ranks.num_drawing_together
        size = self._ranks.epoch_size(drop_last=drop_last)
        return size // together if drop_last else math.ceil(size / together)

    @property
    def gate(self) -> Gate:
        """The gate: `gate.is_open`, and `gate.verdict` in words."""
        return self._drawer.gate

    def draw(self, batch_size: int | None = None) -> Draw:
        """Draw a batch.

        With a predictor that scores candidates, such as `upper-bound`, they are handed to it as indices, int64 [S]:
        give it a `score` of your own that takes them.

        Args:
            batch_size: number of draws B; None for the sampler's.

        Returns:
            The draw. The last one of a plain epoch may be smaller than asked for.

        Raises:
            ValueError: `batch_size` is not positive.
            ScoreError: the score went wrong.
        """
        draw = self.request(batch_size)
        if draw.is_batch:
            return draw
        assert self.scorer is not None
        return self.choose(draw, self.scorer.score(draw.indices, len(draw), self.batch_size))[0]

    def request(self, batch_size: int | None = None) -> Draw:
        """Draw a batch, or with a predictor that scores samples the candidates that it is to be chosen from.

        Args:
            batch_size: number of draws B; None for the sampler's.

        Returns:
            A batch if `is_batch`, else candidates, uniformly drawn, to be scored and given to `choose`.

        Raises:
            ValueError: `batch_size` is not positive.
        """
        batch_size = self.batch_size if batch_size is None else check_positive(batch_size, "draw(batch_size)")
        whole = self._drawer.request(batch_size, self.step)
        if not whole.is_batch and self.scorer is None:
            whole = self._drawer.choose(whole, self._learner.predict(whole.indices))[0]
        return self._ranks.part(whole)

    def choose(self, candidates: Draw, scores: Tensor) -> tuple[Draw, Tensor]:
        """Choose a batch from candidates, with replacement and in proportion to their smoothed scores.

        Args:
            candidates: what `request` returned.
            scores: importance of each candidate, float [S], finite and ≥ 0.

        Returns:
            The draw, and its positions among the candidates, int64 [B].

        Raises:
            ValueError: the draw is no candidates of this sampler, or the scores' shape is wrong or one is negative or
                not finite.
        """
        check_candidates(candidates, self._drawer.owner)
        check_importance(scores, candidates.indices.shape, "choose(scores)")
        whole = candidates.whole.to(self.device)
        gathered = self._ranks.gather(scores.detach().to(self.device), whole)()
        chosen, positions = self._drawer.choose(whole, gathered)
        return self._ranks.part(chosen), self._ranks.own_positions(positions, whole)

    def update(self, draw: Draw, observed: Tensor | Callable[[], Tensor]) -> None:
        """Remember what was observed of a draw, let the predictor learn from it, and predict anew.

        Args:
            draw: a draw of this sampler, not used for an update before.
            observed: importance of each drawn sample, float [B] ≥ 0, on any device, with or without grad: the losses,
                or `upper_bound(logits, targets)`. Entries that are not finite are counted in `metrics()` and left out.
                Or a function that returns it, which is not called while a closed gate has no use for it.

        Raises:
            TypeError: `draw` is no draw or `observed` no tensor.
            ValueError: the draw is another sampler's or was used before, the shape is wrong, or a value is negative.
                The sampler is as it was. A closed gate may not look at the values, and on an accelerator, where to look
                is to wait, negative ones are left out and counted like those that are not finite.
        """
        ticket = check_ticket(draw, self._drawer.owner)
        gate, drawn = self.gate, ticket.place is None
        look = gate.look(drawn=drawn)
        gate.begin_update(look)
        lesson = self._reader.read(draw, observed, look, self.step + 1)
        num_draws = len(draw.whole) * self._ranks.size // self._ranks.num_drawing_together
        ticket.spent = True
        self.step += 1
        if look is not Look.LEARN and not gate.is_open:
            self.gain.observe(None, num_draws, uniform=True)
        if lesson is not None:
            self._feedback.give(lesson, ticket, look, num_draws)
        gate.end_step(look, drawn=drawn)

    def probabilities(self, indices: Tensor | None = None, *, gated: bool = True) -> Tensor:
        """Return the probability of samples in the next draw.

        With `shard=True` they are those of the samples that this rank holds, in its own draws.

        With `candidates` it is the probability were all samples candidates, and so it is with a predictor that scores
        them, by what was last observed of each.

        Args:
            indices: samples, int64 [B]; None for all.
            gated: whether it is 1/N in plain epochs; if not, it is what samples would be drawn with otherwise.

        Returns:
            Probabilities, float64 [B] or [N], all positive; over all samples they sum to 1.
        """
        if indices is not None:
            indices = check_indices(indices, self.num_samples, "probabilities(indices)").to(self.device)
            indices = self._ranks.places(indices)
        return self._drawer.probabilities(indices, self.step) if gated else self._drawer.proposal.probabilities(indices)

    def metrics(self) -> dict[str, float]:
        """Return figures to log, all floats; reads five bytes of every sample, so call it now and then, not every step.

        Those of `RunningDiagnostics.metrics`, `LossHistory.metrics`, the gate, and of the predictor, if it has any, and
        `step` (updates so far), `smoothing` (the constant in use), `gain_ratio` (see `GainRatio`), `not_finite`
        (observations left out, on an accelerator negative ones too) and `rejected_predictions` (predictions that were
        negative or not finite, replaced by the class's mean).
        """
        own_scale = {"calibration": math.nan} if self._learner.own_scale else {}
        return {
            **self._learner.metrics(),
            **self._diagnostics.metrics(),
            **own_scale,
            **self.gate.metrics(),
            "gain_ratio": self.gain.value,
            "step": float(self.step),
            **self._learner.history.metrics(self.step, self._epoch_steps),
            "smoothing": float(self._drawer.proposal.constant),
            "not_finite": float(self._feedback.not_finite),
            "rejected_predictions": float(self._learner.rejected),
        }

    def begin_epoch(self) -> None:
        """Say that an epoch begins: a plain one then sees every sample once, whatever was left of the last."""
        self._drawer.epochs.begin_epoch()

    def restore_draw(
        self, indices: Tensor, probabilities: Tensor, weights: Tensor, *, place: int | None, drawn_at: int, choose: int
    ) -> Draw:
        """Return a draw of this sampler that was made before its state was saved, given as ranks drew it together."""
        ticket = Ticket(self._drawer.owner, place, drawn_at, choose)
        return self._ranks.part(Draw(indices, probabilities, weights, ticket).to(self.device))

    def take_back(self, draws: list[Draw]) -> None:
        """Forget the latest draws, none of them trained on: samples of a plain epoch come again.

        The same ones, unless workers deliver out of turn; then a few are visited twice.
        """
        self._drawer.take_back(draws)

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state: with it, a sampler built with the same arguments goes on bit by bit as this one.

        But for the clock of a gate that measures times, see `VarianceGate`. Tensors are not copied, as in
        `torch.nn.Module.state_dict`: save it, or copy it, before training on. A memory-mapped history is flushed.
        """
        self._learner.history.flush()
        return self._state()

    def _state(self) -> dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "num_samples": self.num_samples,
            "shard": self._ranks.shard,
            "predictor_class": type(self._learner.predictor).__qualname__,
            "gate_class": type(self.gate).__name__,
            "step": self.step,
            "drawer": self._drawer.state_dict(),
            "learner": self._learner.state_dict(),
            "diagnostics": self._diagnostics.state_dict(),
            "gain": self.gain.state_dict(),
            "feedback": self._feedback.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state.

        Raises:
            ValueError: the state is damaged, or of another version, data set size, predictor, window, gate or
                smoothing; nothing was changed. Other arguments, such as k, are those that this sampler was built with.
        """
        self._check_state_dict(state)
        self._learner.load_state_dict(state["learner"])  # its predictor may refuse, and so comes first
        self._drawer.load_state_dict(state["drawer"])
        self._diagnostics.load_state_dict(state["diagnostics"])
        self.gain.load_state_dict(state["gain"])
        self._feedback.load_state_dict(state["feedback"])
        self.step = state["step"]

    def _check_state_dict(self, state: Mapping[str, Any]) -> None:
        reference = self._state()
        where = "load_state_dict(state)"
        if isinstance(state, Mapping):
            if "shard" in state and state["shard"] != reference["shard"]:
                raise ValueError(
                    f"`{where}` is of samples {state['shard']!r}; this sampler holds {reference['shard']!r}. Load the "
                    "state of the same rank, or `reshard` those of all ranks first."
                )
            for name in ("version", "num_samples", "predictor_class", "gate_class"):
                if name in state and state[name] != reference[name]:
                    raise ValueError(
                        f"`{where}` has {name} {state[name]!r}; this sampler has {reference[name]!r}. "
                        "Was it made with another data set, predictor, gate or release?"
                    )
        check_like(state, reference, where, skip=("drawer", "learner", "feedback"))
        self._drawer.check_state_dict(state["drawer"])
        self._learner.check_state_dict(state["learner"])
        self._diagnostics.check_state_dict(state["diagnostics"])
        self.gain.check_state_dict(state["gain"])
        self._feedback.check_state_dict(state["feedback"])
