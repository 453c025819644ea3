"""Where vectors come from: one small protocol and a reader for each format.

Everything that reads a collection (training, bulk encoding, reports) takes a :class:`VectorSource`. A source
hands out blocks, so a file larger than memory is read with constant memory.

========================  ==============================================================================
``.npy``                  mapped, C or Fortran order
``.npz``                  read whole (its arrays are compressed)
``.fvecs``, ``.bvecs``    each row led by its width, int32; float32 or uint8 values
``.fbin``, ``.ibin``      rows and width, uint32 each, then float32 or int32 values
``.hdf5``, ``.h5``        ann-benchmarks' layout (dataset ``train``) or any 2-D dataset; extra ``hdf5``
``.parquet`` or a folder  a list or fixed-size-list column; extra ``parquet``
``scheme://...``          what an installed package offers in the entry-point group ``vaecodec.sources``
========================  ==============================================================================

All binary formats are little endian. The integers of ``.bvecs`` and ``.ibin`` are values by the format's own
definition and come out as float32; integers anywhere else are refused, because they are more often
identifiers or uncalibrated codes than vectors.
"""

from __future__ import annotations

import mmap
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import (
    AmbiguousColumnError,
    MalformedSourceError,
    MissingColumnError,
    MissingVectorError,
    NotFloatingPointError,
    NotTwoDimensionalError,
    NoVectorColumnError,
    PickledSourceError,
    RaggedVectorsError,
    SourceNotFoundError,
    TruncatedSourceError,
    UnknownSourceError,
    VaecodecError,
)
from vaecodec.extras import require
from vaecodec.interface import FloatArray

Rows = NDArray[Any]
"""Vectors of any floating point dtype, or codes."""

# A block is large enough that its overhead vanishes, small enough that a pipeline of several fits anywhere.
BLOCK_BYTES = 8 << 20

# Rows copied from a memory map before its pages are given back; fewer where they are scattered, because for each of
# them the system may map half a megabyte around it.
_CHUNK_ROWS = 1024
_SCATTERED_ROWS = 128

_VALUES = {False: "floating point values", True: "int8 or uint8 codes"}

# Wider rows than this are a misread header.
_WIDEST = 1 << 20


@runtime_checkable
class VectorSource(Protocol):
    """Vectors that can be read from first to last, as often as wanted, in the same order."""

    @property
    def name(self) -> str:
        """What error messages call the source: its path, or ``vectors``."""
        ...

    @property
    def rows(self) -> int | None:
        """How many vectors there are, or None when that may change while they are read."""
        ...

    @property
    def dim(self) -> int:
        """Width of a vector."""
        ...

    def blocks(self, rows: int | None = None) -> Iterator[Rows]:
        """Every vector once, in order, in arrays of at most ``rows`` rows (by default 8 MiB of float32).

        Yields:
            float (m, dim) of the dtype stored, 1 <= m <= rows. Values are not checked.

        Raises:
            SourceError: one of its subclasses, where the file turns out to be malformed.
        """
        ...


@runtime_checkable
class RandomAccessSource(VectorSource, Protocol):
    """A source of known length that reads any of its rows without reading the others."""

    @property
    def rows(self) -> int:
        """How many vectors there are."""
        ...

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """The rows of these numbers: int64 (m,), strictly increasing, to a new float (m, dim)."""
        ...


