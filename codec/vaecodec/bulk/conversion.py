"""Convert one shard of a bulk job: read it, run the codec, write the part; and define who the workers are.

A :class:`Conversion` holds no codec and no open file, so it can be sent to another process, which has loaded the codec
itself. What becomes of a shard depends on the shard alone, and its file takes its name in one rename: a worker that
takes up what another one left, or that does it once more, leaves the same bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from vaecodec.bulk.inputs import MatrixInput, ParquetInput, Piece, Shard, sort_out
from vaecodec.bulk.manifest import Entry
from vaecodec.bulk.parts import ArrayPart, ParquetPart, Part, bad_rows_path, part_path
from vaecodec.codes import Code
from vaecodec.codes.uniform import FloatCode
from vaecodec.errors import BadRowsError, VaecodecError
from vaecodec.files import sha256
from vaecodec.interface import Metric, VectorCodec
from vaecodec.sources.bad_rows import BadRow, OnBadRows, lines


@dataclass(frozen=True, kw_only=True, eq=False)
class Work(ABC):
    """Describe one direction through a codec: encoding or decoding.

    Attributes:
        width: of the rows that go in.
        metric: how these are compared; None for codes, any of which is good.
        empty: no rows of the output, in its width and dtype.
        facts: what is kept with the output.
    """

    width: int
    metric: Metric | None
    empty: NDArray[Any]
    facts: dict[str, Any]

    @abstractmethod
    def __call__(self, codec: VectorCodec, rows: NDArray[Any]) -> tuple[NDArray[Any], int]:
        """Convert checked rows of ``width``, float32 or codes.

        Returns:
            The rows of the output, and how many of them the code clips.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoding(Work):
    """Turn embeddings into latents or codes."""

    code: Code

    def __call__(self, codec: VectorCodec, rows: NDArray[Any]) -> tuple[NDArray[Any], int]:
        latents = codec.encode(rows)
        return self.code.encode(latents, threads=1), int(self.code.saturated(latents).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoding(Work):
    """Turn latents or codes into embeddings with the floating point type of ``out``."""

    code: Code
    out: FloatCode

    def __call__(self, codec: VectorCodec, rows: NDArray[Any]) -> tuple[NDArray[Any], int]:
        latents = rows if self.metric is not None else self.code.decode(rows, threads=1)
        return self.out.encode(codec.decode(latents)), 0


class StoppedError(Exception):
    """Another worker has failed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conversion:
    """Say how a shard becomes a part of the output.

    Attributes:
        work: the direction.
        source: where the shards are.
        folder: where the parts go; an absolute path.
        schema: the Arrow schema of Parquet parts, or None for parts of an array.
        column: the column of the vectors in it.
        on_bad_rows: what to do with rows that cannot be converted.
    """

    work: Work
    source: MatrixInput | ParquetInput
    folder: Path
    schema: Any
    column: str
    on_bad_rows: OnBadRows

    @property
    def suffix(self) -> str:
        """Return the file suffix of the parts."""
        return ".npy" if self.schema is None else ".parquet"

    def run(
        self,
        shard: Shard,
        codec: VectorCodec,
        *,
        stop: Event | None = None,
        seen: Callable[[int], None] = lambda _: None,
    ) -> Entry:
        """Read, convert and write one shard.

        Args:
            shard: one of ``source.shards``.
            codec: that of the job.
            stop: set when the work shall be given up.
            seen: called with numbers of rows that have been read.

        Raises:
            BadRowsError: there is a bad row, and ``on_bad_rows`` is FAIL.
            SourceError: the input is damaged.
            OSError: a read or write failed; the message says which rows were under way.
            StoppedError: ``stop`` was set.
        """
        try:
            return self._run(shard, codec, stop, seen)
        except OSError as error:
            if isinstance(error, VaecodecError):
                raise
            last = shard.first_row + shard.rows - 1
            what = f"rows {shard.first_row:,} to {last:,} of {shard.file}: {error.strerror or error}"
            raise (OSError(what) if error.errno is None else OSError(error.errno, what)) from error

    def _run(self, shard: Shard, codec: VectorCodec, stop: Event | None, seen: Callable[[int], None]) -> Entry:
        # A hidden name, so that no reader takes the file of a killed worker for a part; and unique among all workers.
        begun = self.folder / f".{shard.number:05d}-{uuid4().hex}.begun"
        report = self.on_bad_rows is OnBadRows.REPORT
        rows, saturated, bad = 0, 0, []
        with self._part(begun) as part:
            for piece in self.source.read(shard):
                if stop is not None and stop.is_set():
                    raise StoppedError
                seen(len(piece.numbers) + len(piece.bad))
                good, wrong = sort_out(piece, shard.file, self.work.metric)
                good, lost, values, clipped = self._convert(codec, good, shard.file)
                bad += sorted([*wrong, *lost])
                if bad and self.on_bad_rows is OnBadRows.FAIL:
                    raise BadRowsError(f"row {bad[0].row} of {bad[0].file}: {bad[0].reason}")
                if bad and report:
                    continue  # keep nothing of this shard, but check all of its rows
                part.write(good, values)
                rows += len(good.numbers)
                saturated += clipped
        if bad:
            self._list_bad_rows(shard.number, bad)
        if bad and report:
            begun.unlink()
            return Entry(shard.number, 0, None, len(bad))
        digest = sha256(begun)
        begun.replace(part_path(self.folder, shard.number, self.suffix))
        return Entry(shard.number, rows, digest, len(bad), saturated)

    def _convert(self, codec: VectorCodec, piece: Piece, file: Path) -> tuple[Piece, list[BadRow], NDArray[Any], int]:
        """Convert checked rows.

        Returns:
            The rows that were converted; those of which the codec keeps nothing; the output, and how many rows of it
            the code clips.
        """
        try:
            return piece, [], *self.work(codec, piece.vectors)
        except BadRowsError:
            lost = _lost(codec, piece.vectors)
            if not lost.any():
                raise
        bad = [BadRow(str(file), int(piece.numbers[at]), "latents of zero norm") for at in np.flatnonzero(lost)]
        good = piece.only(~lost)
        return good, bad, *self.work(codec, good.vectors)

    def _part(self, path: Path) -> Part:
        return ArrayPart(path) if self.schema is None else ParquetPart(path, self.schema, self.column)

    def _list_bad_rows(self, number: int, rows: list[BadRow]) -> None:
        begun = self.folder / f".{number:05d}-{uuid4().hex}.begun"
        begun.write_bytes(lines(rows))
        begun.replace(bad_rows_path(self.folder, number))


def _lost(codec: VectorCodec, rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which checked rows have latents without a direction, which the codec refuses: bool (n,)."""
    if not len(rows):
        return np.zeros(0, np.bool_)
    try:
        codec.encode(rows)
    except BadRowsError:
        if len(rows) == 1:
            return np.ones(1, np.bool_)
        half = len(rows) // 2
        return np.concatenate([_lost(codec, rows[:half]), _lost(codec, rows[half:])])
    return np.zeros(len(rows), np.bool_)
