"""Encode with residual codes: some stages of k-means, then a trellis on the rest of a row.

A stage has 256 centroids and takes one byte. Each stage codes what the stages before it left (additive quantisation,
Chen et al. 2010, doi:10.3390/s101211259). That follows clusters, which a trellis on one dimension after the other
cannot see. The trellis then spends the other bytes on the rest, in the axes of the rest.

What codes stand for is fitted apart from how they are found: a decoder has centroids and axes of its own, so that it
can be fitted to the scores of queries while the codes stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.codes.code import checked_codes, unit_rows
from vaecodec.codes.parallel import over_rows
from vaecodec.codes.saturation import far_rows
from vaecodec.codes.stored import check_moments, from_text, to_text
from vaecodec.codes.trellis import (
    FEWEST_BYTES,
    QueryTables,
    TrellisCode,
    TrellisTables,
    check_budget,
    compiled_kernels,
)
from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric

CENTROIDS = 256
# Beam width: partial choices of centroids that the search keeps after each stage.
_BEAM = 8
# The power in Residual.decoder. Powers from 1 to 2 found the most neighbours of held-out queries.
_FADING = 1.5
_ENCODE_ROWS = 64
_DECODE_ROWS = 512


@dataclass(frozen=True, eq=False)
class Decoder:
    """Decode codes of some sizes: ``offset``, plus one centroid for each stage, plus levels times axes.

    Attributes:
        least, most: the budgets in bytes that it is for, all of the same number of stages.
        full: budgets beyond it use a part of it only, see :meth:`Residual.decoder`.
        books: float32 (m, 256, k), the centroids of each stage.
        axes: float32 (k, k), row i is what one level of the rest's dimension i is worth; (0, k) where no rest follows.
        offset: float32 (k,).
    """

    least: int
    most: int
    full: int
    books: FloatArray
    axes: FloatArray
    offset: FloatArray

    def towards(self, other: Decoder, share: np.float32) -> Decoder:
        """Return this decoder moved towards another one by a share of the difference."""
        books, axes, offset = (
            mine + share * (theirs - mine)
            for mine, theirs in ((self.books, other.books), (self.axes, other.axes), (self.offset, other.offset))
        )
        return replace(self, books=books, axes=axes, offset=offset)


@dataclass(frozen=True, eq=False)
class Residual:
    """Hold everything that residual codes of any size need.

    Attributes:
        stages: how many stages go before the trellis.
        books: float32 (m, 256, k), centroids that rows are coded by, m >= ``stages``.
        axes: float32 (k, k), orthonormal rows: the axes in which the trellis codes the rest.
        mean: float32 (k,), mean of the rest of the training documents in each axis.
        spread: float32 (k,), its standard deviation.
        importance: float32 (k,), see :func:`vaecodec.codes.allocation.allocate_bits`.
        whole: the largest budget that is spent on stages alone: ``stages`` + 3 or + 4, so that every budget has a code.
        decoders: for some budgets, no two for the same; codes of the others stand for what they were found by.
    """

    stages: int
    books: FloatArray
    axes: FloatArray
    mean: FloatArray
    spread: FloatArray
    importance: FloatArray
    whole: int
    decoders: Sequence[Decoder] = ()

    def largest(self, tables: TrellisTables) -> int:
        """Return the largest budget that there is a code for."""
        return self.stages + tables.largest(len(self.mean))

    def code(
        self, budget: int, centre: FloatArray, reach: FloatArray, tables: TrellisTables, metric: Metric
    ) -> ResidualCode:
        """Return the code of a budget.

        Args:
            budget: bytes for each vector.
            centre: float32 (k,), mean of the latents, for what counts as out of range.
            reach: float32 (k,), their spread, for the same.
            tables: the trellis.
            metric: how latents are compared.

        Raises:
            InvalidBudgetError: there is no code of so many bytes.
        """
        check_budget(budget, FEWEST_BYTES, self.largest(tables), len(self.mean))
        books, rest = self.books[: self.stages_of(budget)], None
        if budget > self.whole:
            rest = TrellisCode(budget - self.stages, self.mean, self.spread, self.importance, tables, Metric.DOT)
        return ResidualCode(books, self.axes, rest, self.decoder(budget), centre, reach, metric)

    def stages_of(self, budget: int) -> int:
        """Return the number of stages in a code of a given size."""
        return budget if budget <= self.whole else self.stages

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; docs/codes.md specifies it."""
        return {
            "stages": self.stages,
            "whole": self.whole,
            "books": _half(self.books),
            "axes": _half(self.axes),
            "mean": to_text(self.mean),
            "spread": to_text(self.spread),
            "importance": to_text(self.importance),
            "decoders": [
                {
                    "least": each.least,
                    "most": each.most,
                    "full": each.full,
                    "books": _half(each.books),
                    "axes": _half(each.axes),
                    "offset": to_text(each.offset),
                }
                for each in self.decoders
            ],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], width: int) -> Residual:
        """Read what :meth:`to_json` wrote, for latents of a width.

        Raises ``KeyError``, ``TypeError`` or ``ValueError`` when it did not.
        """
        books = _books(stored["books"], width)
        stages, whole = stored["stages"], stored["whole"]
        if not (type(stages) is type(whole) is int and 1 <= stages <= whole <= len(books) <= stages + FEWEST_BYTES):
            raise ValueError(f"expected {len(books)} stages to suit {stages!r} and {whole!r}")
        if whole < stages + FEWEST_BYTES - 1:
            raise ValueError(f"expected a code of every budget, but none is of {whole + 1} bytes")
        mean, spread, importance = (
            _rows(stored[name], "<f4", 1, width)[0] for name in ("mean", "spread", "importance")
        )
        check_moments(mean, spread, importance=importance)
        axes = _rows(stored["axes"], "<f2", width, width)
        made = cls(stages, books, axes, mean, spread, importance, whole)
        return replace(made, decoders=[made._decoder(each, width) for each in stored["decoders"]])

    def _decoder(self, stored: Mapping[str, Any], width: int) -> Decoder:
        books, limits = _books(stored["books"], width), [stored[name] for name in ("least", "most", "full")]
        least, most, full = limits
        if not (all(type(limit) is int for limit in limits) and FEWEST_BYTES <= least <= min(most, full)):
            raise ValueError(f"expected the budgets of a decoder, got {least!r}, {most!r} and {full!r}")
        if {self.stages_of(least), self.stages_of(most)} != {len(books)} or least <= self.whole < most:
            raise ValueError(f"expected the stages of {least} to {most} bytes in a decoder, got {len(books)}")
        axes = _rows(stored["axes"], "<f2", width if most > self.whole else 0, width)
        return Decoder(least, most, full, books, axes, _rows(stored["offset"], "<f4", 1, width)[0])

    def decoder(self, budget: int) -> Decoder:
        """Return the decoder for codes of a given size.

        A fitted decoder makes up for what coarse codes lose. The more bytes, the less there is to make up for: beyond
        ``full`` its difference from what codes were found by fades.
        """
        for each in self.decoders:
            if each.least <= budget <= each.most:
                share = np.float32(min(1, each.full / budget) ** _FADING)
                return each if share == 1 else self._found(budget).towards(each, share)
        return self._found(budget)

    def _found(self, budget: int) -> Decoder:
        books = self.books[: self.stages_of(budget)]
        if budget <= self.whole:
            return Decoder(budget, budget, budget, books, self.axes[:0], np.zeros_like(self.mean))
        offset = np.zeros_like(self.mean)
        # Add one after the other, since the last bits of a matrix product depend on the processor.
        for mean, axis in zip(self.mean, self.axes, strict=True):
            offset += mean * axis
        return Decoder(budget, budget, budget, books, self.spread[:, None] * self.axes, offset)


