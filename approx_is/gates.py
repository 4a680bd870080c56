"""From what the user asked for to the gate of a sampler."""

from __future__ import annotations

from collections.abc import Callable

from approx_is.gate import AlwaysOpen, Gate, VarianceGate
from approx_is.predictor_gate import PredictorGate
from approx_is.presampling_gate import PresamplingGate
from approx_is.protocols import ScoringPredictor

__all__ = ["make_gate"]


def make_gate(
    gate: str | VarianceGate | None,
    *,
    k: float | Callable[[int], float],
    scorer: ScoringPredictor | None,
    epoch_steps: float,
    update_every: int = 1,
    now: Callable[[], float] | None = None,
) -> Gate:
    """Return the gate of a sampler.

    Args:
        gate: "auto" for a `VarianceGate` where k is 1, and none where draws are biased: then the objective is another,
            and importance sampling is no matter of variance alone.
        k: bias exponent, or a function of the step.
        scorer: a predictor that scores candidates; None for others.
        epoch_steps: batches an epoch.
        update_every: steps that are learned from together.
        now: returns the time in seconds; None for the clock's.

    Raises:
        ValueError: `gate` is nothing of the kind, or there must be one.
    """
    if isinstance(gate, str) and gate == "auto":
        gate = VarianceGate() if k == 1 else None
    if isinstance(gate, VarianceGate):
        if scorer is None:
            return PredictorGate(gate, epoch_steps=epoch_steps, update_every=update_every, now=now)
        return PresamplingGate(gate, least_threshold=scorer.least_tau, update_every=update_every, now=now)
    if gate is not None:
        raise ValueError(f'`gate` must be "auto", None or a VarianceGate; got {gate!r}.')
    if scorer is not None and scorer.needs_tau:
        raise ValueError("`gate` must be a VarianceGate where the batch size follows τ, which it measures; got None.")
    return AlwaysOpen()
