"""Predictors as in their papers, which change draws or weights in the course of training."""

from __future__ import annotations

from typing import Any

from approx_is import GeometricAnnealing, LinearAnnealing
from configuration import Config

__all__ = ["as_published"]


def as_published(config: Config) -> dict[str, Any]:
    """Return arguments of the sampler with which a predictor is what its paper has, apart from the uniform first epoch.

    `rank` is online batch selection (Loshchilov & Hutter, 2015): the selection pressure falls from 100 to 1; their loss
    has no weights, k = 0. `last-loss` is proportional prioritised replay (Schaul et al., 2015): draws by the power of
    0.6 and nothing but that, and k goes from that of the run, 0.4 in the paper, to 1. Their weights are divided by the
    largest, which is a matter of the learning rate, and left out.

    Args:
        config: of a run by one of the predictors `ANNEALED`.
    """
    if config.predictor == "rank":
        return {"predictor_options": {"pressure": GeometricAnnealing(100.0, 1.0, config.steps)}}
    k = LinearAnnealing(config.k, 1.0, config.steps)
    return {"k": k, "smoothing": 0.0, "predictor_options": {"exponent": 0.6}}
