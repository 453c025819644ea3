"""HDF5 files, such as those of ann-benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import MalformedSourceError, TruncatedSourceError
from vaecodec.extras import require
from vaecodec.sources.base import Matrix, Rows, choose_matrix, malformed_if_it_fails


class Hdf5Source(Matrix):
    """A 2-D floating point dataset of an HDF5 file.

    Args:
        path: the file, which is opened for each read and never kept open.
        column: the dataset's name; by default ``train``, or the only 2-D floating point dataset.

    Raises:
        MissingExtraError: h5py is not installed.
        MalformedSourceError, TruncatedSourceError, MissingColumnError, NoVectorColumnError, AmbiguousColumnError:
            as their names say.
        NotTwoDimensionalError, NotFloatingPointError: the dataset named does not hold vectors.
    """

    def __init__(self, path: Path, column: str | None = None) -> None:
        self._h5py = require("h5py", extra="hdf5")
        self._path = path
        found: dict[str, Any] = {}

        def collect(name: str, item: Any) -> None:
            if isinstance(item, self._h5py.Dataset):
                found[str(name)] = (item.shape or (), item.dtype)  # an empty dataset has no shape

        with self._open() as file, malformed_if_it_fails(f"{path}: HDF5 cannot list its datasets"):
            file.visititems(collect)
        default = "train" if column is None and "train" in found else column
        self._column = choose_matrix(str(path), "dataset", found, default)
        shape, dtype = found[self._column]
        super().__init__(f"{path}[{self._column}]", shape, dtype)

    def _open(self) -> Any:
        try:
            return self._h5py.File(self._path, "r")
        except OSError as error:
            kind = TruncatedSourceError if "truncated" in str(error) else MalformedSourceError
            raise kind(f"{self._path}: HDF5 cannot open it: {error}") from error

    def _read(self, rows: slice | NDArray[np.int64]) -> Rows:
        with self._open() as file:
            dataset = file[self._column]
            if isinstance(rows, slice):
                return self._run(dataset, rows.start, rows.stop)
            # h5py selects single rows slowly: read whole runs, with the few rows between their members.
            runs = np.split(rows, np.flatnonzero(np.diff(rows) > 256) + 1)
            return np.concatenate([self._run(dataset, run[0], run[-1] + 1)[run - run[0]] for run in runs])

    def _run(self, dataset: Any, start: int, stop: int) -> Rows:
        with malformed_if_it_fails(f"{self.name}: damaged HDF5 data in rows {start} to {stop - 1}"):
            rows: Rows = dataset[start:stop]
        return rows
