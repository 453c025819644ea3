"""Run one bulk job from its inputs to its output: :func:`encode` and :func:`decode`."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from vaecodec.bulk.conversion import Conversion, Decoding, Encoding, Work
from vaecodec.bulk.facts import (
    check_not_encoded,
    column_with_facts,
    facts_path,
    has_facts,
    is_facts_file,
    settings_of,
)
from vaecodec.bulk.inputs import MatrixInput, ParquetInput, fingerprint
from vaecodec.bulk.manifest import REPLACED, Entry, Manifest, is_ours
from vaecodec.bulk.parts import bad_rows_path, part_path
from vaecodec.bulk.threads import Threads, Workers
from vaecodec.codec import Codec
from vaecodec.codes import Code, CodeType
from vaecodec.codes.saturation import warn_if_saturated
from vaecodec.codes.uniform import FloatCode
from vaecodec.errors import (
    BadRowsError,
    BulkStoppedError,
    InvalidBudgetError,
    InvalidOptionError,
    NotCalibratedError,
    NotFloatingPointError,
    OutputExistsError,
    UnknownSourceError,
    VaecodecError,
    WrongWidthError,
)
from vaecodec.files import replacing, sha256, write_atomically
from vaecodec.files.outputs import check_file, check_folder
from vaecodec.interface import VectorCodec
from vaecodec.sources import open_source
from vaecodec.sources.bad_rows import HEADER, OnBadRows, first_bad_row, is_list_of_bad_rows, list_path
from vaecodec.sources.base import Matrix, rows_per_block
from vaecodec.sources.open import locate
from vaecodec.sources.parquet import ParquetSource

_LOG = logging.getLogger(__name__)

# A worker takes one shard at a time, and loses at most that shard when the process is killed.
SHARD_BYTES = 256 << 20
# Cut smaller inputs into about this many shards, to keep many workers busy. A shard has at least one block.
_FEWEST_SHARDS = 64

# These error numbers mean that no room is left: a full disk, a quota, or a limit of the file size.
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """Say how a collection is encoded or decoded.

    Attributes:
        column: see :func:`vaecodec.sources.open_source`.
        dtype: of the output, float32 by default: a code's type, see :meth:`vaecodec.Codec.code`; only floats without
            a calibration, and when decoding.
        bytes: or a trellis code of so many bytes per vector.
        on_bad_rows: what to do with rows that cannot be encoded.
        resume: continue an unfinished output; where there is none, begin.
        overwrite: replace an output, or begin an unfinished one anew, if vaecodec wrote it. Not with ``resume``.
        threads: number of threads, if no other workers are given; by default one per core.
        shard_rows: rows per shard; by default a 64th of the input, in whole blocks of 8 MiB of float32 and 256 MiB at
            most. Parquet shards are whole row groups.
    """

    column: str | None = None
    dtype: CodeType | None = None
    bytes: int | None = None
    on_bad_rows: OnBadRows = OnBadRows.FAIL
    resume: bool = False
    overwrite: bool = False
    threads: int | None = None
    shard_rows: int | None = None

    def __post_init__(self) -> None:
        """Check what needs no codec and no data.

        Raises:
            InvalidOptionError: an output shall both be resumed and replaced, or a number is below 1.
        """
        if self.resume and self.overwrite:
            raise InvalidOptionError("resume, overwrite: expected one of them, got both; they contradict each other")
        for name in ("threads", "shard_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidOptionError(f"{name}: expected at least 1, got {value}")


@dataclass(frozen=True)
class BulkResult:
    """Hold the result of a finished job.

    Attributes:
        output: the file or folder written.
        rows: rows in the output.
        bad_rows: rows left out; listed in ``OUT.bad-rows.csv`` when there are any.
        saturated: rows that the code clips; see :class:`~vaecodec.errors.SaturationWarning`.
        shards: shards of the job.
        resumed: shards that an earlier, interrupted run had finished.
    """

    output: Path
    rows: int
    bad_rows: int
    saturated: int
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
        OutputExistsError: the output exists, or an unfinished one, and is neither to be resumed nor to be overwritten;
            or vaecodec did not write what is there; or the output is the input, or lies in the folder that is read;
            or the unfinished output belongs to other input, another codec or other options.
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
    path, column = _file_or_folder(source, options.column)
    return _Job(work, (path, column), output, codec, options, workers, progress).run()


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
    path, column = _file_or_folder(source, options.column)
    column = column_with_facts(path, column)
    written = settings_of(path, column, codec)
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
        job = _Job(work, (path, column), output, codec, options, workers, progress)
    except NotFloatingPointError as error:
        raise NotFloatingPointError(
            f"{error}; of codes, what vaecodec encode keeps with them must be there ({facts_path(path).name} "
            "beside an array, the metadata of Parquet)"
        ) from error
    return job.run()


class _Job:
    """Run one collection through a codec."""

    def __init__(
        self,
        work: Work,
        source: tuple[Path, str | None],
        output: str | Path,
        codec: VectorCodec,
        options: BulkOptions,
        workers: Workers | None,
        progress: OnProgress | None,
    ) -> None:
        self.work, self.codec, self.options = work, codec, options
        self.output = Path(output)
        if self.output.name in ("", ".."):
            self.output = Path(os.path.abspath(output))
        if not self.output.name:
            raise OutputExistsError(f"{output}: expected a name for the output, got the root of all folders")
        self.staging = self.output.with_name(self.output.name + ".partial")
        self.is_array = self.output.suffix == ".npy"
        path, column = source
        self._check_outputs(path)
        self.workers = workers or Threads(options.threads)
        reader = _open_input(path, column, work, options, keep_columns=not self.is_array)
        self.shards = reader.shards
        schema, name = (None, "") if self.is_array else reader.output_schema(work.empty, work.facts)
        self.conversion = Conversion(
            work=work,
            source=reader,
            folder=self.staging.absolute(),
            schema=schema,
            column=name,
            on_bad_rows=options.on_bad_rows,
        )
        self.workers.accept(self.conversion, codec)
        description = {
            **work.facts,
            "output": self.conversion.suffix,
            "column": column,
            "shards": [shard.rows for shard in self.shards],
            "input": fingerprint(reader.files),
        }
        self.manifest = Manifest(self.staging, description, self.conversion.suffix)
        self.finished: dict[int, Entry] = {}
        self.looked_at: list[Entry] = []
        self.counter = _Counter(sum(shard.rows for shard in self.shards), progress)

    def _check_outputs(self, source: Path) -> None:
        """Refuse, before anything is read or written, what may not be replaced."""
        unfinished = os.path.lexists(self.staging)
        # An interrupted job may already have written a part of the output itself.
        overwrite = self.options.overwrite or (self.options.resume and unfinished)
        found = "is complete, and no unfinished output is there to continue" if self.options.resume else ""
        if self.is_array:
            for path, is_ours_here in ((self.output, _is_our_array), (facts_path(self.output), is_facts_file)):
                check_file(path, is_ours=is_ours_here, overwrite=overwrite, inputs=[source], parents=True, found=found)
        else:
            check_folder(self.output, is_ours=_is_our_part, overwrite=overwrite, inputs=[source], found=found)
        if unfinished and not (self.options.resume or self.options.overwrite):
            raise OutputExistsError(
                f"{self.staging}: an unfinished output; continue it with resume (--resume), or delete it"
            )
        check_folder(self.staging, is_ours=_is_unfinished, overwrite=True, inputs=[source])
        bad_rows = list_path(self.output)
        check_file(bad_rows, is_ours=is_list_of_bad_rows, overwrite=True, inputs=[source], parents=True)

    def run(self) -> BulkResult:
        with ExitStack() as locks:
            try:
                self.output.parent.mkdir(parents=True, exist_ok=True)
                locks.enter_context(self.manifest.locked(restart=self.options.overwrite))
                self.finished = self.manifest.open()
            except OSError as error:
                if isinstance(error, VaecodecError):
                    raise
                raise BulkStoppedError(f"{self.staging}: cannot be written: {error}") from error
            return self._run()

    def _run(self) -> BulkResult:
        resumed = len(self.finished)
        self.counter.add(sum(self.shards[number].rows for number in self.finished))
        try:
            left = [shard for shard in self.shards if shard.number not in self.finished]
            self.workers.run(self.conversion, left, self.codec, done=self._note, seen=self.counter.add)
            bad = self._list_bad_rows()
            if self.looked_at:
                first = first_bad_row(list_path(self.output))
                raise BadRowsError(
                    f"{bad:,} rows cannot be {self.work.facts['work']}d, the first is row {first.row} of "
                    f"{first.file}: {first.reason}; {list_path(self.output)} lists them all"
                )
            self._finish()
        except (VaecodecError, OSError) as error:
            full = isinstance(error, OSError) and error.errno in _NO_SPACE
            left_out = ", leaving such rows out with on_bad_rows=skip (--on-bad-rows skip)"
            raise BulkStoppedError(
                f"{'no space left: ' * full}{error}; stopped with {len(self.finished)} of {len(self.shards)} shards "
                f"finished and kept in {self.staging}; continue with resume (--resume)"
                f"{left_out * isinstance(error, BadRowsError)}"
            ) from error
        rows = sum(entry.rows for entry in self.finished.values())
        saturated = sum(entry.saturated for entry in self.finished.values())
        if isinstance(self.work, Encoding):
            warn_if_saturated(saturated, rows, self.work.code.name)
        return BulkResult(self.output, rows, bad, saturated, len(self.shards), resumed)

    def _note(self, entry: Entry) -> None:
        """Note that a shard is done; called from any thread."""
        _LOG.debug("%s: shard %d is done, %s rows", self.output, entry.shard, f"{entry.rows:,}")
        if entry.sha256 is None:
            self.looked_at.append(entry)
        else:
            self.manifest.add(entry)
            self.finished[entry.shard] = entry

    def _list_bad_rows(self) -> int:
        """Gather the shards' lists of bad rows, and count them."""
        target = list_path(self.output)
        entries = sorted(entry for entry in [*self.finished.values(), *self.looked_at] if entry.bad)
        if not entries:  # remove the list of an earlier run, which stopped because of bad rows
            target.unlink(missing_ok=True)
            return 0
        with replacing(target) as file:
            file.write(HEADER)
            for entry in entries:
                with bad_rows_path(self.staging, entry.shard).open("rb") as rows:
                    shutil.copyfileobj(rows, file)
        return sum(entry.bad for entry in entries)

    def _finish(self) -> None:
        """Give the output its name."""
        parts = [part_path(self.staging, shard.number, self.conversion.suffix) for shard in self.shards]
        if self.is_array:
            self._join(parts)
            for left in filter(is_ours, self.staging.iterdir()):
                left.unlink()
            with suppress(OSError):  # keep the folder if it holds files of others
                self.staging.rmdir()
            return
        for left in {*filter(is_ours, self.staging.iterdir())} - {*parts, *self.manifest.files}:
            left.unlink()
        replaced = self.staging / REPLACED
        if self.output.exists():
            self.output.replace(replaced)
        self.staging.replace(self.output)
        shutil.rmtree(self.output / REPLACED, ignore_errors=True)
        # Remove these last. Without its manifest an unfinished output would be started again, and without its lock two
        # processes could write it.
        for kept in self.manifest.files:
            (self.output / kept.name).unlink(missing_ok=True)

    def _join(self, parts: list[Path]) -> None:
        """Write the parts of an array as one .npy file, and its facts beside it."""
        empty = self.work.empty
        rows = sum(entry.rows for entry in self.finished.values())
        header = {"shape": (rows, empty.shape[1]), "fortran_order": False, "descr": empty.dtype.str}
        try:
            with replacing(self.output) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for path in parts:
                    with path.open("rb") as part:
                        shutil.copyfileobj(part, file, 1 << 20)
                file.flush()
                # Write the facts first, so that a kill in between leaves no array without its facts.
                facts = {**self.work.facts, "sha256": sha256(Path(file.name))}
                write_atomically(facts_path(self.output), (json.dumps(facts) + "\n").encode())
        except OSError as error:
            raise OSError(error.errno, f"joining the parts of {self.output}: {error.strerror}") from error


