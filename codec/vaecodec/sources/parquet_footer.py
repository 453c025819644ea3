"""Read from the footer's bytes how many values the chunks of a Parquet file claim to hold.

pyarrow gives these numbers, too, but ends the process where a damaged footer contradicts itself: what its object of a
column chunk throws does not reach Python. The footer is in Thrift's compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md); the numbers of its fields are those
of https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaecodec.errors import MalformedSourceError

# Types of Thrift's compact protocol; the others are numbers.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
# Deepest nesting to read; real footers are far below.
_DEEPEST = 32


def chunk_values(path: Path) -> list[tuple[int, str, int]]:
    """Return of every column chunk its row group's number of rows, its column's path, and its number of values.

    Raises:
        MalformedSourceError: the footer is damaged.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        footer = file.read(length)
    try:
        groups = _Reader(footer).struct()[4]
        found = [
            (group[3], ".".join(name.decode() for name in chunk[3][3]), chunk[3][5])
            for group in groups
            for chunk in group[1]
            if 3 in chunk  # the description of an encrypted column cannot be read
        ]
        if not all(isinstance(rows, int) and isinstance(values, int) for rows, _, values in found):
            raise TypeError("a count that is no number")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise MalformedSourceError(f"{path}: damaged Parquet footer ({error!r}); write the file again") from None
    return found


class _Reader:
    """Read values of Thrift's compact protocol: a struct as a dict by field number."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0
        self._depth = 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._nested(kind)
        return fields

    def _nested(self, kind: int) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("nested too deeply")
        value = self._value(kind)
        self._depth -= 1
        return value

    def _value(self, kind: int) -> Any:
        if kind == _STRUCT:
            return self.struct()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, _SET):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._nested(head & 15) for _ in range(self._counted(size))]
        if kind == _MAP:
            size = self._varint()
            kinds = self._byte() if size else 0
            return [(self._nested(kinds >> 4), self._nested(kinds & 15)) for _ in range(self._counted(size))]
        if kind in (_TRUE, _FALSE, _BYTE):  # only in lists; for a field its type already says true or false
            return self._byte()
        return self._bytes(8) if kind == _DOUBLE else self._zigzag()

    def _counted(self, size: int) -> int:
        """Return a count, and refuse one that is too large for the bytes left: every value takes at least one byte."""
        if size > len(self._content) - self._at:
            raise ValueError("more values than bytes")
        return size

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _bytes(self, size: int) -> bytes:
        self._at += self._counted(size)
        return self._content[self._at - size : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
