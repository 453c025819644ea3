"""Find the best rows of one state of a packed index."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.best_rows import BestRows
from vaecodec.codes import Code, ResidualCode, TrellisCode
from vaecodec.codes.parallel import over_rows
from vaecodec.codes.trellis import QueryTables, compiled_kernels
from vaecodec.evaluation import IdArray
from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric
from vaecodec.packed_index.growing import Growing
from vaecodec.packed_index.rows import Rows
from vaecodec.packed_index.sketch import SKETCH_SAMPLE_ROWS, Axes, Sketch

# Rows per block. A block's codes as floats and its scores against a block of queries take some tens of megabytes.
_BASE_ROWS = 8192
_THREAD_ROWS = 512

# Smaller indexes have no sketch: scoring all codes by look-up tables is as fast as the first stage.
_SKETCHED_ROWS = 16_384
# Score all of the first rows. The better the k best so far are, the fewer of the next rows have to be scored.
_FIRST_ROWS = 2048
_LAST_ROWS = 65_536
_ROUNDING = np.float32(2e-6)
# How many rows a group has when the best rows are chosen by groups, and how many groups there must be for each row.
_GROUP, _GROUPS = 8, 6
# When an index has grown by this factor, make its sketch again, with axes fitted on its present rows.
_REFIT = 8


class Effort(StrEnum):
    """Choose how many rows a search scores in full, after a first stage ranks the rows by their sketches."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    FULL = "full"


# Share of the rows that pass the comparison of signs, share that passes the comparison of all bits, and least number
# of the latter per neighbour asked for. docs/codes.md has the recall of each.
_LOOKED_AT = {
    Effort.LOW: (0.01, 0.0005, 8),
    Effort.MEDIUM: (0.02, 0.0015, 16),
    Effort.HIGH: (1, 0.005, 32),
}
# The comparison of signs leaves at least this many times the rows that all bits leave.
_SIGNS = 8
# A full search first scores this many rows per neighbour, to learn which score a row must reach. Then it scores all
# rows that may reach it.
_FIRST_LOOK = 8


class Derived:
    """Hold what searches for few queries need for every row, made from its code: the norm and the sketch."""

    def __init__(self) -> None:
        """Start without rows and without axes."""
        self._norms = Growing(np.empty(0, np.float32))
        self._squares = Growing(np.empty(0, np.float32))
        self._fitted = 0
        self.sketch: Sketch | None = None

    @property
    def norms(self) -> FloatArray:
        """Return the norms of the decoded codes: float32 (n,)."""
        return self._norms.rows

    @property
    def squares(self) -> FloatArray:
        """Return the squared norms that let a search skip residual codes early, float32 (n,); empty for other codes."""
        return self._squares.rows

    def grown(self, rows: Rows, scorer: Scorer, threads: int | None) -> Derived:
        """Compute what is missing for some rows; return this object, or a new one where the axes were fitted again."""
        grown = self
        if len(rows) >= max(_SKETCHED_ROWS, _REFIT * self._fitted):
            grown = Derived()
            grown._fitted = len(rows)
            numbers = np.linspace(0, len(rows) - 1, SKETCH_SAMPLE_ROWS).astype(np.int64)
            sample = scorer.products(rows.take(numbers), threads)[0][:, :-1]
            if np.isfinite(sample).all():
                grown.sketch = Sketch(Axes.fit(sample, scorer.code.bytes_per_vector))
        done = len(grown.norms)
        for first, codes in rows.blocks(_BASE_ROWS):
            fresh = codes[max(0, done - first) :]
            if len(fresh):
                products, norms = scorer.products(fresh, threads)
                if grown.sketch is not None:
                    grown.sketch.append(products[:, :-1])
                if isinstance(scorer.code, ResidualCode):
                    grown._squares.append(scorer.code.squares(fresh))
                grown._norms.append(norms)
        return grown


class _Query(NamedTuple):
    """Hold the latents of a query, float32 (k,), and what codes that are looked up are scored by."""

    latents: FloatArray
    tables: QueryTables | None


