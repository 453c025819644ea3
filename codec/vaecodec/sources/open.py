"""Open a file, folder or address: choose its reader by suffix or scheme."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from vaecodec.errors import AmbiguousColumnError, MissingColumnError, SourceNotFoundError, UnknownSourceError
from vaecodec.sources.base import VectorSource, refuse_special
from vaecodec.sources.binary import open_bvecs, open_fbin, open_fvecs, open_ibin, open_npy, open_npz
from vaecodec.sources.hdf5 import Hdf5Source
from vaecodec.sources.parquet import ParquetSource

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://")

_PLAIN: dict[str, Callable[[Path], VectorSource]] = {
    ".fvecs": open_fvecs,
    ".bvecs": open_bvecs,
    ".fbin": open_fbin,
    ".ibin": open_ibin,
}


def open_source(
    location: str | Path,
    *,
    column: str | None = None,
    codes: bool = False,
    queries: bool = False,
    bad_rows: bool = False,
) -> VectorSource:
    """Open a file, folder or address for reading.

    Args:
        location: a path whose suffix names its format (see the module), a folder of Parquet files, or an address
            such as ``qdrant+http://localhost:6333/docs``. After a ``#`` it may name the column: ``docs.parquet#title``.
        column: the array of an ``.npz``, dataset of an HDF5 file, column of a Parquet file or vector name of a
            collection. By default the only one that holds vectors (``train`` in an HDF5 file that has it).
        codes: read the codes of a codec, int8 or uint8, instead of vectors; from ``.npy`` and Parquet.
        queries: read queries: an HDF5 file as of ann-benchmarks then gives its ``test``.
        bad_rows: rows of Parquet without a vector are no error, but rows of NaN.

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
    path, column = locate(location, column)
    try:
        if isinstance(path, str):
            return _open_address(path, column)
        return _open_path(path, column, codes=codes, queries=queries, bad_rows=bad_rows)
    except AmbiguousColumnError as error:
        error.location, error.queries = str(location), queries
        raise


def check_location(location: str, *, queries: bool = False) -> None:
    """Check the name and the header of a file before anything slow is done; addresses are not asked.

    Args:
        location: see :func:`open_source`.
        queries: see :func:`open_source`.

    Raises:
        SourceError, InvalidVectorsError, MissingExtraError: see :func:`open_source`.
    """
    if isinstance(locate(location)[0], Path):
        open_source(location, queries=queries, bad_rows=True)


def _open_path(path: Path, column: str | None, *, codes: bool, queries: bool, bad_rows: bool) -> VectorSource:
    if not path.exists():
        raise SourceNotFoundError(f"{path}: no such file or folder")
    refuse_special(path)
    if path.is_dir() or path.suffix.lower() == ".parquet":
        return ParquetSource(path, column, codes=codes, bad_rows=bad_rows)
    if codes and path.suffix.lower() != ".npy":
        raise UnknownSourceError(f"{path}: codes are read from .npy and Parquet")
    match path.suffix.lower():
        case ".npz":
            return open_npz(path, column)
        case ".hdf5" | ".h5":
            return Hdf5Source(path, column, queries=queries)
        case ".npy" | ".fvecs" | ".bvecs" | ".fbin" | ".ibin" as suffix:
            if column is not None:
                raise MissingColumnError(f"{path}: a {suffix} file has no columns; leave out the column {column!r}")
            return open_npy(path, codes) if suffix == ".npy" else _PLAIN[suffix](path)
        case suffix:
            known = ", ".join([".npy", *_PLAIN, ".npz", ".hdf5", ".h5", ".parquet"])
            raise UnknownSourceError(
                f"{path}: the suffix {suffix!r} is not one of {known} or a folder of Parquet files"
            )


def locate(location: str | Path, column: str | None = None) -> tuple[Path | str, str | None]:
    """Split a location into a path, or an address, and the column that stands after its last ``#``.

    A file whose own name holds ``#`` is found by its name, and so is one whose column's name holds ``#``.

    Args:
        location: as :func:`open_source` takes it.
        column: the column, if it is given apart.

    Returns:
        A path, or an address as a string; and the column, or None.

    Raises:
        AmbiguousColumnError: the location and ``column`` name different columns.
        UnknownSourceError: the location is empty.
    """
    text = str(location)
    if not text.strip():
        raise UnknownSourceError(f"expected the name of a file or folder, or an address, got {text!r}")
    is_address = _SCHEME.match(text) is not None
    start, _, named = text.rpartition("#")
    if not is_address:
        cuts = (cut for cut in range(len(text) - 1, 0, -1) if text[cut] == "#" and Path(text[:cut]).exists())
        cut = next(cuts, len(start))
        start, named = text[:cut], text[cut + 1 :]
    if start and named and (is_address or not Path(text).exists()):
        if column not in (None, named):
            raise AmbiguousColumnError(f"{text}: names the column {named!r}, but the column {column!r} was asked for")
        text, column = start, named
    return (text if is_address else Path(text)), column


def _open_address(address: str, column: str | None) -> VectorSource:
    scheme = address.partition("://")[0]
    offered = {entry.name: entry for entry in entry_points(group="vaecodec.sources")}
    if scheme not in offered:
        known = ", ".join(f"{name}://" for name in sorted(offered)) or "none"
        raise UnknownSourceError(f"{address}: no installed package reads {scheme}:// (known: {known})")
    source: VectorSource = offered[scheme].load()(address, column=column)
    return source