def _is_our_array(path: Path) -> bool:
    return is_facts_file(facts_path(path))


def _is_unfinished(path: Path) -> bool:
    return path.name == REPLACED or is_ours(path)


def _is_our_part(path: Path) -> bool:
    return path.name == REPLACED or (is_ours(path) and (path.suffix != ".parquet" or has_facts(path)))


class _Counter:
    """Count the rows done, over all threads."""

    def __init__(self, total: int, progress: OnProgress | None) -> None:
        self._done, self._total, self._progress, self._lock = 0, total, progress, Lock()

    def add(self, rows: int) -> None:
        with self._lock:
            self._done += rows
            if self._progress is not None:
                self._progress(self._done, self._total)


def _file_or_folder(source: str | Path, column: str | None) -> tuple[Path, str | None]:
    """Split a source into its path and column; raise UnknownSourceError if it is an address."""
    path, column = locate(source, column)
    if isinstance(path, str):
        name = open_source(path, column=column).name
        raise UnknownSourceError(f"{name}: expected a file or folder; vaecodec migrate compresses collections")
    return path, column


def _open_input(
    path: Path, column: str | None, work: Work, options: BulkOptions, *, keep_columns: bool
) -> MatrixInput | ParquetInput:
    lenient = options.on_bad_rows is not OnBadRows.FAIL
    source = open_source(path, column=column, codes=work.metric is None, bad_rows=lenient)
    if source.dim != work.width and source.rows != 0:
        raise WrongWidthError(
            f"{source.name}: expected rows of width {work.width}, got {source.dim}; is this the codec's own collection?"
        )
    shard_rows = options.shard_rows or _shard_rows(source.rows or 0, work.width)
    if isinstance(source, ParquetSource):
        if isinstance(work, Encoding):
            check_not_encoded(source.files, source.column)
        return ParquetInput(source, work.width, shard_rows, keep_columns=keep_columns)
    if isinstance(work, Encoding):
        check_not_encoded([path], None)
    if not isinstance(source, Matrix):
        raise UnknownSourceError(f"{source.name}: expected a file whose rows can be read in any order")
    return MatrixInput(source, path, shard_rows)


def _shard_rows(rows: int, width: int) -> int:
    """Choose the rows per shard from the input's size alone, so that a job can be resumed with other workers."""
    block, most = rows_per_block(width), max(1, SHARD_BYTES // (4 * width))
    return min(most, block * max(1, -(-rows // (_FEWEST_SHARDS * block))))


def _code(codec: VectorCodec, dtype: str | None, budget: int | None) -> Code:
    """Return a code of the codec; codes of floats need no calibration."""
    if dtype in (CodeType.FLOAT32, CodeType.FLOAT16):
        return FloatCode(CodeType(dtype), codec.code_dim)
    if not isinstance(codec, Codec):
        raise NotCalibratedError("only codec files hold a calibration for codes; export the codec and load it")
    return codec.code(dtype=dtype, bytes=budget)
