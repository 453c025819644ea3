"""Define what the fields of a dataclass of settings may hold, and read them from plain values."""

from __future__ import annotations

import math
from dataclasses import Field, field, fields, is_dataclass
from enum import StrEnum
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from vaecodec.errors import RecipeError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WIDEST = 65_536
"""Wider than any embedding."""

# No sensible setting is larger. Such a run would take years, fill any memory, or overflow.
_MOST = 1_000_000


def between(default: Any, low: float, high: float = _MOST) -> Any:
    """Return a field whose numbers lie between two, both included."""
    return field(default=default, metadata={"low": low, "high": high})


def above_zero(default: float, high: float = _MOST) -> Any:
    """Return a field whose numbers are positive."""
    return field(default=default, metadata={"low": 0, "high": high, "above": True})


def check_settings(settings: DataclassInstance) -> None:
    """Convert every field to the type of its default, and check its range: for ``__post_init__``.

    Raises:
        RecipeError: a value has the wrong type or lies outside its range.
    """
    for entry in fields(settings):
        value = _converted(entry.name, getattr(settings, entry.name), _default(entry))
        object.__setattr__(settings, entry.name, value)  # an integer is accepted as a float, a text as an enum member
        if not entry.metadata:
            continue
        low, high, above = entry.metadata["low"], entry.metadata["high"], entry.metadata.get("above", False)
        if not (low <= value <= high and abs(value) < math.inf) or (above and value <= low):
            wanted = f"above {low:g} and at most {high:,}" if above else f"from {low:g} to {high:,}"
            raise RecipeError(f"{entry.name}: expected {wanted}, got {value}")


def read_table(values: dict[str, Any], defaults: DataclassInstance, owner: str) -> dict[str, Any]:
    """Return plain values, as in TOML or JSON, in the types of the defaults.

    Args:
        values: what was read.
        defaults: of the settings.
        owner: what has these settings, for error messages.

    Raises:
        RecipeError: a key is unknown, or a value has the wrong type.
    """
    known = {entry.name for entry in fields(defaults)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise RecipeError(f"unknown keys {', '.join(unknown)}; {owner} knows {', '.join(sorted(known))}")
    return {key: _converted(key, value, getattr(defaults, key)) for key, value in values.items()}


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return plain values, as :func:`read_table` reads them."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found[key] = plain(value)
        elif isinstance(value, tuple):
            found[key] = list(value)
        else:
            found[key] = str(value) if isinstance(value, StrEnum) else value
    return found


def _default(entry: Field[Any]) -> Any:
    return entry.default_factory() if callable(entry.default_factory) else entry.default


def _converted(key: str, value: Any, default: Any) -> Any:
    if is_dataclass(default) and not isinstance(default, type):
        return value if isinstance(value, type(default)) else _table(key, value, default)
    if isinstance(default, StrEnum):
        try:
            return type(default)(value)
        except ValueError:
            raise RecipeError(f"{key}: expected one of {', '.join(type(default))}, got {value!r}") from None
    if isinstance(default, tuple):
        if _is_integer(value):
            return (int(value),)
        if isinstance(value, list | tuple) and all(map(_is_integer, value)):
            return tuple(map(int, value))
        raise RecipeError(f"{key}: expected a list of integers, got {value!r}")
    if type(default) is int and _is_integer(value):
        return int(value)
    if isinstance(default, float) and isinstance(value, Real) and not isinstance(value, bool):
        return _as_float(value)
    if type(value) is not type(default):
        raise RecipeError(f"{key}: expected {type(default).__name__}, got {value!r}")
    return value


def _table(key: str, value: Any, default: DataclassInstance) -> Any:
    if not isinstance(value, dict):
        raise RecipeError(f"{key}: expected a table [{key}], got {value!r}")
    return type(default)(**read_table(value, default, f"the table [{key}]"))


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _as_float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
