"""Keep the uncompressed vectors of one vector of a Qdrant collection, in two files, with constant memory.

One holds the rows at a fixed width, the other (suffix ``.ids``) is an SQLite database that knows which row belongs to
which point; see :mod:`~vaecodec_integrations.qdrant.originals.index`. Rows are on the disk before the database names
them, and a row that it names is never written again, so that a crash at any moment leaves no torn row behind. Each row
has a checksum that covers its point's id.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import MissingOriginalsError, OriginalsError, WrongWidthError
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.vectors import as_vectors, normalised
from vaecodec_integrations.qdrant.originals.index import OriginalsIndex, Version
from vaecodec_integrations.qdrant.originals.owner import Owner
from vaecodec_integrations.qdrant.originals.rows import RowsFile
from vaecodec_integrations.row_encoding import Float16Rows, RowEncoding

# Rows that a compaction moves at a time.
_MOVED_AT_ONCE = 50_000
# Another process may replace a row between the look-up and the read. Then both are repeated, at most this often.
_READS = 5

# A point's key -> the checksum of the version that the engine holds, or None if it does not hold the point.
Decided = Mapping[bytes, int | None]


class OriginalsFile:
    """Keep vectors by point id on disk, with constant memory, for one vector of one collection.

    Writing an id again replaces its vector, and gives the room to later ones. Several processes may read and write at
    once; threads may share one object.

    Args:
        path: the file of rows; created, with its ``.ids`` beside it, when there is none.
        dim: width of the vectors.
        encoding: how a vector is stored; by default in half precision.

    Raises:
        OriginalsError: the file holds vectors of another width or encoding, or something else, or was written by
            another version; or there is no folder for it.
    """

    def __init__(self, path: str | os.PathLike[str], dim: int, *, encoding: RowEncoding | None = None) -> None:
        self.path = Path(path)
        self.dim = dim
        self._encoding = encoding if encoding is not None else Float16Rows(dim)
        ids_path = self.path.with_name(self.path.name + ".ids")
        if not self.path.parent.is_dir():
            raise OriginalsError(f"{self.path}: expected a folder to put the file in, got none; make it first")
        if not ids_path.exists() and self.path.exists() and self.path.stat().st_size:
            raise OriginalsError(
                f"{self.path}: expected a new file, or one with {ids_path.name} beside it, got a file of "
                "something else; name another one"
            )
        self._lock = threading.Lock()
        self._rows = RowsFile(self.path, self._encoding.row_bytes)
        self._index = OriginalsIndex(ids_path, {"dim": str(dim), "encoding": self._encoding.name})
        try:
            with self._writing():
                expected = self._index.row_count()
                if expected == 0:
                    self.path.touch()
            if not self._rows.holds(expected):
                raise OriginalsError(
                    f"{self.path}: expected {expected} rows, as {ids_path.name} says, got fewer; "
                    "restore both files from the same backup, or build them again from the source"
                )
        except BaseException:
            self._index.close()
            raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._index.translated():
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock, self._index.transaction():
            yield

    # ------------------------------------------------------------ owner

    @property
    def id(self) -> str:
        """Return the file's own id, which the metadata of its collection names."""
        with self._reading():
            return self._index.header("id")

    @property
    def owner(self) -> Owner | None:
        """Return the owner of the originals; None before the first collection is written with the file."""
        with self._reading():
            return self._owner()

    def check_owner(self, owner: Owner) -> None:
        """Raise ``OriginalsError`` if the file belongs to another collection or another vector."""
        found = self.owner
        if found is not None and found[:2] != owner[:2]:
            raise OriginalsError(
                f"{self.path}: expected a file of {owner}, got the file of {found}; give each collection a file of its "
                "own. If the other collection is gone, empty the file with clear(); if it bears a new name, say so "
                "with give_to()"
            )

    def claim(self, owner: Owner) -> None:
        """Record the owner of the originals; raise as :meth:`check_owner` does."""
        self.check_owner(owner)
        with self._writing():
            self._index.set_header("owner", owner.to_json())

    def give_to(self, collection: str) -> None:
        """Record that the collection has another name, as one that was restored from a snapshot."""
        with self._writing():
            owner = self._owner()
            if owner is None:
                raise OriginalsError(f"{self.path}: expected a file with an owner, got one that no collection uses")
            self._index.set_header("owner", owner._replace(collection=collection).to_json())

    def clear(self) -> None:
        """Remove all vectors and the owner, and free the disk space."""
        with self._writing():
            self._index.clear()
            self._index.set_header("owner", "")
            self._rows.cut(0)

    def _owner(self) -> Owner | None:
        text = self._index.header("owner")
        try:
            return Owner.from_json(text) if text else None
        except (ValueError, TypeError) as error:
            raise self._index.damaged(f"its owner is {text!r}") from error

    # ------------------------------------------------------------ writing

    def stage(self) -> Staged:
        """Open a write in two steps: its vectors become valid only when the engine has the points."""
        return Staged(self)

    def append(self, ids: Sequence[int | str | UUID], vectors: Any) -> None:
        """Add vectors, or replace those of ids that are there already.

        Args:
            ids: n point ids: non-negative integers or UUIDs.
            vectors: float (n, dim), finite.

        Raises:
            InvalidVectorsError: a bad row; nothing is written.
            OriginalsError: a bad id, or no room on the disk; nothing is written.
        """
        staged = self.stage()
        staged.add(ids, vectors)
        staged.commit()

    def remove(self, ids: Sequence[Any]) -> None:
        """Remove the vectors of points; points without a vector are ignored."""
        keys = [point_key(point_id) for point_id in ids]
        with self._writing():
            self._index.remove(keys)

    def compact(self) -> None:
        """Move rows into the space of removed ones, and return the rest to the file system."""
        while True:
            with self._writing():
                used, moves = self._index.plan_compaction(_MOVED_AT_ONCE)
                rows = self._rows.read(np.array([move.old for move in moves], np.int64))
                self._rows.write(np.array([move.new for move in moves], np.int64), rows)
                self._index.move(moves)
            if not moves:
                break
        with self._writing():
            used, moves = self._index.plan_compaction(1)
            if not moves:  # otherwise another process has written since, and its rows use the room
                self._index.cut(used)
        with self._writing():  # now no index names the rows that are cut off, even after a crash
            self._rows.cut(self._index.row_count())
        with self._lock:
            self._index.give_back()

    # ------------------------------------------------------------ reading

    def ids(self) -> Iterator[int | str]:
        """Yield all ids that have a vector, as Qdrant returns them; committed or not."""
        after = b""
        while True:
            with self._reading():
                keys = self._index.keys(after, 10_000)
            if not keys:
                return
            yield from map(_point_id, keys)
            after = keys[-1]

    def undecided(self, ids: Sequence[Any]) -> list[Any]:
        """Return the ids whose write did not finish, so that only the engine knows which vector is valid."""
        keys = [point_key(point_id) for point_id in ids]
        with self._reading():
            candidates = self._index.candidates(keys)
        return [point_id for point_id, key in zip(ids, keys, strict=True) if key in candidates]

    def decide(self, latents: Mapping[Any, Any], codec: VectorCodec) -> dict[bytes, int | None]:
        """Choose for each undecided point the vector whose latent the engine holds, for :meth:`find`.

        Versions that cannot be sent any more are removed.

        Args:
            latents: by point id, float (code_dim,) as the engine holds it, or None where it does not hold one.
            codec: what made them.
        """
        held = {point_key(point_id): latent for point_id, latent in latents.items()}
        keys = list(held)
        with self._reading():
            candidates, versions = self._index.candidates(keys), self._index.versions(keys)
        decided: dict[bytes, int | None] = {}
        judged: dict[bytes, tuple[list[Version], Version | None]] = {}
        for key, waiting in candidates.items():
            all_of_it = [*waiting, *([versions[key]] if key in versions else [])]
            chosen = self._chosen(key, all_of_it, held[key], codec)
            judged[key] = (all_of_it, chosen)
            decided[key] = None if chosen is None else chosen.checksum
        if judged:
            with self._writing():
                for key, (all_of_it, chosen) in judged.items():
                    self._index.decide(key, all_of_it, chosen)
        return decided

    def _chosen(self, key: bytes, versions: list[Version], latent: Any, codec: VectorCodec) -> Version | None:
        """Return the version whose latent is nearest to that of the engine."""
        with self._reading():
            rows = self._rows.read(np.array([version.row for version in versions], np.int64))
        good = [i for i, version in enumerate(versions) if _checksum(key, rows[i]) == version.checksum]
        if latent is None or not good:
            return None
        latents = codec.encode(self._encoding.unpack(rows[good]))
        wanted = np.asarray(latent, np.float32)[None]
        if codec.latent_metric is Metric.COSINE:  # under cosine the engine keeps directions only
            latents, wanted = normalised(latents), normalised(wanted)
        return versions[good[int(np.argmin(((latents - wanted) ** 2).sum(axis=1)))]]

    def find(self, ids: Sequence[Any], decided: Decided | None = None) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Return the vectors of the ids that are there.

        Args:
            ids: n point ids.
            decided: what :meth:`decide` found for those that :meth:`undecided` names; of others, and without it, the
                last vector counts that is known to be the engine's.

        Returns:
            float32 (m, dim) in the order asked, and for each id whether it was found: bool (n,), m of them true.

        Raises:
            OriginalsError: a row or the index is damaged.
        """
        keys = [point_key(point_id) for point_id in ids]
        found = np.zeros(len(keys), bool)
        for _ in range(_READS):
            with self._reading():
                versions = self._versions(keys, decided or {})
                wanted = [key for key in keys if key in versions]
                rows = self._rows.read(np.array([versions[key].row for key in wanted], np.int64))
            bad = [key for key, row in zip(wanted, rows, strict=True) if _checksum(key, row) != versions[key].checksum]
            if not bad:
                found[:] = [key in versions for key in keys]
                return self._encoding.unpack(rows), found
        raise self._index.damaged(f"the row of point {_point_id(bad[0])!r} is not the one that was written")

    def _versions(self, keys: list[bytes], decided: Decided) -> dict[bytes, Version]:
        versions = self._index.versions(keys)
        if decided:
            candidates = self._index.candidates(list(decided))
            for key, checksum in decided.items():
                known = [*candidates.get(key, []), *([versions[key]] if key in versions else [])]
                chosen = [version for version in known if version.checksum == checksum]
                if checksum is None:
                    versions.pop(key, None)
                elif chosen:
                    versions[key] = chosen[0]
        return versions

    def get(self, ids: Sequence[Any], decided: Decided | None = None) -> FloatArray:
        """Return the vectors of all ids: float32 (n, dim); raise ``MissingOriginalsError`` naming those not found."""
        vectors, found = self.find(ids, decided)
        if not found.all():
            missing = [point_id for point_id, there in zip(ids, found, strict=True) if not there]
            raise MissingOriginalsError(
                f"{self.path}: expected a vector for each of {len(ids)} points, got none for {len(missing)}: "
                f"{', '.join(map(repr, missing[:5]))}{', ...' if len(missing) > 5 else ''}; these points were written "
                "without this file: append their vectors, or upsert them again through a client that has it"
            )
        return vectors

    def __len__(self) -> int:
        """Return the number of ids with a valid vector."""
        with self._reading():
            return self._index.count()

    def close(self) -> None:
        """Release the files."""
        with self._lock:
            self._index.close()

    def __enter__(self) -> OriginalsFile:
        """Return the file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