class _StageSearch:
    """Choose the centroids of rows, and say what they leave in some axes.

    Args:
        books: float32 (m, 256, k), the centroids of each stage.
        axes: float32 (t, k).
    """

    def __init__(self, books: FloatArray, axes: FloatArray) -> None:
        from vaecodec.codes import residual_kernels

        self._stages, total = len(books), CENTROIDS * len(books)
        centroids = np.ascontiguousarray(books.reshape(total, -1))
        self._columns = np.ascontiguousarray(np.concatenate([centroids, axes]).T)
        crossed = np.empty((total, total + len(axes)), np.float32)
        residual_kernels.products(centroids, self._columns, crossed)
        self._between = np.ascontiguousarray(crossed[:, :total])
        self._squares = self._between.diagonal().reshape(len(books), CENTROIDS).copy()
        self._turned = np.ascontiguousarray(crossed[:, total:]).reshape(len(books), CENTROIDS, len(axes))

    def __call__(self, rows: FloatArray) -> tuple[NDArray[np.uint8], FloatArray]:
        """Return the centroids, uint8 (n, m), and the rest in the axes, float32 (n, t), of float32 (n, k) rows."""
        from vaecodec.codes import residual_kernels

        products = np.empty((len(rows), self._columns.shape[1]), np.float32)
        residual_kernels.products(rows, self._columns, products)
        chosen = np.empty((len(rows), self._stages), np.uint8)
        residual_kernels.search_stages(products, self._squares, self._between, _BEAM, chosen)
        left = products[:, CENTROIDS * self._stages :]
        for stage in range(self._stages):
            left = left - self._turned[stage, chosen[:, stage]]
        return chosen, left


