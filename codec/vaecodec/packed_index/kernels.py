"""The sketch's inner loops, compiled by numba.

Import only after ``vaecodec.extras.require("numba", extra="packed")``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from vaecodec.codes.kernels import compiled

BLOCK = 256
"""Rows whose words lie together: one word of each row after the other, so that one instruction takes several rows."""

_BINS = 4096


def _count_ones(_: Any, word: Any) -> Any:
    """Count the ones of a word; processors have an instruction for it."""

    def emit(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(word), emit


_ones: Any = intrinsic(_count_ones)


@compiled
def weigh(words: NDArray[np.uint64], planes: NDArray[np.uint64], shifts: NDArray[np.uint64], sums: Any) -> None:
    """The products of integer queries with the words' ones, ``shifts[w]`` more bits for word w.

    A query's integers are given bit by bit in two's complement: plane p of word w holds bit p of its numbers, and the
    last plane is worth minus its power of two. ``words`` is (blocks, words, BLOCK), ``planes`` (words, planes),
    ``sums`` int64 (blocks, BLOCK).
    """
    last = planes.shape[1] - 1
    for block in range(len(words)):
        row_sums = sums[block]
        row_sums[:] = 0
        for word in range(words.shape[1]):
            column = words[block, word]
            for plane in range(last):
                mask = planes[word, plane]
                shift = np.uint64(plane + shifts[word])
                for row in range(BLOCK):
                    row_sums[row] += np.int64(_ones(column[row] & mask) << shift)
            mask = planes[word, last]
            shift = np.uint64(last + shifts[word])
            for row in range(BLOCK):
                row_sums[row] -= np.int64(_ones(column[row] & mask) << shift)


@compiled
def least_of_best(values: NDArray[np.float32], count: int) -> Any:
    """A value that at least ``count`` of the values reach, and not many more; minus infinity counts as missing."""
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for value in values:
        if value > -np.inf:
            low = min(low, value)
            high = max(high, value)
    if not low < high:
        return low
    scale = (_BINS - 1) / (high - low)
    found = np.zeros(_BINS, np.int64)
    for value in values:
        if value > -np.inf:
            found[int((value - low) * scale)] += 1
    best = 0
    for number in range(_BINS - 1, -1, -1):
        best += found[number]
        if best >= count:
            # A little lower, as the division may round the other way than the product above.
            return low + (number - 0.01) / scale
    return low
