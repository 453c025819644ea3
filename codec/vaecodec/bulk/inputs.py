"""Cut the inputs of a bulk job into shards: row ranges of a matrix, or row groups of Parquet files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.bulk.facts import arrow_metadata
from vaecodec.errors import MalformedSourceError
from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec.sources import Rows
from vaecodec.sources.bad_rows import BadRow
from vaecodec.sources.base import Matrix, rows_per_block
from vaecodec.sources.parquet import ParquetSource, chosen, list_rows, list_storage, open_parquet, parquet_batches
from vaecodec.vectors import NO_DIRECTION, NOT_FINITE, faults


class Shard(NamedTuple):
    number: int
    file: Path
    first_row: int
    rows: int
    row_groups: list[int]


class Piece(NamedTuple):
    """Hold some rows of a shard.

    ``numbers`` int64 (m,) within the file, ``vectors`` float (m, width), ``batch`` the Arrow record batch of the same
    rows or None, ``bad`` the rows that lack a vector of the right width and so are not among them.
    """

    numbers: NDArray[np.int64]
    vectors: Rows
    batch: Any
    bad: list[BadRow]

    def only(self, rows: NDArray[np.bool_]) -> Piece:
        """Return the piece with some of its rows: bool (m,)."""
        batch = chosen(self.batch, rows) if self.batch is not None else None
        return Piece(self.numbers[rows], self.vectors[rows], batch, self.bad)


class MatrixInput:
    """Read row ranges of a file that holds one matrix."""

    def __init__(self, source: Matrix, path: Path, shard_rows: int) -> None:
        self.files = [path]
        self._source = source
        self.shards = [
            Shard(number, path, start, min(shard_rows, source.rows - start), [])
            for number, start in enumerate(range(0, max(1, source.rows), shard_rows))
        ]

    def read(self, shard: Shard) -> Iterator[Piece]:
        """Yield the shard's rows in order."""
        start = shard.first_row
        for rows in self._source.part(start, start + shard.rows):
            yield Piece(np.arange(start, start + len(rows)), rows, None, [])
            start += len(rows)

    def output_schema(self, empty: NDArray[Any], facts: dict[str, Any]) -> tuple[Any, str]:
        """Return the Arrow schema of the output, with rows like those of ``empty``, and the name of their column."""
        arrow = require("pyarrow", extra="parquet")
        vector = arrow.field("vector", _list_type(empty), metadata=arrow_metadata(None, facts))
        return arrow.schema([arrow.field("row", arrow.int64()), vector], metadata=arrow_metadata(None, facts)), "vector"


class ParquetInput:
    """Read consecutive row groups of Parquet files, with or without the columns beside the vectors."""

    def __init__(self, source: ParquetSource, width: int, shard_rows: int, *, keep_columns: bool) -> None:
        self.files = source.files
        self._column = source.column
        self._columns = None if keep_columns else [source.column]
        self._keep_columns, self._partitions = keep_columns, source.partitions
        self._width = width
        with open_parquet(source.files[0]) as parquet:
            schema = parquet.schema_arrow
        arrow = require("pyarrow", extra="parquet")
        self._schema = arrow.schema([*schema, *source.partitions.fields(schema)], schema.metadata)
        self.shards: list[Shard] = []
        for file in source.files:
            with open_parquet(file) as parquet:
                if keep_columns:
                    self._check_columns(parquet.schema_arrow, file)
                sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            start = rows = 0
            groups: list[int] = []
            for group, size in enumerate([*sizes, None]):
                if groups and (size is None or rows + size > shard_rows):
                    self.shards.append(Shard(len(self.shards), file, start, rows, groups))
                    start, rows, groups = start + rows, 0, []
                groups.append(group)
                rows += size or 0
        if not self.shards:
            self.shards = [Shard(0, source.files[0], 0, 0, [])]

    def read(self, shard: Shard) -> Iterator[Piece]:
        """Yield the shard's rows in order, with their other columns where these are kept."""
        compute = require("pyarrow.compute", extra="parquet")
        first = shard.first_row
        for batch in parquet_batches(
            shard.file,
            rows=rows_per_block(self._width),
            columns=self._columns,
            row_groups=shard.row_groups,
            first_row=shard.first_row,
        ):
            if self._keep_columns:
                batch = self._partitions.add_to(batch, shard.file)
            lists = list_storage(batch.column(self._column))
            widths = compute.list_value_length(lists).fill_null(-1).to_numpy(zero_copy_only=False)
            bad = [
                BadRow(str(shard.file), first + int(at), "no vector" if widths[at] < 0 else f"width {widths[at]}")
                for at in np.flatnonzero(widths != self._width)
            ]
            good = widths == self._width
            if bad:
                batch = chosen(batch, good)
            vectors = list_rows(chosen(lists, good) if bad else lists, self._width, shard.file, first)
            yield Piece(first + np.flatnonzero(good), vectors, batch, bad)
            first += len(good)

    def _check_columns(self, schema: Any, file: Path) -> None:
        """Check that all files have the same columns; the vectors' own may be lists of any kind."""
        columns, expected = (
            {field.name: field.type for field in fields if field.name != self._column}
            for fields in ([*schema, *self._partitions.fields(schema)], self._schema)
        )
        if columns != expected:
            differing = ", ".join(sorted({name for name, _ in columns.items() ^ expected.items()}))
            raise MalformedSourceError(
                f"{file}: its columns differ from those of {self.files[0]}: {differing}; make them the same"
            )

    def output_schema(self, empty: NDArray[Any], facts: dict[str, Any]) -> tuple[Any, str]:
        """Return the first file's columns, with the latents in the place of the vectors."""
        arrow = require("pyarrow", extra="parquet")
        at = self._schema.get_field_index(self._column)
        # Drop the metadata of the vectors' own field, since it may describe their old type.
        vector = arrow.field(self._column, _list_type(empty), metadata=arrow_metadata(None, facts))
        schema = self._schema.set(at, vector)
        return schema.with_metadata(arrow_metadata(schema.metadata, facts)), self._column


def fingerprint(files: list[Path]) -> str:
    """Return a digest of names, sizes and times, which tells whether the input is still the same."""
    found = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def sort_out(piece: Piece, file: Path, metric: Metric | None) -> tuple[Piece, list[BadRow]]:
    """Split a piece into its good rows, with vectors in float32, and its bad rows; codes are always good."""
    if metric is None:
        return piece, piece.bad
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are found below
        piece = piece._replace(vectors=np.ascontiguousarray(piece.vectors, np.float32))
    broken, undirected = faults(piece.vectors)
    wrong = broken | undirected if metric is Metric.COSINE else broken
    if not wrong.any():
        return piece, piece.bad
    reasons = np.where(broken, NOT_FINITE, NO_DIRECTION)
    bad = [BadRow(str(file), int(piece.numbers[at]), str(reasons[at])) for at in np.flatnonzero(wrong)]
    return piece.only(~wrong), sorted([*piece.bad, *bad])


def _list_type(empty: NDArray[Any]) -> Any:
    arrow = require("pyarrow", extra="parquet")
    return arrow.list_(arrow.from_numpy_dtype(empty.dtype), empty.shape[1])
