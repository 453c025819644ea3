"""One bulk job from its inputs to its output: :func:`encode` and :func:`decode`."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from vaecodec.bridge import decoded_by
from vaecodec.bulk.bad_rows import BadRow, OnBadRows
from vaecodec.bulk.conversion import Conversion, Decoding, Encoding, Work
from vaecodec.bulk.inputs import FACTS, MatrixInput, ParquetInput, fingerprint
from vaecodec.bulk.manifest import Entry, Manifest
from vaecodec.bulk.parts import bad_rows_path, part_path
from vaecodec.bulk.threads import Threads, Workers
from vaecodec.codec import Codec
from vaecodec.codes import Code, CodeType
from vaecodec.codes.uniform import FloatCode
from vaecodec.errors import (
    BadRowsError,
    BulkStoppedError,
    CodecMismatchError,
    InvalidBudgetError,
    MalformedSourceError,
    NotCalibratedError,
    NotFloatingPointError,
    OutputExistsError,
    OutputWithinInputError,
    UnknownSourceError,
    VaecodecError,
    WrongWidthError,
)
from vaecodec.interface import VectorCodec
from vaecodec.sources import RandomAccessSource, open_source
from vaecodec.sources.base import rows_per_block
from vaecodec.sources.parquet import ParquetSource, open_parquet, parquet_files

# A shard is what a worker takes, and what it loses when the process is killed.
SHARD_BYTES = 256 << 20
# Smaller inputs are cut into about so many, for as many workers, but not into less than blocks.
_FEWEST_SHARDS = 64

# A file size limit says on some systems what a full disk says on others.
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """How a collection is encoded or decoded.

    Attributes:
        column: see :func:`vaecodec.sources.open_source`.
        dtype: of the output, float32 by default: a code's type, see :meth:`vaecodec.Codec.code`; only floats without
            a calibration, and when decoding.
        bytes: or a trellis code of so many bytes per vector.
        on_bad_rows: what to do with rows that cannot be encoded.
        resume: continue an unfinished output; where there is none, begin.
        threads: number of threads, if no other workers are given; by default one per core.
        shard_rows: rows per shard; by default a 64th of the input, in whole blocks of 8 MiB of float32 and 256 MiB at
            most. Parquet shards are whole row groups.
    """

    column: str | None = None
    dtype: CodeType | None = None
    bytes: int | None = None
    on_bad_rows: OnBadRows = OnBadRows.FAIL
    resume: bool = False
    threads: int | None = None
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


OnProgress = Callable[[int, int], None]
"""Called with (rows done, rows in all), from any thread, one call at a time."""


def encode(
    source: str | Path,
    output: str | Path,
    codec: VectorCodec,
    *,
    options: BulkOptions = BulkOptions(),
    workers: Workers | None = None,
    progress: OnProgress | None = None,
) -> BulkResult:
    """Encode the documents of a file or folder.

    Args:
        source: what :func:`vaecodec.sources.open_source` reads, except collections behind an address.
        output: a name ending in ``.npy`` for one array (n, width), with the codec's id in ``OUT.json`` beside it; any
            other name for a folder of Parquet files. From Parquet to Parquet all columns are kept and the latents
            or codes take the place of the vectors; other input gives the columns ``row`` and ``vector``.
        codec: called from several threads at once.
        options: see :class:`BulkOptions`.
        workers: who does the work; by default threads of this process.
        progress: see :data:`OnProgress`.

    Raises:
        OutputExistsError: the output exists, or an unfinished one does and is not to be resumed.
        OutputWithinInputError: the output lies in the folder that is read.
        ChangedJobError: the unfinished output belongs to other input, another codec or other options.
        OutputBusyError: another process is writing the output.
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
    if options.dtype is not None and options.bytes is not None:
        raise InvalidBudgetError(f"dtype, bytes: expected one of them, got {options.dtype} and {options.bytes}")
    dtype = str(options.dtype or CodeType.FLOAT32) if options.bytes is None else None
    code = _code(codec, dtype, options.bytes)
    empty = code.encode(np.empty((0, codec.code_dim), np.float32))
    facts = {
        "work": "encode",
        "codec_id": codec.codec_id,
        "code_dim": codec.code_dim,
        "dtype": dtype,
        "bytes": options.bytes,
    }
    work = Encoding(code=code, width=codec.dim, metric=codec.metric, empty=empty, facts=facts)
    return _Job(work, source, Path(output), codec, options, workers, progress).run()


