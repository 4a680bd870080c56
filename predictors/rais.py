"""Robust approximate importance sampling: a sample matters as much as it might, given how wrong predictions are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from approx_is.checks import check_positive
from approx_is.history import LossHistory
from approx_is.predictors.norm_features import FEATURES, LARGEST_NORM, NormFeatures
from approx_is.predictors.recent_observations import RecentObservations
from approx_is.predictors.refit import Fit, Refit
from approx_is.predictors.robust import UncertaintySet
from approx_is.predictors.uncertainty_set import check_solver
from approx_is.state import check_at_least, check_generator_state, check_like

__all__ = ["RAISPredictor"]

NUM_REFERENCES = 131_072
"""Samples that the mean features are taken over: all, or as many at random."""

START = UncertaintySet(np.array([0.5, 0.5, 0, 0, 0, 0]), np.zeros(len(FEATURES)))
"""Before the first fit: halfway between the latest norm and the mean of all, so that weights stay near 2 at most."""


class RAISPredictor:
    r"""Predicts a set of norms that may be, and draws for the worst of them.

    The gradient norm of sample i with features :math:`s_i` is expected at :math:`c^\top s_i`, and its uncertainty is
    :math:`d^\top s_i`: the norms lie in the ellipsoid :math:`\frac1N \sum_i (v_i - c^\top s_i)^2 / d^\top s_i \le 1`.
    Over it the largest second moment of a weighted draw is least if samples are drawn in proportion to

    .. math:: v_i = c^\top s_i + k \, d^\top s_i, \quad k = \left(\frac1N \sum_i d^\top s_i\right)^{-1/2}

    so an uncertain sample is drawn more often, by as much as its uncertainty warrants: this takes the place of tuned
    smoothing. c and d are the smallest set that the recent observations lie in, found by convex optimisation again and
    again. The features are those of `NormFeatures`; observations enter with those of the moment of the draw, but for
    the means over all and over a class, which are the present ones, and only if the sample had been seen before and not
    since the draw.

    The set knows nothing of what it never saw: the one sample in a hundred thousand that jumps from nowhere. So half
    the mean is added as for any predictor, which bounds weights at 3, and many observations are kept, for some of them
    to be such. On data with rare cases, such as Shuttle, both matter more than all else; where there are none,
    `smoothing=AdaptiveSmoothing(0.1)` captures more.

    Observe gradient norms, `upper_bound(logits, targets)`, and use k = 1, the method of the paper. With another k of
    the sampler the draws stay the same and the weights lean towards the hard samples: biased, see `importance_weights`.

    A fit runs in a thread beside the training. It is used `fit_size` observations after it began, even if it is done
    sooner: a run depends on its seed and not on the clock. Where steps are so fast that training would wait for it,
    take `solver="l-bfgs"`.

    Reference:
        Johnson & Guestrin (2018), *Training Deep Models Faster with Robust, Approximate Importance Sampling*.

    Args:
        history: of the sampler.
        labels: class of each sample, integer [N]; None puts all samples into one class.
        num_classes: number of classes C.
        generator: draws the samples that mean features are taken over, if there are more than 131,072.
        observations: number m of recent observations to keep. A refit comes when as many new ones are there as the last
            had, so at first whenever their number has doubled, and in the end after every ⌈m / batch size⌉ updates.
        fit_size: number of them that a fit gets, at most `observations`, see `select`.
        solver: "cvxpy", or "l-bfgs" for the equivalent bound-constrained problem, some ten times faster.
        background: whether to fit in a thread; if not, `update` waits for each fit and uses it at once.

    Raises:
        ValueError: an option is out of bounds.
    """

    knows_draws = True

    def __init__(
        self,
        history: LossHistory,
        labels: Tensor | None,
        num_classes: int,
        generator: torch.Generator,
        *,
        observations: int = 32_768,
        fit_size: int = 2_048,
        solver: str = "cvxpy",
        background: bool = True,
    ) -> None:
        self._observations = check_positive(observations, "RAISPredictor(observations=...)")
        self._fit_size = check_positive(fit_size, "RAISPredictor(fit_size=...)", at_most=observations)
        self._solver = check_solver(solver)
        self._background = background
        self._history = history
        self._generator = generator
        self._features = NormFeatures(history, labels, num_classes)
        self._recent = RecentObservations(observations, len(FEATURES), device=history.device)
        self._use(Fit(START, k=0.0, bound=0.0))
        self._refit: Refit | None = None
        self._num_fits = self._num_failures = 0
        self._size = 0  # observations kept when the last refit began
        self._since = 0  # usable observations since then

    @property
    def revision(self) -> int:
        """Number of refits used: after each, every sample's prediction is another."""
        return self._num_fits

    def predict(self, indices: Tensor) -> Tensor:
        """Return the norm that each sample is drawn by, float32 [B]."""
        features = self._features.describe(indices, self._history.step)
        return (features @ self._coefficients).clamp(max=torch.finfo(torch.float32).max)

    def update(
        self,
        indices: Tensor,
        observed: Tensor,
        step: int,
        *,
        weights: Tensor | None = None,
        drawn_at: int | None = None,
    ) -> None:
        """Take in observed norms, and refit when it is time.

        Args:
            indices: samples, int64 [B].
            observed: norms, float32 [B]; above 1e30 they count as that much.
            step: training step.
            weights: unbiased weights :math:`1/(N p_i)` of the draw, float64 [B]; None for uniform ones.
            drawn_at: step after which the samples were drawn; None for the one before.
        """
        observed = observed.clamp(max=LARGEST_NORM)
        weights = torch.ones_like(observed, dtype=torch.float64) if weights is None else weights
        drawn_at = step - 1 if drawn_at is None else drawn_at
        features, are_usable = self._features.observe(indices, observed, weights, step, drawn_at)
        usable = are_usable.nonzero().squeeze(1)
        self._recent.append(features[usable], observed[usable], weights[usable])
        self._since += len(usable)
        self._advance()

    def metrics(self) -> dict[str, float]:
        """Return figures of the fits.

        - `robust_bound`: J*, a bound of the second moment of a weighted draw while norms stay in the set (that of the
          observed draws is the mean of :math:`w^2 v^2`); NaN before the first fit.
        - `refits` and `failed_refits`: fits used so far, and those of them that the solver failed at.
        """
        return {
            "robust_bound": self._fit.bound if self._num_fits else math.nan,
            "refits": float(self._num_fits),
            "failed_refits": float(self._num_failures),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the complete state; waits for a fit under way, which is part of it."""
        following = self._fit if self._refit is None else self._refit.result()
        return {
            "features": self._features.state_dict(),
            "recent": self._recent.state_dict(),
            "fit": self._fit.state_dict(),
            "following": following.state_dict(),
            "is_refitting": self._refit is not None,
            "num_fits": self._num_fits,
            "num_failures": self._num_failures,
            "size": self._size,
            "since": self._since,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; raise `ValueError` before changing anything if it does not fit."""
        where = "RAISPredictor.load_state_dict(state)"
        check_like(state, self.state_dict(), where)
        check_generator_state(state["generator"], torch.device("cpu"), f"{where}['generator']")
        self._features.check_state_dict(state["features"])
        self._recent.check_state_dict(state["recent"])
        check_at_least(state, dict.fromkeys(("num_fits", "num_failures", "size", "since"), 0), where)
        for name in ("fit", "following"):
            check_at_least(state[name], {"k": 0, "bound": 0}, f"{where}[{name!r}]")
        fit, following = (Fit.of_state(state[name]) for name in ("fit", "following"))
        self._features.load_state_dict(state["features"])
        self._recent.load_state_dict(state["recent"])
        self._use(fit)
        self._refit = Refit.finished(following) if state["is_refitting"] else None
        self._num_fits, self._num_failures = state["num_fits"], state["num_failures"]
        self._size, self._since = state["size"], state["since"]
        self._generator.set_state(state["generator"].cpu())

    def _advance(self) -> None:
        """Use a fit that began long enough ago, and begin one that is due."""
        if self._refit is not None and self._since >= self._fit_size:
            fit, self._refit = self._refit.result(), None
            self._take_over(fit)
        if self._since >= max(self._fit_size, self._size):
            self._begin_refit()

    def _begin_refit(self) -> None:
        self._size, self._since = len(self._recent), 0
        previous = self._fit.uncertainty_set if self._num_fits else None
        self._refit = Refit(
            *(self._recent.arrays(), self._mean_features(), previous),
            size=self._fit_size,
            solver=self._solver,
            background=self._background,
        )
        if not self._background:
            fit, self._refit = self._refit.result(), None
            self._take_over(fit)

    def _take_over(self, fit: Fit) -> None:
        self._use(fit)
        self._num_fits += 1
        if fit.failure is not None:
            self._num_failures += 1
            warnings.warn(f"A refit of the predictor `rais` failed: {fit.failure}", RuntimeWarning, stacklevel=2)

    def _use(self, fit: Fit) -> None:
        self._fit = fit
        worst = fit.uncertainty_set.c + fit.k * fit.uncertainty_set.d
        worst = np.minimum(worst, np.finfo(np.float32).max)  # infinity times a feature of 0 would be NaN
        self._coefficients = torch.from_numpy(worst).to(self._history.device, torch.float32)

    def _mean_features(self) -> np.ndarray:
        num_samples = self._history.num_samples
        if num_samples <= NUM_REFERENCES:
            indices = torch.arange(num_samples)
        else:
            indices = torch.randint(num_samples, (NUM_REFERENCES,), generator=self._generator)
        features = self._features.describe(indices.to(self._history.device), self._history.step)
        means: np.ndarray = features.double().mean(0).cpu().numpy()
        return means
