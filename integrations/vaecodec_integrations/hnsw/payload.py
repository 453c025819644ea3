"""Check a file of hnswlib before hnswlib reads it: hnswlib trusts every number in it and follows links blindly."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import (
    IndexFileError,
)

# The header of hnswlib 0.8: six sizes, the top level and the entry point, three limits of links, a factor, ef.
_HEAD = struct.Struct("<6Qi I3QdQ")
_NONE = 2**32 - 1
_LARGEST_M = 10_000  # hnswlib's largest M
_BLOCK_BYTES = 1 << 24

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class HnswPayload:
    """Hold the content of a checked file.

    Attributes:
        capacity: elements that it reserves room for.
        labels: uint64 (n,), in the order of the elements.
        deleted: the labels that are marked deleted, ascending.
    """

    capacity: int
    labels: NDArray[np.uint64]
    deleted: list[int]


def check_hnsw_payload(path: Path, name: str, code_dim: int) -> HnswPayload:
    """Check every count, size and link of an index over ``code_dim`` float32 values.

    Args:
        path: the bytes that ``hnswlib.Index.save_index`` wrote.
        name: the file they come from, for error messages.
        code_dim: width of the latents.

    Raises:
        IndexFileError: hnswlib could not have written this file.
    """
    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    graph = _Graph(content, name, code_dim)
    levels = graph.levels()
    graph.check_entry(levels)
    graph.check_links(levels)
    graph.check_values()
    labels = graph.labels()
    if len(np.unique(labels)) != len(labels):
        raise graph.error("two elements have the same id")
    return HnswPayload(graph.capacity, labels, sorted(labels[graph.deleted_marks()].tolist()))


class _Graph:
    """Hold the parts of the file, found by the sizes in its header, which are checked first."""

    def __init__(self, content: Bytes, name: str, code_dim: int) -> None:
        self._name = name
        self._code_dim = code_dim
        if len(content) < _HEAD.size:
            raise self.error("the head is cut off")
        (offset, self.capacity, self.count, row_bytes, label_at, data_at) = _HEAD.unpack_from(content.data)[:6]
        (self.top, self.entry, links, links_0, m, factor, ef) = _HEAD.unpack_from(content.data)[6:]
        if not (2 <= m <= _LARGEST_M and links == m and links_0 == 2 * m and m <= ef < 2**31):
            raise self.error(f"M={m}, with {links} and {links_0} links and ef_construction={ef}")
        if not math.isclose(factor, 1 / math.log(m)):
            raise self.error(f"the factor of levels is {factor} with M={m}")
        places = (0, 4 + 4 * links_0, 4 + 4 * links_0 + 4 * code_dim, 12 + 4 * links_0 + 4 * code_dim)
        if (offset, data_at, label_at, row_bytes) != places:
            raise self.error(f"elements of {row_bytes} bytes, but latents of width {code_dim} take {places[3]}")
        if self.count > self.capacity or self.count >= _NONE or self.count * row_bytes > len(content) - _HEAD.size:
            raise self.error(f"{self.count} elements of {row_bytes} bytes, with room for {self.capacity}")
        if self.capacity * row_bytes > _memory_bytes():
            raise self.error(f"it reserves room for {self.capacity} elements, more than this machine has memory for")
        self._data_at = data_at
        self._label_at = label_at
        self._level_bytes = 4 + 4 * links
        end = _HEAD.size + self.count * row_bytes
        self._rows = content[_HEAD.size : end].reshape(self.count, row_bytes)
        self._upper = content[end:]

    def error(self, detail: str) -> IndexFileError:
        return IndexFileError(
            f"{self._name}: expected an index that hnswlib wrote over latents of width {self._code_dim}, got one that "
            f"cannot be: {detail}; save it again from its source"
        )

    def levels(self) -> NDArray[np.int64]:
        """Return the level of each element, from the sizes of its lists of links."""
        levels = np.zeros(self.count, np.int64)
        self._starts = np.zeros(self.count, np.int64)
        place, content = 0, bytes(self._upper)
        for element in range(self.count):
            if place + 4 > len(content):
                raise self.error(f"the links of element {element} are cut off")
            size = int.from_bytes(content[place : place + 4], "little")
            if size:
                levels[element], rest = divmod(size, self._level_bytes)
                if rest or place + 4 + size > len(content):
                    raise self.error(f"element {element} has links of {size} bytes")
                self._starts[element] = place + 4
            place += 4 + size
        if place != len(content):
            raise self.error(f"{len(content) - place} bytes follow the last element")
        return levels

    def check_entry(self, levels: NDArray[np.int64]) -> None:
        if self.count == 0:
            if (self.top, self.entry) != (-1, _NONE):
                raise self.error("an empty index with an entry point")
        elif self.entry >= self.count or not levels.max() == levels[self.entry] == self.top:
            raise self.error(f"the entry point is element {self.entry} of level {self.top}")

    def check_links(self, levels: NDArray[np.int64]) -> None:
        """Check that every link leads to an element that has links of that level itself."""
        for rows in _blocks(self._rows):
            self._check_lists(rows[:, : self._data_at], levels, 0)
        for level in range(1, self.top + 1):
            starts = self._starts[levels >= level] + (level - 1) * self._level_bytes
            places = starts[:, None] + np.arange(self._level_bytes)
            self._check_lists(self._upper[places], levels, level)

    def _check_lists(self, lists: Bytes, levels: NDArray[np.int64], level: int) -> None:
        words = np.ascontiguousarray(lists).view("<u4")
        counts, neighbours = words[:, 0] & 0xFFFF, words[:, 1:]
        if counts.size and counts.max() > neighbours.shape[1]:
            raise self.error(f"an element with {counts.max()} links on level {level}")
        if (words[:, 0] >> 16).max(initial=0) > (1 if level == 0 else 0):
            raise self.error(f"an element with an unknown mark on level {level}")
        linked = neighbours[np.arange(neighbours.shape[1]) < counts[:, None]]
        if linked.size and linked.max() >= self.count:
            raise self.error(f"a link to element {linked.max()} of {self.count}")
        if linked.size and levels[linked].min() < level:
            raise self.error(f"a link on level {level} to an element that ends below it")

    def check_values(self) -> None:
        for rows in _blocks(self._rows):
            if not np.isfinite(np.ascontiguousarray(rows[:, self._data_at : self._label_at]).view("<f4")).all():
                raise self.error("a latent holds NaN or infinity")

    def labels(self) -> NDArray[np.uint64]:
        return np.ascontiguousarray(self._rows[:, self._label_at :]).view("<u8").reshape(-1).astype(np.uint64)

    def deleted_marks(self) -> NDArray[np.bool_]:
        marks: NDArray[np.bool_] = self._rows[:, 2] == 1
        return marks


def _blocks(rows: Bytes) -> list[Bytes]:
    step = max(1, _BLOCK_BYTES // max(1, rows.shape[1]))
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def _memory_bytes() -> float:
    """Return the bytes of the machine's memory; infinite where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf
