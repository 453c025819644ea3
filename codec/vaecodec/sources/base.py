"""Define a source of vectors, and hold what the readers of all formats share."""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import (
    AmbiguousColumnError,
    InvalidVectorsError,
    MalformedSourceError,
    MissingColumnError,
    NotFloatingPointError,
    UnknownSourceError,
    VaecodecError,
)
from vaecodec.vectors import as_array

Rows = NDArray[Any]
"""Vectors of any floating point dtype, or codes."""

# A block is large enough to make its overhead small, and small enough that several fit into any memory.
READ_BYTES = 8 << 20

# Rows to copy from a memory map before its pages are released. Take fewer scattered rows, because the system may map
# half a megabyte around each of them.
_CHUNK_ROWS = 1024

_SCATTERED_ROWS = 128

VALUES = {False: "floating point values", True: "int8 or uint8 codes"}

# If rows seem wider than this, the header was misread.
WIDEST_ROW = 1 << 20


@runtime_checkable
class VectorSource(Protocol):
    """Read vectors from first to last, as often as wanted, always in the same order."""

    @property
    def name(self) -> str:
        """Return the name of the source for error messages: its path, or ``vectors``."""
        ...

    @property
    def rows(self) -> int | None:
        """Return the number of vectors, or None when it may change while they are read."""
        ...

    @property
    def dim(self) -> int:
        """Return the width of a vector."""
        ...

    def blocks(self, rows: int | None = None) -> Iterator[Rows]:
        """Yield every vector once, in order, in arrays of at most ``rows`` rows (by default 8 MiB of float32).

        Yields:
            float (m, dim) of the dtype stored, 1 <= m <= rows. Values are not checked.

        Raises:
            SourceError: one of its subclasses, where the file turns out to be malformed.
        """
        ...


