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

Words = NDArray[np.uint64]


def _count_ones(_: Any, word: Any) -> Any:
    """Count the ones of a word; processors have an instruction for it."""

    def emit(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(word), emit


_ones: Any = intrinsic(_count_ones)


@compiled
def weigh(words: Words, planes: Words, places: Words, step: Any, offset: Any, out: Any) -> None:
    """Write ``offset + step`` times the product of an integer query with each row's numbers, float32, into ``out``.

    A row's words are bits of its numbers; a bit of word w is worth two to the power of ``places[w]``. The query's
    integers are given bit by bit in two's complement for each word: plane p holds bit p, and the last plane is worth
    minus its power of two. ``words`` is (blocks, m, BLOCK), ``planes`` (m, 7), ``places`` (m,), ``out`` float32
    (blocks, BLOCK).
    """
    sums = np.empty(BLOCK, np.uint64)
    for block in range(len(words)):
        sums[:] = 0
        for word in range(len(planes)):
            column, place = words[block, word], places[word]
            a, b, c, d = planes[word, 0], planes[word, 1], planes[word, 2], planes[word, 3]
            e, f, g = planes[word, 4], planes[word, 5], planes[word, 6]
            for row in range(BLOCK):
                # Use Horner's rule, because doubling takes less time than shifting.
                w = column[row]
                highest = _ones(w & g)
                count = _ones(w & f) - highest - highest
                count = count + count + _ones(w & e)
                count = count + count + _ones(w & d)
                count = count + count + _ones(w & c)
                count = count + count + _ones(w & b)
                sums[row] += (count + count + _ones(w & a)) << place
        for row in range(BLOCK):
            out[block, row] = offset + step * np.float32(np.int64(sums[row]))


@compiled
def _coarse(w: Any, planes: Words) -> Any:
    """Return the product of a query of four bits with the bits of a word."""
    highest = _ones(w & planes[3])
    count = _ones(w & planes[2]) - highest - highest
    count = count + count + _ones(w & planes[1])
    return count + count + _ones(w & planes[0])


@compiled
def weigh_coarsely(words: Words, planes: Words, places: Words, step: Any, offset: Any, out: Any) -> None:
    """Work as :func:`weigh`, for a query of four bits."""
    sums = np.empty(BLOCK, np.uint64)
    for block in range(len(words)):
        sums[:] = 0
        for word in range(len(planes)):
            column, bits, place = words[block, word], planes[word], places[word]
            for row in range(BLOCK):
                sums[row] += _coarse(column[row], bits) << place
        for row in range(BLOCK):
            out[block, row] = offset + step * np.float32(np.int64(sums[row]))


@compiled
def weigh_signs(words: Words, planes: Words, _: Any, step: Any, offset: Any, out: Any) -> None:
    """Work as :func:`weigh`, for a query of four bits, by as many words as there are ``planes``, all worth the same."""
    sums = np.empty(BLOCK, np.uint64)
    for block in range(len(words)):
        sums[:] = 0
        for word in range(len(planes)):
            column, bits = words[block, word], planes[word]
            for row in range(BLOCK):
                sums[row] += _coarse(column[row], bits)
        for row in range(BLOCK):
            out[block, row] = offset + step * np.float32(np.int64(sums[row]))


@compiled
def weigh_some(words: Words, numbers: Any, planes: Words, places: Words, step: Any, offset: Any, out: Any) -> None:
    """Work as :func:`weigh` for the rows of ``numbers``, int64 (n,), and a query of four bits; ``out`` is (n,)."""
    for i in range(len(numbers)):
        block, row = numbers[i] // BLOCK, numbers[i] % BLOCK
        total = np.uint64(0)
        for word in range(len(planes)):
            total += _coarse(words[block, word, row], planes[word]) << places[word]
        out[i] = offset + step * np.float32(np.int64(total))


@compiled
def find_reaching(scores: Any, lost: Any, reach: Any, least: Any, places: Any) -> int:
    """Write the places where ``scores + reach * lost`` is not below ``least`` into ``places``; return their number.

    ``scores`` and ``lost`` are float32 (n,), ``places`` int64 (n,). A NaN is not below.
    """
    count = 0
    for i in range(len(scores)):
        places[count] = i
        count += not (scores[i] + reach * lost[i] < least)
    return count
