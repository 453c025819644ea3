"""Keep the list of finished shards, so that an interrupted job can continue."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from vaecodec.bulk.parts import bad_rows_path, part_path
from vaecodec.errors import OutputExistsError
from vaecodec.files import locked, sha256, write_atomically
from vaecodec.files.stored_json import parse_with_checksum, with_checksum


class Entry(NamedTuple):
    """Record the result of one shard. The manifest has a line for each that is finished.

    Attributes:
        shard: number of the shard.
        rows: rows in its part.
        sha256: checksum of the part, or None where bad rows were only to be reported.
        bad: rows that are listed as bad.
        saturated: rows that the code clips.
    """

    shard: int
    rows: int
    sha256: str | None
    bad: int
    saturated: int = 0


# Names of the files that a job writes into its folder. It removes no other files there.
_OURS = re.compile(
    r"_manifest\.jsonl|_lock|\._manifest\.jsonl\.[0-9a-f]{8}\.tmp|part-\d{5,}(\.npy|\.parquet|\.bad-rows\.csv)"
    r"|\.\d{5,}-[0-9a-f]+\.begun"
)


REPLACED = ".replaced"
"""The folder, within that of an unfinished output, of the output that it is about to replace."""


def is_ours(path: Path) -> bool:
    """Tell by its name whether a job wrote a file in the folder of an unfinished output."""
    return _OURS.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


class Manifest:
    """Manage ``_manifest.jsonl`` and the parts beside it."""

    def __init__(self, folder: Path, job: dict[str, Any], suffix: str) -> None:
        self.folder, self._job, self._suffix = folder, job, suffix
        # Readers of Parquet folders ignore names that begin with one of these.
        self.path, self.lock_path = folder / "_manifest.jsonl", folder / "_lock"
        self._lock = Lock()

    @property
    def files(self) -> tuple[Path, Path]:
        """Return the paths of the manifest and of its lock."""
        return self.path, self.lock_path

    @contextmanager
    def locked(self, *, restart: bool = False) -> Iterator[None]:
        """Keep every other process from this folder. The lock goes with the process, however that ends.

        Args:
            restart: forget what was begun here.

        Raises:
            OutputExistsError: another job was begun here.
            OutputBusyError: another process, or another job of this one, is at work here.
        """
        if not restart:
            self._entries()  # leave the folder of another job as it is
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.lock_path, str(self.folder)):
            if restart:
                self.path.unlink(missing_ok=True)
            yield

    def open(self) -> dict[int, Entry]:
        """Begin, or find the shards that are finished and whose files still have the content written."""
        finished = {entry.shard: entry for entry in self._entries() if self._is_whole(entry)}
        kept = {self.lock_path, *(part_path(self.folder, number, self._suffix) for number in finished)}
        kept |= {bad_rows_path(self.folder, entry.shard) for entry in finished.values() if entry.bad}
        for file in self.folder.iterdir():
            if file not in kept and is_ours(file):
                file.unlink()
        lines = [self._job, *(entry._asdict() for entry in finished.values())]
        write_atomically(self.path, b"".join(with_checksum(line) + b"\n" for line in lines))
        return finished

    def _entries(self) -> list[Entry]:
        """Return the shards that are listed; none if the job was not begun."""
        job, *entries = self._lines() or [self._job]
        if job is None:
            raise OutputExistsError(
                f"{self.path}: expected what was begun here in the first line, which is damaged; delete {self.folder}"
            )
        if job != self._job:
            changed = ", ".join(sorted(key for key in self._job if job.get(key) != self._job[key]))
            raise OutputExistsError(f"{self.folder}: was begun with different {changed}; run as before, or delete it")
        return [Entry(**line) for line in entries if line is not None]

    def _lines(self) -> list[dict[str, Any] | None]:
        """Return the lines of the file as JSON; None for damage, or for half a line that a killed process left."""
        lines: list[dict[str, Any] | None] = []
        for line in self.path.read_bytes().splitlines() if self.path.exists() else []:
            try:
                lines.append(parse_with_checksum(line))
            except ValueError:  # the shard of a damaged line is written again
                lines.append(None)
        return lines

    def _is_whole(self, entry: Entry) -> bool:
        part = part_path(self.folder, entry.shard, self._suffix)
        listed = not entry.bad or bad_rows_path(self.folder, entry.shard).exists()
        return listed and part.exists() and sha256(part) == entry.sha256

    def add(self, entry: Entry) -> None:
        """Note a finished shard, safely on disk; may be called from several threads."""
        with self._lock, self.path.open("ab") as file:
            file.write(with_checksum(entry._asdict()) + b"\n")
            file.flush()
            os.fsync(file.fileno())
