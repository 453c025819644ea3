"""The pieces of a bulk job: shards read from files, written to parts, and listed in a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import ChangedJobError, MalformedSourceError
from vaecodec.extras import require
from vaecodec.files import locked, write_atomically
from vaecodec.interface import Metric
from vaecodec.sources import RandomAccessSource, Rows
from vaecodec.sources.base import rows_per_block
from vaecodec.sources.parquet import ParquetSource, list_rows, open_parquet, parquet_batches
from vaecodec.vectors import faults

# The key of Parquet's schema metadata that says which codec wrote the file and how, as JSON.
FACTS = b"vaecodec"

# Parquet rows are gathered up to this size before they are written as a row group.
_ROW_GROUP_BYTES = 32 << 20


class BadRow(NamedTuple):
    """A row that cannot be encoded: its file, its number within the file, and why."""

    file: str
    row: int
    reason: str


class Shard(NamedTuple):
    number: int
    file: Path
    first_row: int
    rows: int
    row_groups: list[int]


class Piece(NamedTuple):
    """Some rows of a shard.

    ``numbers`` int64 (m,) within the file, ``vectors`` float (m, width), ``batch`` the Arrow record batch of the same
    rows or None, ``bad`` the rows that lack a vector of the right width and so are not among them.
    """

    numbers: NDArray[np.int64]
    vectors: Rows
    batch: Any
    bad: list[BadRow]

    def only(self, rows: NDArray[np.bool_]) -> Piece:
        """The piece with some of its rows: bool (m,)."""
        batch = self.batch.filter(rows) if self.batch is not None else None
        return Piece(self.numbers[rows], self.vectors[rows], batch, self.bad)


class Entry(NamedTuple):
    """What became of a shard; the manifest has a line for each that is finished.

    ``rows`` in its part, ``sha256`` of the part or None where bad rows were only to be reported, ``bad`` rows listed.
    """

    shard: int
    rows: int
    sha256: str | None
    bad: int


def part_path(folder: Path, number: int, suffix: str) -> Path:
    """Where a shard's file is once it is finished."""
    return folder / f"part-{number:05d}{suffix}"


def bad_rows_path(folder: Path, number: int) -> Path:
    """Where the list of a shard's bad rows is, if there are any."""
    return folder / f"part-{number:05d}.bad-rows.csv"


class MatrixInput:
    """Row ranges of a file that holds one matrix."""

    def __init__(self, source: RandomAccessSource, path: Path, shard_rows: int) -> None:
        self.files = [path]
        self._source = source
        self.shards = [
            Shard(number, path, start, min(shard_rows, source.rows - start), [])
            for number, start in enumerate(range(0, max(1, source.rows), shard_rows))
        ]

    def read(self, shard: Shard) -> Iterator[Piece]:
        """The shard's rows in order."""
        step = rows_per_block(self._source.dim)
        for start in range(shard.first_row, shard.first_row + shard.rows, step):
            numbers = np.arange(start, min(start + step, shard.first_row + shard.rows))
            yield Piece(numbers, self._source.take(numbers), None, [])

    def output_schema(self, empty: NDArray[Any], facts: dict[str, Any]) -> tuple[Any, str]:
        """The Arrow schema of the output, with rows like those of ``empty``, and the name of their column."""
        arrow = require("pyarrow", extra="parquet")
        fields = [arrow.field("row", arrow.int64()), arrow.field("vector", _list_type(empty))]
        return arrow.schema(fields, metadata={FACTS: json.dumps(facts)}), "vector"


