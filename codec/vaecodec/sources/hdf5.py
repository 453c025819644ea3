"""Read HDF5 files, such as those of ann-benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import MalformedSourceError
from vaecodec.extras import require
from vaecodec.sources.base import Matrix, Rows, choose_matrix, malformed_if_it_fails
from vaecodec.sources.ids import choose_id_column

# HDF5 reads whole chunks. Cache all chunks that one row passes through, within these bounds, so that each chunk is
# decompressed once while rows are read one after another.
_CACHE_BYTES = (1 << 20, 1 << 30)

# Slots of HDF5's hash table of chunks: a prime, about a hundred times the number of chunks of a usual row.
_CACHE_SLOTS = 10_007


class Hdf5Source(Matrix):
    """Read a 2-D floating point dataset of an HDF5 file.

    Args:
        path: the file, which is opened for each read of a block or of many rows, and never kept open.
        column: the dataset's name; by default ``train``, or the only 2-D floating point dataset.
        queries: read queries: the default is then ``test``, as in the files of ann-benchmarks.

    Raises:
        MissingExtraError: h5py is not installed.
        MalformedSourceError, MissingColumnError, AmbiguousColumnError:
            as their names say.
        InvalidVectorsError, NotFloatingPointError: the dataset named does not hold vectors.
    """

    def __init__(self, path: Path, column: str | None = None, *, queries: bool = False) -> None:
        self._h5py = require("h5py", extra="hdf5")
        self._path = path
        found: dict[str, Any] = {}

        def collect(name: str, item: Any) -> None:
            if isinstance(item, self._h5py.Dataset):
                found[str(name)] = (item.shape or (), item.dtype)  # an empty dataset has no shape

        with self._open() as file, malformed_if_it_fails(f"{path}: HDF5 cannot list its datasets"):
            file.visititems(collect)
        usual = "test" if queries and "test" in found else "train"
        default = usual if column is None and usual in found else column
        self._column = choose_matrix(str(path), "dataset", found, default)
        shape, dtype = found[self._column]
        with self._open() as file:
            _check_stored(f"{path}[{self._column}]", file[self._column])
        self._cache_bytes = self._bytes_of_chunks(shape, dtype)
        super().__init__(f"{path}[{self._column}]", shape, dtype)

    def ids(self, columns: Sequence[str]) -> list[Any]:
        """Return the id of every row; see :class:`vaecodec.sources.ids.IdentifiedSource`."""
        with self._open() as file, malformed_if_it_fails(f"{self._path}: HDF5 cannot read its ids"):
            name = choose_id_column(str(self._path), "dataset", file, columns)
            stored = file[name]
            if not isinstance(stored, self._h5py.Dataset) or stored.shape != (self.rows,):
                raise MalformedSourceError(f"{self._path}[{name}]: expected {self.rows:,} ids, one for each row")
            found: list[Any] = stored[:].tolist()
        return found

    def _bytes_of_chunks(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> int:
        """Return the size of the chunks that one row passes through."""
        with self._open() as file:
            rows, columns = file[self._column].chunks or (1, 1)
        return int(rows * -(-shape[1] // columns) * columns * dtype.itemsize)

    def _open(self, cache_bytes: int = 0) -> Any:
        least, most = _CACHE_BYTES
        try:
            return self._h5py.File(
                self._path, "r", rdcc_nbytes=max(least, min(most, cache_bytes)), rdcc_nslots=_CACHE_SLOTS
            )
        except OSError as error:
            raise MalformedSourceError(f"{self._path}: HDF5 cannot open it: {error}") from error

    @contextmanager
    def _reader(self) -> Iterator[Callable[[slice | NDArray[np.int64]], Rows]]:
        with self._open(self._cache_bytes) as file:
            yield partial(self._rows, file[self._column])

    def _read(self, rows: slice | NDArray[np.int64]) -> Rows:
        with self._reader() as read:
            return read(rows)

    def _rows(self, dataset: Any, rows: slice | NDArray[np.int64]) -> Rows:
        if isinstance(rows, slice):
            return self._run(dataset, rows.start, rows.stop)
        # h5py selects single rows slowly: read whole runs, with the few rows between their members.
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > 256) + 1)
        return np.concatenate([self._run(dataset, run[0], run[-1] + 1)[run - run[0]] for run in runs])

    def _run(self, dataset: Any, start: int, stop: int) -> Rows:
        with malformed_if_it_fails(f"{self.name}: damaged HDF5 data in rows {start} to {stop - 1}"):
            rows: Rows = dataset[start:stop]
        return rows


def _check_stored(name: str, dataset: Any) -> None:
    """Refuse a dataset whose values are not all in the file itself, as HDF5 would read other files or invent values."""
    if dataset.external or dataset.is_virtual:
        raise MalformedSourceError(
            f"{name}: keeps its values in other files, which are not read; copy them into one file: h5repack"
        )
    rows, width = dataset.shape
    if not rows or not width:
        return
    if dataset.chunks is None:
        whole = dataset.id.get_storage_size() >= rows * width * dataset.dtype.itemsize
    else:
        deep, wide = dataset.chunks
        whole = dataset.id.get_num_chunks() >= -(-rows // deep) * -(-width // wide)
    if not whole:
        raise MalformedSourceError(
            f"{name}: a part of its {rows:,} rows was never written; cut the dataset where its values end"
        )
