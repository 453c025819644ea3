"""Write files so that a crash, a full disk or a second process never leaves half a file."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from vaecodec.errors import OutputBusyError, OutputExistsError

_TOKEN_BYTES = 4


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file by ``data``: readers find the old content or the new, never half of either.

    Raises:
        OutputExistsError: ``path`` is a folder or a device.
        OSError: the folder is missing, not writable or full; the old file is left as it was.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write the next content of a file, which replaces the old one when the block ends without an error.

    The content is written to a temporary file in the same folder, flushed to disk and renamed. An existing file keeps
    its permissions, and a symbolic link goes on pointing to it. Temporary files that killed processes left behind are
    removed.

    Yields:
        The temporary file, open for reading and writing bytes; it can seek.

    Raises:
        OutputExistsError: ``path`` is a folder or a device.
        OSError: the folder is missing, not writable or full; the old file is left as it was.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OutputExistsError(f"{path}: expected a file to write, got a folder or a device; choose another name")
    _remove_abandoned(target)
    temporary, file = _create_beside(target)
    try:
        if target.exists():
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        yield file
        file.flush()
        os.fsync(file.fileno())
        if sys.platform == "win32":  # Windows cannot rename an open file; other systems see an open file as in use
            file.close()
        os.replace(temporary, target)
        file.close()
    except BaseException:
        with suppress(OSError):  # closing writes the buffer, which fails again on a full disk
            file.close()
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


@contextmanager
def scratch_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make an empty temporary file in the folder of ``path``, for a library that reads or writes by name only.

    It is removed when the block ends. The next one for the same ``path`` removes what a killed process left behind.
    Where that folder cannot be written to, the system's folder for temporary files takes its place.
    """
    target = Path(os.path.realpath(path))
    if target.parent.is_dir() and not os.access(target.parent, os.W_OK):
        target = Path(tempfile.gettempdir()) / target.name
    _remove_abandoned(target)
    temporary, file = _create_beside(target)
    try:
        yield temporary
    finally:
        with suppress(OSError):
            file.close()
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Hold the lock file ``path`` during the block. The lock ends with the process, however that ends.

    Args:
        path: the lock file; its folder must exist.
        what: the file or folder that the lock is for, for the error message.

    Raises:
        OutputBusyError: another process, or another thread of this one, holds the lock.
    """
    from filelock import FileLock, Timeout  # imported here, because the import is slow and most runs need no lock

    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise OutputBusyError(f"{what}: another process is writing it; wait until that has ended, or end it") from None
    try:
        yield
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file's content, 64 hexadecimal digits, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of files to disk, so that a rename outlives a power cut; where the system can do that."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _create_beside(target: Path) -> tuple[Path, IO[bytes]]:
    """Create a temporary file for a target, open and locked, so that no other process takes it for abandoned."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(_TOKEN_BYTES)}.tmp")
        file = open(path, "x+b")  # noqa: SIM115 - the caller closes it
        if _hold(file) is not False and path.exists():
            return path, file
        file.close()  # another process found the file before it was locked, and removes it


def _remove_abandoned(target: Path) -> None:
    """Remove the temporary files of saves whose process was killed."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.tmp")
    with suppress(OSError):  # a folder may be writable although it cannot be listed
        for path in [entry for entry in target.parent.iterdir() if name.fullmatch(entry.name)]:
            with suppress(OSError), open(path, "rb") as file:
                if sys.platform == "win32" or _hold(file):  # Windows itself refuses to remove a file in use
                    path.unlink()


def _hold(file: IO[bytes]) -> bool | None:
    """Lock a file until it is closed, and tell whether that worked; None where files cannot be locked."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None
    return True
