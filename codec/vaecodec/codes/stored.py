"""Keep arrays as JSON strings: base64 of little-endian values, row by row."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_text(array: NDArray[Any]) -> str:
    """Write an array of any shape."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def from_text(text: str, dtype: str) -> NDArray[Any]:
    """Read an array of one dimension; raises ``TypeError`` or ``ValueError`` when the text holds none."""
    array = np.frombuffer(base64.b64decode(text, validate=True), dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("an array holds NaN or infinity")
    return array.astype(array.dtype.newbyteorder("="))
