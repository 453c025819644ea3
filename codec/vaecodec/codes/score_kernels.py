"""Score codes against one query in loops compiled by numba; ``kernels`` says what all compiled loops have in common.

Steps outside, rows inside: one step's table stays in the nearest cache and the rows' sums do not wait for each other.
Rows that are given up are taken out of the block, so that those that are left stay side by side.
"""

from __future__ import annotations

import numpy as np

from vaecodec.codes.kernels import Bytes, Float, Int, compiled

_BLOCK = 256
# Share of a squared norm: more than the rounding error of a float32 sum of a few thousand squares.
SLACK = np.float32(1e-5)


@compiled
def _read(codes: Bytes, numbers: Int, tables: Float, words: Float, sums: Float) -> None:
    """Add the scores of the first bytes of each code to ``sums``, and lay out the others as overlapping words."""
    stages = len(tables)
    size = codes.shape[1] - stages
    for stage in range(stages):
        table = tables[stage]
        for row in range(len(numbers)):
            sums[row] += table[codes[numbers[row], stage]]
    whole = size // 4
    for row in range(len(numbers)):
        code = codes[numbers[row], stages:]
        for word in range(whole):
            at = 4 * word
            words[word, row] = (
                (np.uint32(code[at]) << np.uint32(24))
                | (np.uint32(code[at + 1]) << np.uint32(16))
                | (np.uint32(code[at + 2]) << np.uint32(8))
                | np.uint32(code[at + 3])
            )
        for word in range(whole, len(words)):
            bits = np.uint32(0)
            for byte in range(4 * word, 4 * word + 4):
                bits = (bits << np.uint32(8)) | np.uint32(code[byte % size])
            words[word, row] = bits


@compiled
def _add_step(
    words: Float, start: int, memory: int, table: Float, centre: float, width: float, weight: float, count: int,
    sums: Float, seen: Float,
) -> None:  # fmt: skip
    """Add one step's products, and the squares of its coordinates, for the first ``count`` rows."""
    bits = np.uint32(32)
    mask = np.uint32((1 << memory) - 1)
    high = words[start >> 5]
    low = words[(start >> 5) + 1]
    end = np.uint32((start & 31) + memory)
    if end <= bits:
        drop = np.uint32(bits - end)
        for i in range(count):
            value = centre + width * table[np.uint32(high[i] >> drop) & mask]
            sums[i] += weight * value
            seen[i] += value * value
    else:
        rise, drop = np.uint32(end - bits), np.uint32(bits + bits - end)
        for i in range(count):
            state = np.uint32(np.uint32(high[i] << rise) | np.uint32(low[i] >> drop)) & mask
            value = centre + width * table[state]
            sums[i] += weight * value
            seen[i] += value * value


@compiled
def _keep(
    count: int, reach: float, squares: Float, needed: Float, alive: Int, reached: Int, words: Float, sums: Float,
    seen: Float,
) -> int:  # fmt: skip
    """Remove the rows that cannot reach ``needed`` any more; return how many are kept.

    While most rows are kept, all are: moving them would take longer than adding their steps.
    """
    kept = 0
    for position in range(count):
        row = alive[position]
        left = max(squares[row] - seen[position], np.float32(0)) + SLACK * squares[row]
        reached[position] = sums[position] + reach * np.sqrt(left) >= needed[row]
        kept += reached[position]
    if reach > 0 and 4 * kept > 3 * count:
        return count
    kept = 0
    for position in range(count):
        if reached[position]:
            alive[kept] = alive[position]
            sums[kept] = sums[position]
            seen[kept] = seen[position]
            if kept < position:
                for word in range(len(words)):
                    words[word, kept] = words[word, position]
            kept += 1
    return kept


@compiled
def score_rows(
    codes: Bytes, numbers: Int, tables: Float, starts: Int, memory: int, rates: Int, levels: Float, mean: Float,
    spread: Float, query: Float, order: Int, stages: Int, reaches: Float, square: float, squares: Float, needed: Float,
    dots: Float,
) -> None:  # fmt: skip
    """Add the dot product of a query with every code that can reach ``needed`` to ``dots``; minus infinity for others.

    Codes are those of ``numbers``, (n,), among ``codes``. Their first bytes are looked up in ``tables``, (m, 256). The
    others are a trellis's: step t's coordinate is ``mean[t] + spread[t] * level``, worth ``query[t]``, and its state
    begins at bit ``starts[t]``. The steps are taken in the given order; after each number of them in ``stages`` a row
    is given up if what is left of its squared norm, in the direction of what is left of the query, whose norm is in
    ``reaches``, would not do. ``square`` is of the dimensions without bits. ``squares``, ``needed`` and ``dots`` are
    (n,).
    """
    size = codes.shape[1] - len(tables)
    words = np.empty((size // 4 + 2 if size else 0, _BLOCK), np.uint32)
    sums = np.empty(_BLOCK, np.float32)
    seen = np.empty(_BLOCK, np.float32)
    alive = np.empty(_BLOCK, np.int64)
    reached = np.empty(_BLOCK, np.int64)
    for first in range(0, len(numbers), _BLOCK):
        last = min(first + _BLOCK, len(numbers))
        count = last - first
        for i in range(count):
            alive[i] = i
            sums[i] = dots[first + i]
            seen[i] = square
        _read(codes, numbers[first:last], tables, words, sums)
        done = 0
        for stage in range(len(stages)):
            for t in order[done : stages[stage]]:
                _add_step(words, starts[t], memory, levels[rates[t]], mean[t], spread[t], query[t], count, sums, seen)
            done = stages[stage]
            count = _keep(
                count, reaches[stage], squares[first:last], needed[first:last], alive, reached, words, sums, seen
            )
            if count == 0:
                break
        dots[first:last] = -np.inf
        for position in range(count):
            dots[first + alive[position]] = sums[position]
