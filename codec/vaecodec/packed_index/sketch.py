"""Rank every row by two bits a coordinate without reading its code: the first stage of a search.

A sketch is made of what codes decode to, when it is first needed, and is kept in memory only. The rows are turned to
the principal axes of a sample, these are mixed at random so that all are worth the same, and each coordinate becomes
one of four levels. A query becomes small integers. Its products with the levels then are counts of ones that words of
64 bits have in common. What two bits lose of a row is known as a norm, so that a score is known up to a bound, and
rows that cannot be among the best are left out without an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.codes.parallel import over_rows
from vaecodec.extras import require
from vaecodec.interface import FloatArray
from vaecodec.packed_index.growing import Growing

SAMPLE_ROWS = 8192
_WORD = 64
_MOST_AXES = 256
# Levels are odd multiples of half a step, in units of the coordinate's spread: nearly the best ones for a Gaussian.
_HIGHEST_LEVEL = 1.5
# Bits of a query's integers. Four bits find as many of the ten best rows, but the bound is loose: off by 15 % of a
# row's norm, with seven bits by 1.5 %.
_COARSE_BITS, _FINE_BITS = 4, 7
_BLOCKS = 64
# Of a bound: more than float32 sums are off by.
_ROUNDING = np.float32(1e-5)


def sketch_bytes(code_bytes: int) -> int:
    """Return the bytes in memory of one row's sketch and of its three norms, beside a code of ``code_bytes``."""
    return 2 * _axes(code_bytes) // 8 + 12


