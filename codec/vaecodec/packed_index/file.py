"""Read and write the file of a packed index; docs/codes.md specifies it.

Everything that is read is checked before it is used: two digests over all bytes, and every count against the size of
the file. A digest is no signature, so a file whose digests fit may still hold anything, and is checked as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.codec import Codec
from vaecodec.codes import Code
from vaecodec.errors import CodecMismatchError, IndexFileError, InvalidBudgetError, NotCalibratedError
from vaecodec.evaluation import IdArray
from vaecodec.files import replacing
from vaecodec.files.stored_json import parse_object
from vaecodec.packed_index.rows import Rows

# magic, format version, length of the JSON header, sha256 of the header; little-endian.
_PREAMBLE = struct.Struct("<8sII32s")
_MAGIC = b"VAECPACK"
VERSION = 2
_ALIGNMENT = 64
_MOST_ROWS = 1 << 48
_ANEW = "copy the file again, or add the vectors anew"
_MOST_HEADER = 1 << 16
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Header:
    """Hold the header of the file.

    Attributes:
        codec_id: the codec that filled the index.
        code_dim: the width that it was loaded at.
        code: ``{"dtype": name}`` or ``{"bytes": n}``.
        rows: how many codes follow.
        next_id: the id that the next row without one gets.
        ids: whether the ids of the rows follow; else they are 0 to rows - 1.
    """

    codec_id: str
    code_dim: int
    code: dict[str, Any]
    rows: int
    next_id: int
    ids: bool

    def to_bytes(self, digest: str) -> bytes:
        """Return JSON, filled up with spaces so that what follows is aligned."""
        text = json.dumps({**vars(self), "sha256": digest}, sort_keys=True).encode()
        return text + b" " * (-(_PREAMBLE.size + len(text)) % _ALIGNMENT)


def write(path: str | os.PathLike[str], header: Header, ids: IdArray | None, codes: Iterable[NDArray[Any]]) -> None:
    """Write an index to one file; readers find the old file or the new one, never half of either.

    Args:
        path: the file to replace or create.
        header: what goes before.
        ids: int64 (rows,), where ``header.ids`` says so.
        codes: all of them, in blocks.
    """
    digest = hashlib.sha256()
    with replacing(path) as file:
        file.write(bytes(_PREAMBLE.size + len(header.to_bytes(digest.hexdigest()))))
        for block in ([ids.astype("<i8", copy=False)] if ids is not None else []) + [*codes]:
            data = np.ascontiguousarray(block.astype(block.dtype.newbyteorder("<"), copy=False)).data
            file.write(data)
            digest.update(data)
        text = header.to_bytes(digest.hexdigest())
        file.seek(0)
        file.write(_PREAMBLE.pack(_MAGIC, VERSION, len(text), hashlib.sha256(text).digest()) + text)


def read(path: str | os.PathLike[str], codec: Codec) -> tuple[Header, Rows]:
    """Open and check the file of an index; its codes stay in the file, memory-mapped.

    Raises:
        FileNotFoundError: there is no such file.
        IndexFileError: it is not an index, of another version, cut short or damaged.
        CodecMismatchError: another codec, or another width of it, filled the index.
    """
    with open(path, "rb") as file:
        preamble = file.read(_PREAMBLE.size)
        if len(preamble) < _PREAMBLE.size or not preamble.startswith(_MAGIC):
            raise IndexFileError(f"{path}: expected a file that PackedIndex.save wrote")
        _, version, length, expected = _PREAMBLE.unpack(preamble)
        if version > VERSION:
            raise IndexFileError(
                f"{path}: format version {version} is newer than the {VERSION} known here; upgrade with: "
                "pip install --upgrade vaecodec"
            )
        if version < VERSION:
            raise IndexFileError(f"{path}: format version {version} has no checksum; add the vectors to a new index")
        text = file.read(min(length, _MOST_HEADER))
        if len(text) < length or hashlib.sha256(text).digest() != expected:
            raise IndexFileError(f"{path}: the header is damaged; {_ANEW}")
        header, digest = _header(path, text)
        code = _code(path, header, codec)
        empty = code.encode(np.empty((0, codec.code_dim), np.float32))
        start = _PREAMBLE.size + length
        stop = start + header.rows * ((8 if header.ids else 0) + code.bytes_per_vector)
        size = os.fstat(file.fileno()).st_size
        if size != stop:
            raise IndexFileError(f"{path}: expected {stop} bytes, found {size}; {_ANEW}")
        if not header.rows:
            payload: NDArray[np.uint8] = np.empty(0, np.uint8)
        else:
            payload = np.memmap(file, np.uint8, "r", start, (stop - start,))
    if _digest(payload) != digest:
        raise IndexFileError(f"{path}: the content does not fit its checksum; copy the file again, or add the vectors")
    ids, codes = payload[: 8 * header.rows if header.ids else 0], payload[8 * header.rows if header.ids else 0 :]
    rows = Rows(
        codes.view(empty.dtype.newbyteorder("<")).reshape(header.rows, empty.shape[1]),
        empty,
        ids.view("<i8").astype(np.int64) if header.ids else None,
        np.empty(0, np.int64),
    )
    _check(path, header, rows)
    return header, rows


def _header(path: str | os.PathLike[str], text: bytes) -> tuple[Header, str]:
    try:
        stored = parse_object(text)
        digest = stored.pop("sha256")
        header = Header(**stored)
        (name, value), *more = header.code.items()
        good = (
            not more
            and all(type(value) is str for value in (digest, header.codec_id))
            and all(type(value) is int for value in (header.code_dim, header.rows, header.next_id))
            and type(header.ids) is bool
            and type(value) is {"dtype": str, "bytes": int}[name]
            and 0 <= header.rows <= _MOST_ROWS
            and 0 <= header.next_id <= 1 << 63
        )
    # The header is no JSON, no object, or lacks a value or has one of a wrong type.
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise IndexFileError(f"{path}: the header is malformed; {_ANEW}") from error
    if not good:
        raise IndexFileError(f"{path}: the header is malformed; {_ANEW}")
    return header, digest


def _code(path: str | os.PathLike[str], header: Header, codec: Codec) -> Code:
    if (header.codec_id, header.code_dim) != (codec.codec_id, codec.code_dim):
        raise CodecMismatchError(
            f"{path}: filled by codec {header.codec_id[:16]} at {header.code_dim} dimensions, cannot be "
            f"searched with codec {codec.codec_id[:16]} at {codec.code_dim}; load the codec that filled it"
        )
    try:
        return codec.code(**header.code)
    except (InvalidBudgetError, NotCalibratedError) as error:
        raise IndexFileError(f"{path}: the codec has no such code: {error}") from error


def _digest(payload: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(payload), _BLOCK_BYTES):
        digest.update(payload[start : start + _BLOCK_BYTES].data)
    return digest.hexdigest()


def _check(path: str | os.PathLike[str], header: Header, rows: Rows) -> None:
    if rows.ids is None:
        if header.next_id < header.rows:
            raise IndexFileError(f"{path}: the header is malformed; {_ANEW}")
    elif len(rows.ids) and (len(np.unique(rows.ids)) < len(rows.ids) or int(rows.ids.max()) >= header.next_id):
        raise IndexFileError(f"{path}: the ids are malformed; {_ANEW}")
    if rows.stored.dtype.kind == "f":
        for first, codes in rows.blocks(_BLOCK_BYTES // max(1, rows.stored.shape[1])):
            finite = np.isfinite(codes).all(axis=1)
            if not finite.all():
                raise IndexFileError(f"{path}: row {first + int(np.argmin(finite))} holds NaN or infinity; {_ANEW}")
