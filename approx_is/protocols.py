"""What the sampler asks of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Predictor", "PredictorFactory", "Stateful"]


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


class PredictorFactory(Protocol):
    """Builds a predictor; a predictor class is one."""

    def __call__(
        self, history: Any, labels: Tensor | None, num_classes: int, generator: Any, /, **options: Any
    ) -> Predictor:
        """Build from the `LossHistory`, integer labels [N] or None, number of classes and a private CPU generator."""
        ...