@dataclass(frozen=True, eq=False)
class ResidualCode:
    """Turn latents into codes of ``bytes_per_vector`` bytes and back; made by :meth:`vaecodec.codes.Calibration.code`.

    Attributes:
        books: float32 (m, 256, k), the centroids that rows are coded by.
        axes: float32 (k, k), the axes of the rest.
        rest: the trellis on the rest; None where all bytes are stages.
        decoder: what codes stand for.
        centre: float32 (k,), mean of the latents.
        reach: float32 (k,), their standard deviation.
        metric: how latents are compared; under cosine decoded latents have unit norm.
    """

    books: FloatArray
    axes: FloatArray
    rest: TrellisCode | None
    decoder: Decoder
    centre: FloatArray
    reach: FloatArray
    metric: Metric

    @property
    def bytes_per_vector(self) -> int:
        """Return the bytes of a code: one for each stage, and those of the trellis."""
        return len(self.books) + (self.rest.bytes_per_vector if self.rest is not None else 0)

    @property
    def name(self) -> str:
        """Return the name, which says how many bytes a code takes."""
        return f"{self.bytes_per_vector} bytes"

    @property
    def mean(self) -> FloatArray:
        """Return zeros: the expanded codes already contain the mean."""
        return np.zeros(len(self.centre), np.float32)

    @property
    def steps(self) -> int:
        """Return the width of the latents."""
        return len(self.centre)

    @cached_property
    def _search(self) -> _StageSearch:
        return _StageSearch(self.books, self.axes[self.order])

    def encode(self, latents: FloatArray, *, threads: int | None = None) -> NDArray[np.uint8]:
        """Return codes, uint8 (n, bytes_per_vector), of float32 (n, k) latents; each row's code depends on that row
        only.

        Raises:
            MissingExtraError: numba is not installed.
        """
        require("numba", extra="packed")
        search, codes = self._search, np.empty((len(latents), self.bytes_per_vector), np.uint8)

        def work(start: int, stop: int) -> None:
            self._write(codes[start:stop], *search(latents[start:stop]))

        over_rows(work, len(latents), _ENCODE_ROWS, threads)
        return codes

    def _write(self, codes: NDArray[np.uint8], chosen: NDArray[np.uint8], left: FloatArray) -> None:
        """Write the codes of a block, from its centroids and what they leave in the axes of :attr:`order`."""
        codes[:, : len(self.books)] = chosen
        if self.rest is not None:
            codes[:, len(self.books) :] = self.rest.encode_steps(left)

    def saturated(self, latents: FloatArray) -> NDArray[np.bool_]:
        """Tell which rows hold a value more than six standard deviations from the mean."""
        return far_rows(latents, self.centre, self.reach)

    def decode(self, codes: Any, *, threads: int | None = None) -> FloatArray:
        """Return latents, float32 (n, k), of uint8 (n, bytes_per_vector) codes: the same bits with numba and
        without."""
        codes = checked_codes(codes, np.uint8, self.bytes_per_vector, self.name)
        latents = np.empty((len(codes), self.steps), np.float32)
        compiled = compiled_kernels() is not None

        def work(start: int, stop: int) -> None:
            block = self._centroids(codes[start:stop])
            if self.rest is not None:
                levels, axes = self.levels_of(codes[start:stop]), self._ordered_axes
                if compiled:
                    from vaecodec.codes import residual_kernels

                    residual_kernels.add_levels(levels, axes, block)
                else:
                    for step, axis in enumerate(axes):
                        block += levels[:, step, None] * axis
            latents[start:stop] = unit_rows(block) if self.metric is Metric.COSINE else block

        over_rows(work, len(codes), _DECODE_ROWS, threads)
        return latents

    def _centroids(self, codes: NDArray[np.uint8]) -> FloatArray:
        block = np.tile(self.decoder.offset, (len(codes), 1))
        for stage, book in enumerate(self.decoder.books):
            block += book[codes[:, stage]]
        return block

    def expand(self, codes: NDArray[Any], out: FloatArray) -> None:
        """Write the decoded codes, before they are normalised, into ``out``, float32 (n, k)."""
        out[:] = self._centroids(codes)
        if self.rest is not None:
            out += self.levels_of(codes) @ self._ordered_axes

    def query_steps(self, queries: FloatArray) -> FloatArray:
        """Return the queries as they are."""
        return queries

    @property
    def order(self) -> NDArray[np.int64]:
        """Return the axes of the rest that have bits, in stream order: int64 (T,)."""
        return self.rest.order if self.rest is not None else np.empty(0, np.int64)

    @cached_property
    def _ordered_axes(self) -> FloatArray:
        """Return what a level of each of :attr:`order` is worth: float32 (T, k)."""
        return self.decoder.axes[self.order]

    def levels_of(self, codes: NDArray[np.uint8]) -> FloatArray:
        """Return the levels of the rest in each of :attr:`order`: float32 (n, T)."""
        if self.rest is None:
            return np.empty((len(codes), 0), np.float32)
        return self.rest.levels_of(np.ascontiguousarray(codes[:, len(self.books) :]))

    def tables_of(self, query: FloatArray) -> QueryTables:
        """Return what a query, float32 (k,), is worth against each part of a code: once for all rows of a search."""
        offset, stages = np.float32(query @ self.decoder.offset), self.decoder.books @ query
        if self._scored is None:
            return QueryTables(offset, stages, query[:0], np.empty(0, np.int64), query[:0])
        return self._scored.step_tables(self._ordered_axes @ query, offset, stages)

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
        """Score codes against a query, as :meth:`vaecodec.codes.TrellisCode.dot_products` does.

        Each stage is one look-up of a row; then the trellis is scored by the query in the axes of the rest.

        Args:
            codes: see there, as for ``asked``, ``needed``, ``numbers`` and ``threads``.
            squares: float32 (n,), as :meth:`squares` makes them; without them every row is finished.

        Returns:
            float32 (n,), minus infinity for rows that stay below ``needed``.

        Raises:
            MissingExtraError: numba is not installed.
        """
        if self._scored is not None:
            return self._scored.dot_products(codes, asked, needed, squares, numbers=numbers, threads=threads)
        dots = np.full(len(needed), asked.offset, np.float32)
        rows = codes if numbers is None else codes[numbers]
        for stage, table in enumerate(asked.stages):
            dots += table[rows[:, stage]]
        return np.where(dots >= needed, dots, np.float32(-np.inf))

    def squares(self, codes: NDArray[np.uint8]) -> FloatArray:
        """Return the squared norms of the levels of the rest, by which a search gives up rows early: float32 (n,)."""
        levels = self.levels_of(codes)
        return np.asarray(np.einsum("ij,ij->i", levels, levels))

    @cached_property
    def _scored(self) -> TrellisCode | None:
        """Return the trellis as it is scored: its levels alone, since the decoder holds mean and spread."""
        if self.rest is None:
            return None
        return replace(self.rest, mean=np.zeros_like(self.rest.mean), spread=np.ones_like(self.rest.spread))


