"""Predictors by name."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from approx_is.protocols import Predictor, PredictorFactory

__all__ = ["available_predictors", "register_predictor", "resolve_predictor"]

ENTRY_POINT_GROUP = "approx_is.predictors"
_registered: dict[str, PredictorFactory] = {}


def register_predictor(name: str, factory: PredictorFactory) -> None:
    """Make `ApproxSampler(predictor=name)` build its predictor with `factory`.

    An installed package does the same without a call through the entry-point group `approx_is.predictors`.

    Args:
        name: the name to register; one registered before under it is replaced.
        factory: a predictor class, or any callable of its signature.

    Raises:
        TypeError: `name` is not a string or `factory` cannot be called.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"`register_predictor(name=...)` must be a non-empty string; got {name!r}.")
    if not callable(factory):
        raise TypeError(
            f"`register_predictor(factory=...)` must be callable; got {factory!r}. Pass the class, not an instance."
        )
    _registered[name] = factory


def available_predictors() -> list[str]:
    """Return the names that `ApproxSampler(predictor=...)` accepts, sorted.

    Example:
        >>> "lstm" in available_predictors()
        True
    """
    return sorted({*_registered, *_installed()})


def resolve_predictor(predictor: str | PredictorFactory | Predictor) -> PredictorFactory | Predictor:
    """Return the factory of that name; factories and instances pass through.

    Raises:
        ValueError: no predictor has that name.
        TypeError: `predictor` is neither a name, a factory nor an instance.
    """
    if not isinstance(predictor, str):
        if isinstance(predictor, Predictor) or callable(predictor):
            return predictor
        raise TypeError(f"`predictor` must be a name, a factory or a predictor; got {predictor!r}.")
    if predictor in _registered:
        return _registered[predictor]
    installed = _installed()
    if predictor not in installed:
        names = ", ".join(available_predictors())
        raise ValueError(f"`predictor` must be one of {names}; got {predictor!r}. Add yours with `register_predictor`.")
    factory: Any = installed[predictor].load()
    return factory  # type: ignore[no-any-return]  # an entry point may hold anything; a wrong one fails when it is called


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
