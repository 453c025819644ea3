"""Save each index in one file: the engine's own bytes behind a header that names the codec, under one checksum.

The layout is the same for every engine and is specified in docs/hnswlib.md; only magic and header fields differ.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vaecodec.errors import (
    IndexFileError,
    VaecodecError,
)
from vaecodec.files import replacing, scratch_beside
from vaecodec.files.stored_json import parse_object

FORMAT_VERSION = 1

# Magic, format version, length of the JSON header, sha256 of the file with this field zeroed.
_PREFIX = struct.Struct("<8sII32s")
_CHUNK_BYTES = 1 << 20

# Keys of every header, whatever the engine.
_COMMON_FIELDS = {"codec_id": str, "embedder": str, "dim": int, "code_dim": int, "payload_bytes": int}


@dataclass(frozen=True)
class IndexFile:
    """Write and read the indexes of one engine.

    Attributes:
        magic: the first 8 bytes.
        writer: the method that writes such files, for error messages.
        way_out: what to do with a file that the engine itself wrote, for error messages.
        fields: the engine's own fields of the header and their types.
    """

    magic: bytes
    writer: str
    way_out: str
    fields: Mapping[str, type]

    def size(self, fields: Mapping[str, Any], payload_bytes: int) -> int:
        """Return the bytes of the whole file."""
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
            except RuntimeError as error:  # engines raise RuntimeError when a write fails
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

    def to_bytes(self, write_payload: Callable[[Path], Mapping[str, Any]]) -> bytes:
        """Return the bytes that :meth:`write` would write."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            self.write(path, write_payload)
            return path.read_bytes()

    @contextmanager
    def read_bytes(self, content: Any) -> Iterator[tuple[dict[str, Any], Path]]:
        """Work as :meth:`read`, on the bytes of :meth:`to_bytes`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index in memory"
            path.write_bytes(content)
            with self.read(path) as read:
                yield read

    @contextmanager
    def read(self, path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Any], Path]]:
        """Yield the verified header and a temporary file with the engine's bytes, since engines read from paths only.

        Raises:
            IndexFileError: not a file of this kind, truncated, changed, or of a newer format; or, within the block,
                an engine that fails to read its bytes.
            FileNotFoundError: there is no such file.
        """
        with open(path, "rb") as file, scratch_beside(path) as raw:
            saved = self._unpack(file, raw, path)
            try:
                yield saved, raw
            except VaecodecError:
                raise
            except (RuntimeError, MemoryError, ValueError) as error:  # engines raise these
                raise IndexFileError(
                    f"{os.fspath(path)}: the engine cannot read the index: {error}; save it again from its source"
                ) from error

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
        return self._checked(header, raw.stat().st_size, name)

    def _checked(self, header: bytes, payload_bytes: int, name: str) -> dict[str, Any]:
        """Return the checked fields of a header. The checksum says nothing of them: anyone can sign anything."""
        try:
            saved = parse_object(header)
        except ValueError as error:
            raise IndexFileError(
                f"{name}: expected a JSON object as header, got something else ({error}); save it again"
            ) from error
        for field, kind in {**_COMMON_FIELDS, **self.fields}.items():
            if type(saved.get(field)) is not kind:
                raise IndexFileError(
                    f"{name}: expected {kind.__name__} as {field} in the header, got {saved.get(field)!r:.80}; "
                    "save it again"
                )
        if saved["payload_bytes"] != payload_bytes:
            raise IndexFileError(
                f"{name}: expected an index of {saved['payload_bytes']} bytes, as the header says, got "
                f"{payload_bytes}; save it again"
            )
        return saved


def _header(fields: Mapping[str, Any], payload_bytes: int) -> bytes:
    return json.dumps({**fields, "payload_bytes": payload_bytes}, sort_keys=True).encode()


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
