"""Parquet files and folders of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vaecodec.errors import (
    MissingVectorError,
    NotFloatingPointError,
    RaggedVectorsError,
    SourceNotFoundError,
)
from vaecodec.extras import require
from vaecodec.sources.base import VALUES, Rows, choose_column, malformed_if_it_fails, rows_per_block


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
            for batch in parquet_batches(file, columns=[self.column], rows=rows or rows_per_block(self.dim)):
                yield list_rows(batch.column(0), self.dim, file, row)
                row += len(batch)


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
    """The name of the column of vectors in an Arrow schema; raises as :class:`ParquetSource` does."""
    arrow = require("pyarrow", extra="parquet")

    types = arrow.types

    def holds_vectors(kind: Any) -> bool:
        if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
            return False
        values = kind.value_type
        return bool(values in (arrow.int8(), arrow.uint8()) if codes else types.is_floating(values))

    kinds = {field.name: field.type for field in schema}
    chosen = choose_column(str(path), "column", list(kinds), [k for k in kinds if holds_vectors(kinds[k])], column)
    if not holds_vectors(kinds[chosen]):
        raise NotFloatingPointError(f"{path}[{chosen}]: expected lists of {VALUES[codes]}, got {kinds[chosen]}")
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
