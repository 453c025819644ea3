"""Read Parquet files and folders of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import (
    AmbiguousColumnError,
    BadRowsError,
    MalformedSourceError,
    MissingColumnError,
    NotFloatingPointError,
    SourceNotFoundError,
)
from vaecodec.extras import require
from vaecodec.sources.base import (
    VALUES,
    WIDEST_ROW,
    Rows,
    choose_column,
    malformed_if_it_fails,
    refuse_special,
    rows_per_block,
)
from vaecodec.sources.ids import choose_id_column
from vaecodec.sources.parquet_footer import chunk_values

# So many rows of so many files are looked at to find how wide vectors are, where some rows may be bad.
_ROWS_TO_FIND_ONE, _FILES_TO_FIND_ONE = 1024, 8
_ROWS_OF_IDS = 65_536

# Some rows may be too wide: these are bad rows. If they hold very many values, a small file would fill the memory.
_FEW_VALUES, _WIDER = 1 << 24, 4

# Hive writes this for null in the name of a folder.
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


class ParquetSource:
    """Read a list column of a Parquet file, or of all Parquet files below a folder in the order of their paths.

    Args:
        path: the file or folder. Files and folders whose name starts with ``.`` or ``_`` are left out, as other
            readers do.
        column: the column's name; by default the only column of lists, or tensors, of floating point values.
        codes: the lists hold codes, int8 or uint8.
        bad_rows: rows without a vector are no error: ``blocks`` gives them as rows of NaN.

    Attributes:
        files: the files in their order.
        partitions: columns that are kept in the names of folders.

    Raises:
        MissingExtraError: pyarrow is not installed.
        SourceNotFoundError: the folder holds no Parquet file.
        MalformedSourceError, MissingColumnError, AmbiguousColumnError:
            as their names say; which file is in the message.
    """

    def __init__(self, path: Path, column: str | None = None, *, codes: bool = False, bad_rows: bool = False) -> None:
        self.name = str(path)
        self.files = parquet_files(path)
        self.partitions = Partitions(path, self.files)
        self.rows = 0
        self._bad_rows = bad_rows
        self.column = _first_column(self.files, column, codes=codes, bad_rows=bad_rows)
        chunks = {}
        for file in self.files:
            with open_parquet(file) as parquet:
                self.rows += parquet.metadata.num_rows
                schema = parquet.schema_arrow
            if not (bad_rows and self.column in schema.names and _is_null(schema.field(self.column).type)):
                vector_column(schema, file, self.column, codes=codes)
            chunks[file] = chunk_values(file)
            _check_counts(chunks[file], file, self.column, WIDEST_ROW)
        self.dim = _parquet_width(self.files, self.column, bad_rows=bad_rows)
        for file in self.files:
            _check_counts(chunks[file], file, self.column, self.dim)

    def blocks(self, rows: int | None = None) -> Iterator[Rows]:
        for file in self.files:
            row = 0
            for batch in parquet_batches(file, columns=[self.column], rows=rows or rows_per_block(self.dim)):
                lists = list_storage(batch.column(0))
                yield list_rows(lists, self.dim, file, row) if not self._bad_rows else _with_nan(lists, self.dim)
                row += len(batch)

    def ids(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield the id of every row; see :class:`vaecodec.sources.ids.IdentifiedSource`."""
        for file in self.files:
            with open_parquet(file) as parquet:
                column = choose_id_column(str(file), "column", parquet.schema_arrow.names, columns)
            for batch in parquet_batches(file, columns=[column], rows=_ROWS_OF_IDS):
                yield from batch.column(0).to_pylist()


