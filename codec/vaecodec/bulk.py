"""Send a whole collection through a codec: files in, files out, in constant memory, resumable at any moment.

The input is cut into *shards*: row ranges of a matrix, or consecutive row groups of a Parquet file. A few threads
each take a shard through reading, encoding and writing, so these overlap. Everything is written into a folder beside
the output, ``OUT.partial``:

- ``part-00000.npy`` or ``.parquet``: one file per shard, renamed to that name when it is complete;
- ``manifest.jsonl``: a first line that describes the job, then a line per finished shard with the SHA-256 of its file.

When all shards are finished, the output takes its own name in one rename; until then there is no file of that name. A
shard's content does not depend on the number of workers nor on when it is made, so an interrupted and resumed job ends
with the same bytes as an uninterrupted one, given a codec whose calls are deterministic (``Codec.load(threads=1)``).
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Event, Lock
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vaecodec.codec import Codec
from vaecodec.codes import Code, CodeType
from vaecodec.codes.uniform import FloatCode
from vaecodec.errors import (
    BadRowsError,
    BulkStoppedError,
    ChangedJobError,
    CodecMismatchError,
    InvalidBudgetError,
    MalformedSourceError,
    NotCalibratedError,
    OutputExistsError,
    UnknownSourceError,
    VaecodecError,
    WrongWidthError,
)
from vaecodec.extras import require
from vaecodec.interface import Metric, VectorCodec
from vaecodec.sources import (
    ParquetSource,
    RandomAccessSource,
    Rows,
    block_rows,
    list_rows,
    open_parquet,
    open_source,
    parquet_batches,
    parquet_files,
)
from vaecodec.vectors import faults

# A shard is what is lost at most when the process is killed.
SHARD_BYTES = 256 << 20

# Parquet rows are gathered up to this size before they are written as a row group.
_ROW_GROUP_BYTES = 32 << 20

_FACTS = b"vaecodec"

# A file size limit says on some systems what a full disk says on others.
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class OnBadRows(StrEnum):
    """What happens to rows that hold NaN or infinity, have no direction under cosine, or have no vector."""

    FAIL = "fail"
    """Stop at the first one."""
    SKIP = "skip"
    """Leave them out of the output, and list them in ``OUT.bad-rows.csv``."""
    REPORT = "report"
    """Read everything, list them all in ``OUT.bad-rows.csv``, and stop if there are any."""


class BadRow(NamedTuple):
    """A row that cannot be encoded: its file, its number within the file, and why."""

    file: str
    row: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """How a collection is encoded or decoded.

    Attributes:
        column: see :func:`vaecodec.sources.open_source`.
        dtype: of the output: a code's type, see :meth:`vaecodec.Codec.code`; only floats without a calibration, and
            when decoding.
        bytes: or a trellis code of so many bytes per vector.
        on_bad_rows: what to do with rows that cannot be encoded.
        resume: continue an unfinished output; where there is none, begin.
        workers: threads; by default one per core.
        shard_rows: rows per shard, by default 256 MiB of float32. Parquet shards are whole row groups.
    """

    column: str | None = None
    dtype: CodeType = CodeType.FLOAT32
    bytes: int | None = None
    on_bad_rows: OnBadRows = OnBadRows.FAIL
    resume: bool = False
    workers: int | None = None
    shard_rows: int | None = None


@dataclass(frozen=True)
class BulkResult:
    """What a finished job did.

    Attributes:
        output: the file or folder written.
        rows: rows in the output.
        bad_rows: rows left out; listed in ``OUT.bad-rows.csv`` when there are any.
        shards: shards of the job.
        resumed: shards that an earlier, interrupted run had finished.
    """

    output: Path
    rows: int
    bad_rows: int
    shards: int
    resumed: int


Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all), from any thread, one call at a time."""


