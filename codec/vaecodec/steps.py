"""Log how far long work has come, seldom enough that it costs nothing and floods no log."""

from __future__ import annotations

import logging
import time

_SECONDS = 1.0


class Steps:
    """Log the steps of one piece of work as details, the first at once and then at most one a second.

    Args:
        logger: of the module that does the work.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._last = -_SECONDS

    def __call__(self, message: str, *values: object) -> None:
        """Log a step, as ``logging`` takes it."""
        now = time.monotonic()
        if now - self._last >= _SECONDS:
            self._last = now
            self._logger.debug(message, *values)