def open_source(location: str | Path, *, column: str | None = None, codes: bool = False) -> VectorSource:
    """Open a file, folder or address for reading.

    Args:
        location: a path whose suffix names its format (see the module), a folder of Parquet files, or an address
            such as ``qdrant+http://localhost:6333/docs``.
        column: the array of an ``.npz``, dataset of an HDF5 file, column of a Parquet file or vector name of a
            collection. By default the only one that holds vectors (``train`` in an HDF5 file that has it).
        codes: read the codes of a codec, int8 or uint8, instead of vectors; from ``.npy`` and Parquet.

    Returns:
        A :class:`RandomAccessSource`, except for Parquet and addresses.

    Raises:
        SourceError: one of its subclasses; nothing but headers has been read.
        InvalidVectorsError: the array is not two-dimensional or does not hold floating point values.
        MissingExtraError: the format needs a library that is not installed.

    Examples:
        >>> from vaecodec.sources import open_source
        >>> source = open_source("embeddings.npy")
        >>> source.rows, source.dim
        (6000, 384)
        >>> sum(len(block) for block in source.blocks(1000))
        6000
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]+)://", str(location))
    if scheme:
        return _open_address(str(location), scheme[1], column)
    path = Path(location)
    if not path.exists():
        raise SourceNotFoundError(f"{path}: no such file or folder")
    if path.is_dir() or path.suffix.lower() == ".parquet":
        return ParquetSource(path, column, codes=codes)
    if codes and path.suffix.lower() != ".npy":
        raise UnknownSourceError(f"{path}: codes are read from .npy and Parquet")
    match path.suffix.lower():
        case ".npz":
            return _open_npz(path, column)
        case ".hdf5" | ".h5":
            return Hdf5Source(path, column)
        case ".npy" | ".fvecs" | ".bvecs" | ".fbin" | ".ibin" as suffix:
            if column is not None:
                raise MissingColumnError(f"{path}: a {suffix} file has no columns; leave out the column {column!r}")
            return _open_npy(path, codes) if suffix == ".npy" else _PLAIN[suffix](path)
        case suffix:
            known = ", ".join([".npy", *_PLAIN, ".npz", ".hdf5", ".h5", ".parquet"])
            raise UnknownSourceError(
                f"{path}: the suffix {suffix!r} is not one of {known} or a folder of Parquet files"
            )


def sample_rows(source: VectorSource, rows: int, seed: int) -> FloatArray:
    """Rows drawn uniformly without replacement, in the source's order; all of them when there are not more.

    For a source of known length the row numbers depend on length, ``rows`` and ``seed`` alone, so equally long
    sources give aligned samples. For one of unknown length it is a reservoir (Vitter's algorithm R), whose
    choice does not depend on the block size.

    Args:
        source: what is drawn from; read whole unless it has random access.
        rows: how many are wanted.
        seed: of the draw.

    Returns:
        float32 (min(rows, n), dim), as stored: neither checked nor normalised.
    """
    generator = np.random.default_rng(seed)
    if source.rows is None:
        return _reservoir(source, rows, generator)
    if source.rows <= rows:
        chosen = np.arange(source.rows)
    else:
        chosen = np.sort(generator.choice(source.rows, rows, replace=False, shuffle=False))
    if isinstance(source, RandomAccessSource):
        return np.asarray(source.take(chosen), np.float32)
    sample = np.empty((len(chosen), source.dim), np.float32)
    start = 0
    for block in source.blocks():
        first, last = np.searchsorted(chosen, [start, start + len(block)])
        sample[first:last] = block[chosen[first:last] - start]
        start += len(block)
    return sample


class _Matrix(ABC):
    """A matrix of known shape that is read in parts; subclasses say how."""

    def __init__(self, name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.name = name
        self.rows, self.dim = shape
        self.dtype = dtype

    @abstractmethod
    def _read(self, rows: slice | NDArray[np.int64]) -> Rows:
        """A new array of the rows of a slice, or of numbers strictly increasing."""

    def blocks(self, rows: int | None = None) -> Iterator[Rows]:
        step = rows or block_rows(self.dim)
        for start in range(0, self.rows, step):
            yield self._read(slice(start, min(start + step, self.rows)))

    def take(self, rows: NDArray[np.int64]) -> Rows:
        taken = np.empty((len(rows), self.dim), self.dtype)
        start = 0
        while start < len(rows):
            chunk = rows[start : start + _CHUNK_ROWS]
            if int(chunk[-1]) - int(chunk[0]) + 1 == len(chunk):
                read = self._read(slice(int(chunk[0]), int(chunk[-1]) + 1))
            else:
                read = self._read(chunk[:_SCATTERED_ROWS])
            taken[start : start + len(read)] = read
            start += len(read)
        return taken


class ArraySource(_Matrix):
    """An array or memory map as a source.

    Args:
        array: float (n, d) of any float dtype and layout. The pages of a memory map are given back after each
            read, so that a file of any size leaves the process's memory constant.
        name: what error messages call it.
        codes: the array holds codes, int8 or uint8.

    Raises:
        NotTwoDimensionalError: the array is not (n, d).
        NotFloatingPointError: the array does not hold floating point values.
    """

    def __init__(self, array: NDArray[Any], *, name: str = "vectors", codes: bool = False) -> None:
        _check_matrix(name, array.shape, array.dtype, codes=codes)
        super().__init__(name, (array.shape[0], array.shape[1]), array.dtype)
        self._array = array
        self._map = _map_of(array)

    def _read(self, rows: slice | NDArray[np.int64]) -> Rows:
        block: Rows = np.array(self._array[rows], order="C")
        _release(self._map)
        return block


class _IntegerSource(_Matrix):
    """A mapped matrix of integers, read as float32."""

    def __init__(self, array: NDArray[Any], *, name: str) -> None:
        super().__init__(name, (array.shape[0], array.shape[1]), np.dtype(np.float32))
        self._array = array
        self._map = _map_of(array)

    def _read(self, rows: slice | NDArray[np.int64]) -> Rows:
        block = self._array[rows].astype(np.float32)
        _release(self._map)
        return block


class _VecsSource(_Matrix):
    """A mapped ``.fvecs`` or ``.bvecs`` file: bytes (n, 4 + d * itemsize), each row led by its width."""

    def __init__(self, records: NDArray[np.uint8], dim: int, element: np.dtype[Any], *, name: str) -> None:
        super().__init__(name, (len(records), dim), np.dtype(np.float32))
        self._records = records
        self._map = _map_of(records)
        self._element = element

    def _read(self, rows: slice | NDArray[np.int64]) -> Rows:
        records = np.array(self._records[rows], order="C")
        _release(self._map)
        widths = np.ascontiguousarray(records[:, :4]).view("<i4").ravel()
        if (widths != self.dim).any():
            at = int(np.argmax(widths != self.dim))
            row = rows.start + at if isinstance(rows, slice) else int(rows[at])
            raise RaggedVectorsError(
                f"{self.name}: row {row} says it has {widths[at]} values, the first row has {self.dim}; "
                "all rows must be equally wide"
            )
        return np.ascontiguousarray(records[:, 4:]).view(self._element).astype(np.float32, copy=False)


class Hdf5Source(_Matrix):
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

        with self._open() as file, _malformed_if_it_fails(f"{path}: HDF5 cannot list its datasets"):
            file.visititems(collect)
        default = "train" if column is None and "train" in found else column
        self._column = _choose_matrix(str(path), "dataset", found, default)
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
        with _malformed_if_it_fails(f"{self.name}: damaged HDF5 data in rows {start} to {stop - 1}"):
            rows: Rows = dataset[start:stop]
        return rows


class ParquetSource:
    """A list column of a Parquet file, or of all Parquet files below a folder in the order of their paths.

    Args:
        path: the file or folder. Files whose name starts with ``.`` or ``_`` are left out, as other readers do.
        column: the column's name; by default the only column of lists of floating point values.
        codes: the lists hold codes, int8 or uint8.

    Raises:
        MissingExtraError: pyarrow is not installed.
        SourceNotFoundError: the folder holds no Parquet file.
        MalformedSourceError, MissingColumnError, NoVectorColumnError, AmbiguousColumnError, RaggedVectorsError:
            as their names say; which file is in the message.
    """

    def __init__(self, path: Path, column: str | None = None, *, codes: bool = False) -> None:
        self.name = str(path)
        self.files = parquet_files(path)
        self.rows = 0
        self.dim = 0
        for file in self.files:
            with open_parquet(file) as parquet:
                self.column = column = vector_column(parquet.schema_arrow, file, column, codes=codes)
                self.rows += parquet.metadata.num_rows
                self.dim = self.dim or _parquet_width(parquet.schema_arrow.field(column).type, file, column)

    def blocks(self, rows: int | None = None) -> Iterator[Rows]:
        for file in self.files:
            row = 0
            for batch in parquet_batches(file, columns=[self.column], rows=rows or block_rows(self.dim)):
                yield list_rows(batch.column(0), self.dim, file, row)
                row += len(batch)


def block_rows(dim: int) -> int:
    """Rows of a block of the usual size."""
    return max(1, BLOCK_BYTES // (4 * max(1, dim)))


def parquet_files(path: Path) -> list[Path]:
    """The file itself, or the Parquet files below a folder, sorted; raises SourceNotFoundError when there are none."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*.parquet") if not file.name.startswith((".", "_")))
    if not files:
        raise SourceNotFoundError(f"{path}: the folder holds no .parquet file")
    return files