def encode(
    source: str | Path,
    output: str | Path,
    codec: VectorCodec,
    *,
    options: BulkOptions = BulkOptions(),
    progress: Progress | None = None,
) -> BulkResult:
    """Encode the documents of a file or folder.

    Args:
        source: what :func:`vaecodec.sources.open_source` reads, except collections behind an address.
        output: a name ending in ``.npy`` for one array (n, width), with the codec's id in ``OUT.json`` beside it; any
            other name for a folder of Parquet files. From Parquet to Parquet all columns are kept and the latents
            or codes take the place of the vectors; other input gives the columns ``row`` and ``vector``.
        codec: called from several threads at once.

    Raises:
        OutputExistsError: the output exists, or an unfinished one does and is not to be resumed.
        ChangedJobError: the unfinished output belongs to other input, another codec or other options.
        NotCalibratedError, InvalidBudgetError: the codec cannot write such codes.
        WrongWidthError: the vectors are not ``codec.dim`` wide.
        SourceError: the source cannot be opened.
        BulkStoppedError: a bad row, damaged input or a full disk stopped the work; what is finished is kept.
    """
    code = _code(codec, str(options.dtype) if options.bytes is None else None, options.bytes)
    empty = code.encode(np.empty((0, codec.code_dim), np.float32))
    work = _Work(
        lambda rows: code.encode(codec.encode(rows), threads=1),
        codec.dim,
        codec.metric,
        empty,
        {
            "work": "encode",
            "codec_id": codec.codec_id,
            "code_dim": codec.code_dim,
            "dtype": str(options.dtype) if options.bytes is None else None,
            "bytes": options.bytes,
        },
    )
    return _run(work, source, Path(output), options, progress)


def decode(
    source: str | Path,
    output: str | Path,
    codec: VectorCodec,
    *,
    options: BulkOptions = BulkOptions(),
    progress: Progress | None = None,
) -> BulkResult:
    """Reconstruct the embeddings of a file or folder of latents or codes: the mirror of :func:`encode`.

    What :func:`encode` wrote says how it is to be decoded; anything else is taken for latents.

    Raises:
        CodecMismatchError: another codec wrote it, or the same at another width.
        InvalidBudgetError: the options ask for codes as output.
    """
    if options.bytes is not None or options.dtype not in (CodeType.FLOAT32, CodeType.FLOAT16):
        raise InvalidBudgetError("embeddings are decoded to float32 or float16, not to codes")
    written = _written(Path(source), codec)
    code = _code(codec, written["dtype"], written["bytes"])
    out = FloatCode(options.dtype, codec.dim)
    is_latents = isinstance(code, FloatCode)
    work = _Work(
        lambda rows: out.encode(codec.decode(rows if is_latents else code.decode(rows, threads=1))),
        codec.code_dim if is_latents else code.bytes_per_vector,
        codec.latent_metric if is_latents else None,
        np.empty((0, codec.dim), np.dtype(options.dtype)),
        {"work": "decode", "codec_id": codec.codec_id, "dtype": str(options.dtype)},
    )
    return _run(work, source, Path(output), options, progress)


class _Work(NamedTuple):
    """One direction through a codec.

    ``call`` takes checked rows of ``width``, float32, or codes where ``metric`` is None, to the rows of the output,
    of which ``empty`` has none; ``facts`` are kept with the output.
    """

    call: Callable[[NDArray[Any]], NDArray[Any]]
    width: int
    metric: Metric | None
    empty: NDArray[Any]
    facts: dict[str, Any]


class _Shard(NamedTuple):
    number: int
    file: Path
    first_row: int
    rows: int
    row_groups: list[int]


class _Piece(NamedTuple):
    """Some rows of a shard.

    ``numbers`` int64 (m,) within the file, ``vectors`` float (m, width), ``batch`` the Arrow record batch of the same
    rows or None, ``bad`` the rows that lack a vector of the right width and so are not among them.
    """

    numbers: NDArray[np.int64]
    vectors: Rows
    batch: Any
    bad: list[BadRow]

    def only(self, rows: NDArray[np.bool_]) -> _Piece:
        batch = self.batch.filter(rows) if self.batch is not None else None
        return _Piece(self.numbers[rows], self.vectors[rows], batch, self.bad)


class _Entry(NamedTuple):
    """A finished shard, as the manifest has it."""

    shard: int
    rows: int
    sha256: str
    bad: list[BadRow]


class _StoppedError(Exception):
    """Another worker has failed."""