def encode_in_sizes(codes: Sequence[ResidualCode], latents: FloatArray) -> list[NDArray[np.uint8]]:
    """Return the codes of all sizes of one calibration with the same stages, which are searched once for all.

    Args:
        codes: at least one.
        latents: float32 (n, k).
    """
    axes = np.unique(np.concatenate([code.order for code in codes]))
    search = _StageSearch(codes[0].books, codes[0].axes[axes])
    places = [np.searchsorted(axes, code.order) for code in codes]
    found = [np.empty((len(latents), code.bytes_per_vector), np.uint8) for code in codes]

    def work(start: int, stop: int) -> None:
        chosen, left = search(latents[start:stop])
        for code, place, out in zip(codes, places, found, strict=True):
            code._write(out[start:stop], chosen, np.ascontiguousarray(left[:, place]))

    over_rows(work, len(latents), _ENCODE_ROWS, None)
    return found


def _books(text: str, width: int) -> FloatArray:
    return _rows(text, "<f2", -1, CENTROIDS * width).reshape(-1, CENTROIDS, width)


def _rows(text: str, dtype: str, rows: int, width: int) -> FloatArray:
    return from_text(text, dtype).reshape(rows, width).astype(np.float32)


def _half(array: FloatArray) -> str:
    return to_text(array.astype(np.float16))