def open_parquet(path: Path) -> Any:
    """A ``pyarrow.parquet.ParquetFile`` that reads page by page, or MalformedSourceError.

    pyarrow would otherwise hold whole row groups, which may be the whole file. Page checksums are verified where the
    file has them.
    """
    parquet = require("pyarrow.parquet", extra="parquet")
    with _malformed_if_it_fails(f"{path}: not a complete Parquet file"):
        return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)


def parquet_batches(
    path: Path,
    *,
    rows: int,
    columns: list[str] | None = None,
    row_groups: list[int] | None = None,
    first_row: int = 0,
) -> Iterator[Any]:
    """Record batches of at most ``rows`` rows of the file or of some row groups, the first of which is ``first_row``.

    Raises:
        MalformedSourceError: the file is not complete Parquet, or damaged further in.
    """
    with open_parquet(path) as parquet:
        batches = parquet.iter_batches(batch_size=rows, columns=columns, row_groups=row_groups)
        while True:
            with _malformed_if_it_fails(f"{path}: damaged Parquet data at row {first_row} or after"):
                batch = next(batches, None)
            if batch is None:
                return
            first_row += len(batch)
            yield batch


def vector_column(schema: Any, path: Path, column: str | None, *, codes: bool = False) -> str:
    """The name of the column of vectors in an Arrow schema; raises as :class:`ParquetSource` does."""
    arrow = require("pyarrow", extra="parquet")

    types = arrow.types

    def holds_vectors(kind: Any) -> bool:
        if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
            return False
        values = kind.value_type
        return bool(values in (arrow.int8(), arrow.uint8()) if codes else types.is_floating(values))

    kinds = {field.name: field.type for field in schema}
    chosen = _choose_column(str(path), "column", list(kinds), [k for k in kinds if holds_vectors(kinds[k])], column)
    if not holds_vectors(kinds[chosen]):
        raise NotFloatingPointError(f"{path}[{chosen}]: expected lists of {_VALUES[codes]}, got {kinds[chosen]}")
    return chosen