class Partitions:
    """Read columns from the names of folders, as Hive, Spark and others write them: ``lang=de/part-0.parquet``.

    A column is int32 where every value is a number as it would be written, and a string otherwise.

    Args:
        folder: the folder that is read.
        files: the files below it.
    """

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self._values = {
            file: self._named(file.relative_to(folder).parts[:-1] if file != folder else ()) for file in files
        }
        self.names = list(dict.fromkeys(name for values in self._values.values() for name in values))
        self._numbers = {name for name in self.names if all(map(_is_number, self._of(name)))}

    def fields(self, schema: Any) -> list[Any]:
        """Return the Arrow fields of the columns that a file's own schema lacks."""
        arrow = require("pyarrow", extra="parquet")
        return [
            arrow.field(name, arrow.int32() if name in self._numbers else arrow.string())
            for name in self.names
            if name not in schema.names
        ]

    def add_to(self, batch: Any, file: Path) -> Any:
        """Return a record batch of a file with the columns that it lacks."""
        arrow = require("pyarrow", extra="parquet")
        fields = self.fields(batch.schema)
        if not fields:
            return batch
        columns = list(batch.columns)
        for field in fields:
            text = self._values[file].get(field.name)
            value = int(text) if text is not None and field.name in self._numbers else text
            columns.append(arrow.repeat(arrow.scalar(value, field.type), len(batch)))
        return arrow.record_batch(columns, schema=arrow.schema([*batch.schema, *fields], batch.schema.metadata))

    def _of(self, name: str) -> list[str]:
        found = [values.get(name) for values in self._values.values()]
        return [value for value in found if value is not None]

    @staticmethod
    def _named(folders: tuple[str, ...]) -> dict[str, str | None]:
        pairs = [folder.partition("=") for folder in folders if "=" in folder]
        return {unquote(name): None if value == _NULL_PARTITION else unquote(value) for name, _, value in pairs}


def _is_number(text: str) -> bool:
    return re.fullmatch(r"0|-?[1-9][0-9]{0,8}", text) is not None


def parquet_files(path: Path) -> list[Path]:
    """Return the file itself, or the Parquet files below a folder, sorted; raises SourceNotFoundError when there are
    none."""
    if not path.is_dir():
        return [path]
    files = sorted(
        file
        for file in path.rglob("*.parquet")
        if not file.is_dir() and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    )
    for file in files:
        refuse_special(file)
    if not files:
        raise SourceNotFoundError(f"{path}: the folder holds no .parquet file")
    return files


def open_parquet(path: Path) -> Any:
    """Return a ``pyarrow.parquet.ParquetFile`` that reads page by page, or MalformedSourceError.

    pyarrow would otherwise hold whole row groups, which may be the whole file. Page checksums are verified where the
    file has them.
    """
    parquet = require("pyarrow.parquet", extra="parquet")
    with malformed_if_it_fails(f"{path}: not a complete Parquet file"):
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
            with malformed_if_it_fails(f"{path}: damaged Parquet data at row {first_row} or after"):
                batch = next(batches, None)
            if batch is None:
                return
            first_row += len(batch)
            yield batch


def vector_column(schema: Any, path: Path, column: str | None, *, codes: bool = False) -> str:
    """Return the name of the column of vectors in an Arrow schema; raises as :class:`ParquetSource` does."""
    arrow = require("pyarrow", extra="parquet")

    types = arrow.types

    def holds_vectors(kind: Any) -> bool:
        if isinstance(kind, arrow.BaseExtensionType):
            if len(getattr(kind, "shape", (1,))) != 1:  # a tensor with more than one axis holds no vectors
                return False
            kind = kind.storage_type
        if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
            return False
        values = kind.value_type
        return bool(values in (arrow.int8(), arrow.uint8()) if codes else types.is_floating(values))

    kinds = {field.name: field.type for field in schema}
    for name in kinds:
        if schema.names.count(name) > 1 and column in (None, name):
            raise AmbiguousColumnError(f"{path}: several columns have the name {name!r}; give each its own")
    chosen = choose_column(str(path), "column", list(kinds), [k for k in kinds if holds_vectors(kinds[k])], column)
    if not holds_vectors(kinds[chosen]):
        raise NotFloatingPointError(f"{path}[{chosen}]: expected lists of {VALUES[codes]}, got {kinds[chosen]}")
    return chosen


def _is_null(kind: Any) -> bool:
    return bool(require("pyarrow", extra="parquet").types.is_null(kind))


def list_storage(values: Any) -> Any:
    """Return the lists that an Arrow array of an extension type, such as tensors, is stored as; else the array.

    An array of nulls without a type, as pandas writes a column that is empty, gives lists that are null.
    """
    if _is_null(values.type):
        arrow = require("pyarrow", extra="parquet")
        return values.cast(arrow.list_(arrow.float32()))
    return getattr(values, "storage", values)


