"""Find the row that holds the original of a point, in an SQLite database beside the rows.

A row becomes a version of a point in two steps, around the engine's write. It is staged first: it is on the disk, but
does not count. When the engine has the point, it is committed, and the row that it replaces is free for others. A
version that was staged and never committed, because the process or the connection was lost, stays beside the committed
one: the engine may have the point or not. Whoever reads such a point decides by what the engine holds.

A stage is one write, or one upload of many batches. It is open until it is committed, and counts as lost when nothing
was added to it for an hour.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import OriginalsError

FORMAT_VERSION = 2

# "vaeo", by which our databases are told from others.
_APPLICATION_ID = 0x7661656F

# SQLite takes at most 32,766 parameters in a statement. Smaller chunks are not slower.
_CHUNK = 10_000

_LOST_AFTER_SECONDS = 3600

_SCHEMA = """
CREATE TABLE IF NOT EXISTS header (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions
    (id BLOB PRIMARY KEY, row INTEGER NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stages
    (stage INTEGER PRIMARY KEY AUTOINCREMENT, touched REAL NOT NULL, sent INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS candidates
    (id BLOB, stage INTEGER, row INTEGER NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (id, stage)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS free (row INTEGER PRIMARY KEY);
"""

# Other stages that may still be sent, or that were sent while another stage was open.
_RIVALS = "SELECT stage FROM stages WHERE stage != :stage AND (sent OR touched > :lost)"
_SAME = "mine.checksum = candidates.checksum"
_ALONE = (
    "stage = :stage AND NOT EXISTS (SELECT 1 FROM candidates AS other "
    "WHERE other.id = candidates.id AND other.stage != candidates.stage)"
)


class Version(NamedTuple):
    """Describe one row that was written for a point.

    Attributes:
        row: its number.
        checksum: of the point's key and the row's bytes.
    """

    row: int
    checksum: int


class Move(NamedTuple):
    """Describe one row to move.

    Attributes:
        key: its point.
        stage: where it is staged; None for a committed row.
        old: where it is.
        new: where it goes.
    """

    key: bytes
    stage: int | None
    old: int
    new: int


class OriginalsIndex:
    """Read and write the database. Callers hold a lock around each method, and :meth:`transaction` around those that
    write.

    Args:
        path: created when there is none.
        header: what the file must say of itself.
    """

    def __init__(self, path: Path, header: Mapping[str, str]) -> None:
        self._path = path
        with self.translated():
            self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=60)
        try:
            self._prepare({"version": str(FORMAT_VERSION), **header})
        except BaseException:
            self._base.close()
            raise

    def _prepare(self, expected: dict[str, str]) -> None:
        with self.translated():
            tables = self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            (application,) = self._base.execute("PRAGMA application_id").fetchone()
        if tables and application != _APPLICATION_ID:
            raise OriginalsError(
                f"{self._path}: expected the index of a file of originals, got a database of something else, or of an "
                "older version; name another file"
            )
        with self.translated():
            # With a write-ahead log readers can go on while a batch is committed.
            self._base.execute("PRAGMA journal_mode=WAL")
        with self.transaction():
            self._base.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._base.execute(statement)
            new = not self.header("id")
            for name, value in {**expected, "rows": "0", "id": uuid4().hex}.items() if new else ():
                self.set_header(name, value)
            found = {name: self.header(name) for name in expected}
        if found != expected:
            raise OriginalsError(f"{self._path}: expected {_described(expected)}, got {_described(found)}")

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn errors of the database and of the disk into errors of ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OriginalsError(
                f"{self._path}: the index cannot be read or written ({error}); nothing changed"
            ) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self.damaged(str(error)) from error
        except OSError as error:
            raise OriginalsError(f"{self._path}: the disk refuses to write ({error}); nothing changed") from error

    def damaged(self, what: str) -> OriginalsError:
        """Return the error for a file that no longer holds what was written."""
        return OriginalsError(
            f"{self._path}: the file of originals is damaged ({what}); restore its two files from the same backup, or "
            "build them again from the source"
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write everything that the block does, or nothing; other processes wait meanwhile."""
        with self.translated():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:  # a full disk has ended the transaction already
                    self._base.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Release the database."""
        self._base.close()

    # ------------------------------------------------------------ header

    def header(self, name: str) -> str:
        """Return a field of the header; empty where there is none."""
        found = self._base.execute("SELECT value FROM header WHERE name = ?", (name,)).fetchone()
        return str(found[0]) if found else ""

    def set_header(self, name: str, value: str) -> None:
        """Write a field of the header."""
        self._base.execute("INSERT OR REPLACE INTO header VALUES (?, ?)", (name, value))

    def row_count(self) -> int:
        """Return how many rows the file has, free ones included."""
        text = self.header("rows")
        if not text.isdecimal():
            raise self.damaged(f"it says that it has {text!r} rows")
        return int(text)

    def count(self) -> int:
        """Return how many points have a committed row."""
        return int(self._base.execute("SELECT count(*) FROM versions").fetchone()[0])

    # ------------------------------------------------------------ reading

    def versions(self, keys: Sequence[bytes]) -> dict[bytes, Version]:
        """Return the committed rows of those keys that have one."""
        found = self._by_keys("SELECT id, row, checksum FROM versions", keys)
        return {key: Version(row, checksum) for key, row, checksum in found}

    def candidates(self, keys: Sequence[bytes]) -> dict[bytes, list[Version]]:
        """Return the rows that were staged for those keys and are not committed."""
        if self._base.execute("SELECT 1 FROM candidates LIMIT 1").fetchone() is None:
            return {}
        found: dict[bytes, list[Version]] = {}
        for key, row, checksum in self._by_keys("SELECT id, row, checksum FROM candidates", keys):
            found.setdefault(key, []).append(Version(row, checksum))
        return found

    def keys(self, after: bytes, limit: int) -> list[bytes]:
        """Return the next keys in their order, committed or not."""
        found = self._base.execute(
            "SELECT id FROM versions WHERE id > :after UNION SELECT id FROM candidates WHERE id > :after "
            "ORDER BY id LIMIT :limit",
            {"after": after, "limit": limit},
        )
        return [key for (key,) in found]

    def _by_keys(self, statement: str, keys: Sequence[bytes]) -> Iterator[tuple[bytes, int, int]]:
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            found = self._base.execute(f"{statement} WHERE id IN ({','.join('?' * len(chunk))})", chunk)
            for key, row, checksum in found:
                if not (isinstance(row, int) and isinstance(checksum, int) and 0 <= row < self.row_count()):
                    raise self.damaged(f"row {row!r} of {self.row_count()}")
                yield key, row, checksum

    # ------------------------------------------------------------ writing

    def open_stage(self) -> int:
        """Open a stage, and return its number."""
        return int(self._base.execute("INSERT INTO stages (touched) VALUES (?)", (time.time(),)).lastrowid or 0)

    def take_rows(self, count: int) -> NDArray[np.int64]:
        """Take free rows, and new ones at the end where there are too few; return their numbers."""
        taken = [row for (row,) in self._base.execute("SELECT row FROM free ORDER BY row LIMIT ?", (count,))]
        self._base.executemany("DELETE FROM free WHERE row = ?", [(row,) for row in taken])
        end = self.row_count()
        if taken and not 0 <= taken[0] <= taken[-1] < end:
            raise self.damaged(f"free row {taken[-1]} of {end}")
        more = count - len(taken)
        if more:
            self.set_header("rows", str(end + more))
        return np.array([*taken, *range(end, end + more)], np.int64)

    def stage(self, stage: int, versions: Mapping[bytes, Version]) -> None:
        """Add rows to a stage; the newest row of an id counts."""
        self._free(f"FROM candidates WHERE stage = {stage} AND id IN (SELECT value FROM temp.keys)", versions)
        rows = [(key, stage, version.row, version.checksum) for key, version in versions.items()]
        self._base.executemany("INSERT OR REPLACE INTO candidates VALUES (?, ?, ?, ?)", rows)
        self._base.execute("UPDATE stages SET touched = ? WHERE stage = ?", (time.time(), stage))

    def commit(self, stage: int) -> None:
        """Make the rows of a stage valid, except where another open stage writes another vector of the same point."""
        values = {"stage": stage, "lost": time.time() - _LOST_AFTER_SECONDS}
        mine = "SELECT 1 FROM candidates AS mine WHERE mine.stage = :stage AND mine.id = candidates.id"
        # If the same vector was written twice, for example by a resumed migration, either write may count.
        for needless in (f"EXISTS ({mine}) AND stage NOT IN ({_RIVALS})", f"EXISTS ({mine} AND {_SAME})"):
            others = f"FROM candidates WHERE stage != :stage AND {needless}"
            self._base.execute(f"INSERT INTO free SELECT row {others}", values)
            self._base.execute(f"DELETE {others}", values)
        alone = f"FROM candidates WHERE {_ALONE}"
        self._base.execute(f"INSERT INTO free SELECT row FROM versions WHERE id IN (SELECT id {alone})", values)
        self._base.execute(f"INSERT OR REPLACE INTO versions SELECT id, row, checksum {alone}", values)
        self._base.execute(f"DELETE {alone}", values)
        self._base.execute("UPDATE stages SET sent = 1 WHERE stage = :stage", values)
        self._base.execute("DELETE FROM stages WHERE sent AND stage NOT IN (SELECT stage FROM candidates)")

    def decide(self, key: bytes, judged: Sequence[Version], chosen: Version | None) -> None:
        """Keep one version of a point and free the others, unless one of them may still be sent.

        Args:
            key: the point.
            judged: all versions that the choice was made from; where these are no longer all, nothing happens.
            chosen: the one that the engine holds; None where it does not hold the point.
        """
        held = [*self.versions([key]).values(), *self.candidates([key]).get(key, [])]
        lost = time.time() - _LOST_AFTER_SECONDS
        open_stage = self._base.execute(
            "SELECT 1 FROM candidates JOIN stages USING (stage) WHERE id = ? AND NOT sent AND touched > ?", (key, lost)
        ).fetchone()
        if open_stage or sorted(held) != sorted(judged):
            return
        self._base.execute("DELETE FROM versions WHERE id = ?", (key,))
        self._base.execute("DELETE FROM candidates WHERE id = ?", (key,))
        self._base.executemany("INSERT INTO free VALUES (?)", [(v.row,) for v in held if v != chosen])
        if chosen is not None:
            self._base.execute("INSERT INTO versions VALUES (?, ?, ?)", (key, *chosen))

    def remove(self, keys: Sequence[bytes]) -> None:
        """Remove points from the index, and free their rows."""
        for table in ("versions", "candidates"):
            self._free(f"FROM {table} WHERE id IN (SELECT value FROM temp.keys)", keys)

    def clear(self) -> None:
        """Remove all points from the index."""
        for table in ("versions", "candidates", "stages", "free"):
            self._base.execute(f"DELETE FROM {table}")
        self.set_header("rows", "0")

    def _free(self, selected: str, keys: Sequence[bytes] | Mapping[bytes, Version]) -> None:
        """Free the rows of a selection that may name ``temp.keys``, and delete it."""
        self._base.execute("CREATE TEMP TABLE IF NOT EXISTS keys (value BLOB PRIMARY KEY) WITHOUT ROWID")
        self._base.executemany("INSERT OR IGNORE INTO temp.keys VALUES (?)", [(key,) for key in keys])
        self._base.execute(f"INSERT INTO free SELECT row {selected}")
        self._base.execute(f"DELETE {selected}")
        self._base.execute("DELETE FROM temp.keys")

    # ------------------------------------------------------------ compaction

    def plan_compaction(self, limit: int) -> tuple[int, list[Move]]:
        """Return how many rows are in use, and which to move where so that these are the first ones.

        Args:
            limit: at most so many moves.
        """
        used = self.row_count() - int(self._base.execute("SELECT count(*) FROM free").fetchone()[0])
        late = self._base.execute(
            "SELECT id, NULL, row FROM versions WHERE row >= :used UNION ALL "
            "SELECT id, stage, row FROM candidates WHERE row >= :used LIMIT :limit",
            {"used": used, "limit": limit},
        ).fetchall()
        room = self._base.execute("SELECT row FROM free WHERE row < ? LIMIT ?", (used, limit)).fetchall()
        if len(late) != len(room):
            raise self.damaged(f"{len(late)} rows in use beyond {used}, {len(room)} free ones before")
        return used, [Move(key, stage, old, new) for (key, stage, old), (new,) in zip(late, room, strict=True)]

    def move(self, moves: Sequence[Move]) -> None:
        """Record that rows were moved, and free their old places."""
        for move in moves:
            table = "versions" if move.stage is None else "candidates"
            stage = "" if move.stage is None else f" AND stage = {move.stage}"
            self._base.execute(f"UPDATE {table} SET row = ? WHERE id = ?{stage}", (move.new, move.key))
            self._base.execute("UPDATE free SET row = ? WHERE row = ?", (move.old, move.new))

    def cut(self, count: int) -> None:
        """Remove the free rows from ``count`` on from the index."""
        self._base.execute("DELETE FROM free WHERE row >= ?", (count,))
        self.set_header("rows", str(count))

    def give_back(self) -> None:
        """Return the disk space that the database no longer needs to the file system."""
        with self.translated():
            self._base.execute("VACUUM")
            self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _described(header: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(header.items()))
