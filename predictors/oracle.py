"""A sample matters as much as the model says now: presampled candidates are scored by a forward pass."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from approx_is.batches import ScoreError, select, split
from approx_is.checks import check_number, check_positive
from approx_is.history import LossHistory
from approx_is.predictors.presampling_sizes import EQUAL_TIME_TAU, equal_time_sizes, presampling_threshold
from approx_is.predictors.scores import check_loss, gradient_norm_score, loss_score, upper_bound_score
from approx_is.predictors.stateless import StatelessPredictor

__all__ = ["GradientNormOracle", "Oracle", "UpperBoundOracle"]


class Oracle(StatelessPredictor):
    """Scores candidates with the model itself, by default by their loss, and predicts nothing.

    A step fetches B uniformly chosen candidates, scores them, and trains on b of these. The model is scored in eval
    mode without gradients, and then is as it was: the mode of each of its modules, buffers and gradients; built-in
    scores leave random generators alone, too, unless the model draws from them also in eval mode.

    Reference:
        Katharopoulos & Fleuret (2018), §3.3 and algorithm 1.

    Args:
        history: of the sampler.
        labels: not used.
        num_classes: not used.
        generator: not used.
        model: what is trained. Give the bare one rather than a DistributedDataParallel around it, whose forward pass
            waits for other processes.
        score: function of (model, batch) that returns one importance a sample, [B], finite and ≥ 0, given the batch as
            the loader collates it; None for the class's own, which takes (inputs, targets).
        presample: candidates over samples trained on, B/b, ≥ 1.
        equal_time: take B and b from `equal_time_sizes` rather than from `presample`, so that a step takes no longer
            than a uniform one.
        micro_batch: samples scored at a time, ≥ 1; None for as many as in a training batch. Bounds the memory that
            scores take.
        loss: of the built-in scores: "cross-entropy", "binary-cross-entropy" or "squared".
        autocast_dtype: `torch.bfloat16` or `torch.float16` to score in, by autocast; None leaves autocast as it is
            where the next batch is asked for.
        select: function of (batch, positions) that returns the batch of these samples, positions int64 on the CPU;
            None for `approx_is.batches.select`.

    Raises:
        TypeError: `model` is no module, or an option is of another type.
        ValueError: an option is out of bounds.
    """

    own_scale = True  # scores need not be of what is observed
    # scores are of eval mode, the gradient is of train mode: bounds unbiased weights at 11
    smoothing_fraction = 0.1

    _own_score = staticmethod(loss_score)

    def __init__(
        self,
        history: LossHistory,
        labels: Tensor | None,
        num_classes: int,
        generator: torch.Generator,
        *,
        model: nn.Module,
        score: Callable[[nn.Module, Any], Tensor] | None = None,
        presample: float = 3.0,
        equal_time: bool = False,
        micro_batch: int | None = None,
        loss: str = "cross-entropy",
        autocast_dtype: torch.dtype | None = None,
        select: Callable[[Any, Tensor], Any] | None = None,
    ) -> None:
        name = type(self).__name__
        _check_callables(name, model, score, select)
        check_loss(loss, f"{name}(loss=...)")
        if autocast_dtype not in (None, torch.bfloat16, torch.float16):
            raise ValueError(
                f"`{name}(autocast_dtype=...)` must be torch.bfloat16, torch.float16 or None; got {autocast_dtype!r}."
            )
        self._history = history
        self._model = model
        self._score = functools.partial(self._own_score, loss=loss) if score is None else score
        self._who = f"The score function `{_name_of(self._own_score if score is None else score)}`"
        self._presample = _check_presample(presample, f"{name}(presample=...)")
        self._equal_time = equal_time
        self._micro_batch = None if micro_batch is None else check_positive(micro_batch, f"{name}(micro_batch=...)")
        self._autocast_dtype = autocast_dtype
        self._select = select

    @property
    def least_tau(self) -> float:
        """The batch size increment from which on presampling is worth its time."""
        return EQUAL_TIME_TAU if self.needs_tau else presampling_threshold(self._presample)

    @property
    def needs_tau(self) -> bool:
        """Whether the sizes follow the batch size increment."""
        return self._equal_time

    def predict(self, indices: Tensor) -> Tensor:
        """Return the latest observation, [B], which is what is known without scoring; 0 where there is none."""
        return self._history.last(indices)

    def sizes(self, batch_size: int, tau: float) -> tuple[int, int]:
        """Return how many candidates B to score and how many of them, b, to train on.

        Args:
            batch_size: of a uniform step.
            tau: equivalent increase of the batch size, ≥ 1; used with `equal_time`.
        """
        if self._equal_time:
            return equal_time_sizes(batch_size, tau)
        return math.ceil(self._presample * batch_size - 1e-9), batch_size  # 1.1 * 50 is 55, but for its rounding

    def score(self, batch: Any, size: int, chunk: int) -> Tensor:
        """Return the importance of each sample of a batch.

        Args:
            batch: of candidates, as the loader collates it.
            size: number of candidates B.
            chunk: samples to score at a time, unless there is a `micro_batch`.

        Returns:
            Scores, float32 [B], finite and ≥ 0, on the history's device.

        Raises:
            ScoreError: the score function raised, or what it returned is not one importance a sample.
            ValueError: the batch cannot be split.
        """
        chunk = self._micro_batch or chunk
        with torch.no_grad(), _in_eval_mode(self._model), self._autocast():
            scores = [self._score_of(part, count) for part, count in self._split(batch, size, chunk)]
        together = torch.cat(scores).to(self._history.device)
        _check_scores(together, self._who)
        return together

    def select(self, batch: Any, positions: Tensor) -> Any:
        """Return the batch of the samples at these positions, int64 [b] on the CPU, in the form of the batch given.

        Raises:
            ScoreError: the select function raised.
            ValueError: without one, the batch is of no form that is known.
        """
        if self._select is None:
            return select(batch, positions)
        try:
            return self._select(batch, positions)
        except Exception as error:
            raise ScoreError(
                f"The select function `{_name_of(self._select)}` raised {type(error).__name__}: {error} (It was called "
                f"with a batch of the loader and {len(positions)} positions in it.)"
            ) from error

    def _split(self, batch: Any, size: int, chunk: int) -> Iterator[tuple[Any, int]]:
        if self._select is None:
            yield from split(batch, size, chunk)
            return
        for start in range(0, size, chunk):
            positions = torch.arange(start, min(start + chunk, size))
            yield self.select(batch, positions), len(positions)

    def _score_of(self, batch: Any, size: int) -> Tensor:
        try:
            scores = self._score(self._model, batch)
        except Exception as error:
            raise ScoreError(
                f"{self._who} raised {type(error).__name__}: {error} (It was called with a batch of {size} candidates, "
                "the model in eval mode and no gradients. Try that on a batch of your loader.)"
            ) from error
        if isinstance(scores, Tensor) and scores.shape == (size,) and not scores.is_complex():
            return scores.detach().float()
        found = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ScoreError(
            f"{self._who} must return a real tensor of shape [{size}], one value for each candidate it is given; got "
            f"{found}. Average over positions and outputs, not over samples: reduction='none'."
        )

    def _autocast(self) -> torch.autocast:
        # Without a cache of casts: one around the training loop may hold weights of before the last step, and in
        # torch < 2.10 would hand those made here, without gradients, to the training step.
        device = _device_type(self._model)
        return torch.autocast(
            device,
            dtype=self._autocast_dtype or torch.get_autocast_dtype(device),
            enabled=self._autocast_dtype is not None or torch.is_autocast_enabled(device),
            cache_enabled=False,
        )


class UpperBoundOracle(Oracle):
    """Scores candidates by the upper bound of their gradients' norms, the paper's choice. See `Oracle`."""

    _own_score = staticmethod(upper_bound_score)


class GradientNormOracle(Oracle):
    """Scores candidates by the norms of their gradients: the ideal, and costlier than training. See `Oracle`."""

    _own_score = staticmethod(gradient_norm_score)


@contextlib.contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and afterwards each in the mode that it was in.

    By flag: `train` and `eval` may be overridden to do more, as to merge low-rank weights, and not know the way back.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _device_type(model: nn.Module) -> str:
    parameter = next(model.parameters(), None)
    return "cpu" if parameter is None else parameter.device.type


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _check_callables(name: str, model: Any, score: Any, select: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`{name}(model=...)` must be a torch.nn.Module; got {type(model).__name__}.")
    for option, function, arguments in (("score", score, "model, batch"), ("select", select, "batch, positions")):
        if function is not None and not callable(function):
            raise TypeError(f"`{name}({option}=...)` must be a function of ({arguments}) or None; got {function!r}.")


def _check_presample(presample: float, argument: str) -> float:
    presample = check_number(presample, argument)
    if not 1 <= presample < math.inf:
        raise ValueError(f"`{argument}` must be finite and at least 1, candidates over samples; got {presample}.")
    return presample


def _check_scores(scores: Tensor, who: str) -> None:
    invalid = ~(scores.isfinite() & (scores >= 0))
    if bool(invalid.any()):
        raise ScoreError(
            f"{who} must return finite values of at least 0; got {float(scores[invalid][0])}, and {int(invalid.sum())} "
            f"such of {len(scores)} in all. Score by a gradient norm where the loss can be negative; NaN and inf come "
            "of a model that has diverged, or of half precision."
        )
