"""Keep to the rate that an embedding service allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vaecodec.interface import FloatArray


class Pace:
    """Wait so that no more than a given number of texts are embedded in a second.

    Args:
        per_second: texts; None for as many as possible.
    """

    def __init__(self, per_second: float | None) -> None:
        self._per_second, self._free_at = per_second, time.monotonic()

    def wait(self, texts: int) -> None:
        """Wait until so many texts may be embedded."""
        if self._per_second is not None:
            now = time.monotonic()
            time.sleep(max(0.0, self._free_at - now))
            self._free_at = max(self._free_at, now) + texts / self._per_second

    def embedded(self, embed: Callable[[list[str]], Any], texts: list[str], batch: int) -> FloatArray:
        """Embed at least one text, in batches of so many at most, and wait before each: float32 (n, d)."""
        found = []
        for first in range(0, len(texts), batch):
            some = texts[first : first + batch]
            self.wait(len(some))
            found.append(np.asarray(embed(some), np.float32))
        return np.concatenate(found)
