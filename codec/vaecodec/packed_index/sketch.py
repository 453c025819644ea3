"""Rank every row by two or three bits a coordinate without reading its code: the first stage of a search.

A sketch is made of what codes decode to, when it is first needed, and is kept in memory only. The rows are turned to
the principal axes of a sample. The first 128 axes, and then the others, are mixed at random so that all of a group are
worth the same. Each coordinate of the first group becomes one of eight levels, of the others one of four. A query
becomes small integers. Its products with the levels then are counts of ones that words of 64 bits have in common.
What the bits lose of a row is known as a norm, so that a score is known up to a bound, and rows that cannot be among
the best are left out without an error. Where a few errors are allowed, the signs of the first group rank all rows, and
all bits the best of them only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.codes.parallel import over_rows
from vaecodec.evaluation import IdArray
from vaecodec.extras import require
from vaecodec.interface import FloatArray
from vaecodec.packed_index.growing import Growing

SKETCH_SAMPLE_ROWS = 8192
_WORD = 64
_MOST_AXES = 256
# This many axes, beginning with the first, are rotated among each other.
_MIXED_AXES = 128
# Bits of an axis in the first group and in the other groups, and the steps between their levels, in units of the
# coordinate's spread, best for a Gaussian. The first group holds most of a row: with a third bit there a full search
# has to score a seventh of the rows.
_ROW_BITS, _STEPS = (3, 2), (0.586, 0.996)
# The value that a sign stands for, in units of the spread: the mean magnitude of a Gaussian.
_SIGN_LEVEL = 0.798
# Bits of a query's integers. With four bits as many of the ten best rows are found, but the bound is off by 15 % of a
# row's norm; with seven bits by 1.5 %.
_COARSE_BITS, _FINE_BITS = 4, 7
_BLOCKS = 64
# Share of a bound: more than the rounding error of float32 sums.
_ROUNDING = np.float32(1e-5)


def sketch_bytes(code_bytes: int) -> int:
    """Return the bytes in memory of one row's sketch and of its three norms, beside a code of ``code_bytes``."""
    return len(_layout(_axes(code_bytes) // _WORD)) * _WORD // 8 + 12


def _axes(code_bytes: int) -> int:
    """Return the number of axes whose sketch takes about the bytes that a code takes, in whole words."""
    return min(_MOST_AXES, max(1, (4 * code_bytes + _WORD // 2) // _WORD) * _WORD)


def _layout(words: int) -> NDArray[np.int64]:
    """Return which 64 axes each word of a row is of, and what power of two its bits are worth: int64 (m, 2).

    The highest bits of all axes come first, then the second ones, then the third ones of those that have any.
    """
    bits = [_ROW_BITS[word >= _MIXED_AXES // _WORD] for word in range(words)]
    return np.array(
        [(word, bits[word] - 1 - place) for place in range(max(bits)) for word in range(words) if place < bits[word]]
    )


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


class Asked(NamedTuple):
    """Hold a query as small integers.

    Attributes:
        weighed: what a level of each axis is worth, float32 (d,).
        integers: the same in whole ``step``s, int64 (d,).
        step: see there.
        offset: the query's product with the mean of the rows.
        lowest: its product with a row whose every bit is zero.
        planes: the integers bit by bit, uint64 (m, bits), for each word of a row, see :func:`_planes`.
    """

    weighed: FloatArray
    integers: NDArray[np.int64]
    step: np.float32
    offset: np.float32
    lowest: np.float32
    planes: NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Axes:
    """Rotate rows of width w before they are rounded.

    Attributes:
        mean: float32 (w,).
        turn: float32 (w, d), orthonormal columns; d is a multiple of 64.
        step: float32 (d,), between two levels of each turned coordinate.
        half: float32 (d,), half of the number of its levels.
        layout: see :func:`_layout`.
    """

    mean: FloatArray
    turn: FloatArray
    step: FloatArray
    half: FloatArray
    layout: NDArray[np.int64]

    @classmethod
    def fit(cls, sample: FloatArray, code_bytes: int) -> Axes:
        """Find the principal axes of a sample, float32 (n, w), as many as suit the size of a code."""
        width, count = sample.shape[1], _axes(code_bytes)
        mean = sample.mean(axis=0, dtype=np.float64)
        centred = sample - mean
        axes = np.zeros((width, count))
        main = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count]
        axes[:, : main.shape[1]] = main
        random = np.random.default_rng(0)
        for first in range(0, count, _MIXED_AXES):
            some = axes[:, first : first + _MIXED_AXES]
            some[:] = some @ np.linalg.qr(random.standard_normal((some.shape[1],) * 2))[0]
        turn = axes.astype(np.float32)
        groups = (np.arange(count) >= _MIXED_AXES).astype(np.int64)
        spread = (centred.astype(np.float32) @ turn).std(axis=0)
        step = np.maximum(spread * np.array(_STEPS, np.float32)[groups], np.finfo(np.float32).tiny)
        half = np.array([1 << (bits - 1) for bits in _ROW_BITS], np.float32)[groups]
        return cls(mean.astype(np.float32), turn, step, half, _layout(count // _WORD))

    @property
    def places(self) -> NDArray[np.uint64]:
        """Return the power of two that a bit of each word is worth: uint64 (m,)."""
        return self.layout[:, 1].astype(np.uint64)

    def round(self, rows: FloatArray) -> tuple[NDArray[np.uint64], FloatArray, float]:
        """Round rows, float32 (n, w), to levels.

        Returns:
            Words, uint64 (n, words), in the order of ``layout``; the norm of what each row lost, float32 (n,); and the
            largest norm of a row's levels, in steps.
        """
        centred = rows - self.mean
        turned = centred @ self.turn
        numbers = np.floor(turned / self.step + self.half).clip(0, 2 * self.half - 1)
        levels = numbers - (self.half - np.float32(0.5))
        products = np.einsum("ij,ij->i", turned, levels * self.step)
        squares = np.einsum("ij,j->i", levels**2, self.step**2)
        longest = np.sqrt(np.einsum("ij,ij->i", levels, levels).max(initial=0)) * (1 + _ROUNDING)
        whole = np.einsum("ij,ij->i", centred, centred)
        lost = np.sqrt((whole - 2 * products + squares).clip(0) + _ROUNDING * whole)
        lost[~np.isfinite(lost)] = np.inf  # codes near float32's limit overflow: never leave these rows out
        numbers = numbers.astype(np.uint8).reshape(len(rows), -1, _WORD)
        bits = (numbers[:, self.layout[:, 0]] >> self.layout[:, 1, None].astype(np.uint8)) & 1
        words = np.packbits(bits.reshape(len(rows), -1), axis=1, bitorder="little").view("<u8")
        return words.astype(np.uint64, copy=False), lost, float(longest)


class Sketch:
    """Hold the rounded rows of an index; it grows with the index."""

    def __init__(self, axes: Axes) -> None:
        """Start without rows."""
        from vaecodec.packed_index.kernels import BLOCK

        self.axes = axes
        self._block = BLOCK
        self._words = Growing(np.empty((0, len(axes.layout), BLOCK), np.uint64))
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
            self._words.append(np.zeros((blocks, len(self.axes.layout), self._block), np.uint64))
        numbers = np.arange(start, start + len(rows))
        # Searches at work read earlier rows of the last block only, which do not change.
        self._words.rows[numbers // self._block, :, numbers % self._block] = words
        self._lost.append(lost)

    def ask(self, query: FloatArray, *, fine: bool) -> Asked:
        """Round a query, float32 (w,), to integers."""
        axes = self.axes
        bits = _FINE_BITS if fine else _COARSE_BITS
        weighed = (query @ axes.turn) * axes.step
        step = np.float32(np.abs(weighed).max() / np.float32((1 << (bits - 1)) - 1))
        integers = np.rint(weighed / step).astype(np.int64) if step > 0 else np.zeros(len(weighed), np.int64)
        offset = np.float32(query @ axes.mean)
        lowest = np.float32(offset - step * (integers @ (axes.half - np.float32(0.5))))
        return Asked(weighed, integers, step, offset, lowest, _planes(integers, bits)[axes.layout[:, 0]])

    def by_signs(self, asked: Asked, count: int, *, threads: int | None) -> FloatArray:
        """Return scores of the first ``count`` rows, float32 (count,), by a bit for each of at most 128 axes.

        These are guesses, without a bound, of a coarse query's dot products with the rows.
        """
        require("numba", extra="packed")
        from vaecodec.packed_index import kernels

        worth = _SIGN_LEVEL / _STEPS[0] * asked.step
        offset = asked.offset - worth * asked.integers[:_MIXED_AXES].sum()
        planes = asked.planes[: min(_MIXED_AXES, len(asked.integers)) // _WORD]
        return self._weighed(kernels.weigh_signs, planes, 2 * worth, offset, count, threads)

    def by_levels(self, asked: Asked, count: int, *, threads: int | None) -> FloatArray:
        """Return better guesses, by all bits."""
        require("numba", extra="packed")
        from vaecodec.packed_index import kernels

        return self._weighed(kernels.weigh_coarsely, asked.planes, asked.step, asked.lowest, count, threads)

    def _weighed(
        self, weigh: Any, planes: NDArray[np.uint64], step: Any, offset: Any, count: int, threads: int | None
    ) -> FloatArray:
        words = self._words.rows[: -(-count // self._block)]
        scores = np.empty((len(words), self._block), np.float32)
        places = self.axes.places

        def work(start: int, stop: int) -> None:
            weigh(words[start:stop], planes, places, np.float32(step), np.float32(offset), scores[start:stop])

        over_rows(work, len(words), _BLOCKS, threads)
        return scores.reshape(-1)[:count]

    def of_rows(self, asked: Asked, numbers: IdArray) -> FloatArray:
        """Return what :meth:`by_levels` does, of some rows: float32 (n,)."""
        require("numba", extra="packed")
        from vaecodec.packed_index import kernels

        scores = np.empty(len(numbers), np.float32)
        kernels.weigh_some(self._words.rows, numbers, asked.planes, self.axes.places, asked.step, asked.lowest, scores)
        return scores

    def estimate(self, query: FloatArray, count: int, *, threads: int | None) -> Estimate:
        """Return scores of the first ``count`` rows: their dot products with ``query``, float32 (w,), up to a bound."""
        require("numba", extra="packed")
        from vaecodec.packed_index import kernels

        asked = self.ask(query, fine=True)
        scores = self._weighed(kernels.weigh, asked.planes, asked.step, asked.lowest, count, threads)
        rounded = np.linalg.norm(asked.weighed - asked.step * asked.integers) * self._longest
        reach = np.linalg.norm(query) * (1 + _ROUNDING)
        margin = rounded + _ROUNDING * (np.abs(asked.lowest) + asked.step * np.abs(asked.integers).sum())
        return Estimate(scores, np.float32(reach), np.float32(margin))


def _planes(integers: NDArray[np.int64], bits: int) -> NDArray[np.uint64]:
    """Return bit p of each integer in two's complement as plane p: uint64 (n / 64, bits)."""
    ones = (integers[:, None] >> np.arange(bits)) & 1
    packed = np.packbits(ones.astype(np.uint8), axis=0, bitorder="little")  # (n / 8, bits)
    return np.ascontiguousarray(packed.T).view("<u8").astype(np.uint64, copy=False).T.copy()
