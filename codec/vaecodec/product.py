"""A matrix product that gives a row the same bits alone and in any batch, on any processor."""

from __future__ import annotations

import numpy as np

from vaecodec.interface import FloatArray

# Pairs of rows whose sum is taken again at once.
_PAIRS = 4096


def product(rows: FloatArray, matrix: FloatArray) -> FloatArray:
    """Multiply rows by the rows of a matrix, rounding each sum once.

    A library for matrix products adds in an order that depends on the number of rows, on their places and on the
    processor. In float64 the order has no influence on which float32 is nearest, except next to the middle between two
    of them: those sums are taken again, each in the same order always.

    Args:
        rows: float32 (n, d).
        matrix: float32 (k, d).

    Returns:
        float32 (n, k).
    """
    wide_rows, wide_matrix = rows.astype(np.float64), matrix.astype(np.float64)
    sums = wide_rows @ wide_matrix.T
    # Twice what the orders of adding can differ by: products of float32 are exact in float64.
    doubt = (
        4
        * rows.shape[1]
        * np.finfo(np.float64).eps
        * np.sqrt(
            np.outer(np.einsum("ij,ij->i", wide_rows, wide_rows), np.einsum("ij,ij->i", wide_matrix, wide_matrix))
        )
    )
    result = sums.astype(np.float32)
    left, right = np.nonzero((sums - doubt).astype(np.float32) != (sums + doubt).astype(np.float32))
    for start in range(0, len(left), _PAIRS):
        i, j = left[start : start + _PAIRS], right[start : start + _PAIRS]
        result[i, j] = np.einsum("ij,ij->i", wide_rows[i], wide_matrix[j])
    return result
