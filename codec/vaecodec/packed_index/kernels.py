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


def _count_ones(_: Any, word: Any) -> Any:
    """Count the ones of a word; processors have an instruction for it."""

    def emit(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(word), emit


_ones: Any = intrinsic(_count_ones)


@compiled
def weigh(
    words: NDArray[np.uint64], planes: NDArray[np.uint64], shifts: NDArray[np.uint64], step: Any, offset: Any, out: Any
) -> None:
    """Write ``offset + step`` times the product of an integer query with each row's levels, float32, into ``out``.

    The query's integers are given bit by bit in two's complement: plane p of word w holds bit p of its numbers, and
    the last plane is worth minus its power of two. A one in word w is worth ``2 ** shifts[w]``. ``words`` is
    (blocks, words, BLOCK), ``planes`` (words, planes), ``out`` float32 (blocks, BLOCK).
    """
    last = planes.shape[1] - 1
    sums = np.empty(BLOCK, np.uint64)
    for block in range(len(words)):
        sums[:] = 0
        for word in range(words.shape[1]):
            column = words[block, word]
            for plane in range(last):
                mask = planes[word, plane]
                shift = np.uint64(plane) + shifts[word]
                for row in range(BLOCK):
                    sums[row] += _ones(column[row] & mask) << shift
            mask = planes[word, last]
            shift = np.uint64(last) + shifts[word]
            for row in range(BLOCK):
                sums[row] -= _ones(column[row] & mask) << shift
        for row in range(BLOCK):
            out[block, row] = offset + step * np.float32(np.int64(sums[row]))