class ParquetInput:
    """Consecutive row groups of Parquet files, with or without the columns beside the vectors."""

    def __init__(self, source: ParquetSource, width: int, shard_rows: int, *, keep_columns: bool) -> None:
        self.files = source.files
        self._column = source.column
        self._columns = None if keep_columns else [source.column]
        self._width = width
        with open_parquet(source.files[0]) as parquet:
            self._schema = parquet.schema_arrow
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
        """The shard's rows in order, with their other columns where these are kept."""
        compute = require("pyarrow.compute", extra="parquet")
        first = shard.first_row
        for batch in parquet_batches(
            shard.file,
            rows=rows_per_block(self._width),
            columns=self._columns,
            row_groups=shard.row_groups,
            first_row=shard.first_row,
        ):
            lists = batch.column(self._column)
            widths = compute.list_value_length(lists).fill_null(-1).to_numpy(zero_copy_only=False)
            bad = [
                BadRow(str(shard.file), first + int(at), "no vector" if widths[at] < 0 else f"width {widths[at]}")
                for at in np.flatnonzero(widths != self._width)
            ]
            good = widths == self._width
            if bad:
                batch = batch.filter(good)
            vectors = list_rows(batch.column(self._column), self._width, shard.file, first)
            yield Piece(first + np.flatnonzero(good), vectors, batch, bad)
            first += len(good)

    def _check_columns(self, schema: Any, file: Path) -> None:
        """All files need the same columns; the vectors' own may be lists of any kind."""
        columns, expected = (
            {field.name: field.type for field in fields if field.name != self._column}
            for fields in (schema, self._schema)
        )
        if columns != expected:
            differing = ", ".join(sorted({name for name, _ in columns.items() ^ expected.items()}))
            raise MalformedSourceError(f"{file}: its columns differ from those of {self.files[0]}: {differing}")

    def output_schema(self, empty: NDArray[Any], facts: dict[str, Any]) -> tuple[Any, str]:
        """The first file's columns, with the latents in the place of the vectors."""
        arrow = require("pyarrow", extra="parquet")
        at = self._schema.get_field_index(self._column)
        schema = self._schema.set(at, arrow.field(self._column, _list_type(empty)))
        return schema.with_metadata({**(schema.metadata or {}), FACTS: json.dumps(facts)}), self._column


def identity(files: list[Path]) -> str:
    """A digest of names, sizes and times, which tells whether the input is still the same."""
    found = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def sort_out(piece: Piece, file: Path, metric: Metric | None) -> tuple[Piece, list[BadRow]]:
    """The piece with its vectors in float32 and without its bad rows, and these; any code is good."""
    if metric is None:
        return piece, piece.bad
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is found below
        piece = piece._replace(vectors=np.ascontiguousarray(piece.vectors, np.float32))
    broken, undirected = faults(piece.vectors)
    wrong = broken | undirected if metric is Metric.COSINE else broken
    if not wrong.any():
        return piece, piece.bad
    reasons = np.where(broken, "NaN, infinity or a norm beyond float32", "zero norm")
    bad = [BadRow(str(file), int(piece.numbers[at]), str(reasons[at])) for at in np.flatnonzero(wrong)]
    return piece.only(~wrong), sorted([*piece.bad, *bad])


class Part(Protocol):
    """The file of one shard, a context manager that has it safely on disk when it ends well."""

    def __enter__(self) -> Part: ...
    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...
    def write(self, piece: Piece, values: NDArray[Any]) -> None: ...


