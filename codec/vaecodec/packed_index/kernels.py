"""Compile the inner loops of the sketch with numba.

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

_1, _2, _3, _4, _5, _6 = (np.uint64(shift) for shift in range(1, 7))

Words = NDArray[np.uint64]


def _count_ones(_: Any, word: Any) -> Any:
    """Count the ones of a word; processors have an instruction for it."""

    def emit(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(word), emit


_ones: Any = intrinsic(_count_ones)


@compiled
def weigh_signs(words: Words, planes: Words, step: Any, offset: Any, out: Any) -> None:
    """Write ``offset + step`` times the sum of a query's integers where a row's higher bits are ones into ``out``.

    Arguments are those of :func:`weigh`; ``planes`` (w, 4) may be of the first words only.
    """
    sums = np.empty(BLOCK, np.uint64)
    for block in range(len(words)):
        sums[:] = 0
        for word in range(len(planes)):
            column = words[block, word]
            a, b, c, d = planes[word, 0], planes[word, 1], planes[word, 2], planes[word, 3]
            for row in range(BLOCK):
                w = column[row]
                sums[row] += _ones(w & a) + (_ones(w & b) << _1) + (_ones(w & c) << _2) - (_ones(w & d) << _3)
        for row in range(BLOCK):
            out[block, row] = offset + step * np.float32(np.int64(sums[row]))


@compiled
def weigh_coarsely(words: Words, planes: Words, step: Any, offset: Any, out: Any) -> None:
    """Work as :func:`weigh`, for a query of four bits."""
    sums = np.empty(BLOCK, np.uint64)
    half = len(planes)
    for block in range(len(words)):
        sums[:] = 0
        for part in range(2):
            for word in range(half):
                column = words[block, half * part + word]
                a, b, c, d = planes[word, 0], planes[word, 1], planes[word, 2], planes[word, 3]
                for row in range(BLOCK):
                    w = column[row]
                    count = _ones(w & a) + (_ones(w & b) << _1) + (_ones(w & c) << _2) - (_ones(w & d) << _3)
                    sums[row] += count << np.uint64(1 - part)
        for row in range(BLOCK):
            out[block, row] = offset + step * np.float32(np.int64(sums[row]))


@compiled
def weigh_some(words: Words, numbers: Any, planes: Words, step: Any, offset: Any, out: Any) -> None:
    """Work as :func:`weigh` for the rows of ``numbers``, int64 (n,), and a query of four bits; ``out`` is (n,)."""
    half = len(planes)
    for i in range(len(numbers)):
        block, row = numbers[i] // BLOCK, numbers[i] % BLOCK
        total = np.uint64(0)
        for word in range(half):
            a, b, c, d = planes[word, 0], planes[word, 1], planes[word, 2], planes[word, 3]
            w = words[block, word, row]
            high = _ones(w & a) + (_ones(w & b) << _1) + (_ones(w & c) << _2) - (_ones(w & d) << _3)
            w = words[block, half + word, row]
            low = _ones(w & a) + (_ones(w & b) << _1) + (_ones(w & c) << _2) - (_ones(w & d) << _3)
            total += (high << _1) + low
        out[i] = offset + step * np.float32(np.int64(total))


@compiled
def weigh(words: Words, planes: Words, step: Any, offset: Any, out: Any) -> None:
    """Write ``offset + step`` times the product of an integer query with each row's levels, float32, into ``out``.

    The query's integers are given bit by bit in two's complement: plane p of word w holds bit p of its numbers, and
    the last plane is worth minus its power of two. ``words`` is (blocks, 2 * w, BLOCK), the higher bits of the levels
    before the lower ones, ``planes`` (w, 7), ``out`` float32 (blocks, BLOCK).
    """
    sums = np.empty(BLOCK, np.uint64)
    half = len(planes)
    for block in range(len(words)):
        sums[:] = 0
        for part in range(2):
            for word in range(half):
                column = words[block, half * part + word]
                a, b, c, d = planes[word, 0], planes[word, 1], planes[word, 2], planes[word, 3]
                e, f, g = planes[word, 4], planes[word, 5], planes[word, 6]
                for row in range(BLOCK):
                    w = column[row]
                    low = _ones(w & a) + (_ones(w & b) << _1) + (_ones(w & c) << _2) + (_ones(w & d) << _3)
                    count = low + (_ones(w & e) << _4) + (_ones(w & f) << _5) - (_ones(w & g) << _6)
                    sums[row] += count << np.uint64(1 - part)
        for row in range(BLOCK):
            out[block, row] = offset + step * np.float32(np.int64(sums[row]))
