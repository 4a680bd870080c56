"""Predictors by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from approx_is.protocols import Predictor, PredictorFactory

__all__ = ["available_predictors", "build_predictor", "register_predictor", "resolve_predictor"]

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


def build_predictor(
    predictor: str | PredictorFactory | Predictor, arguments: tuple[Any, ...], options: Mapping[str, Any] | None
) -> Predictor:
    """Return the predictor that a user asked for.

    Args:
        predictor: a name, a factory, or an instance, which is returned as it is.
        arguments: the factory's positional arguments, see `PredictorFactory`.
        options: its keyword arguments.

    Raises:
        TypeError: the options are not those of the factory, or `predictor` is of another kind.
        ValueError: there is no such predictor, or there are options for an instance.
    """
    resolved = resolve_predictor(predictor)
    options = options or {}
    if isinstance(resolved, Predictor) and not isinstance(resolved, type):
        if options:
            raise ValueError(
                "`predictor_options` are for a predictor given by name or factory; this one is built already."
            )
        return resolved
    try:
        inspect.signature(resolved).bind(*arguments, **options)
    except TypeError as error:
        raise TypeError(f"`predictor_options` do not fit the predictor {predictor!r}: {error}.") from None
    built = resolved(*arguments, **options)
    if not isinstance(built, Predictor):
        missing = [name for name in ("predict", "update", "state_dict", "load_state_dict") if not hasattr(built, name)]
        raise TypeError(f"`predictor` must have the methods of `Predictor`; {type(built).__name__} lacks {missing}.")
    return built


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
