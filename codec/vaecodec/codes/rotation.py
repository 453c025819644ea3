"""Rotate latents at random, as uniform codes of 4 bits and fewer need; the rotation is fixed."""

from __future__ import annotations

import numpy as np

from vaecodec.interface import FloatArray

ROTATION_ROUNDS = 4


def random_signs(width: int, seed: int) -> FloatArray:
    """Draw what :func:`rotate` multiplies by: float32 (4, width) of -1 and 1."""
    signs = np.random.default_rng(seed).integers(0, 2, (ROTATION_ROUNDS, width))
    return (2 * signs - 1).astype(np.float32)


def rotate(rows: FloatArray, signs: FloatArray) -> FloatArray:
    """Apply a fixed random rotation: float32 (n, k) to float32 (n, k).

    Each round flips signs and applies a Walsh-Hadamard transform to the first 2^m dimensions, or in every other round
    to the last 2^m, where 2^m is the largest power of two within k. Additions only, in a fixed order: a row's result
    does not depend on its batch.
    """
    rows = rows.copy()
    for number, flips in enumerate(signs):
        rows *= flips
        _transform(_window(rows, number))
    return rows


def rotate_back(rows: FloatArray, signs: FloatArray) -> FloatArray:
    """Undo :func:`rotate`."""
    rows = rows.copy()
    for number in reversed(range(len(signs))):
        _transform(_window(rows, number))
        rows *= signs[number]
    return rows


def _window(rows: FloatArray, number: int) -> FloatArray:
    size = 1 << (rows.shape[1].bit_length() - 1)
    return rows[:, :size] if number % 2 == 0 else rows[:, rows.shape[1] - size :]


def _transform(rows: FloatArray) -> None:
    """Apply the orthonormal Walsh-Hadamard transform to each row, in place; it is its own inverse."""
    size = rows.shape[1]
    half = 1
    while half < size:
        pairs = rows.reshape(len(rows), -1, 2, half) if rows.flags.c_contiguous else _strided_pairs(rows, half)
        sums = pairs[:, :, 0] + pairs[:, :, 1]
        np.subtract(pairs[:, :, 0], pairs[:, :, 1], out=pairs[:, :, 1])
        pairs[:, :, 0] = sums
        half *= 2
    rows *= 1 / np.sqrt(np.float32(size))


def _strided_pairs(rows: FloatArray, half: int) -> FloatArray:
    """Return a view of a window as (n, groups, 2, half), which reshape would copy."""
    row, item = rows.strides
    shape = (len(rows), rows.shape[1] // (2 * half), 2, half)
    return np.lib.stride_tricks.as_strided(rows, shape, (row, 2 * half * item, half * item, item))
