"""Read numpy's files and plain binary ones: ``.npy``, ``.npz``, ``.fvecs``, ``.bvecs``, ``.fbin``, ``.ibin``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import MalformedSourceError
from vaecodec.sources.arrays import NpzFile, read_header
from vaecodec.sources.base import (
    WIDEST_ROW,
    ArraySource,
    Matrix,
    Rows,
    VectorSource,
    check_matrix,
    choose_matrix,
    map_of,
    release,
)
from vaecodec.sources.ids import choose_id_column


def open_npy(path: Path, codes: bool) -> VectorSource:
    with path.open("rb") as file:
        shape, fortran, dtype, offset = read_header(file, str(path))
    check_matrix(str(path), shape, dtype, codes=codes)
    check_size(path, offset, shape, dtype, by_columns=fortran)
    array = map_file(path, dtype, offset, shape, "F" if fortran else "C")
    return ArraySource(array, name=str(path), codes=codes)


def open_npz(path: Path, column: str | None) -> VectorSource:
    with path.open("rb") as file:
        stored = NpzFile(file, str(path))
        found = {key: (header.shape, header.dtype) for key, header in stored.headers.items()}
        chosen = choose_matrix(str(path), "array", found, column)
        return _NpzSource(path, stored.read(chosen), chosen)


def open_fvecs(path: Path) -> VectorSource:
    return _open_vecs(path, np.dtype("<f4"))


def open_bvecs(path: Path) -> VectorSource:
    return _open_vecs(path, np.dtype("u1"))


def open_fbin(path: Path) -> VectorSource:
    return ArraySource(_map_bin(path, np.dtype("<f4")), name=str(path))


def open_ibin(path: Path) -> VectorSource:
    return _IntegerSource(_map_bin(path, np.dtype("<i4")), name=str(path))


class _NpzSource(ArraySource):
    """Read an array of an ``.npz``, whose other arrays may hold the ids of its rows."""

    def __init__(self, path: Path, array: NDArray[Any], chosen: str) -> None:
        super().__init__(array, name=f"{path}[{chosen}]")
        self._path = path

    def ids(self, columns: Sequence[str]) -> list[Any]:
        with self._path.open("rb") as file:
            stored = NpzFile(file, str(self._path))
            name = choose_id_column(str(self._path), "array", stored.headers, columns)
            found = stored.read(name)
        if found.shape != (self.rows,):
            raise MalformedSourceError(f"{self._path}[{name}]: expected {self.rows:,} ids, one for each row")
        values: list[Any] = found.tolist()
        return values


class _IntegerSource(Matrix):
    """Read a mapped matrix of integers as float32."""

    def __init__(self, array: NDArray[Any], *, name: str) -> None:
        super().__init__(name, (array.shape[0], array.shape[1]), np.dtype(np.float32))
        self._array = array
        self._map = map_of(array)

    def _read(self, rows: slice | NDArray[np.int64]) -> Rows:
        block = self._array[rows].astype(np.float32)
        release(self._map)
        return block


class _VecsSource(Matrix):
    """Read a mapped ``.fvecs`` or ``.bvecs`` file: bytes (n, 4 + d * itemsize), each row preceded by its width."""

    def __init__(self, records: NDArray[np.uint8], dim: int, element: np.dtype[Any], *, name: str) -> None:
        super().__init__(name, (len(records), dim), np.dtype(np.float32))
        self._records = records
        self._map = map_of(records)
        self._element = element

    def _read(self, rows: slice | NDArray[np.int64]) -> Rows:
        records = np.array(self._records[rows], order="C")
        release(self._map)
        widths = np.ascontiguousarray(records[:, :4]).view("<i4").ravel()
        if (widths != self.dim).any():
            at = int(np.argmax(widths != self.dim))
            row = rows.start + at if isinstance(rows, slice) else int(rows[at])
            raise MalformedSourceError(
                f"{self.name}: row {row} says it has {widths[at]} values, the first row has {self.dim}; "
                "all rows must be equally wide"
            )
        return np.ascontiguousarray(records[:, 4:]).view(self._element).astype(np.float32, copy=False)


def _open_vecs(path: Path, element: np.dtype[Any]) -> VectorSource:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(4)
    if len(header) < 4:
        raise MalformedSourceError(f"{path}: expected at least one row led by its width, the file has {size} bytes")
    dim = int.from_bytes(header, "little", signed=True)
    if not 0 < dim <= WIDEST_ROW:
        raise MalformedSourceError(f"{path}: the first row says it has {dim} values; is this a {path.suffix} file?")
    record = 4 + dim * element.itemsize
    rows, rest = divmod(size, record)
    if rest:
        raise MalformedSourceError(
            f"{path}: rows of width {dim} take {record} bytes each, and {rest} bytes follow the last of {rows} whole "
            "rows; the file is cut off, or its rows differ in width"
        )
    return _VecsSource(map_file(path, np.dtype("u1"), 0, (rows, record)), dim, element, name=str(path))


def _map_bin(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    with path.open("rb") as file:
        header = file.read(8)
    if len(header) < 8:
        raise MalformedSourceError(f"{path}: expected a header of 8 bytes, the file has {len(header)}")
    rows, dim = (int(value) for value in np.frombuffer(header, "<u4"))
    if not 0 < dim <= WIDEST_ROW:
        raise MalformedSourceError(f"{path}: the header says rows have {dim} values; is this a {path.suffix} file?")
    check_size(path, 8, (rows, dim), dtype)
    return map_file(path, dtype, 8, (rows, dim))


def check_size(
    path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], *, by_columns: bool = False
) -> None:
    promised = offset + dtype.itemsize * int(np.prod(shape, dtype=object))
    size = path.stat().st_size
    what = f"the header promises {shape[0]} x {shape[1]} {dtype.name}, {promised} bytes, the file has {size}"
    if size < promised:
        row = (size - offset) // (dtype.itemsize * shape[1])
        raise MalformedSourceError(f"{path}: {what}; it is cut off" + f" in row {row}" * (not by_columns))
    if size > promised:
        raise MalformedSourceError(f"{path}: {what}; is this a {path.suffix} file?")


def map_file(path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...], order: Any = "C") -> NDArray[Any]:
    if 0 in shape:  # an empty file cannot be memory-mapped
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, order)