class Staged:
    """Hold the vectors of one write, which become valid once it is committed.

    A write that is never committed leaves its points undecided; see :meth:`OriginalsFile.decide`.

    Args:
        file: where they go.
    """

    def __init__(self, file: OriginalsFile) -> None:
        self._file = file
        self._stage: int | None = None

    def add(self, ids: Sequence[Any], vectors: Any) -> None:
        """Write vectors to the disk; see :meth:`OriginalsFile.append`. The last vector of an id counts."""
        file = self._file
        keys = [point_key(point_id) for point_id in ids]
        rows = file._encoding.pack(as_vectors(vectors, file.dim, Metric.DOT))
        if len(keys) != len(rows):
            raise WrongWidthError(f"expected one id per vector, got {len(keys)} ids and {len(rows)} vectors")
        last = dict(zip(keys, range(len(keys)), strict=True))
        rows = rows[list(last.values())]
        with file._writing():
            if self._stage is None:
                self._stage = file._index.open_stage()
            numbers = file._index.take_rows(len(rows))
            file._rows.write(numbers, rows)
            versions = {
                key: Version(int(number), _checksum(key, row))
                for key, number, row in zip(last, numbers, rows, strict=True)
            }
            file._index.stage(self._stage, versions)

    def commit(self) -> None:
        """Make the vectors valid: the engine has the points."""
        if self._stage is not None:
            with self._file._writing():
                self._file._index.commit(self._stage)
            self._stage = None


def point_key(point_id: Any) -> bytes:
    """Return 8 bytes for an integer, 16 for a UUID: the two kinds of point id that Qdrant has."""
    if isinstance(point_id, (int, np.integer)) and 0 <= point_id < 1 << 64:
        return int(point_id).to_bytes(8, "big")
    try:
        return (point_id if isinstance(point_id, UUID) else UUID(str(point_id))).bytes
    except ValueError:
        raise OriginalsError(
            f"ids: expected integers from 0 to 2**64 - 1 or UUIDs, as Qdrant has, got {point_id!r}"
        ) from None


def _point_id(key: bytes) -> int | str:
    return int.from_bytes(key, "big") if len(key) == 8 else str(UUID(bytes=key))


def _checksum(key: bytes, row: NDArray[np.uint8]) -> int:
    return zlib.crc32(row.tobytes(), zlib.crc32(key))