class Scorer:
    """Score rows of one code against float queries."""

    def __init__(self, code: Code, metric: Metric) -> None:
        self.code = code
        self._metric = metric
        self._factor = np.float32(2 if metric is Metric.L2 else 1)

    @property
    def looks_up(self) -> bool:
        """Tell whether a query can be scored without decoding the codes."""
        return isinstance(self.code, (TrellisCode, ResidualCode)) and compiled_kernels() is not None

    def products(self, codes: NDArray[Any], threads: int | None) -> tuple[FloatArray, FloatArray]:
        """Return rows whose dot products with :meth:`widened` queries are the final scores.

        Returns:
            float32 (n, steps + 2), and the norms of what the codes decode to, float32 (n,).
        """
        rows = np.empty((len(codes), self.code.steps + 2), np.float32)
        norms = np.empty(len(codes), np.float32)
        mean = self.code.mean
        mean_steps, mean_square = self.code.query_steps(mean[None])[0], mean @ mean

        def work(start: int, stop: int) -> None:
            values = np.empty((stop - start, self.code.steps), np.float32)
            self.code.expand(codes[start:stop], values)
            squares = np.einsum("ij,ij->i", values, values) + mean_square
            squares += 2 * np.einsum("ij,j->i", values, mean_steps)
            norms[start:stop] = np.sqrt(squares.clip(0))
            scale, bias = self._scale_and_bias(norms[start:stop])
            np.multiply(values, scale[:, None], out=rows[start:stop, :-2])
            rows[start:stop, -2], rows[start:stop, -1] = scale, bias

        over_rows(work, len(codes), _THREAD_ROWS, threads)
        return rows, norms

    def widened(self, queries: FloatArray) -> FloatArray:
        """Return queries, float32 (nq, code_dim), for :meth:`products`: float32 (nq, steps + 2)."""
        offsets = queries @ self.code.mean
        steps = self.code.query_steps(queries)
        return np.column_stack([self._factor * steps, self._factor * offsets, np.ones_like(offsets)])

    def many(
        self, rows: Rows, queries: FloatArray, k: int, allowed: IdArray | None, threads: int | None
    ) -> tuple[IdArray, FloatArray]:
        """Return the k best rows of each query, by a matrix product with every block of rows."""
        best = BestRows(len(queries), k)
        widened = self.widened(queries)
        for first, codes in rows.blocks(_BASE_ROWS):
            numbers = np.arange(first, first + len(codes))
            if allowed is not None:
                start, stop = np.searchsorted(allowed, [first, first + len(codes)])
                numbers = allowed[start:stop]
                codes = codes[numbers - first]
            if len(numbers):
                best.update(numbers, widened @ self.products(codes, threads)[0].T)
        return best.rows, self._finished(best, queries)

    def one(
        self,
        rows: Rows,
        derived: Derived,
        query: FloatArray,
        k: int,
        effort: Effort,
        allowed: IdArray | None,
        threads: int | None,
    ) -> tuple[IdArray, FloatArray]:
        """Return the k best rows of one query, float32 (code_dim,): int64 (k,) and float32 (k,)."""
        code = self.code
        asked = _Query(query, code.tables_of(query) if isinstance(code, (TrellisCode, ResidualCode)) else None)
        needed, numbers = np.float32(-np.inf), allowed
        if derived.sketch is not None and (allowed is None or len(allowed) >= _SKETCHED_ROWS):
            if effort is Effort.FULL:
                numbers, needed = self._possible(rows, derived, derived.sketch, asked, k, allowed, threads)
            else:
                count = len(rows) if allowed is None else len(allowed)
                first, last, each = _LOOKED_AT[effort]
                wanted = max(int(last * count), each * k)
                counts = max(int(first * count), _SIGNS * wanted), wanted
                numbers = self._likely(derived, derived.sketch, query, counts, len(rows), allowed, threads)
        best = self._closely(rows, derived, asked, k, numbers, needed, threads)
        return best.rows[0], self._finished(best, query[None])[0]

    def _likely(
        self,
        derived: Derived,
        sketch: Sketch,
        query: FloatArray,
        counts: tuple[int, int],
        count: int,
        allowed: IdArray | None,
        threads: int | None,
    ) -> IdArray:
        """Rank rows, so many left by their signs, so many of these by all bits; return their numbers, ascending."""
        widened, norms = self.widened(query[None])[0, :-1], derived.norms[:count]
        asked = sketch.ask(widened, fine=False)
        if counts[0] < (count if allowed is None else len(allowed)):
            numbers = self._best(sketch.by_signs(asked, count, threads=threads), norms, allowed, counts[0])
            return numbers[self._best(sketch.of_rows(asked, numbers), norms[numbers], None, counts[1])]
        return self._best(sketch.by_levels(asked, count, threads=threads), norms, allowed, counts[1])

    def _best(self, products: FloatArray, norms: FloatArray, allowed: IdArray | None, count: int) -> IdArray:
        """Return the numbers of at least ``count`` best rows, by guessed products with them and their norms."""
        if self._metric is Metric.L2:
            products -= norms**2
        return _highest(products, count) if allowed is None else allowed[_highest(products[allowed], count)]

    def _possible(
        self,
        rows: Rows,
        derived: Derived,
        sketch: Sketch,
        query: _Query,
        k: int,
        allowed: IdArray | None,
        threads: int | None,
    ) -> tuple[IdArray, np.float32]:
        """Return the numbers of all rows that may be among the k best, ascending, and a score that k rows reach."""
        estimate = sketch.estimate(self.widened(query.latents[None])[0, :-1], len(rows), threads=threads)
        scores, lost = estimate.scores, sketch.lost[: len(rows)]
        if self._metric is Metric.L2:
            scores -= derived.norms[: len(rows)] ** 2
        if allowed is not None:
            scores, lost = scores[allowed], lost[allowed]
        numbers = _highest(scores, _FIRST_LOOK * k)
        if allowed is not None:
            numbers = allowed[numbers]
        needed = self._closely(rows, derived, query, k, numbers, np.float32(-np.inf), threads).least
        numbers = _reaching(scores, lost, estimate.reach, needed - estimate.margin)
        return (numbers if allowed is None else allowed[numbers]), needed

    def _closely(
        self,
        rows: Rows,
        derived: Derived,
        query: _Query,
        k: int,
        numbers: IdArray | None,
        needed: np.float32,
        threads: int | None,
    ) -> BestRows:
        """Score the codes of some rows, or of all; skip early those that stay below ``needed`` or the k best."""
        best = BestRows(1, k)
        for chunk, codes, first in _chunks(rows, numbers):
            norms = derived.norms[chunk]
            scale, bias = self._scale_and_bias(norms)
            least = max(needed, best.least)
            # Lower the bound a little, because the division rounds. The scores themselves decide which row is better.
            least = (least - _ROUNDING * (np.abs(least) + np.abs(bias)) - bias) / (self._factor * scale)
            dots = self._dots(codes, chunk - first, query, least, self._squares(derived, chunk), threads)
            best.update(chunk, (self._factor * dots * scale + bias)[None])
        return best

    def _squares(self, derived: Derived, chunk: IdArray) -> FloatArray | None:
        """Return the squared norms that let a search skip rows early; None where it cannot."""
        if isinstance(self.code, ResidualCode):
            return derived.squares[chunk]
        return None if self._metric is Metric.DOT else derived.norms[chunk] ** 2

    def _dots(
        self,
        codes: NDArray[Any],
        numbers: IdArray,
        query: _Query,
        least: FloatArray,
        squares: FloatArray | None,
        threads: int | None,
    ) -> FloatArray:
        if isinstance(self.code, (TrellisCode, ResidualCode)) and query.tables is not None:
            return self.code.dot_products(codes, query.tables, least, squares, numbers=numbers, threads=threads)
        values = np.empty((len(numbers), self.code.steps), np.float32)
        self.code.expand(codes[numbers], values)
        return np.asarray(values @ self.code.query_steps(query.latents[None])[0] + query.latents @ self.code.mean)

    def _scale_and_bias(self, norms: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the factors that turn dot products of rows of these norms into scores: ``factor * dot * scale +
        bias``, both (n,).
        """
        scale, bias = np.ones(len(norms), np.float32), np.zeros(len(norms), np.float32)
        if self._metric is Metric.COSINE:
            np.divide(1, norms, out=scale, where=norms > 0)
        elif self._metric is Metric.L2:
            np.negative(norms**2, out=bias)
        return scale, bias

    def _finished(self, best: BestRows, queries: FloatArray) -> FloatArray:
        if self._metric is Metric.L2:
            return np.asarray(best.scores - np.einsum("ij,ij->i", queries, queries)[:, None])
        return best.scores


def _highest(scores: FloatArray, count: int) -> IdArray:
    """Return the places of at least ``count`` highest scores, or of all, ascending."""
    # Order groups of rows by their best row where there are many more groups than rows are wanted: that takes less
    # time, and few more rows pass.
    groups = len(scores) // _GROUP
    some = scores
    if groups >= _GROUPS * count:
        some = scores[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
    place = max(0, len(some) - count)
    best = np.partition(some, place)[place:]
    # Rows that overflow have NaN, which ranks highest here.
    passing = ~(scores < best[0]) if np.isnan(best).any() else scores >= best[0]
    return np.flatnonzero(passing)


def _reaching(scores: FloatArray, lost: FloatArray, reach: np.float32, least: np.float32) -> IdArray:
    """Return the places, ascending, where ``scores + reach * lost`` is not below ``least``."""
    require("numba", extra="packed")
    from vaecodec.packed_index import kernels

    places = np.empty(len(scores), np.int64)
    return places[: kernels.find_reaching(scores, lost, reach, least, places)]


def _chunks(rows: Rows, numbers: IdArray | None) -> Iterator[tuple[IdArray, NDArray[Any], int]]:
    """Yield row numbers in growing chunks, the codes that contain these rows, and the number of the first of these
    codes.
    """
    size = _FIRST_ROWS
    for first, codes in rows.parts():
        if numbers is None:
            inside = np.arange(first, first + len(codes))
        else:
            inside = numbers[slice(*np.searchsorted(numbers, [first, first + len(codes)]))]
        start = 0
        while start < len(inside):
            yield inside[start : start + size], codes, first
            start += size
            size = min(4 * size, _LAST_ROWS)
