"""Read JSON that anyone may have written, and write records that hold a checksum of themselves.

A checksum finds damage. It is no proof of who wrote the record.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

_CHECKSUM = "checksum"


def parse_json(text: str | bytes) -> Any:
    """Parse one JSON value.

    Raises:
        ValueError: it is not JSON or not UTF-8, holds NaN, infinity or a number beyond float64, or is too deep.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("the JSON values are nested too deeply") from None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parse one JSON object; raise ``ValueError`` as :func:`parse_json` does, and for every other JSON value."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def with_checksum(content: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """Format a record as one JSON object that holds its own checksum, SHA-256, as ``checksum``.

    Args:
        content: JSON values, without NaN and infinity.
        indent: as for :func:`json.dumps`; on one line by default.
    """
    return json.dumps({**content, _CHECKSUM: _digest(content)}, indent=indent, allow_nan=False).encode()


def parse_with_checksum(text: str | bytes) -> dict[str, Any]:
    """Read what :func:`with_checksum` wrote.

    Raises:
        ValueError: it is no JSON object, or was changed since it was written.
    """
    content = parse_object(text)
    if content.pop(_CHECKSUM, None) != _digest(content):
        raise ValueError("the record does not fit its checksum")
    return content


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number} is too large a number")
    return value


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