def _run(work: _Work, source: str | Path, output: Path, options: BulkOptions, progress: Progress | None) -> BulkResult:
    staging = output.with_name(output.name + ".partial")
    if output.exists():
        raise OutputExistsError(f"{output}: exists already; delete it or choose another name")
    if staging.exists() and not options.resume:
        raise OutputExistsError(f"{staging}: an unfinished output; continue it with resume (--resume), or delete it")
    reader = _open_input(source, work, options)
    shards = reader.shards
    suffix = ".npy" if output.suffix == ".npy" else ".parquet"
    job = {
        **work.facts,
        "output": suffix,
        "column": options.column,
        "shards": [shard.rows for shard in shards],
        "input": _identity(reader.files),
    }
    manifest = _Manifest(staging, job, suffix)
    finished = manifest.open()
    resumed = len(finished)
    counter = _Counter(sum(shard.rows for shard in shards), progress)
    counter.add(sum(shards[number].rows for number in finished))
    new_part: Callable[[Path], _Part] = _ArrayPart
    if suffix == ".parquet":
        schema, column = reader.output_schema(work)

        def new_part(path: Path) -> _Part:
            return _ParquetPart(path, schema, column)

    stop = Event()
    reported: list[BadRow] = []

    def convert(shard: _Shard) -> None:
        path = manifest.part(shard.number)
        begun = path.with_suffix(f".{os.getpid()}.begun")
        rows, bad = 0, []
        with new_part(begun) as part:
            for piece in reader.read(shard):
                if stop.is_set():
                    raise _StoppedError
                counter.add(len(piece.numbers) + len(piece.bad))
                good, wrong = _sort_out(piece, shard.file, work.metric)
                bad += wrong
                if bad and options.on_bad_rows is OnBadRows.FAIL:
                    raise BadRowsError(f"row {bad[0].row} of {bad[0].file}: {bad[0].reason}")
                if bad and options.on_bad_rows is OnBadRows.REPORT:
                    continue  # nothing of this shard is kept, but all of it is looked at
                part.write(good, work.call(good.vectors))
                rows += len(good.numbers)
        if bad and options.on_bad_rows is OnBadRows.REPORT:
            begun.unlink()
            reported.extend(bad)
            return
        entry = _Entry(shard.number, rows, _sha256(begun), bad)
        begun.replace(path)
        manifest.add(entry)
        finished[shard.number] = entry

    try:
        _work_off([shard for shard in shards if shard.number not in finished], convert, stop, options.workers)
        bad = sorted([*reported, *(row for entry in finished.values() for row in entry.bad)])
        if bad:
            _list_bad_rows(output, bad)
        if reported:
            raise BadRowsError(
                f"{len(bad):,} rows cannot be {work.facts['work']}d, the first is row {bad[0].row} of {bad[0].file}: "
                f"{bad[0].reason}; {_bad_rows_path(output)} lists them all"
            )
        entries = [finished[shard.number] for shard in shards]
        if suffix == ".npy":
            _finish_array(manifest, entries, output, work)
        else:
            manifest.path.unlink()
            staging.replace(output)
    except (VaecodecError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in _NO_SPACE
        raise BulkStoppedError(
            f"{'no space left: ' * full}{error}; stopped with {len(finished)} of {len(shards)} shards finished and "
            f"kept in {staging}; continue with resume (--resume)"
        ) from error
    return BulkResult(output, sum(entry.rows for entry in entries), len(bad), len(shards), resumed)


def _work_off(shards: list[_Shard], convert: Callable[[_Shard], None], stop: Event, workers: int | None) -> None:
    """Convert the shards in a few threads; the first failure stops the others at their next block."""

    def guarded(shard: _Shard) -> None:
        if stop.is_set():
            raise _StoppedError
        try:
            convert(shard)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="vaecodec") as pool:
        futures = [pool.submit(guarded, shard) for shard in shards]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # an interrupt from the keyboard comes here, too
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    errors = [future.exception() for future in futures if future.done() and not future.cancelled()]
    for error in errors:
        if error is not None and not isinstance(error, _StoppedError):
            raise error