def list_rows(values: Any, dim: int, path: Path, first_row: int) -> Rows:
    """An Arrow array of n lists to a float (n, dim) array, without a Python loop.

    Args:
        values: pyarrow ListArray, LargeListArray or FixedSizeListArray.
        dim: the width expected.
        path, first_row: where the array starts, for error messages; rows are counted within the file.

    Raises:
        MissingVectorError: a list is null.
        RaggedVectorsError: a list is not ``dim`` long.
    """
    compute = require("pyarrow.compute", extra="parquet")
    if values.null_count:
        row = first_row + int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise MissingVectorError(f"{path}: row {row} is null; every row needs a vector of width {dim}")
    widths = compute.list_value_length(values).to_numpy(zero_copy_only=False)
    if (widths != dim).any():
        at = int(np.argmax(widths != dim))
        raise RaggedVectorsError(
            f"{path}: row {first_row + at} has {widths[at]} values, the first row has {dim}; "
            "all rows must be equally wide"
        )
    flat: Rows = values.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, dim)


def _parquet_width(kind: Any, path: Path, column: str) -> int:
    if hasattr(kind, "list_size"):
        return int(kind.list_size)
    for batch in parquet_batches(path, columns=[column], rows=1):
        first = batch.column(0)
        if not first[0].is_valid:
            raise MissingVectorError(f"{path}: row 0 is null; every row needs a vector")
        return len(first[0])
    return 0


def _open_npy(path: Path, codes: bool) -> VectorSource:
    with path.open("rb") as file:
        shape, fortran, dtype = _npy_header(file, str(path))
        offset = file.tell()
    _check_matrix(str(path), shape, dtype, codes=codes)
    _check_size(path, offset, shape, dtype, by_columns=fortran)
    array = _map(path, dtype, offset, shape, "F" if fortran else "C")
    return ArraySource(array, name=str(path), codes=codes)


