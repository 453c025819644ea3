"""Check a file of usearch before usearch reads it: usearch trusts its counts and follows links blindly."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import (
    IndexFileError,
)

# Layout: a matrix of vectors, its description, then the graph: a level per element, and its key, level and links.
_MATRIX = struct.Struct("<II")
_DENSE = struct.Struct("<7s3H4B3QB22x")
_GRAPH = struct.Struct("<5Q")
_MAGIC = b"usearch"
# usearch's number for each metric.
_METRICS = {"cos": ord("c"), "ip": ord("i"), "l2sq": ord("e")}
# usearch's number for each type of stored latents, and the bytes of one value.
_SCALARS = {"f32": (11, 4), "f16": (12, 2), "bf16": (4, 2), "i8": (23, 1)}
# usearch's numbers for the type of keys, 64 bits, and of element numbers, 32 bits.
_KEYS, _SLOTS = 14, 15
_KEY_AND_LEVEL_BYTES = 10

Bytes = NDArray[np.uint8]


def check_usearch_payload(path: Path, name: str, code_dim: int, metric: str, dtype: str) -> None:
    """Check every count, size and link of an index over ``code_dim`` values.

    Args:
        path: the bytes that ``usearch.index.Index.save`` wrote.
        name: the file they come from, for error messages.
        code_dim: width of the latents.
        metric: usearch's name of the distance.
        dtype: what a latent's number is kept as.

    Raises:
        IndexFileError: usearch could not have written this file.
    """
    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    _Payload(content, name, code_dim, _METRICS[metric], dtype).check()


class _Payload:
    """Hold the parts of the file, found by the counts in it, which are checked before they are used."""

    def __init__(self, content: Bytes, name: str, code_dim: int, metric: int, dtype: str) -> None:
        self._content, self._name, self._code_dim, self._metric, self._dtype = content, name, code_dim, metric, dtype

    def error(self, detail: str) -> IndexFileError:
        return IndexFileError(
            f"{self._name}: expected an index that usearch wrote over {self._dtype} latents of width "
            f"{self._code_dim}, got one that cannot be: {detail}; save it again from its source"
        )

    def check(self) -> None:
        if len(self._content) < _MATRIX.size:
            raise self.error("the head is cut off")
        rows, row_bytes = _MATRIX.unpack_from(self._content.data)
        self._check_vectors(rows, row_bytes)
        place = _MATRIX.size + rows * row_bytes
        if len(self._content) < place + _DENSE.size + _GRAPH.size:
            raise self.error(f"{rows} vectors of {row_bytes} bytes leave no room for a graph")
        self._check_description(_DENSE.unpack_from(self._content.data, place), rows)
        place += _DENSE.size
        size, connectivity, connectivity_0, top, entry = _GRAPH.unpack_from(self._content.data, place)
        if size != rows or not 2 <= connectivity <= connectivity_0 < 2**16:
            raise self.error(f"{size} elements of {rows} vectors, {connectivity} and {connectivity_0} links")
        place += _GRAPH.size
        if len(self._content) < place + 2 * size:
            raise self.error("the levels are cut off")
        levels = np.frombuffer(self._content, "<i2", size, place).astype(np.int64)
        if size and (levels.min() < 0 or entry >= size or not levels.max() == levels[entry] == top):
            raise self.error(f"the entry point is element {entry} of level {top}")
        self._check_links(self._content[place + 2 * size :], levels, connectivity, connectivity_0)

    def _check_vectors(self, rows: int, row_bytes: int) -> None:
        _, item_bytes = _SCALARS[self._dtype]
        if rows and row_bytes != self._code_dim * item_bytes:
            raise self.error(f"vectors of {row_bytes} bytes")
        if self._dtype in ("f32", "f16") and _MATRIX.size + rows * row_bytes <= len(self._content):
            floats = f"<f{item_bytes}"
            if not np.isfinite(np.frombuffer(self._content, floats, rows * self._code_dim, _MATRIX.size)).all():
                raise self.error("a latent holds NaN or infinity")

    def _check_description(self, fields: tuple[Any, ...], rows: int) -> None:
        magic, _, _, _, metric, scalar, keys, slots, present, deleted, dim, multi = fields
        if magic != _MAGIC or (keys, slots) != (_KEYS, _SLOTS):
            raise self.error("it has another magic number, or keys of another type")
        if metric != self._metric or scalar != _SCALARS[self._dtype][0]:
            raise self.error(f"it is for another metric or type of numbers ({metric}, {scalar})")
        if present + deleted != rows or dim != self._code_dim or multi:
            raise self.error(f"{present} elements and {deleted} deleted ones of {rows}, of width {dim}")

    def _check_links(self, nodes: Bytes, levels: NDArray[np.int64], connectivity: int, connectivity_0: int) -> None:
        """Check that every link leads to an element that has links of that level itself."""
        list_bytes, list_0_bytes = 4 + 4 * connectivity, 4 + 4 * connectivity_0
        node_bytes = _KEY_AND_LEVEL_BYTES + list_0_bytes + levels * list_bytes
        if node_bytes.sum() != len(nodes):
            raise self.error(f"the links take {len(nodes)} bytes, not {node_bytes.sum()}")
        starts = np.cumsum(node_bytes) - node_bytes
        stored = nodes[starts[:, None] + np.arange(8, 10)]
        if (np.ascontiguousarray(stored).view("<i2").reshape(-1) != levels).any():
            raise self.error("an element is of two levels")
        self._check_lists(nodes, starts + _KEY_AND_LEVEL_BYTES, list_0_bytes, levels, 0)
        for level in range(1, int(levels.max(initial=0)) + 1):
            upper = starts[levels >= level] + _KEY_AND_LEVEL_BYTES + list_0_bytes + (level - 1) * list_bytes
            self._check_lists(nodes, upper, list_bytes, levels, level)

    def _check_lists(
        self, nodes: Bytes, starts: NDArray[np.int64], list_bytes: int, levels: NDArray[np.int64], level: int
    ) -> None:
        for first in range(0, len(starts), 1 << 15):  # in blocks, because each byte takes an index of 8 bytes
            words = nodes[starts[first : first + (1 << 15), None] + np.arange(list_bytes)].view("<u4")
            counts, links = words[:, 0], words[:, 1:]
            if counts.max() > links.shape[1]:
                raise self.error(f"an element with {counts.max()} links on level {level}")
            linked = links[np.arange(links.shape[1]) < counts[:, None]]
            if linked.size and linked.max() >= len(levels):
                raise self.error(f"a link to element {linked.max()} of {len(levels)}")
            if linked.size and levels[linked].min() < level:
                raise self.error(f"a link on level {level} to an element that ends below it")
