"""Keep arrays as JSON strings: base64 of little-endian values, row by row."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The square of what is larger, or a sum of squares, would overflow float32.
_LARGEST = 1e15


def check_moments(mean: NDArray[Any], *spreads: NDArray[Any], importance: NDArray[Any]) -> None:
    """Raise ``ValueError`` for spreads or an importance below zero, and for values that no latents can have."""
    if any((array < 0).any() for array in (*spreads, importance)):
        raise ValueError("a spread, importance or peak is negative")
    if any((np.abs(array) > _LARGEST).any() for array in (mean, *spreads)):
        raise ValueError("the squares of a mean, spread or peak are too large")


def to_text(array: NDArray[Any]) -> str:
    """Write an array of any shape."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def from_text(text: str, dtype: str) -> NDArray[Any]:
    """Read an array of one dimension; raises ``TypeError`` or ``ValueError`` when the text holds none."""
    array = np.frombuffer(base64.b64decode(text, validate=True), dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("an array holds NaN or infinity")
    return array.astype(array.dtype.newbyteorder("="))
