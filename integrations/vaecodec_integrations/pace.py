"""Keep to the rate that an embedding service allows."""

from __future__ import annotations

import time


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
