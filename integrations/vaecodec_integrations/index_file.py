"""One file per saved index: the engine's own bytes behind a header that names the codec, under one checksum.

The layout is the same for every engine and is specified in docs/hnswlib.md; only magic and header fields differ.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vaecodec.errors import IndexFileError
from vaecodec.files import replacing, scratch_beside

FORMAT_VERSION = 1

# Magic, format version, length of the JSON header, sha256 of the file with this field zeroed.
_PREFIX = struct.Struct("<8sII32s")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class IndexFile:
    """How the indexes of one engine are written and read.

    Attributes:
        magic: the first 8 bytes.
        writer: the method that writes such files, for error messages.
        way_out: what to do with a file that the engine itself wrote, for error messages.
    """

    magic: bytes
    writer: str
    way_out: str

    def size(self, fields: Mapping[str, Any], payload_bytes: int) -> int:
        """Bytes of the whole file."""
        return _PREFIX.size + len(_header(fields, payload_bytes)) + payload_bytes

    def write(self, path: str | os.PathLike[str], write_payload: Callable[[Path], Mapping[str, Any]]) -> None:
        """Write an index atomically; until it is complete, two temporary files lie beside it.

        Args:
            path: the file; what was there before is replaced at the end, or left alone after an error.
            write_payload: writes the engine's bytes to the path given, and returns the header's fields.

        Raises:
            OSError: the folder is missing, not writable or full.
        """
        with scratch_beside(path) as raw:
            try:
                fields = write_payload(raw)
            except RuntimeError as error:  # what engines raise when a write fails
                raise OSError(errno.EIO, f"the engine could not write the index: {error}", str(raw)) from error
            header = _header(fields, raw.stat().st_size)
            head = _PREFIX.pack(self.magic, FORMAT_VERSION, len(header), bytes(32)) + header
            digest = hashlib.sha256(head)
            with open(raw, "rb") as source, replacing(path) as file:
                file.write(head)
                for chunk in _chunks(source):
                    digest.update(chunk)
                    file.write(chunk)
                file.seek(0)
                file.write(_PREFIX.pack(self.magic, FORMAT_VERSION, len(header), digest.digest()))

    @contextmanager
    def read(self, path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Any], Path]]:
        """The verified header, and a temporary file of the engine's bytes, as engines read from paths only.

        Raises:
            IndexFileError: not a file of this kind, truncated, changed, or of a newer format.
            FileNotFoundError: there is no such file.
        """
        with open(path, "rb") as file, scratch_beside(path) as raw:
            yield self._unpack(file, raw, path), raw

    def _unpack(self, file: IO[bytes], raw: Path, path: str | os.PathLike[str]) -> dict[str, Any]:
        name = os.fspath(path)
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(_PREFIX.size)
        if prefix[: len(self.magic)] != self.magic:
            raise IndexFileError(f"{name}: not a file that {self.writer} wrote; {self.way_out}")
        if len(prefix) < _PREFIX.size:
            raise IndexFileError(f"{name}: truncated: {size} bytes are less than a header; copy or save it again")
        _, version, header_bytes, expected = _PREFIX.unpack(prefix)
        if version != FORMAT_VERSION:
            raise IndexFileError(
                f"{name}: format version {version}, but this vaecodec reads {FORMAT_VERSION}; "
                "upgrade with: pip install --upgrade vaecodec"
            )
        header = file.read(min(header_bytes, size))
        digest = hashlib.sha256(_PREFIX.pack(self.magic, version, header_bytes, bytes(32)) + header)
        with open(raw, "wb") as copy:
            for chunk in _chunks(file):
                digest.update(chunk)
                copy.write(chunk)
        if digest.digest() != expected:
            raise IndexFileError(
                f"{name}: truncated or changed since it was saved ({size} bytes); copy or save it again"
            )
        saved: dict[str, Any] = json.loads(header)
        return saved


def _header(fields: Mapping[str, Any], payload_bytes: int) -> bytes:
    return json.dumps({**fields, "payload_bytes": payload_bytes}, sort_keys=True).encode()


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
