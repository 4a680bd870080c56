"""A fit of the uncertainty set, off the training thread."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import Any

import numpy as np
import torch

from approx_is.predictors.robust import UncertaintySet, robust_scale
from approx_is.predictors.uncertainty_set import solve_uncertainty_set

__all__ = ["Fit", "Refit", "fit", "select"]

TINY = np.finfo(np.float64).tiny

Observations = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features [m, K], norms [m] and unbiased weights [m]."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted uncertainty set.

    Attributes:
        uncertainty_set: its c and d.
        k: how far from the centre the worst case lies.
        bound: J*, the largest second moment of a weighted draw over the set.
        failure: why the solver's own solution was not used; None if it was.
    """

    uncertainty_set: UncertaintySet
    k: float
    bound: float
    failure: str | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the fit as tensors and plain values."""
        return {
            "c": torch.from_numpy(self.uncertainty_set.c.copy()),
            "d": torch.from_numpy(self.uncertainty_set.d.copy()),
            "k": self.k,
            "bound": self.bound,
            "failure": self.failure or "",
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Fit:
        """Return the fit of a state; raise `ValueError` if c or d is negative."""
        restored = UncertaintySet(state["c"].cpu().numpy().copy(), state["d"].cpu().numpy().copy())
        return cls(restored, state["k"], state["bound"], state["failure"] or None)


def fit(
    observations: Observations, mean_features: np.ndarray, previous: UncertaintySet | None, *, size: int, solver: str
) -> Fit:
    """Fit a set to observations, see `fit_uncertainty_set`; warns of nothing, as befits a thread.

    Args:
        observations: features [m, K], norms [m] and unbiased weights [m].
        mean_features: over all samples, [K].
        previous: the set before, to go back to if the solver fails; None at the first fit.
        size: observations that the solver gets.
        solver: its name.
    """
    if not mean_features.any():  # nothing but zeros was observed
        zeros = np.zeros_like(mean_features)
        return Fit(UncertaintySet(zeros, zeros), k=0.0, bound=0.0)
    fitted, failure = solve_uncertainty_set(
        *select(*observations, previous, size), mean_features, solver=solver, fallback=previous
    )
    k, bound = robust_scale(float(mean_features @ fitted.c), float(mean_features @ fitted.d))
    return Fit(fitted, k, bound, failure)


def select(
    features: np.ndarray, norms: np.ndarray, weights: np.ndarray, previous: UncertaintySet | None, size: int
) -> Observations:
    r"""Return `size` of m observations that stand for all: the means over them are those over all, nearly.

    A few outliers make most of the fit's constraint :math:`\frac1m \sum_j w_j (v_j - c^\top s_j)^2 / d^\top s_j`. So
    observations are chosen in proportion to their share of it under the previous set, half, and evenly, half, and
    weighed by the reciprocal: importance sampling again, here systematic and without randomness.
    """
    count = len(norms)
    if count <= size:
        return features, norms, weights
    shares = np.full(count, 1 / count)
    if previous is not None:
        spread = features @ previous.d
        with np.errstate(over="ignore"):  # of residuals over a spread of 0: leaves the even choice
            terms = weights * (norms - features @ previous.c) ** 2 / np.maximum(spread, 1e-12 * spread.mean() + TINY)
            total = terms.sum()
        if 0 < total < np.inf:
            shares = (shares + terms / total) / 2
    cumulative = np.cumsum(shares)
    chosen = np.searchsorted(cumulative, (np.arange(size) + 0.5) / size * cumulative[-1])
    return features[chosen], norms[chosen], weights[chosen] / (count * shares[chosen])


class Refit:
    """One fit under way.

    Its thread holds arrays only, no sampler, and ends with the fit; whoever drops a `Refit` waits for that.

    Args:
        arguments: of `fit`.
        options: of `fit`.
        background: whether to fit in a thread, or here and now.
    """

    def __init__(self, *arguments: Any, background: bool, **options: Any) -> None:
        self._thread: Thread | None = None
        self._future: Future[Fit] = Future()
        if background:
            self._arguments, self._options = arguments, options
            thread = Thread(target=_settle, args=(self._future, arguments, options), name="approx_is-refit")
            thread.start()
            self._thread = thread
        else:
            self._future.set_result(fit(*arguments, **options))

    @classmethod
    def finished(cls, result: Fit) -> Refit:
        """Return one that is done."""
        refit = cls.__new__(cls)
        refit._thread = None
        refit._future = Future()
        refit._future.set_result(result)
        return refit

    def result(self) -> Fit:
        """Return the fit when it is done, or raise what it raised; its thread has ended."""
        self._join()
        if not self._future.done():  # in a process forked from that of the thread
            _settle(self._future, self._arguments, self._options)
        return self._future.result()

    def __del__(self) -> None:
        """Leave nothing running."""
        self._join()

    def _join(self) -> None:
        # the thread rather than the future: in a forked worker there is none, and nothing to wait for
        if self._thread is not None:
            self._thread.join()


def _settle(future: Future[Fit], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    try:
        future.set_result(fit(*arguments, **options))
    except BaseException as error:
        future.set_exception(error)