@runtime_checkable
class RandomAccessSource(VectorSource, Protocol):
    """Read any rows of a source of known length without reading the others."""

    @property
    def rows(self) -> int:
        """Return the number of vectors."""
        ...

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Read the rows of these numbers: int64 (m,), strictly increasing, to a new float (m, dim)."""
        ...


def refuse_special(path: Path) -> None:
    """Raise ``UnknownSourceError`` for a device or a pipe, which may never end; what is missing is for the reader."""
    if path.exists() and not path.is_dir() and not path.is_file():
        raise UnknownSourceError(f"{path}: expected a file or a folder, got a device or a pipe, which may never end")


def rows_per_block(dim: int) -> int:
    """Return the rows of a block of the usual size."""
    return max(1, READ_BYTES // (4 * max(1, dim)))


class Matrix(ABC):
    """Read a matrix of known shape in parts; subclasses say how."""

    def __init__(self, name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.name = name
        self.rows, self.dim = shape
        self.dtype = dtype

    @abstractmethod
    def _read(self, rows: slice | NDArray[np.int64]) -> Rows:
        """Read the rows of a slice, or of strictly increasing numbers, into a new array."""

    def _reader(self) -> AbstractContextManager[Callable[[slice | NDArray[np.int64]], Rows]]:
        """Give ``_read`` for several calls; a format that keeps its file open between them overrides this."""
        return nullcontext(self._read)

    def blocks(self, rows: int | None = None) -> Iterator[Rows]:
        return self.part(0, self.rows, rows)

    def part(self, start: int, stop: int, rows: int | None = None) -> Iterator[Rows]:
        """Read the rows from ``start`` to ``stop`` in order, in arrays of at most ``rows`` rows."""
        step = rows or rows_per_block(self.dim)
        with self._reader() as read:
            for first in range(start, stop, step):
                yield read(slice(first, min(first + step, stop)))

    def take(self, rows: NDArray[np.int64]) -> Rows:
        taken = np.empty((len(rows), self.dim), self.dtype)
        start = 0
        with self._reader() as read:
            while start < len(rows):
                chunk = rows[start : start + _CHUNK_ROWS]
                if int(chunk[-1]) - int(chunk[0]) + 1 == len(chunk):
                    values = read(slice(int(chunk[0]), int(chunk[-1]) + 1))
                else:
                    values = read(chunk[:_SCATTERED_ROWS])
                taken[start : start + len(values)] = values
                start += len(values)
        return taken


class ArraySource(Matrix):
    """Read an array or memory map as a source.

    Args:
        array: float (n, d) of any float dtype and layout, or what :func:`vaecodec.vectors.as_array` takes. The pages of
            a memory map are given back after each read, so that a file of any size leaves the process's memory
            constant.
        name: what error messages call it.
        codes: the array holds codes, int8 or uint8.

    Raises:
        InvalidVectorsError: the array is not (n, d).
        NotFloatingPointError: the array does not hold floating point values.
    """

    def __init__(self, array: Any, *, name: str = "vectors", codes: bool = False) -> None:
        array = as_array(array, name=name)
        check_matrix(name, array.shape, array.dtype, codes=codes)
        super().__init__(name, (array.shape[0], array.shape[1]), array.dtype)
        self._array = array
        self._map = map_of(array)

    def _read(self, rows: slice | NDArray[np.int64]) -> Rows:
        block: Rows = np.array(self._array[rows], order="C")
        release(self._map)
        return block


def check_matrix(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], *, codes: bool = False) -> None:
    if dtype.hasobject:
        raise MalformedSourceError(
            f"{name}: holds Python objects (dtype object), which are never loaded, because that can run code; "
            "save it as a plain float array"
        )
    if len(shape) != 2:
        raise InvalidVectorsError(f"{name}: expected a 2-D array (rows, width), got shape {shape}")
    if shape[0] < 0 or not 0 <= shape[1] <= WIDEST_ROW:
        raise MalformedSourceError(f"{name}: expected rows of at most {WIDEST_ROW:,} values, got shape {shape}")
    if dtype.kind == "V" and dtype.itemsize == 2:
        raise NotFloatingPointError(
            f"{name}: expected {VALUES[codes]}, got values of 2 bytes without a type, as numpy stores bfloat16; save "
            "them as float32: array.astype(numpy.float32)"
        )
    if not (dtype in (np.int8, np.uint8) if codes else np.issubdtype(dtype, np.floating)):
        raise NotFloatingPointError(f"{name}: expected {VALUES[codes]}, got dtype {dtype}")


@contextmanager
def malformed_if_it_fails(what: str) -> Iterator[None]:
    """Turn any error of a library that reads a file's content into MalformedSourceError."""
    try:
        yield
    except (VaecodecError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise MalformedSourceError(f"{what}: {error}") from error


def choose_column(name: str, what: str, found: list[str], vectors: list[str], column: str | None) -> str:
    """Return the column asked for, or the only one of ``found`` that is among ``vectors``."""
    named = ", ".join(sorted(found)) or "nothing"
    if column is not None:
        if column not in found:
            raise MissingColumnError(f"{name}: has no {what} {column!r}; it has: {named}")
        return column
    if not vectors:
        raise MissingColumnError(f"{name}: has no {what} of floating point vectors; it has: {named}")
    if len(vectors) > 1:
        listed = ", ".join(sorted(vectors))
        raise AmbiguousColumnError(f"{name}: several {what}s hold vectors: {listed}; say which is meant")
    return vectors[0]


def choose_matrix(
    name: str, what: str, found: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], column: str | None
) -> str:
    """Return the same for arrays of known shape and dtype; one that is asked for must be a matrix of floating point
    values."""
    matrices = [key for key, (shape, dtype) in found.items() if len(shape) == 2 and np.issubdtype(dtype, np.floating)]
    if column is None and not matrices:
        for key, (shape, dtype) in found.items():
            # These errors say more than that there are no vectors.
            if dtype.hasobject or (dtype.kind == "V" and len(shape) == 2):
                check_matrix(f"{name}[{key}]", shape, dtype)
    chosen = choose_column(name, what, list(found), matrices, column)
    check_matrix(f"{name}[{chosen}]", *found[chosen])
    return chosen


def map_of(array: NDArray[Any]) -> mmap.mmap | None:
    """Return the memory map an array is a view of, when dropping its pages loses nothing."""
    base: Any = array
    mode = "c"  # keep changed pages of a copy-on-write map: they exist nowhere else
    while isinstance(base, np.ndarray):
        mode = base.mode if isinstance(base, np.memmap) else mode
        base = base.base
    return base if isinstance(base, mmap.mmap) and mode != "c" else None


def release(mapped: mmap.mmap | None) -> None:
    """Release the pages of a memory map; they stay in the system's file cache, but no longer count as this process's
    memory.
    """
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
