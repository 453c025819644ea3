"""Uncompressed vectors beside a Qdrant collection: an append-only file, read through a memory map.

Two files: the rows, one after another at a fixed width, and beside them (suffix ``.ids``) an SQLite database that
maps ids to row numbers. A batch counts once its ids are committed, which happens after its rows are flushed to the
disk, so that a crash at any moment leaves a file without a torn or a missing row.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from vaecodec.codec import Codec
from vaecodec.errors import CodecMismatchError, MissingOriginalsError, OriginalsError, WrongWidthError
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.vectors import as_vectors

FORMAT_VERSION = 1

# SQLite takes at most 32,766 parameters in one statement; smaller chunks cost nothing.
_LOOKUP_CHUNK = 10_000


class RowEncoding(Protocol):
    """How one vector becomes the bytes of one row."""

    @property
    def name(self) -> str:
        """What the file's header calls this encoding."""
        ...

    @property
    def row_bytes(self) -> int:
        """Bytes per row."""
        ...

    def pack(self, vectors: FloatArray) -> NDArray[np.uint8]:
        """float32 (n, dim) to uint8 (n, row_bytes)."""
        ...

    def unpack(self, rows: NDArray[np.uint8]) -> FloatArray:
        """uint8 (n, row_bytes) to float32 (n, dim)."""
        ...


class Float16Rows:
    """Half precision, little-endian: two bytes per dimension."""

    def __init__(self, dim: int) -> None:
        self._dim = dim

    @property
    def name(self) -> str:
        """The name in the header."""
        return "float16"

    @property
    def row_bytes(self) -> int:
        """Bytes per row."""
        return 2 * self._dim

    def pack(self, vectors: FloatArray) -> NDArray[np.uint8]:
        """float32 (n, dim) to uint8 (n, row_bytes); raises ``OriginalsError`` beyond half precision's range."""
        with np.errstate(over="ignore"):
            halves = vectors.astype("<f2")
        if not np.isfinite(halves).all():
            row = int(np.argmin(np.isfinite(halves).all(axis=1)))
            raise OriginalsError(
                f"vectors: row {row} holds {np.abs(vectors[row]).max():g}, beyond the range of float16 (65504); "
                "scale the vectors, or keep the originals elsewhere"
            )
        return halves.view(np.uint8)

    def unpack(self, rows: NDArray[np.uint8]) -> FloatArray:
        """uint8 (n, row_bytes) to float32 (n, dim)."""
        return np.ascontiguousarray(rows).view("<f2").astype(np.float32)


class PackedRows:
    """Codes of a codec file instead of floats, e.g. 96 bytes instead of 768; rows read back as reconstructions.

    The codec may be another one than that of the index: one with more latents and a byte budget of its own.

    Args:
        codec: a loaded codec file that holds a calibration for codes.
        bytes: bytes per row; see :meth:`vaecodec.Codec.code`. Packing takes the extra ``packed``.
    """

    def __init__(self, codec: Codec, *, bytes: int) -> None:  # noqa: A002 - as in Codec.encode
        self._codec = codec
        self._bytes = bytes

    def check_fits(self, codec: VectorCodec) -> None:
        """Check that this can keep the originals of what a collection's codec compresses.

        Raises:
            CodecMismatchError: the two codecs are for different embeddings.
            InvalidBudgetError: there is no code of so many bytes.
            NotCalibratedError: the codec file holds no calibration for codes.
        """
        if (self._codec.dim, self._codec.metric) != (codec.dim, codec.metric):
            raise CodecMismatchError(
                f"expected a codec for {codec.dim} dimensions compared by {codec.metric}, as the collection's is, "
                f"got one for {self._codec.dim} compared by {self._codec.metric}"
            )
        self._codec.code(bytes=self._bytes)

    @property
    def name(self) -> str:
        """The code and the codec it belongs to."""
        return f"{self._codec.code(bytes=self._bytes).name} of codec {self._codec.codec_id}"

    @property
    def row_bytes(self) -> int:
        """Bytes per row."""
        return self._codec.code(bytes=self._bytes).bytes_per_vector

    def pack(self, vectors: FloatArray) -> NDArray[np.uint8]:
        """float32 (n, dim) to uint8 (n, row_bytes); raises ``InvalidVectorsError`` as the codec does."""
        return self._codec.encode(vectors, bytes=self._bytes)

    def unpack(self, rows: NDArray[np.uint8]) -> FloatArray:
        """uint8 (n, row_bytes) to reconstructions, float32 (n, dim), of unit norm under cosine."""
        return self._codec.decode(rows, bytes=self._bytes)