class _Counter:
    """Rows done, over all threads."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress, self._lock = 0, total, progress, Lock()

    def add(self, rows: int) -> None:
        with self._lock:
            self._done += rows
            if self._progress is not None:
                self._progress(self._done, self._total)


# --- input


class _MatrixInput:
    """Row ranges of a file that holds one matrix."""

    def __init__(self, source: RandomAccessSource, path: Path, shard_rows: int) -> None:
        self.files = [path]
        self._source = source
        self.shards = [
            _Shard(number, path, start, min(shard_rows, source.rows - start), [])
            for number, start in enumerate(range(0, max(1, source.rows), shard_rows))
        ]

    def read(self, shard: _Shard) -> Iterator[_Piece]:
        step = block_rows(self._source.dim)
        for start in range(shard.first_row, shard.first_row + shard.rows, step):
            numbers = np.arange(start, min(start + step, shard.first_row + shard.rows))
            yield _Piece(numbers, self._source.take(numbers), None, [])

    def output_schema(self, work: _Work) -> tuple[Any, str]:
        arrow = require("pyarrow", extra="parquet")
        fields = [arrow.field("row", arrow.int64()), arrow.field("vector", _list_type(work))]
        return arrow.schema(fields, metadata={_FACTS: json.dumps(work.facts)}), "vector"


class _ParquetInput:
    """Consecutive row groups of Parquet files."""

    def __init__(self, source: ParquetSource, width: int, shard_rows: int) -> None:
        self.files = source.files
        self._column = source.column
        self._width = width
        self._compute = require("pyarrow.compute", extra="parquet")
        with open_parquet(source.files[0]) as parquet:
            self._schema = parquet.schema_arrow
        self.shards: list[_Shard] = []
        for file in source.files:
            with open_parquet(file) as parquet:
                self._check_columns(parquet.schema_arrow, file)
                sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            start = 0
            groups: list[int] = []
            for group, size in enumerate([*sizes, None]):
                rows = sum(sizes[taken] for taken in groups)
                if groups and (size is None or rows + size > shard_rows):
                    self.shards.append(_Shard(len(self.shards), file, start, rows, groups))
                    start, groups = start + rows, []
                groups.append(group)
        if not self.shards:
            self.shards = [_Shard(0, source.files[0], 0, 0, [])]

    def read(self, shard: _Shard) -> Iterator[_Piece]:
        first = shard.first_row
        for batch in parquet_batches(shard.file, rows=block_rows(self._width), row_groups=shard.row_groups):
            lists = batch.column(self._column)
            widths = self._compute.list_value_length(lists).fill_null(-1).to_numpy(zero_copy_only=False)
            bad = [
                BadRow(str(shard.file), first + int(at), "no vector" if widths[at] < 0 else f"width {widths[at]}")
                for at in np.flatnonzero(widths != self._width)
            ]
            good = widths == self._width
            if bad:
                batch = batch.filter(good)
            vectors = list_rows(batch.column(self._column), self._width, shard.file, first)
            yield _Piece(first + np.flatnonzero(good), vectors, batch, bad)
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

    def output_schema(self, work: _Work) -> tuple[Any, str]:
        """The first file's columns, with the latents in the place of the vectors."""
        arrow = require("pyarrow", extra="parquet")
        at = self._schema.get_field_index(self._column)
        schema = self._schema.set(at, arrow.field(self._column, _list_type(work)))
        return schema.with_metadata({**(schema.metadata or {}), _FACTS: json.dumps(work.facts)}), self._column


