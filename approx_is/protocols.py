"""What the sampler asks of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Predictor", "PredictorFactory", "ScoringPredictor", "Stateful"]


@runtime_checkable
class Stateful(Protocol):
    """Something whose whole state can be saved as tensors and plain values, and restored to the bit."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors, numbers, strings, lists and dicts, for `torch.load(weights_only=True)`."""
        ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        ...


@runtime_checkable
class Predictor(Stateful, Protocol):
    """Predicts the next importance of samples from what the sampler has observed of them.

    A predictor is built by `factory(history, labels, num_classes, generator, **options)`, see `PredictorFactory`. The
    sampler calls `update` *before* it appends the same observations to the history, so that `update` sees the history
    from which it should have predicted them.

    What follows is optional:

    - `local = True` says that a sample's prediction changes only when the sample itself is observed: the sampler need
      not ask for the others anew.
    - `judges_unseen = True` keeps what it predicts for samples that were never observed, which otherwise get the mean
      of their class.
    - `smoothing_fraction` is the share of the mean importance that `smoothing="adaptive"` adds, 1/2 without it: less
      for predictions that are made to be drawn from as they are.
    - `revision` is a number that changes when all predictions have: the sampler asks for everyone's again, some
      thousands a step, rather than by and by, if there are not more than a million.
    - `knows_draws = True` gives `update` two more keyword arguments: `weights`, the unbiased weights
      :math:`1/(N p_i)` of the draw, float64 [B], and `drawn_at`, the step after which it was drawn.
    - `joins_batches = True` has `update` called once for several batches that are learned from together, one after the
      other, with the last one's step, and with the keyword argument `num_batches`, to tell them apart where it matters.
    - `own_scale = True` says that predictions are not in the unit of what is observed, as ranks are not: the smoothing
      then follows their own mean. It should judge unseen samples, too: what they get otherwise is in that unit.
    - `metrics()` returns a dict of floats, which the sampler's `metrics()` then holds too.
    """

    def predict(self, indices: Tensor, /) -> Tensor:
        """Predict the importance of samples: int64 [B] → float [B], finite and ≥ 0. Pure: no state changes, no grad."""
        ...

    def update(self, indices: Tensor, observed: Tensor, step: int, /) -> None:
        """Learn from `observed` importance, float32 [B], of samples `indices`, int64 [B], seen at training step `step`.

        A sample drawn twice in a batch stands there twice, both times with the mean of its observations.
        """
        ...


@runtime_checkable
class ScoringPredictor(Predictor, Protocol):
    """A predictor that looks at the samples themselves: it scores candidates, fetched for that, and some are chosen.

    With such a one a sampler presamples: Katharopoulos & Fleuret (2018), algorithm 1. There is no warm-up for it, and
    what `predict` answers is drawn from by nobody.
    """

    @property
    def least_tau(self) -> float:
        """The batch size increment from which on presampling is worth its time, see `PresamplingGate`."""
        ...

    @property
    def needs_tau(self) -> bool:
        """Whether `sizes` depend on `tau`, so that there must be a gate, which measures it."""
        ...

    def sizes(self, batch_size: int, tau: float, /) -> tuple[int, int]:
        """Return how many candidates to score, and how many of them to choose, given the batch size increment."""
        ...

    def score(self, batch: Any, size: int, chunk: int, /) -> Tensor:
        """Return the importance of a batch's `size` samples, float32 [size], finite and ≥ 0, `chunk` at a time.

        Raises:
            ScoreError: they have none.
        """
        ...

    def select(self, batch: Any, positions: Tensor, /) -> Any:
        """Return samples of a batch, at positions int64 [b] on the CPU, in the same form."""
        ...


class PredictorFactory(Protocol):
    """Builds a predictor; a predictor class is one.

    It is called as `factory(history, labels, num_classes, generator, **options)`, with the `LossHistory`, integer
    labels [N] or None, the number of classes and a private CPU generator; the options are those of `predictor_options`.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Predictor:  # typed so that each may name its own options
        """Build the predictor."""
        ...
