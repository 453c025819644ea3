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
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.bridge import decoded_by
from vaecodec.codec import Codec
from vaecodec.codes import Code, CodeType
from vaecodec.codes.uniform import FloatCode
from vaecodec.errors import (
    BadRowsError,
    BulkStoppedError,
    CodecMismatchError,
    InvalidBudgetError,
    NotCalibratedError,
    OutputExistsError,
    UnknownSourceError,
    VaecodecError,
    WrongWidthError,
)
from vaecodec.interface import Metric, VectorCodec
from vaecodec.shards import (
    FACTS,
    ArrayPart,
    BadRow,
    Entry,
    Manifest,
    MatrixInput,
    ParquetInput,
    ParquetPart,
    Part,
    Shard,
    identity,
    sha256,
    sort_out,
)
from vaecodec.sources import ParquetSource, RandomAccessSource, open_parquet, open_source, parquet_files

# A shard is what is lost at most when the process is killed.
SHARD_BYTES = 256 << 20

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

    Examples:
        >>> from vaecodec import Codec
        >>> from vaecodec.bulk import BulkOptions, encode
        >>> from vaecodec.codes import CodeType
        >>> codec = Codec.load("codec.onnx", threads=1)
        >>> encode("embeddings.npy", "latents.npy", codec, options=BulkOptions(dtype=CodeType.FLOAT16)).rows
        6000
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
    return _Job(work, source, Path(output), options, progress).run()


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
    return _Job(work, source, Path(output), options, progress).run()


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


class _StoppedError(Exception):
    """Another worker has failed."""


class _Job:
    """One collection on its way through a codec."""

    def __init__(
        self, work: _Work, source: str | Path, output: Path, options: BulkOptions, progress: Progress | None
    ) -> None:
        staging = output.with_name(output.name + ".partial")
        suffix = ".npy" if output.suffix == ".npy" else ".parquet"
        written = [output]
        if suffix == ".npy" and not staging.exists():  # an interrupted job may have come as far as its facts
            written.append(_facts_path(output))
        for path in written:
            if path.exists():
                raise OutputExistsError(f"{path}: exists already; delete it or choose another name")
        if staging.exists() and not options.resume:
            raise OutputExistsError(
                f"{staging}: an unfinished output; continue it with resume (--resume), or delete it"
            )
        self.work, self.output, self.options = work, output, options
        self.reader = _open_input(source, work, options)
        self.shards = self.reader.shards
        self.new_part: Callable[[Path], Part] = ArrayPart
        if suffix == ".parquet":
            schema, column = self.reader.output_schema(work.empty, work.facts)
            self.new_part = partial(ParquetPart, schema=schema, column=column)
        description = {
            **work.facts,
            "output": suffix,
            "column": options.column,
            "shards": [shard.rows for shard in self.shards],
            "input": identity(self.reader.files),
        }
        self.manifest = Manifest(staging, description, suffix)
        self.finished = self.manifest.open()
        self.counter = _Counter(sum(shard.rows for shard in self.shards), progress)
        self.counter.add(sum(self.shards[number].rows for number in self.finished))
        self.reported: list[BadRow] = []
        self.stop = Event()

    def run(self) -> BulkResult:
        resumed = len(self.finished)
        try:
            left = [shard for shard in self.shards if shard.number not in self.finished]
            _work_off(left, self._convert, self.stop, self.options.workers)
            bad = sorted([*self.reported, *(row for entry in self.finished.values() for row in entry.bad)])
            if bad:
                _list_bad_rows(self.output, bad)
            if self.reported:
                raise BadRowsError(
                    f"{len(bad):,} rows cannot be {self.work.facts['work']}d, the first is row {bad[0].row} of "
                    f"{bad[0].file}: {bad[0].reason}; {_bad_rows_path(self.output)} lists them all"
                )
            self._finish()
        except (VaecodecError, OSError) as error:
            full = isinstance(error, OSError) and error.errno in _NO_SPACE
            raise BulkStoppedError(
                f"{'no space left: ' * full}{error}; stopped with {len(self.finished)} of {len(self.shards)} shards "
                f"finished and kept in {self.manifest.folder}; continue with resume (--resume)"
            ) from error
        rows = sum(entry.rows for entry in self.finished.values())
        return BulkResult(self.output, rows, len(bad), len(self.shards), resumed)

    def _convert(self, shard: Shard) -> None:
        """Read, encode and write one shard, on a worker's thread."""
        choice = self.options.on_bad_rows
        path = self.manifest.part(shard.number)
        begun = path.with_suffix(f".{os.getpid()}.begun")
        rows, bad = 0, []
        with self.new_part(begun) as part:
            for piece in self.reader.read(shard):
                if self.stop.is_set():
                    raise _StoppedError
                self.counter.add(len(piece.numbers) + len(piece.bad))
                good, wrong = sort_out(piece, shard.file, self.work.metric)
                bad += wrong
                if bad and choice is OnBadRows.FAIL:
                    raise BadRowsError(f"row {bad[0].row} of {bad[0].file}: {bad[0].reason}")
                if bad and choice is OnBadRows.REPORT:
                    continue  # nothing of this shard is kept, but all of it is looked at
                part.write(good, self.work.call(good.vectors))
                rows += len(good.numbers)
        if bad and choice is OnBadRows.REPORT:
            begun.unlink()
            self.reported.extend(bad)
            return
        entry = Entry(shard.number, rows, sha256(begun), bad)
        begun.replace(path)
        self.manifest.add(entry)
        self.finished[shard.number] = entry

    def _finish(self) -> None:
        """Give the output its name."""
        folder = self.manifest.folder
        if self.new_part is not ArrayPart:
            self.manifest.path.unlink()
            folder.replace(self.output)
            return
        joined, empty = folder / "joined", self.work.empty
        rows = sum(entry.rows for entry in self.finished.values())
        header = {"shape": (rows, empty.shape[1]), "fortran_order": False, "descr": empty.dtype.str}
        with joined.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for shard in self.shards:
                with self.manifest.part(shard.number).open("rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        _facts_path(self.output).write_text(json.dumps(self.work.facts) + "\n")
        joined.replace(self.output)
        shutil.rmtree(folder)


def _work_off(shards: list[Shard], convert: Callable[[Shard], None], stop: Event, workers: int | None) -> None:
    """Convert the shards in a few threads; the first failure stops the others at their next block."""

    def guarded(shard: Shard) -> None:
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


def _open_input(location: str | Path, work: _Work, options: BulkOptions) -> MatrixInput | ParquetInput:
    source = open_source(location, column=options.column, codes=work.metric is None)
    if source.dim != work.width and source.rows != 0:
        raise WrongWidthError(
            f"{source.name}: expected rows of width {work.width}, got {source.dim}; is this the codec's own collection?"
        )
    shard_rows = options.shard_rows or max(1, SHARD_BYTES // (4 * work.width))
    if isinstance(source, ParquetSource):
        return ParquetInput(source, work.width, shard_rows)
    if isinstance(source, RandomAccessSource):
        return MatrixInput(source, Path(location), shard_rows)
    raise UnknownSourceError(f"{source.name}: expected a file or folder; vaecodec migrate compresses collections")


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
            facts = (parquet.schema_arrow.metadata or {}).get(FACTS)
    if facts is None:
        return {"dtype": "float32", "bytes": None}
    written: dict[str, Any] = json.loads(facts)
    if written["work"] != "encode":
        raise CodecMismatchError(f"{source}: holds reconstructed embeddings, which cannot be decoded once more")
    if written["codec_id"] != decoded_by(codec):
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