def decode(
    source: str | Path,
    output: str | Path,
    codec: VectorCodec,
    *,
    options: BulkOptions = BulkOptions(),
    workers: Workers | None = None,
    progress: OnProgress | None = None,
) -> BulkResult:
    """Reconstruct the embeddings of a file or folder of latents or codes: the mirror of :func:`encode`.

    What :func:`encode` wrote says how it is to be decoded; anything else is taken for latents.

    Raises:
        CodecMismatchError: another codec wrote it, or the same at another width.
        MalformedSourceError: what is said there of how it was written is damaged.
        InvalidBudgetError: the options ask for codes as output.
    """
    dtype = options.dtype or CodeType.FLOAT32
    if options.bytes is not None or dtype not in (CodeType.FLOAT32, CodeType.FLOAT16):
        raise InvalidBudgetError("embeddings are decoded to float32 or float16, not to codes")
    written = _written(Path(source), codec)
    code = _code(codec, written["dtype"], written["bytes"])
    out = FloatCode(dtype, codec.dim)
    is_latents = isinstance(code, FloatCode)
    work = Decoding(
        code=code,
        out=out,
        width=codec.code_dim if is_latents else code.bytes_per_vector,
        metric=codec.latent_metric if is_latents else None,
        empty=np.empty((0, codec.dim), np.dtype(dtype)),
        facts={"work": "decode", "codec_id": codec.codec_id, "dtype": str(dtype)},
    )
    try:
        job = _Job(work, source, Path(output), codec, options, workers, progress)
    except NotFloatingPointError as error:
        raise NotFloatingPointError(
            f"{error}; of codes, what vaecodec encode keeps with them must be there ({_facts_path(Path(source)).name} "
            "beside an array, the metadata of Parquet)"
        ) from error
    return job.run()


class _Job:
    """One collection on its way through a codec."""

    def __init__(
        self,
        work: Work,
        source: str | Path,
        output: Path,
        codec: VectorCodec,
        options: BulkOptions,
        workers: Workers | None,
        progress: OnProgress | None,
    ) -> None:
        staging = output.with_name(output.name + ".partial")
        is_array = output.suffix == ".npy"
        written = [output]
        if is_array and not staging.exists():  # an interrupted job may have come as far as its facts
            written.append(_facts_path(output))
        for path in written:
            if path.exists():
                raise OutputExistsError(f"{path}: exists already; delete it or choose another name")
        if staging.exists() and not options.resume:
            raise OutputExistsError(
                f"{staging}: an unfinished output; continue it with resume (--resume), or delete it"
            )
        if Path(source).is_dir() and output.resolve().is_relative_to(Path(source).resolve()):
            raise OutputWithinInputError(f"{output}: lies within the input, {source}, and would be read as part of it")
        self.work, self.output, self.codec = work, output, codec
        self.workers = workers or Threads(options.threads)
        reader = _open_input(source, work, options, keep_columns=not is_array)
        self.shards = reader.shards
        schema, column = (None, "") if is_array else reader.output_schema(work.empty, work.facts)
        self.conversion = Conversion(
            work=work,
            source=reader,
            folder=staging.absolute(),
            schema=schema,
            column=column,
            on_bad_rows=options.on_bad_rows,
        )
        self.workers.accept(self.conversion, codec)
        description = {
            **work.facts,
            "output": self.conversion.suffix,
            "column": options.column,
            "shards": [shard.rows for shard in self.shards],
            "input": fingerprint(reader.files),
        }
        self.manifest = Manifest(staging, description, self.conversion.suffix)
        self.finished: dict[int, Entry] = {}
        self.looked_at: list[Entry] = []
        self.counter = _Counter(sum(shard.rows for shard in self.shards), progress)

    def run(self) -> BulkResult:
        with ExitStack() as locks:
            try:
                locks.enter_context(self.manifest.locked())
                self.finished = self.manifest.open()
            except OSError as error:
                raise BulkStoppedError(f"{self.manifest.folder}: cannot be written: {error}") from error
            return self._run()

    def _run(self) -> BulkResult:
        resumed = len(self.finished)
        self.counter.add(sum(self.shards[number].rows for number in self.finished))
        try:
            left = [shard for shard in self.shards if shard.number not in self.finished]
            self.workers.run(self.conversion, left, self.codec, done=self._note, seen=self.counter.add)
            bad = self._list_bad_rows()
            if self.looked_at:
                first = _first_bad_row(self.output)
                raise BadRowsError(
                    f"{bad:,} rows cannot be {self.work.facts['work']}d, the first is row {first.row} of "
                    f"{first.file}: {first.reason}; {_bad_rows_list(self.output)} lists them all"
                )
            self._finish()
        except (VaecodecError, OSError) as error:
            full = isinstance(error, OSError) and error.errno in _NO_SPACE
            left_out = ", leaving such rows out with on_bad_rows=skip (--on-bad-rows skip)"
            raise BulkStoppedError(
                f"{'no space left: ' * full}{error}; stopped with {len(self.finished)} of {len(self.shards)} shards "
                f"finished and kept in {self.manifest.folder}; continue with resume (--resume)"
                f"{left_out * isinstance(error, BadRowsError)}"
            ) from error
        rows = sum(entry.rows for entry in self.finished.values())
        return BulkResult(self.output, rows, bad, len(self.shards), resumed)

    def _note(self, entry: Entry) -> None:
        """A shard is done; called from any thread."""
        if entry.sha256 is None:
            self.looked_at.append(entry)
        else:
            self.manifest.add(entry)
            self.finished[entry.shard] = entry

    def _list_bad_rows(self) -> int:
        """Gather the shards' lists of bad rows, and count them."""
        entries = sorted(entry for entry in [*self.finished.values(), *self.looked_at] if entry.bad)
        if not entries:  # of an earlier run, which stopped because of them
            _bad_rows_list(self.output).unlink(missing_ok=True)
            return 0
        with _bad_rows_list(self.output).open("w", newline="") as file:
            csv.writer(file).writerow(BadRow._fields)
            for entry in entries:
                with bad_rows_path(self.manifest.folder, entry.shard).open(newline="") as rows:
                    shutil.copyfileobj(rows, file)
        return sum(entry.bad for entry in entries)

    def _finish(self) -> None:
        """Give the output its name."""
        folder = self.manifest.folder
        parts = [part_path(folder, shard.number, self.conversion.suffix) for shard in self.shards]
        if self.conversion.schema is not None:
            for left in {*folder.iterdir()} - {*parts, self.manifest.path, self.manifest.lock_path}:
                left.unlink()
            folder.replace(self.output)
            # Only now: without its manifest, an unfinished output would be begun anew; without its lock, by two.
            for kept in (self.manifest.path, self.manifest.lock_path):
                (self.output / kept.name).unlink()
            return
        joined = folder / "joined"
        try:
            self._join(parts, joined)
        except OSError as error:
            raise OSError(error.errno, f"joining the parts of {self.output}: {error.strerror}") from error
        _facts_path(self.output).write_text(json.dumps(self.work.facts) + "\n")
        joined.replace(self.output)
        shutil.rmtree(folder)

    def _join(self, parts: list[Path], target: Path) -> None:
        """Write the parts of an array as one .npy file."""
        empty = self.work.empty
        rows = sum(entry.rows for entry in self.finished.values())
        header = {"shape": (rows, empty.shape[1]), "fortran_order": False, "descr": empty.dtype.str}
        with target.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for path in parts:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())