def _open_npz(path: Path, column: str | None) -> VectorSource:
    with path.open("rb") as stored, _malformed_if_it_fails(f"{path}: not a complete .npz file"):
        with zipfile.ZipFile(stored) as archive:
            found = {}
            for member in archive.namelist():
                with archive.open(member) as file:
                    shape, _, dtype = _npy_header(file, f"{path}[{member.removesuffix('.npy')}]")
                    found[member.removesuffix(".npy")] = (shape, dtype)
            chosen = _choose_matrix(str(path), "array", found, column)
        stored.seek(0)
        with np.load(stored, allow_pickle=False) as arrays:
            return ArraySource(arrays[chosen], name=f"{path}[{chosen}]")


def _open_fvecs(path: Path) -> VectorSource:
    return _open_vecs(path, np.dtype("<f4"))


def _open_bvecs(path: Path) -> VectorSource:
    return _open_vecs(path, np.dtype("u1"))


def _open_vecs(path: Path, element: np.dtype[Any]) -> VectorSource:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(4)
    if len(header) < 4:
        raise TruncatedSourceError(f"{path}: expected at least one row led by its width, the file has {size} bytes")
    dim = int.from_bytes(header, "little", signed=True)
    if not 0 < dim <= _WIDEST:
        raise MalformedSourceError(f"{path}: the first row says it has {dim} values; is this a {path.suffix} file?")
    record = 4 + dim * element.itemsize
    rows, rest = divmod(size, record)
    if rest:
        raise TruncatedSourceError(
            f"{path}: rows of width {dim} take {record} bytes each, and {rest} bytes follow the last of {rows} whole "
            "rows; the file is cut off, or its rows differ in width"
        )
    return _VecsSource(_map(path, np.dtype("u1"), 0, (rows, record)), dim, element, name=str(path))


def _open_fbin(path: Path) -> VectorSource:
    return ArraySource(_map_bin(path, np.dtype("<f4")), name=str(path))


def _open_ibin(path: Path) -> VectorSource:
    return _IntegerSource(_map_bin(path, np.dtype("<i4")), name=str(path))


def _map_bin(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    with path.open("rb") as file:
        header = file.read(8)
    if len(header) < 8:
        raise TruncatedSourceError(f"{path}: expected a header of 8 bytes, the file has {len(header)}")
    rows, dim = (int(value) for value in np.frombuffer(header, "<u4"))
    if not 0 < dim <= _WIDEST:
        raise MalformedSourceError(f"{path}: the header says rows have {dim} values; is this a {path.suffix} file?")
    _check_size(path, 8, (rows, dim), dtype)
    return _map(path, dtype, 8, (rows, dim))


_PLAIN = {
    ".fvecs": _open_fvecs,
    ".bvecs": _open_bvecs,
    ".fbin": _open_fbin,
    ".ibin": _open_ibin,
}


def _open_address(address: str, scheme: str, column: str | None) -> VectorSource:
    offered = {entry.name: entry for entry in entry_points(group="vaecodec.sources")}
    if scheme not in offered:
        known = ", ".join(f"{name}://" for name in sorted(offered)) or "none"
        raise UnknownSourceError(f"{address}: no installed package reads {scheme}:// (known: {known})")
    source: VectorSource = offered[scheme].load()(address, column=column)
    return source


def _npy_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the order is Fortran's, and dtype; the file then stands at the first value."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:  # version 3 exists for field names beyond latin-1, which no plain matrix has
            raise MalformedSourceError(f"{name}: .npy version {version[0]}.{version[1]} does not hold a plain matrix")
    except MalformedSourceError:
        raise
    except Exception as error:  # numpy reads the header as Python source, which can fail in any way
        kind = TruncatedSourceError if "EOF" in str(error) else MalformedSourceError
        raise kind(f"{name}: not a readable .npy header: {error}") from error
    if dtype.hasobject:
        raise PickledSourceError(
            f"{name}: holds Python objects (dtype object), which are never loaded, because that can run code; "
            "save it as a plain float array"
        )
    return shape, fortran, dtype


def _check_matrix(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], *, codes: bool = False) -> None:
    if len(shape) != 2:
        raise NotTwoDimensionalError(f"{name}: expected a 2-D array (rows, width), got shape {shape}")
    if shape[0] < 0 or not 0 <= shape[1] <= _WIDEST:
        raise MalformedSourceError(f"{name}: expected rows of at most {_WIDEST:,} values, got shape {shape}")
    if not (dtype in (np.int8, np.uint8) if codes else np.issubdtype(dtype, np.floating)):
        raise NotFloatingPointError(f"{name}: expected {_VALUES[codes]}, got dtype {dtype}")