def list_rows(values: Any, dim: int, path: Path, first_row: int) -> Rows:
    """Turn an Arrow array of n lists into a float (n, dim) array, without a Python loop.

    Args:
        values: pyarrow ListArray, LargeListArray or FixedSizeListArray.
        dim: the width expected.
        path, first_row: where the array starts, for error messages; rows are counted within the file.

    Raises:
        BadRowsError: a list is null.
        MalformedSourceError: a list is not ``dim`` long.
    """
    compute = require("pyarrow.compute", extra="parquet")
    if values.null_count:
        row = first_row + int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise BadRowsError(f"{path}: row {row} is null; every row needs a vector of width {dim}")
    widths = compute.list_value_length(values).to_numpy(zero_copy_only=False)
    if (widths != dim).any():
        at = int(np.argmax(widths != dim))
        raise MalformedSourceError(
            f"{path}: row {first_row + at} has {widths[at]} values, the first row has {dim}; "
            "all rows must be equally wide"
        )
    flat: Rows = values.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(values), dim)


def _with_nan(lists: Any, dim: int) -> Rows:
    """Return rows of an Arrow array of lists; those that are null, or of another width, hold NaN."""
    compute = require("pyarrow.compute", extra="parquet")
    good = compute.list_value_length(lists).fill_null(-1).to_numpy(zero_copy_only=False) == dim
    if good.all():
        return list_rows(lists, dim, Path(), 0)
    rows = np.full((len(lists), dim), np.nan, lists.type.value_type.to_pandas_dtype())
    rows[good] = list_rows(chosen(lists, good), dim, Path(), 0)
    return rows


def chosen(values: Any, mask: NDArray[np.bool_]) -> Any:
    """Return the rows of an Arrow array or batch for which the mask holds; old releases take no mask of numpy."""
    return values.filter(require("pyarrow", extra="parquet").array(mask))


def _check_counts(chunks: list[tuple[int, str, int]], path: Path, column: str, dim: int) -> None:
    """Refuse row groups with far more values than their vectors can have: a few bytes can stand for very many."""
    for rows, name, values in chunks:
        if (name == column or name.startswith(f"{column}.")) and values > max(_FEW_VALUES, _WIDER * rows * dim):
            raise MalformedSourceError(
                f"{path}[{column}]: expected rows of at most {dim:,} values, got {values:,} in {rows:,} rows; "
                "all rows must be equally wide"
            )


def _first_column(files: list[Path], column: str | None, *, codes: bool, bad_rows: bool) -> str:
    """Return the column of the first file; with ``bad_rows``, of the first that has vectors in one."""
    looked_at = files if bad_rows else files[:1]
    for file in looked_at[:-1]:
        with open_parquet(file) as parquet, suppress(MissingColumnError, NotFloatingPointError):
            return vector_column(parquet.schema_arrow, file, column, codes=codes)
    with open_parquet(looked_at[-1]) as parquet:
        return vector_column(parquet.schema_arrow, looked_at[-1], column, codes=codes)


def _parquet_width(files: list[Path], column: str, *, bad_rows: bool) -> int:
    """Return the width of the first vector; with ``bad_rows``, the commonest of the first files; 0 without vectors."""
    found: list[int] = []
    for number, file in enumerate(files, 1):
        found += _first_widths(file, column, bad_rows=bad_rows)
        if found and (not bad_rows or number >= _FILES_TO_FIND_ONE):
            break
    return int(np.bincount(found).argmax()) if found else 0


def _first_widths(path: Path, column: str, *, bad_rows: bool) -> list[int]:
    """Return the width of a file's first vector; with ``bad_rows``, the widths of the first that it has."""
    with open_parquet(path) as parquet:
        kind, rows = parquet.schema_arrow.field(column).type, parquet.metadata.num_rows
    kind = getattr(kind, "storage_type", kind)
    if hasattr(kind, "list_size"):
        return [int(kind.list_size)] * max(1, min(rows, _ROWS_TO_FIND_ONE))
    compute = require("pyarrow.compute", extra="parquet")
    for batch in parquet_batches(path, columns=[column], rows=_ROWS_TO_FIND_ONE if bad_rows else 1):
        widths = compute.list_value_length(list_storage(batch.column(0)))
        if widths.null_count and not bad_rows:
            raise BadRowsError(f"{path}: row 0 is null; every row needs a vector")
        known: list[int] = widths.drop_null().to_pylist()
        if known:
            return known
    return []