class ArrayPart:
    """Rows as raw bytes; they become one array in the end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> ArrayPart:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _close(self._file, self._path, kind)

    def write(self, _: Piece, values: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(values).data)


class ParquetPart:
    """Rows with their other columns, gathered into row groups of a useful size."""

    def __init__(self, path: Path, schema: Any, column: str) -> None:
        self._path, self._schema, self._column = path, schema, column
        self._arrow = require("pyarrow", extra="parquet")
        self._gathered: list[Any] = []
        self._gathered_bytes = 0

    def __enter__(self) -> ParquetPart:
        self._file = self._path.open("wb")
        self._writer = require("pyarrow.parquet", extra="parquet").ParquetWriter(self._file, self._schema)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                self._writer.close()
            else:
                with suppress(Exception):  # an open writer would try again when it is collected
                    self._writer.close()
        except BaseException as error:
            kind = type(error)
            raise
        finally:
            _close(self._file, self._path, kind)

    def write(self, piece: Piece, values: NDArray[Any]) -> None:
        lists = self._arrow.FixedSizeListArray.from_arrays(self._arrow.array(values.reshape(-1)), values.shape[1])
        if piece.batch is None:
            batch = self._arrow.record_batch([self._arrow.array(piece.numbers), lists], schema=self._schema)
        else:
            columns = [lists if n == self._column else piece.batch.column(n) for n in self._schema.names]
            batch = self._arrow.record_batch(columns, schema=self._schema)
        self._gathered.append(batch)
        self._gathered_bytes += batch.nbytes
        if self._gathered_bytes > _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._gathered:
            table = self._arrow.Table.from_batches(self._gathered)
            self._writer.write_table(table, row_group_size=max(1, len(table)))
            self._gathered, self._gathered_bytes = [], 0


def _close(file: IO[bytes], path: Path, failed: type[BaseException] | None) -> None:
    if failed is None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
    else:
        with suppress(OSError):  # closing writes what is buffered, which fails again on a full disk
            file.close()
        path.unlink()


def _list_type(empty: NDArray[Any]) -> Any:
    arrow = require("pyarrow", extra="parquet")
    return arrow.list_(arrow.from_numpy_dtype(empty.dtype), empty.shape[1])


def _is_entry(line: Any) -> bool:
    match line:
        case [int() as shard, int(), str() | None, int()]:
            return shard >= 0
    return False


class Manifest:
    """``_manifest.jsonl`` and the parts beside it."""

    def __init__(self, folder: Path, job: dict[str, Any], suffix: str) -> None:
        self.folder, self._job, self._suffix = folder, job, suffix
        # Readers of Parquet folders leave out names that begin like these.
        self.path, self.lock_path = folder / "_manifest.jsonl", folder / "_lock"
        self._lock = Lock()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from this folder; the lock goes with the process, however that ends.

        Raises:
            ChangedJobError: another job was begun here.
            OutputBusyError: another process, or another job of this one, is at work here.
        """
        self._entries()  # a folder of another job stays as it is
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.lock_path, str(self.folder)):
            yield

    def open(self) -> dict[int, Entry]:
        """Begin, or find the shards that are finished and whose files still have the content written."""
        finished = {entry.shard: entry for entry in self._entries() if self._is_whole(entry)}
        kept = {self.lock_path, *(part_path(self.folder, number, self._suffix) for number in finished)}
        kept |= {bad_rows_path(self.folder, entry.shard) for entry in finished.values() if entry.bad}
        for file in self.folder.iterdir():
            if file not in kept:
                file.unlink()
        lines = "".join(json.dumps(line) + "\n" for line in (self._job, *finished.values()))
        write_atomically(self.path, lines.encode())
        return finished

    def _entries(self) -> list[Entry]:
        """The shards that are listed; none where nothing was begun."""
        job, *entries = self._lines() or [self._job]
        if not isinstance(job, dict):
            raise ChangedJobError(f"{self.path}: expected what was begun here in the first line; delete {self.folder}")
        if job != self._job:
            changed = ", ".join(sorted(key for key in self._job if job.get(key) != self._job[key]))
            raise ChangedJobError(f"{self.folder}: was begun with different {changed}; run as before, or delete it")
        return [Entry(*line) for line in entries if _is_entry(line)]

    def _lines(self) -> list[Any]:
        """What the file holds; a killed process or a full disk may leave half a line, whose shard is made again."""
        lines = []
        for line in self.path.read_text(errors="replace").splitlines() if self.path.exists() else []:
            with suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    def _is_whole(self, entry: Entry) -> bool:
        part = part_path(self.folder, entry.shard, self._suffix)
        listed = not entry.bad or bad_rows_path(self.folder, entry.shard).exists()
        return listed and part.exists() and sha256(part) == entry.sha256

    def add(self, entry: Entry) -> None:
        """Note a finished shard, safely on disk; may be called from several threads."""
        with self._lock, self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """Of a file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