def _check_size(
    path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], *, by_columns: bool = False
) -> None:
    promised = offset + dtype.itemsize * int(np.prod(shape, dtype=object))
    size = path.stat().st_size
    what = f"the header promises {shape[0]} x {shape[1]} {dtype.name}, {promised} bytes, the file has {size}"
    if size < promised:
        row = (size - offset) // (dtype.itemsize * shape[1])
        raise TruncatedSourceError(f"{path}: {what}; it is cut off" + f" in row {row}" * (not by_columns))
    if size > promised:
        raise MalformedSourceError(f"{path}: {what}; is this a {path.suffix} file?")


@contextmanager
def _malformed_if_it_fails(what: str) -> Iterator[None]:
    """Around a library's reading of a file's content: over damaged bytes libraries raise anything."""
    try:
        yield
    except (VaecodecError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise MalformedSourceError(f"{what}: {error}") from error


def _choose_column(name: str, what: str, found: list[str], vectors: list[str], column: str | None) -> str:
    """The column asked for, or the only one of ``found`` that is among ``vectors``."""
    named = ", ".join(sorted(found)) or "nothing"
    if column is not None:
        if column not in found:
            raise MissingColumnError(f"{name}: has no {what} {column!r}; it has: {named}")
        return column
    if not vectors:
        raise NoVectorColumnError(f"{name}: has no {what} of floating point vectors; it has: {named}")
    if len(vectors) > 1:
        listed = ", ".join(sorted(vectors))
        raise AmbiguousColumnError(f"{name}: several {what}s hold vectors: {listed}; say which is meant")
    return vectors[0]


def _choose_matrix(
    name: str, what: str, found: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], column: str | None
) -> str:
    """The same for arrays of known shape and dtype; one that is asked for must be a matrix of floating point values."""
    matrices = [key for key, (shape, dtype) in found.items() if len(shape) == 2 and np.issubdtype(dtype, np.floating)]
    chosen = _choose_column(name, what, list(found), matrices, column)
    _check_matrix(f"{name}[{chosen}]", *found[chosen])
    return chosen


def _map(path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...], order: Any = "C") -> NDArray[Any]:
    if 0 in shape:  # an empty file cannot be mapped
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, order)


def _reservoir(source: VectorSource, rows: int, generator: np.random.Generator) -> FloatArray:
    kept = np.empty((rows, source.dim), np.float32)
    numbers = np.full(rows, -1, np.int64)
    start = 0
    for block in source.blocks():
        arriving = np.arange(start, start + len(block))
        # Row t takes slot t while there is room, then a random one of t + 1 slots, which may lie outside. Of rows that
        # take the same slot the last one stays, which is what assigning them one after another does.
        slots = np.where(arriving < rows, arriving, (generator.random(len(block)) * (arriving + 1)).astype(np.int64))
        taken = np.flatnonzero(slots < rows)
        numbers[slots[taken]] = arriving[taken]
        kept[slots[taken]] = block[taken]
        start += len(block)
    filled = np.flatnonzero(numbers >= 0)
    return kept[filled[np.argsort(numbers[filled])]]


def _map_of(array: NDArray[Any]) -> mmap.mmap | None:
    """The memory map an array is a view of, when dropping its pages loses nothing."""
    base: Any = array
    mode = "c"  # pages changed in a copy-on-write map exist nowhere else
    while isinstance(base, np.ndarray):
        mode = base.mode if isinstance(base, np.memmap) else mode
        base = base.base
    return base if isinstance(base, mmap.mmap) and mode != "c" else None


def _release(mapped: mmap.mmap | None) -> None:
    """Give a map's pages back; they stay in the system's file cache, but no longer count as this process's memory."""
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