class OriginalsFile:
    """Vectors by point id, on disk, in constant memory.

    Appending an id again replaces its vector: the newest row counts. Several processes may read and append at once;
    threads may share one object.

    Args:
        path: the file of rows; created, with its ``.ids`` beside it, when there is none.
        dim: width of the vectors.
        encoding: how a vector is stored; by default in half precision.

    Raises:
        OriginalsError: the file holds vectors of another width or encoding, or something else, or was written by a
            newer version; or there is no folder for it.
    """

    def __init__(self, path: str | os.PathLike[str], dim: int, *, encoding: RowEncoding | None = None) -> None:
        self.path = Path(path)
        self.dim = dim
        self._encoding = encoding if encoding is not None else Float16Rows(dim)
        if not self.path.parent.is_dir():
            raise OriginalsError(f"{self.path}: expected a folder to put the file in, got none; make it first")
        if not self._ids_path.exists() and self.path.exists() and self.path.stat().st_size:
            raise OriginalsError(
                f"{self.path}: expected a new file, or one with {self._ids_path.name} beside it, got a file of "
                "something else; name another one"
            )
        self._lock = threading.Lock()
        self._rows: NDArray[np.uint8] = np.empty((0, self._encoding.row_bytes), np.uint8)
        self._ids = sqlite3.connect(self._ids_path, check_same_thread=False, isolation_level=None, timeout=60)
        try:
            self._prepare()
        except BaseException:
            self._ids.close()
            raise

    @property
    def _ids_path(self) -> Path:
        return self.path.with_name(self.path.name + ".ids")

    def _prepare(self) -> None:
        # A write-ahead log lets readers go on while a batch is committed.
        self._ids.execute("PRAGMA journal_mode=WAL")
        self._ids.execute("BEGIN IMMEDIATE")
        self._ids.execute("CREATE TABLE IF NOT EXISTS header (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        self._ids.execute("CREATE TABLE IF NOT EXISTS ids (id BLOB PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID")
        expected = {"version": str(FORMAT_VERSION), "dim": str(self.dim), "encoding": self._encoding.name}
        found = dict(self._ids.execute("SELECT name, value FROM header WHERE name != 'rows'"))
        if not found:
            self._ids.executemany("INSERT INTO header VALUES (?, ?)", [*expected.items(), ("rows", "0")])
            self.path.touch()
            found = expected
        self._ids.execute("COMMIT")
        if found != expected:
            raise OriginalsError(f"{self.path}: expected {_described(expected)}, got {_described(found)}")
        if not self.path.exists() or self.path.stat().st_size < self._row_count() * self._encoding.row_bytes:
            raise OriginalsError(
                f"{self.path}: expected {self._row_count()} rows, as {self._ids_path.name} says, got fewer; "
                "restore both files from the same backup, or build them again from the source"
            )

    def append(self, ids: Sequence[int | str | UUID], vectors: Any) -> None:
        """Add vectors, or replace those of ids that are there already.

        Args:
            ids: n point ids: non-negative integers or UUIDs.
            vectors: float (n, dim), finite.

        Raises:
            InvalidVectorsError: a bad row; nothing is written.
            OriginalsError: a bad id, a value beyond the encoding's range; nothing is written.
        """
        keys = [_key(point_id) for point_id in ids]
        rows = self._encoding.pack(as_vectors(vectors, self.dim, Metric.DOT))
        if len(keys) != len(rows):
            raise WrongWidthError(f"expected one id per vector, got {len(keys)} ids and {len(rows)} vectors")
        with self._lock:
            # The transaction also keeps other processes from appending to the same end of the file.
            self._ids.execute("BEGIN IMMEDIATE")
            try:
                first = self._row_count()
                with open(self.path, "r+b") as file:
                    file.seek(first * self._encoding.row_bytes)
                    file.write(rows.tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                self._ids.executemany(
                    "INSERT INTO ids VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET row = excluded.row",
                    zip(keys, range(first, first + len(keys)), strict=True),
                )
                self._ids.execute("UPDATE header SET value = ? WHERE name = 'rows'", (str(first + len(keys)),))
                self._ids.execute("COMMIT")
            except BaseException:
                self._ids.execute("ROLLBACK")
                raise

    def find(self, ids: Sequence[Any]) -> tuple[FloatArray, NDArray[np.bool_]]:
        """The vectors of the ids that are there.

        Returns:
            float32 (m, dim) in the order asked, and for each id whether it was found: bool (n,), m of them true.
        """
        keys = [_key(point_id) for point_id in ids]
        with self._lock:
            rows: dict[bytes, int] = {}
            for start in range(0, len(keys), _LOOKUP_CHUNK):
                chunk = keys[start : start + _LOOKUP_CHUNK]
                marks = ",".join("?" * len(chunk))
                rows.update(self._ids.execute(f"SELECT id, row FROM ids WHERE id IN ({marks})", chunk))
            found = np.array([key in rows for key in keys], bool)
            numbers = np.array([rows[key] for key in keys if key in rows], np.int64)
            return self._encoding.unpack(self._mapped(numbers)[numbers]), found

    def get(self, ids: Sequence[Any]) -> FloatArray:
        """The vectors of all ids: float32 (n, dim); raises ``MissingOriginalsError`` naming those not found."""
        vectors, found = self.find(ids)
        if not found.all():
            missing = [point_id for point_id, there in zip(ids, found, strict=True) if not there]
            raise MissingOriginalsError(
                f"{self.path}: expected a vector for each of {len(ids)} points, got none for {len(missing)}: "
                f"{', '.join(map(repr, missing[:5]))}{', ...' if len(missing) > 5 else ''}; these points were written "
                "without this file: append their vectors, or upsert them again through a client that has it"
            )
        return vectors

    def __len__(self) -> int:
        """How many ids have a vector."""
        with self._lock:
            return int(self._ids.execute("SELECT count(*) FROM ids").fetchone()[0])

    def close(self) -> None:
        """Release the files."""
        with self._lock:
            self._ids.close()
            self._rows = np.empty((0, self._encoding.row_bytes), np.uint8)

    def __enter__(self) -> OriginalsFile:
        """The file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def _row_count(self) -> int:
        return int(self._ids.execute("SELECT value FROM header WHERE name = 'rows'").fetchone()[0])

    def _mapped(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The rows as a memory map that reaches at least the numbers asked for."""
        if len(numbers) and numbers.max() >= len(self._rows):
            shape = (self._row_count(), self._encoding.row_bytes)
            self._rows = np.memmap(self.path, np.uint8, mode="r", shape=shape)
        return self._rows


def _key(point_id: Any) -> bytes:
    """8 bytes for an integer, 16 for a UUID: the two kinds of point id that Qdrant has."""
    if isinstance(point_id, (int, np.integer)) and 0 <= point_id < 1 << 64:
        return int(point_id).to_bytes(8, "big")
    try:
        return (point_id if isinstance(point_id, UUID) else UUID(str(point_id))).bytes
    except ValueError:
        raise OriginalsError(
            f"ids: expected integers from 0 to 2**64 - 1 or UUIDs, as Qdrant has, got {point_id!r}"
        ) from None


def _described(header: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(header.items()))
