"""Hold the content of a packed index: codes, ids, and which rows were deleted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.evaluation import IdArray

# Collect this many new ids, or an eighth of all, in a dictionary before all are sorted again.
_NEWEST = 4096


@dataclass(frozen=True, eq=False)
class Rows:
    """Hold one state of an index. It never changes, so that a search may go on while others add and delete.

    Attributes:
        stored: codes that were loaded, (n, width), perhaps memory-mapped.
        added: codes that were added since, (m, width). Row numbers go on behind ``stored``.
        ids: int64 (n + m,); None where every row's id is its number.
        deleted: int64, ascending, the numbers of deleted rows.
    """

    stored: NDArray[Any]
    added: NDArray[Any]
    ids: IdArray | None
    deleted: IdArray

    def __len__(self) -> int:
        return len(self.stored) + len(self.added)

    @property
    def live(self) -> int:
        """Return the number of rows that are not deleted."""
        return len(self) - len(self.deleted)

    def take(self, numbers: IdArray) -> NDArray[Any]:
        """Return the codes of some rows, (len(numbers), width)."""
        if not len(self.added):
            return self.stored[numbers]
        if not len(self.stored):
            return self.added[numbers]
        codes = np.empty((len(numbers), self.stored.shape[1]), self.stored.dtype)
        old = numbers < len(self.stored)
        codes[old] = self.stored[numbers[old]]
        codes[~old] = self.added[numbers[~old] - len(self.stored)]
        return codes

    def parts(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield what was loaded, and what was added, each after its first row's number."""
        yield 0, self.stored
        yield len(self.stored), self.added

    def blocks(self, size: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield all codes in blocks, each after its first row's number."""
        for first, codes in self.parts():
            for start in range(0, len(codes), size):
                yield first + start, codes[start : start + size]

    def ids_of(self, numbers: IdArray) -> IdArray:
        """Return the ids of row numbers, of the same shape."""
        return numbers if self.ids is None else np.asarray(self.ids[numbers], np.int64)

    def live_numbers(self) -> IdArray:
        """Return the numbers of the rows that are not deleted, ascending."""
        return np.delete(np.arange(len(self)), self.deleted)

    def without(self, numbers: IdArray) -> Rows:
        """Return the same rows, these deleted, too."""
        return replace(self, deleted=np.union1d(self.deleted, numbers))


class IdLookup:
    """Find row numbers by id: most ids are kept sorted, the newest ones in a dictionary."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew, after rows were renumbered."""
        self._sorted: IdArray = np.empty(0, np.int64)
        self._numbers: IdArray = np.empty(0, np.int64)
        self._newest: dict[int, int] = {}
        self._covered = self._seen = 0

    def find(self, rows: Rows, ids: IdArray) -> IdArray:
        """Return the number of each id's row that is not deleted, -1 where there is none: int64 (n,)."""
        if rows.ids is None:
            numbers = np.where((ids >= 0) & (ids < len(rows)), ids, -1)
        else:
            if len(rows) - self._covered > max(_NEWEST, len(rows) // 8):
                self._sort(rows, rows.ids)
            fresh = rows.ids[self._seen :].tolist()
            self._newest.update(zip(fresh, range(self._seen, len(rows)), strict=True))
            self._seen = len(rows)
            numbers = self._among_sorted(ids)
            if self._newest:
                # An id may have been deleted and added again. Then its newest row counts.
                newest = np.array([self._newest.get(each, -1) for each in ids.tolist()], np.int64)
                numbers = np.maximum(numbers, newest)
        return np.where(_among(rows.deleted, numbers), -1, numbers)

    def _sort(self, rows: Rows, ids: IdArray) -> None:
        numbers = rows.live_numbers()
        order = np.argsort(ids[numbers], kind="stable")
        self._numbers = numbers[order]
        self._sorted = ids[self._numbers]
        self._newest = {}
        self._covered = self._seen = len(rows)

    def _among_sorted(self, ids: IdArray) -> IdArray:
        if not len(self._sorted):
            return np.full(len(ids), -1)
        places = np.searchsorted(self._sorted, ids).clip(max=len(self._sorted) - 1)
        return np.where(self._sorted[places] == ids, self._numbers[places], -1)


def _among(ascending: IdArray, values: IdArray) -> NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(values), bool)
    places = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    return np.asarray(ascending[places] == values)
