"""Quantise with a trellis: variable bits per latent dimension, one bit stream per vector.

The bit-shift trellis of QTIP (Tseng et al. 2024, arXiv 2406.11235): the state is the last L bits of the stream, a
step appends the bits that its dimension was given, and the dimension's value is looked up by the state in a table of
2^L levels for that number of bits. Looking back over L bits shapes the quantisation cells in many dimensions at once,
which rounding each dimension on its own cannot. The stream is a circle (tail-biting), so no bits go to a start state.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.codes.allocation import allocate_bits
from vaecodec.codes.code import checked_codes, unit_rows
from vaecodec.codes.parallel import over_rows
from vaecodec.codes.saturation import far_rows
from vaecodec.errors import InvalidBudgetError, MissingExtraError
from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric

MEMORIES = (8, 10, 12)
FEWEST_BYTES = 4
"""A stream shorter than the memory could not hold a state."""

# The search for the state at the junction looks this far to each side, in units of the memory.
_OVERLAP = 6
_ENCODE_ROWS = 64
_DECODE_ROWS = 512
_SCORE_ROWS = 4096

# A search drops hopeless rows after these numbers of steps.
_STAGES = (32, 64, 96, 128)
_TABLES = Path(__file__).parent / "trellis_tables.npz"


@dataclass(frozen=True, eq=False)
class TrellisTables:
    """Hold the levels of a trellis, for a source of zero mean and unit variance.

    Attributes:
        memory: L, the bits of a state.
        levels: float16 (r, 2^L), the level of each state when the step appended 1 to r = L / 2 bits.
        distortion: float32 (r,), mean squared error at 1 to r bits on a Gaussian source.
    """

    memory: int
    levels: NDArray[np.float16]
    distortion: FloatArray

    @classmethod
    def standard(cls, memory: int = 10) -> TrellisTables:
        """Return the tables that come with the library, trained on Gaussian samples by
        ``benchmarks/trellis_tables.py``.

        Args:
            memory: 8, 10 or 12; each step of two costs four times the encoding time and lowers the distortion.

        Raises:
            InvalidBudgetError: another memory was asked for.
        """
        if memory not in MEMORIES:
            raise InvalidBudgetError(f"trellis memory: expected one of {MEMORIES} bits, got {memory}")
        with np.load(_TABLES, allow_pickle=False) as tables:
            return cls(memory, tables[f"levels_{memory}"], tables[f"distortion_{memory}"])

    def largest(self, width: int) -> int:
        """Return the most bytes that a code of ``width`` latents can take."""
        return width * len(self.distortion) // 8


def check_budget(budget: int, fewest: int, largest: int, width: int) -> None:
    """Refuse, with ``InvalidBudgetError``, a number of bytes that there is no code of."""
    if largest < fewest:
        raise InvalidBudgetError(f"bytes: {width} latents are too few for such a code; use dtype, such as int8")
    if not fewest <= budget <= largest:
        raise InvalidBudgetError(
            f"bytes: expected {fewest} to {largest} for {width} latents, got {budget}; "
            "beyond that use dtype='float16' or 'float32'"
        )


@dataclass(frozen=True, eq=False)
class QueryTables:
    """Hold a query as codes are scored by it.

    Attributes:
        offset: what is added to the product with every row.
        stages: float32 (m, 256), what each value of the first bytes is worth.
        steps: float32 (T,), what each step of the stream is worth.
        order: int64 (T,), the steps, those that count most for this query first.
        left: float32 (T,), the norm of the query in these steps, from each of them on.
    """

    offset: np.float32
    stages: FloatArray
    steps: FloatArray
    order: NDArray[np.int64]
    left: FloatArray


@dataclass(frozen=True, eq=False)
class TrellisCode:
    """Turn latents into codes of ``bytes_per_vector`` bytes and back; made by :meth:`vaecodec.codes.Calibration.code`.

    Attributes:
        bytes_per_vector: the budget; every bit of it is spent.
        mean: float32 (k,), what a dimension without bits decodes to.
        spread: float32 (k,), standard deviation of each dimension.
        importance: float32 (k,), see :func:`vaecodec.codes.allocation.allocate_bits`.
        tables: the trellis.
        metric: how the latents are compared; under cosine decoded latents have unit norm.
    """

    bytes_per_vector: int
    mean: FloatArray
    spread: FloatArray
    importance: FloatArray
    tables: TrellisTables
    metric: Metric

    def __post_init__(self) -> None:
        check_budget(self.bytes_per_vector, FEWEST_BYTES, self.tables.largest(len(self.mean)), len(self.mean))

    @property
    def name(self) -> str:
        """Return the name, which says how many bytes a code takes."""
        return f"{self.bytes_per_vector} bytes"

    @property
    def steps(self) -> int:
        """Return the number of dimensions that have bits."""
        return len(self.order)

    @cached_property
    def bits(self) -> NDArray[np.int64]:
        """Return the bits given to each latent dimension: int64 (k,), of sum ``8 * bytes_per_vector``."""
        return allocate_bits(self.importance, self.tables.distortion, 8 * self.bytes_per_vector)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Return the dimensions that have bits, in stream order, fewest bits first: int64 (T,)."""
        by_bits = np.argsort(self.bits, kind="stable")
        return by_bits[self.bits[by_bits] > 0]

    @cached_property
    def rates(self) -> NDArray[np.int64]:
        """Return the bits of each step: int64 (T,)."""
        return self.bits[self.order]

    @cached_property
    def levels(self) -> FloatArray:
        """Return the tables by number of bits: float32 (r + 1, 2^L); the row for no bits is zero."""
        return np.concatenate([np.zeros_like(self.tables.levels[:1]), self.tables.levels]).astype(np.float32)

    @cached_property
    def columns(self) -> FloatArray:
        """Return the tables that encoding reads, with the newest bits of the state as the slowest index: float32 (r +
        1, 2^L).
        """
        return np.stack([row.reshape(-1, 1 << rate).T.ravel() for rate, row in enumerate(self.levels)])

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Return the bit of a code at which the state after each step begins: int64 (T,)."""
        return (np.cumsum(self.rates) - self.tables.memory) % (8 * self.bytes_per_vector)

    @cached_property
    def windows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the state after each step lies in a code.

        Returns:
            The number of the byte in which each state begins, int64 (T,), and how many bits follow the state when
            three bytes from there on, circularly, are read as one big-endian word, int64 (T,).
        """
        return self.starts // 8, 24 - self.starts % 8 - self.tables.memory

    def encode(self, latents: FloatArray, *, threads: int | None = None) -> NDArray[np.uint8]:
        """Return codes, uint8 (n, bytes_per_vector), of float32 (n, k) latents; each row's code depends on that row
        only.

        Raises:
            MissingExtraError: numba is not installed.
        """
        return self._encode(latents, self.order, threads)

    def encode_steps(self, values: FloatArray) -> NDArray[np.uint8]:
        """Return codes of float32 (n, T) values of the steps, in the order of the stream, on the calling thread."""
        return self._encode(values, np.arange(self.steps), 1)

    def _encode(self, latents: FloatArray, columns: NDArray[np.int64], threads: int | None) -> NDArray[np.uint8]:
        require("numba", extra="packed")
        from vaecodec.codes import kernels

        order, bits_before = self.order, np.cumsum(self.rates)
        reach = _OVERLAP * self.tables.memory
        head = int(np.searchsorted(bits_before, reach)) + 1
        tail = min(int(np.searchsorted(np.cumsum(self.rates[::-1]), reach)) + 1, len(order))
        head = min(head, len(order) - tail)
        spread = self.spread[order]
        inverse = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
        codes = np.zeros((len(latents), self.bytes_per_vector), np.uint8)

        def work(start: int, stop: int) -> None:
            kernels.encode_rows(
                latents[start:stop],
                columns,
                self.mean[order],
                inverse,
                self.importance[order],
                self.rates,
                self.levels,
                self.columns,
                self.tables.memory,
                head,
                tail,
                codes[start:stop],
            )

        over_rows(work, len(latents), _ENCODE_ROWS, threads)
        return codes

    def saturated(self, latents: FloatArray) -> NDArray[np.bool_]:
        """Tell which rows hold a value more than six spreads from the mean, in a dimension with bits."""
        return far_rows(latents[:, self.order], self.mean[self.order], self.spread[self.order])

    def decode(self, codes: Any, *, threads: int | None = None) -> FloatArray:
        """Return latents, float32 (n, k), of uint8 (n, bytes_per_vector) codes: the same bits with numba and
        without."""
        codes = checked_codes(codes, np.uint8, self.bytes_per_vector, self.name)
        latents = np.empty((len(codes), len(self.mean)), np.float32)

        def work(start: int, stop: int) -> None:
            block = latents[start:stop]
            block[:] = self.mean
            self._expand(codes[start:stop], self.order, self.mean[self.order], block)
            if self.metric is Metric.COSINE:
                unit_rows(block)

        over_rows(work, len(codes), _DECODE_ROWS, threads)
        return latents

    def expand(self, codes: NDArray[Any], out: FloatArray) -> None:
        """See :class:`~vaecodec.codes.Code`; the coordinates are the steps of the stream, without their means."""
        self._expand(codes, np.arange(self.steps), np.zeros(self.steps, np.float32), out)

    def query_steps(self, queries: FloatArray) -> FloatArray:
        """Return the queries' dimensions in the order of the stream."""
        return np.ascontiguousarray(queries[:, self.order])

    def tables_of(self, query: FloatArray) -> QueryTables:
        """Return what a query, float32 (k,), is worth against each part of a code: once for all rows of a search."""
        without = self.bits == 0
        return self.step_tables(
            query[self.order], np.float32(query[without] @ self.mean[without]), np.empty((0, 256), np.float32)
        )

    def step_tables(self, steps: FloatArray, offset: np.float32, stages: FloatArray) -> QueryTables:
        """Work as :meth:`tables_of`, for codes that may begin with other bytes.

        Args:
            steps: float32 (T,), the query in the order of the stream.
            offset: what is added to each product.
            stages: float32 (m, 256), what each value of the m first bytes is worth.
        """
        order = np.argsort(-np.abs(steps) * self.spread[self.order], kind="stable")
        left = np.sqrt(np.cumsum((steps[order] ** 2)[::-1])[::-1])
        return QueryTables(offset, stages, steps, order, left)

    def dot_products(
        self,
        codes: NDArray[np.uint8],
        asked: QueryTables,
        needed: FloatArray,
        squares: FloatArray | None = None,
        *,
        numbers: NDArray[np.int64] | None = None,
        threads: int | None = None,
    ) -> FloatArray:
        """Return a query's dot products with the decoded latents before normalisation; most rows are skipped early.

        The steps that count most for this query are added first. By the inequality of Cauchy and Schwarz the rest adds
        at most the norm of what is left of the query times the norm of what is left of the row, so that most rows can
        be given up early and none wrongly.

        Args:
            codes: uint8 (m, bytes_per_vector), after the bytes that ``asked.stages`` are for.
            asked: what :meth:`tables_of` made of the query.
            needed: float32 (n,), the least dot product of each row that is of interest.
            squares: float32 (n,), squared norms of the same latents; without them every row is finished.
            numbers: int64 (n,), the rows of ``codes`` to score; by default all.
            threads: see :func:`vaecodec.codes.parallel.over_rows`.

        Returns:
            float32 (n,), minus infinity for rows that stay below ``needed``.

        Raises:
            MissingExtraError: numba is not installed.
        """
        require("numba", extra="packed")
        from vaecodec.codes import score_kernels

        mean, spread = self.mean[self.order], self.spread[self.order]
        stages = [stage for stage in _STAGES if stage < len(asked.order)] if squares is not None else []
        reaches = np.array([*(asked.left[stage] for stage in stages), 0], np.float32)
        without = self.bits == 0
        square = self.mean[without] @ self.mean[without]
        dots = np.full(len(needed), asked.offset, np.float32)
        if squares is None:
            squares = np.zeros(len(needed), np.float32)
        if numbers is None:
            numbers = np.arange(len(codes))

        def work(start: int, stop: int) -> None:
            score_kernels.score_rows(
                codes,
                numbers[start:stop],
                asked.stages,
                self.starts,
                self.tables.memory,
                self.rates,
                self.levels,
                mean,
                spread,
                asked.steps,
                asked.order,
                np.array([*stages, len(asked.order)]),
                reaches,
                square,
                squares[start:stop],
                needed[start:stop],
                dots[start:stop],
            )

        over_rows(work, len(numbers), _SCORE_ROWS, threads)
        return dots

    def levels_of(self, codes: NDArray[np.uint8]) -> FloatArray:
        """Return the level of each step, float32 (n, T), in units of its spread; the same bits with numba and
        without."""
        out = np.empty((len(codes), self.steps), np.float32)
        steps = np.arange(self.steps)
        self._write(codes, steps, np.zeros(self.steps, np.float32), np.ones(self.steps, np.float32), out)
        return out

    def _expand(self, codes: NDArray[np.uint8], columns: NDArray[np.int64], mean: FloatArray, out: FloatArray) -> None:
        self._write(codes, columns, mean, self.spread[self.order], out)

    def _write(
        self,
        codes: NDArray[np.uint8],
        columns: NDArray[np.int64],
        mean: FloatArray,
        spread: FloatArray,
        out: FloatArray,
    ) -> None:
        """Write ``mean + spread * level`` of each step of the stream into one column of ``out``."""
        windows, shifts = self.windows
        memory = self.tables.memory
        kernels = compiled_kernels()
        if kernels is not None:
            kernels.decode_rows(codes, windows, shifts, memory, self.rates, self.levels, mean, spread, columns, out)
            return
        high, middle, low = (codes[:, (windows + i) % self.bytes_per_vector].astype(np.int64) for i in range(3))
        states = (((high << 16) | (middle << 8) | low) >> shifts) & ((1 << memory) - 1)
        out[:, columns] = mean + spread * self.levels[self.rates, states]


def compiled_kernels() -> Any | None:
    """Return the numba kernels, or None where numba is not installed."""
    try:
        require("numba", extra="packed")
    except MissingExtraError:
        return None
    from vaecodec.codes import kernels

    return kernels