class _Counter:
    """Rows done, over all threads."""

    def __init__(self, total: int, progress: OnProgress | None) -> None:
        self._done, self._total, self._progress, self._lock = 0, total, progress, Lock()

    def add(self, rows: int) -> None:
        with self._lock:
            self._done += rows
            if self._progress is not None:
                self._progress(self._done, self._total)


def _open_input(
    location: str | Path, work: Work, options: BulkOptions, *, keep_columns: bool
) -> MatrixInput | ParquetInput:
    source = open_source(location, column=options.column, codes=work.metric is None)
    if source.dim != work.width and source.rows != 0:
        raise WrongWidthError(
            f"{source.name}: expected rows of width {work.width}, got {source.dim}; is this the codec's own collection?"
        )
    shard_rows = options.shard_rows or _shard_rows(source.rows or 0, work.width)
    if isinstance(source, ParquetSource):
        return ParquetInput(source, work.width, shard_rows, keep_columns=keep_columns)
    if isinstance(source, RandomAccessSource):
        return MatrixInput(source, Path(location), shard_rows)
    raise UnknownSourceError(f"{source.name}: expected a file or folder; vaecodec migrate compresses collections")


def _shard_rows(rows: int, width: int) -> int:
    """Rows per shard: of the input's size alone, so that a job may be resumed with other workers."""
    block, most = rows_per_block(width), max(1, SHARD_BYTES // (4 * width))
    return min(most, block * max(1, -(-rows // (_FEWEST_SHARDS * block))))


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
    try:
        written = json.loads(facts)
        reconstructed = written["work"] != "encode"
        codec_id, names = str(written["codec_id"]), () if reconstructed else ("code_dim", "dtype", "bytes")
        settings = {name: written[name] for name in names}
    except (ValueError, LookupError, TypeError) as error:
        raise MalformedSourceError(
            f"{source}: what was kept of how it was written, in .json beside an array and in the metadata of Parquet, "
            "is damaged"
        ) from error
    if reconstructed:
        raise CodecMismatchError(f"{source}: holds reconstructed embeddings, which cannot be decoded once more")
    if codec_id != decoded_by(codec):
        raise CodecMismatchError(
            f"{source}: written by codec {codec_id[:16]}, cannot be decoded by codec {codec.codec_id[:16]}"
        )
    if settings["code_dim"] != codec.code_dim:
        raise CodecMismatchError(
            f"{source}: written with dim {settings['code_dim']}, cannot be decoded with dim {codec.code_dim}"
        )
    return settings


def _facts_path(output: Path) -> Path:
    return output.with_name(output.name + ".json")


def _bad_rows_list(output: Path) -> Path:
    return output.with_name(output.name + ".bad-rows.csv")


def _first_bad_row(output: Path) -> BadRow:
    with _bad_rows_list(output).open(newline="") as file:
        rows = csv.reader(file)
        next(rows)
        name, row, reason = next(rows)
    return BadRow(name, int(row), reason)