def _axes(code_bytes: int) -> int:
    """Return the number of axes whose sketch takes about the bytes that a code takes, in whole words."""
    return min(_MOST_AXES, max(1, (4 * code_bytes + _WORD // 2) // _WORD) * _WORD)


class Estimate(NamedTuple):
    """Hold scores of all rows for one query, with a bound on their error.

    Attributes:
        scores: float32 (n,).
        reach: how much a row's loss counts.
        margin: what is added to that for every row. A row's score is at most ``score + reach * loss + margin``.
    """

    scores: FloatArray
    reach: np.float32
    margin: np.float32


@dataclass(frozen=True, eq=False)
class Axes:
    """Rotate rows of width w before they are rounded.

    Attributes:
        mean: float32 (w,).
        turn: float32 (w, d), orthonormal columns; d is a multiple of 64.
        spread: float32 (d,), standard deviation of each turned coordinate.
    """

    mean: FloatArray
    turn: FloatArray
    spread: FloatArray

    @classmethod
    def fit(cls, sample: FloatArray, code_bytes: int) -> Axes:
        """Find the principal axes of a sample, float32 (n, w), as many as suit the size of a code."""
        width, count = sample.shape[1], _axes(code_bytes)
        mean = sample.mean(axis=0, dtype=np.float64)
        centred = sample - mean
        axes = np.zeros((width, count))
        main = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count]
        axes[:, : main.shape[1]] = main
        mix = np.linalg.qr(np.random.default_rng(0).standard_normal((count, count)))[0]
        turn = (axes @ mix).astype(np.float32)
        spread = (centred.astype(np.float32) @ turn).std(axis=0)
        return cls(mean.astype(np.float32), turn, np.maximum(spread, np.finfo(np.float32).tiny))

    @property
    def words(self) -> int:
        """Return the number of 64-bit words for each row."""
        return 2 * len(self.spread) // _WORD

    def round(self, rows: FloatArray) -> tuple[NDArray[np.uint64], FloatArray, float]:
        """Round rows, float32 (n, w), to levels.

        Returns:
            Words, uint64 (n, words), the higher bits of all coordinates before the lower ones; the norm of what each
            row lost, float32 (n,); and the largest norm of a row's levels, in steps.
        """
        centred = rows - self.mean
        turned = centred @ self.turn
        numbers = np.floor(turned / self.spread + 2).clip(0, 3)
        levels = numbers - _HIGHEST_LEVEL
        products = np.einsum("ij,ij->i", turned, levels * self.spread)
        squares = np.einsum("ij,j->i", levels**2, self.spread**2)
        longest = np.sqrt(np.einsum("ij,ij->i", levels, levels).max(initial=0)) * (1 + _ROUNDING)
        whole = np.einsum("ij,ij->i", centred, centred)
        lost = np.sqrt((whole - 2 * products + squares).clip(0) + _ROUNDING * whole)
        lost[~np.isfinite(lost)] = np.inf  # of codes near float32's limit: never left out
        bits = numbers.astype(np.uint8)
        bits = np.concatenate([bits >> 1, bits & 1], axis=1)
        words = np.packbits(bits, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)
        return words, lost, float(longest)


class Sketch:
    """Hold the rounded rows of an index; it grows with the index."""

    def __init__(self, axes: Axes) -> None:
        """Start without rows."""
        from vaecodec.packed_index.kernels import BLOCK

        self.axes = axes
        self._block = BLOCK
        self._words = Growing(np.empty((0, axes.words, BLOCK), np.uint64))
        self._lost = Growing(np.empty(0, np.float32))
        self._longest = 0.0

    def __len__(self) -> int:
        return len(self._lost.rows)

    @property
    def lost(self) -> FloatArray:
        """Return the norm of each row's rounding error: float32 (n,)."""
        return self._lost.rows

    def append(self, rows: FloatArray) -> None:
        """Round and add rows, float32 (n, w)."""
        words, lost, longest = self.axes.round(rows)
        self._longest = max(self._longest, longest)
        start = len(self)
        blocks = -(-(start + len(rows)) // self._block) - len(self._words.rows)
        if blocks:
            self._words.append(np.zeros((blocks, self.axes.words, self._block), np.uint64))
        numbers = np.arange(start, start + len(rows))
        # Searches that go on read earlier rows of the last block only.
        self._words.rows[numbers // self._block, :, numbers % self._block] = words
        self._lost.append(lost)

    def estimate(self, query: FloatArray, count: int, *, fine: bool, threads: int | None) -> Estimate:
        """Return scores of the first ``count`` rows: their dot products with ``query``, float32 (w,), up to a bound.

        A fine estimate takes half as long again, and its bound is much closer.
        """
        require("numba", extra="packed")
        from vaecodec.packed_index import kernels

        axes = self.axes
        bits, weigh = (_FINE_BITS, kernels.weigh) if fine else (_COARSE_BITS, kernels.weigh_coarsely)
        weighed = (query @ axes.turn) * axes.spread
        step = np.abs(weighed).max() / np.float32((1 << (bits - 1)) - 1)
        integers = np.rint(weighed / step).astype(np.int64) if step > 0 else np.zeros(len(weighed), np.int64)
        planes = _planes(integers, bits)
        words = self._words.rows[: -(-count // self._block)]
        scores = np.empty((len(words), self._block), np.float32)
        offset = np.float32(query @ axes.mean - _HIGHEST_LEVEL * step * integers.sum())

        def work(start: int, stop: int) -> None:
            weigh(words[start:stop], planes, np.float32(step), offset, scores[start:stop])

        over_rows(work, len(words), _BLOCKS, threads)
        rounded = np.linalg.norm(weighed - step * integers) * self._longest
        reach = np.linalg.norm(query) * (1 + _ROUNDING)
        margin = rounded + _ROUNDING * (np.abs(offset) + step * np.abs(integers).sum())
        return Estimate(scores.reshape(-1)[:count], np.float32(reach), np.float32(margin))


def _planes(integers: NDArray[np.int64], bits: int) -> NDArray[np.uint64]:
    """Return bit p of each integer in two's complement as plane p: uint64 (n / 64, bits)."""
    ones = (integers[:, None] >> np.arange(bits)) & 1
    packed = np.packbits(ones.astype(np.uint8), axis=0, bitorder="little")  # (n / 8, bits)
    return np.ascontiguousarray(packed.T).view("<u8").astype(np.uint64, copy=False).T.copy()