def _open_input(location: str | Path, work: _Work, options: BulkOptions) -> _MatrixInput | _ParquetInput:
    source = open_source(location, column=options.column, codes=work.metric is None)
    if source.dim != work.width and source.rows != 0:
        raise WrongWidthError(
            f"{source.name}: expected rows of width {work.width}, got {source.dim}; is this the codec's own collection?"
        )
    shard_rows = options.shard_rows or max(1, SHARD_BYTES // (4 * work.width))
    if isinstance(source, ParquetSource):
        return _ParquetInput(source, work.width, shard_rows)
    if isinstance(source, RandomAccessSource):
        return _MatrixInput(source, Path(location), shard_rows)
    raise UnknownSourceError(f"{source.name}: expected a file or folder; vaecodec migrate compresses collections")


def _identity(files: list[Path]) -> str:
    """A digest of names, sizes and times, which tells whether the input is still the same."""
    found = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _sort_out(piece: _Piece, file: Path, metric: Metric | None) -> tuple[_Piece, list[BadRow]]:
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


# --- output


class _Part(Protocol):
    """The file of one shard, a context manager that has it safely on disk when it ends well."""

    def __enter__(self) -> _Part: ...
    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...
    def write(self, piece: _Piece, values: NDArray[Any]) -> None: ...


class _ArrayPart:
    """Rows as raw bytes; they become one array in the end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _ArrayPart:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _close(self._file, self._path, kind)

    def write(self, _: _Piece, values: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(values).data)


class _ParquetPart:
    """Rows with their other columns, gathered into row groups of a useful size."""

    def __init__(self, path: Path, schema: Any, column: str) -> None:
        self._path, self._schema, self._column = path, schema, column
        self._arrow = require("pyarrow", extra="parquet")
        self._gathered: list[Any] = []

    def __enter__(self) -> _ParquetPart:
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

    def write(self, piece: _Piece, values: NDArray[Any]) -> None:
        lists = self._arrow.FixedSizeListArray.from_arrays(self._arrow.array(values.reshape(-1)), values.shape[1])
        if piece.batch is None:
            batch = self._arrow.record_batch([self._arrow.array(piece.numbers), lists], schema=self._schema)
        else:
            columns = [lists if n == self._column else piece.batch.column(n) for n in self._schema.names]
            batch = self._arrow.record_batch(columns, schema=self._schema)
        self._gathered.append(batch)
        if sum(batch.nbytes for batch in self._gathered) > _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._gathered:
            table = self._arrow.Table.from_batches(self._gathered)
            self._writer.write_table(table, row_group_size=max(1, len(table)))
            self._gathered = []


def _close(file: IO[bytes], path: Path, failed: type[BaseException] | None) -> None:
    if failed is None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
    else:
        with suppress(OSError):  # closing writes what is buffered, which fails again on a full disk
            file.close()
        path.unlink()


def _list_type(work: _Work) -> Any:
    arrow = require("pyarrow", extra="parquet")
    return arrow.list_(arrow.from_numpy_dtype(work.empty.dtype), work.empty.shape[1])


class _Manifest:
    """``manifest.jsonl`` and the parts beside it."""

    def __init__(self, folder: Path, job: dict[str, Any], suffix: str) -> None:
        self.folder, self._job, self._suffix = folder, job, suffix
        self.path = folder / "manifest.jsonl"
        self._lock = Lock()

    def part(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}{self._suffix}"

    def open(self) -> dict[int, _Entry]:
        """Begin, or find the shards that are finished and whose files still have the content written."""
        lines = []
        if self.path.exists():
            # A killed process may leave half a last line.
            lines = [json.loads(line) for line in self.path.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        if lines and lines[0] != self._job:
            changed = ", ".join(sorted(key for key in self._job if lines[0].get(key) != self._job[key]))
            raise ChangedJobError(f"{self.folder}: was begun with different {changed}; run as before, or delete it")
        entries = [_Entry(shard, rows, sha, [BadRow(*row) for row in bad]) for shard, rows, sha, bad in lines[1:]]
        finished = {
            entry.shard: entry
            for entry in entries
            if self.part(entry.shard).exists() and _sha256(self.part(entry.shard)) == entry.sha256
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {self.part(number) for number in finished}
        for file in self.folder.iterdir():
            if file not in kept:
                file.unlink()
        begun = self.path.with_suffix(".begun")
        begun.write_text("".join(json.dumps(line) + "\n" for line in (self._job, *finished.values())))
        begun.replace(self.path)
        return finished

    def add(self, entry: _Entry) -> None:
        with self._lock, self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _finish_array(manifest: _Manifest, entries: list[_Entry], output: Path, work: _Work) -> None:
    """Join the parts behind an ``.npy`` header; they are deleted only when the output has its name."""
    joined = manifest.folder / "joined"
    rows = sum(entry.rows for entry in entries)
    header = {"shape": (rows, work.empty.shape[1]), "fortran_order": False, "descr": work.empty.dtype.str}
    with joined.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for entry in entries:
            with manifest.part(entry.shard).open("rb") as part:
                shutil.copyfileobj(part, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    _facts_path(output).write_text(json.dumps(work.facts) + "\n")
    joined.replace(output)
    shutil.rmtree(manifest.folder)


def _code(codec: VectorCodec, dtype: str | None, budget: int | None) -> Code:
    """A code of the codec; floats need no calibration."""
    if dtype in (CodeType.FLOAT32, CodeType.FLOAT16):
        return FloatCode(CodeType(dtype), codec.code_dim)
    if not isinstance(codec, Codec):
        raise NotCalibratedError("only codec files hold a calibration for codes; export the codec and load it")
    return codec.code(dtype=dtype, bytes=budget)


def _written(source: Path, codec: VectorCodec) -> dict[str, Any]:
    """How the latents or codes were written: ``dtype`` and ``bytes`` of their code."""
    facts = None
    if source.suffix == ".npy" and _facts_path(source).exists():
        facts = _facts_path(source).read_text()
    elif source.is_dir() or source.suffix == ".parquet":
        with open_parquet(parquet_files(source)[0]) as parquet:
            facts = (parquet.schema_arrow.metadata or {}).get(_FACTS)
    if facts is None:
        return {"dtype": "float32", "bytes": None}
    written: dict[str, Any] = json.loads(facts)
    if written["work"] != "encode":
        raise CodecMismatchError(f"{source}: holds reconstructed embeddings, which cannot be decoded once more")
    if written["codec_id"] != codec.codec_id:
        raise CodecMismatchError(
            f"{source}: written by codec {written['codec_id'][:16]}, cannot be decoded by codec {codec.codec_id[:16]}"
        )
    if written["code_dim"] != codec.code_dim:
        raise CodecMismatchError(
            f"{source}: written with dim {written['code_dim']}, cannot be decoded with dim {codec.code_dim}"
        )
    return written


def _facts_path(output: Path) -> Path:
    return output.with_name(output.name + ".json")


def _bad_rows_path(output: Path) -> Path:
    return output.with_name(output.name + ".bad-rows.csv")


def _list_bad_rows(output: Path, rows: list[BadRow]) -> None:
    with _bad_rows_path(output).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(BadRow._fields)
        writer.writerows(rows)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
