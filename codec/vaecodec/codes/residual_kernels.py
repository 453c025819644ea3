"""Compile the inner loops of the residual stages with numba.

Import only after ``vaecodec.extras.require("numba", extra="packed")``. Sums are taken in a fixed order, one IEEE
float32 operation after the other, so that a row's code is the same alone, in any batch and on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vaecodec.codes.kernels import compiled

Float = NDArray[np.float32]

_ROWS = 8
_COLUMNS = 256


@compiled
def products(rows: Float, columns: Float, out: Float) -> None:
    """Write ``rows @ columns`` into ``out``, each sum from the first coordinate to the last.

    ``rows`` is (n, k), ``columns`` (k, c). A few rows and some columns at a time: sums stay in the nearest cache.
    """
    for first in range(0, len(rows), _ROWS):
        last = min(first + _ROWS, len(rows))
        for start in range(0, columns.shape[1], _COLUMNS):
            stop = min(start + _COLUMNS, columns.shape[1])
            out[first:last, start:stop] = 0
            for j in range(len(columns)):
                column = columns[j, start:stop]
                for row in range(first, last):
                    factor = rows[row, j]
                    sums = out[row, start:stop]
                    for c in range(stop - start):
                        sums[c] += factor * column[c]


@compiled
def search_stages(scores: Float, squares: Float, crossed: Float, width: int, codes: NDArray[np.uint8]) -> None:
    """Choose one centroid a stage for each row, by a beam search for the least squared error, into ``codes``.

    ``scores`` (n, m * 256) are the products of rows and centroids, ``squares`` (m, 256) the centroids' squared norms,
    ``crossed`` (m * 256, m * 256) their products with each other, ``codes`` (n, m). ``width`` partial choices are
    kept after each stage; at equal errors the one that was found first, partial choices in the order of their error.
    """
    stages = len(squares)
    choices = np.zeros((2, width, stages), np.int64)
    costs = np.empty((2, width), np.float32)
    errors = np.empty(256, np.float32)
    best_costs = np.empty(width, np.float32)
    best_from = np.empty(width, np.int64)
    for row in range(len(scores)):
        kept = 1
        costs[0, 0] = 0
        now = 0
        for stage in range(stages):
            found = 0
            for partial in range(kept):
                for c in range(256):
                    errors[c] = costs[now, partial] + (squares[stage, c] - 2 * scores[row, 256 * stage + c])
                for earlier in range(stage):
                    products_ = crossed[256 * earlier + choices[now, partial, earlier], 256 * stage : 256 * stage + 256]
                    for c in range(256):
                        errors[c] += 2 * products_[c]
                for c in range(256):
                    if found == width and not errors[c] < best_costs[width - 1]:
                        continue
                    place = min(found, width - 1)
                    while place > 0 and errors[c] < best_costs[place - 1]:
                        best_costs[place] = best_costs[place - 1]
                        best_from[place] = best_from[place - 1]
                        place -= 1
                    best_costs[place] = errors[c]
                    best_from[place] = 256 * partial + c
                    found = min(found + 1, width)
            following = 1 - now
            for place in range(found):
                partial = best_from[place] >> 8
                for earlier in range(stage):
                    choices[following, place, earlier] = choices[now, partial, earlier]
                choices[following, place, stage] = best_from[place] & 255
                costs[following, place] = best_costs[place]
            kept = found
            now = following
        for stage in range(stages):
            codes[row, stage] = choices[now, 0, stage]


@compiled
def add_levels(levels: Float, axes: Float, out: Float) -> None:
    """Add ``levels @ axes`` to ``out``, (n, k), axis by axis in order."""
    for row in range(len(levels)):
        sums = out[row]
        for t in range(len(axes)):
            level = levels[row, t]
            axis = axes[t]
            for j in range(len(axis)):
                sums[j] += level * axis[j]


@compiled
def add_rows(rows: Float, groups: NDArray[np.int64], sums: Float) -> None:
    """Add each row, of (n, k), to the row of ``sums`` that its group numbers."""
    for row in range(len(rows)):
        into = sums[groups[row]]
        added = rows[row]
        for j in range(len(added)):
            into[j] += added[j]
