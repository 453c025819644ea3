"""Read ``.npy`` and ``.npz`` files. What a header promises is compared with the file before memory is taken for it."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import MalformedSourceError
from vaecodec.sources.base import malformed_if_it_fails

# Embeddings hardly compress. A higher ratio means a small file that would fill the memory (a zip bomb).
_MOST_COMPRESSED = 100
_SMALL_BYTES = 64 << 20

# numpy's own limit for the length of a header. numpy checks it only after it has read the header.
_MOST_HEADER_BYTES = 10_000


class NpyHeader(NamedTuple):
    """Hold the header of an array in numpy's format.

    Attributes:
        shape: its shape.
        fortran: whether it lies there column by column.
        dtype: its dtype.
        offset: where its values begin.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def promised(self) -> int:
        """Return the number of bytes that the array takes, with its header."""
        return self.offset + self.dtype.itemsize * int(np.prod(self.shape, dtype=object))


def read_header(file: IO[bytes], name: str) -> NpyHeader:
    """Read the header of an array; the file then stands at the first value.

    Args:
        file: stands at the beginning.
        name: what error messages call it.

    Raises:
        MalformedSourceError: it is no array in numpy's format.
    """
    with malformed_if_it_fails(f"{name}: not a readable .npy header"):
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):  # version 3 exists for field names beyond latin-1
            raise MalformedSourceError(f"{name}: .npy version {version[0]}.{version[1]} does not hold a plain array")
        counted = file.read(2 if version == (1, 0) else 4)
        length = int.from_bytes(counted, "little")
        if length > _MOST_HEADER_BYTES:
            raise MalformedSourceError(
                f"{name}: expected a .npy header of at most {_MOST_HEADER_BYTES:,} bytes, got {length:,}"
            )
        text = io.BytesIO(counted + file.read(length))
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(text)
    sizes = tuple(int(size) for size in shape)
    if any(size < 0 for size in sizes):
        raise MalformedSourceError(f"{name}: expected sizes of at least 0, got the shape {sizes}")
    return NpyHeader(sizes, fortran, dtype, len(np.lib.format.magic(*version)) + len(counted) + length)


def read_npy(path: Path) -> NDArray[Any]:
    """Read a whole array.

    Raises:
        MalformedSourceError: the file is none, holds Python objects, or is cut off.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header = read_header(file, str(path))
        size = path.stat().st_size
        if size < header.promised:
            raise MalformedSourceError(
                f"{path}: the header promises {header.promised:,} bytes, the file has {size:,}; it is cut off"
            )
        file.seek(0)
        return _array(file, str(path))


class NpzFile:
    """Read the arrays of an ``.npz``.

    Args:
        file: open for reading bytes.
        name: what error messages call it.

    Attributes:
        headers: of its arrays, by name; members of other programs are no arrays.

    Raises:
        MalformedSourceError: it is none, or is damaged.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._name = name
        with malformed_if_it_fails(f"{name}: not a complete .npz file"):
            self._archive = zipfile.ZipFile(file)
            members = [member for member in self._archive.namelist() if member.endswith(".npy")]
            if len(set(members)) < len(members):
                raise ValueError("an array is there twice")
            self.headers: dict[str, NpyHeader] = {}
            for member in members:
                with self._archive.open(member) as stored:
                    key = member.removesuffix(".npy")
                    self.headers[key] = read_header(stored, f"{name}[{key}]")

    def read(self, key: str) -> NDArray[Any]:
        """Read one array; raise ``MalformedSourceError`` if it is not there or not what its header promises."""
        name = f"{self._name}[{key}]"
        if key not in self.headers:
            raise MalformedSourceError(f"{name}: there is no such array; there are: {', '.join(self.headers)}")
        promised, stored = self.headers[key].promised, self._archive.getinfo(f"{key}.npy")
        if promised != stored.file_size:
            raise MalformedSourceError(
                f"{name}: the header promises {promised:,} bytes, the file has {stored.file_size:,}"
            )
        if promised > max(_SMALL_BYTES, _MOST_COMPRESSED * stored.compress_size):
            raise MalformedSourceError(
                f"{name}: {stored.compress_size:,} bytes would become {promised:,}, which no array of vectors does; "
                "save it with numpy.save"
            )
        with malformed_if_it_fails(f"{name}: damaged"), self._archive.open(f"{key}.npy") as file:
            return _array(file, name)


def read_npz(path: Path, keys: Collection[str]) -> list[NDArray[Any]]:
    """Read some arrays of an ``.npz``, in the order of ``keys``; raise as :class:`NpzFile` does, or ``OSError``."""
    with path.open("rb") as file:
        archive = NpzFile(file, str(path))
        return [archive.read(key) for key in keys]


def _array(file: IO[bytes], name: str) -> NDArray[Any]:
    with malformed_if_it_fails(f"{name}: not a complete array of plain values"):
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        if array.dtype.kind == "U" and array.dtype.itemsize:
            codes = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
            if codes.max(initial=0) > sys.maxunicode:
                raise ValueError("a character is none of Unicode")
        return array
