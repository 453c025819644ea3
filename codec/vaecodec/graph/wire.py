"""Read protobuf messages from bytes (https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

NUMBER, BYTES = 0, 2


class Field(NamedTuple):
    """Hold one field of a message.

    Attributes:
        number: which field, as the message's definition counts.
        kind: ``NUMBER``, ``BYTES`` for a string or message, or another wire type.
        value: the number, of a field of that kind.
        start: where its bytes begin.
        stop: where they end.
    """

    number: int
    kind: int
    value: int
    start: int
    stop: int


def fields(data: bytes, start: int, stop: int) -> Iterator[Field]:
    """Read the fields of one message; raises ``ValueError`` or ``LookupError`` when the bytes are not one."""
    while start < stop:
        tag, start = _varint(data, start)
        number, kind = tag >> 3, tag & 7
        value = 0
        if kind == NUMBER:
            value, end = _varint(data, start)
        elif kind == 1:
            end = start + 8
        elif kind == BYTES:
            length, start = _varint(data, start)
            end = start + length
        elif kind == 5:
            end = start + 4
        else:
            raise ValueError(f"wire type {kind} is not in use")
        if number == 0 or end > stop:
            raise ValueError("a field reaches past its message")
        yield Field(number, kind, value, start, end)
        start = end


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a varint is longer than ten bytes")
