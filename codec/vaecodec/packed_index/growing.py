"""Grow arrays at their end without moving the rows that readers hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST_ROWS = 256


class Growing:
    """Hold rows of one dtype and shape. Appending takes constant time for each row, as the room is doubled.

    A view that was handed out keeps its content: rows are only written behind it, or to a new place.
    """

    def __init__(self, like: NDArray[Any]) -> None:
        """Start without rows; they will be as those of ``like``, which is (n, ...)."""
        self._room = np.empty((0, *like.shape[1:]), like.dtype)
        # Readers take no lock. So replace this view in one assignment, and they never see new rows in the old array.
        self._rows = self._room

    @property
    def rows(self) -> NDArray[Any]:
        """Return a view of all rows."""
        return self._rows

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows at the end."""
        old = len(self._rows)
        count = old + len(rows)
        if count > len(self._room):
            room = np.empty((max(count, 2 * len(self._room), _FIRST_ROWS), *self._room.shape[1:]), self._room.dtype)
            room[:old] = self._rows
            self._room = room
        self._room[old:count] = rows
        self._rows = self._room[:count]
