"""Arrays that grow at their end without moving what readers hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST_ROWS = 256


class Growing:
    """Rows of one dtype and shape. Appending takes constant time for each row, as the room is doubled.

    A view that was handed out keeps its content: rows are only written behind it, or to a new place.
    """

    def __init__(self, like: NDArray[Any]) -> None:
        """Start without rows; they will be as those of ``like``, which is (n, ...)."""
        self._rows = np.empty((0, *like.shape[1:]), like.dtype)
        self._count = 0

    @property
    def rows(self) -> NDArray[Any]:
        """A view of all rows."""
        return self._rows[: self._count]

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows at the end."""
        count = self._count + len(rows)
        if count > len(self._rows):
            room = np.empty((max(count, 2 * len(self._rows), _FIRST_ROWS), *self._rows.shape[1:]), self._rows.dtype)
            room[: self._count] = self._rows[: self._count]
            self._rows = room
        self._rows[self._count : count] = rows
        self._count = count
