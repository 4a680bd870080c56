"""The share of the ideal variance reduction that a method's choice of samples captures, whatever the method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from approx_is.diagnostics import captured
from approx_is.predictors.scores import gradient_norm_score
from configuration import PRESAMPLING
from evaluation import in_eval_mode

if TYPE_CHECKING:
    from training import Training

__all__ = ["captured_by_pools", "share_captured"]

SCORED_POOLS = 8
"""Pools whose gradient norms are computed, which takes as long as so many training steps or more."""

SCORED_SEED = 0
"""Of the choice of the samples in them, which is the same every time."""


def share_captured(training: Training, indices: Tensor, losses: Tensor, bounds: Tensor) -> float:
    r"""Return log ρ / log ρ* over some training samples, with the network as it is, in eval mode.

    ρ is the second moment of a uniform draw over that of the *unbiased* estimate from draws as the method chooses, so
    that methods are compared by what they draw, whatever weights they then give. 1 is the oracle, 0 uniform. The plain
    draws that an open gate makes now and then, for their time, do not count.

    Args:
        training: the run.
        indices: of the samples, int64 [n].
        losses: of these samples, [n].
        bounds: of the norms of their gradients, [n], the importance.

    Returns:
        The share, 0 for methods that draw uniformly; NaN where there is nothing to capture.
    """
    if training.chooser is not None:
        return captured(bounds, _normalised(training.chooser.propensities(indices, losses)))
    if training.sampler is None:
        return 0.0
    gate = training.sampler.gate
    if training.config.predictor in PRESAMPLING:
        return _captured_by_presampling(training, indices, losses, bounds) if gate.is_open else 0.0
    may_be_plain = gate.is_open and gate.times_plain_steps
    return captured(bounds, _normalised(training.sampler.probabilities(indices, gated=not may_be_plain).cpu()))


def captured_by_pools(importance: Tensor, scores: Tensor, pool: int, *, smoothing: float) -> float:
    r"""Return the share captured by draws from pools of uniform candidates, in proportion to their smoothed scores.

    .. math:: \rho^{-1} \propto \mathrm{E}\Big[\frac1M \sum_i s_i \cdot \frac1M \sum_i \frac{v_i^2}{s_i}\Big]

    with the sums over the M candidates of a pool. Even the best scores capture less than 1, since a pool has only some
    of the samples that matter.

    Args:
        importance: v of all samples, [n], in random order or in any if there are many pools.
        scores: s of the same.
        pool: candidates M.
        smoothing: what is added to each score, in mean scores of the pool.
    """
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
    order = order[: max(1, len(order) // pool) * pool].view(-1, min(pool, len(order)))
    squares, scores = importance.double()[order].square(), scores.double()[order]
    smoothed = scores + smoothing * scores.mean(1, keepdim=True) + 1e-12
    moment = (smoothed.mean(1) * (squares / smoothed).mean(1)).mean()
    ideal = (importance.double()[order].mean() ** 2).item()
    uniform = squares.mean().item()
    return math.log(uniform / moment.item()) / math.log(uniform / ideal) if uniform > ideal > 0 else math.nan


def _captured_by_presampling(training: Training, indices: Tensor, losses: Tensor, bounds: Tensor) -> float:
    name, scorer = training.config.predictor, training.sampler._sampler.scorer
    pool, _ = scorer.sizes(training.config.batch_size, training.sampler.gate.tau)
    scores = losses if name == "oracle" else bounds
    if name == "gradient-norm":
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(SCORED_SEED))
        chosen = order[: SCORED_POOLS * pool]
        bounds, scores = bounds[chosen], _gradient_norms(training, indices[chosen])
    return captured_by_pools(bounds, scores, pool, smoothing=scorer.smoothing_fraction)


def _gradient_norms(training: Training, indices: Tensor) -> Tensor:
    inputs, targets = training.task.train.__getitems__(indices)
    parts = zip(inputs.split(training.config.batch_size), targets.split(training.config.batch_size), strict=True)
    batches = ((some.to(training.device), labels.to(training.device)) for some, labels in parts)
    with in_eval_mode(training.model):
        return torch.cat([gradient_norm_score(training.model, batch).detach().cpu() for batch in batches])


def _normalised(weights: Tensor) -> Tensor:
    return weights.double() / weights.double().sum()
