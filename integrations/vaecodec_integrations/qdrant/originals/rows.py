"""Read and write rows of a fixed width in a file, by number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class RowsFile:
    """Read and write rows of bytes. It is not mapped into memory, so that it can be cut while others read it.

    Args:
        path: the file.
        row_bytes: bytes per row.
    """

    def __init__(self, path: Path, row_bytes: int) -> None:
        self._path, self.row_bytes = path, row_bytes

    def holds(self, count: int) -> bool:
        """Tell whether the file is long enough for so many rows."""
        return self._path.exists() and self._path.stat().st_size >= count * self.row_bytes

    def read(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read rows: uint8 (n, row_bytes) in the order asked; what lies beyond the end is zero."""
        rows = np.zeros((len(numbers), self.row_bytes), np.uint8)
        if not len(numbers):
            return rows
        order = np.argsort(numbers, kind="stable")
        with open(self._path, "rb", buffering=0) as file:
            for first, places in _runs(numbers[order], order):
                file.seek(first * self.row_bytes)
                read = file.read(len(places) * self.row_bytes) or b""
                block = np.zeros((len(places), self.row_bytes), np.uint8)
                block.reshape(-1)[: len(read)] = np.frombuffer(read, np.uint8)
                rows[places] = block
        return rows

    def write(self, numbers: NDArray[np.int64], rows: NDArray[np.uint8]) -> None:
        """Write rows, and return when the disk has them; raise ``OSError`` when it has no room."""
        order = np.argsort(numbers, kind="stable")
        with open(self._path, "r+b") as file:
            for first, places in _runs(numbers[order], order):
                file.seek(first * self.row_bytes)
                file.write(rows[places].tobytes())
            file.flush()
            os.fsync(file.fileno())

    def cut(self, count: int) -> None:
        """Return the disk space behind the first rows to the file system."""
        with open(self._path, "r+b") as file:
            file.truncate(count * self.row_bytes)
            os.fsync(file.fileno())


def _runs(numbers: NDArray[np.int64], places: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Cut sorted row numbers into runs without gaps: the first number of each, and the places of its rows."""
    if not len(numbers):
        return
    for part in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers) != 1) + 1):
        yield int(numbers[part[0]]), places[part]
