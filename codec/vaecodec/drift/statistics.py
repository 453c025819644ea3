"""Gather statistics of vectors that pass through a codec: sums and histograms, which can be added up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.evaluation import Figures, pair_scores, recall, similarities
from vaecodec.interface import FloatArray, Metric
from vaecodec.vectors import ROUNDING

_BINS = 32
_DECIMALS = 5
_DEPTH = 10
# Bin edges between the eleven values that the agreement of one vector can have.
_AGREEMENT_EDGES = (np.arange(_DEPTH) + 0.5) / _DEPTH


class Stream(StrEnum):
    """Say what is encoded: documents or queries. Each stream has statistics of its own."""

    DOCUMENTS = "documents"
    QUERIES = "queries"


class Statistic(StrEnum):
    """Name a statistic that is compared."""

    RECONSTRUCTION = "reconstruction"
    """Cosine between a vector and what its latents are decoded to."""
    DEVIATION = "deviation"
    """Root mean square of a vector's latents, each in standard deviations from its mean at training."""
    AGREEMENT = "agreement"
    """Share of a document's ten nearest among others that are among the ten nearest by the latents, too."""
    LATENT_MEAN = "latent mean"
    """Mean of the latent dimension that has moved most."""


class Encoded(NamedTuple):
    """Hold vectors, and what a codec makes of them, row by row.

    Attributes:
        vectors: float32 (n, dim), checked.
        latents: float32 (n, k).
        reconstructions: float32 (n, dim).
    """

    vectors: FloatArray
    latents: FloatArray
    reconstructions: FloatArray

    @classmethod
    def encode(
        cls,
        encode: Callable[[FloatArray], FloatArray],
        decode: Callable[[FloatArray], FloatArray],
        vectors: FloatArray,
    ) -> Encoded:
        """Encode the vectors with a codec's ``encode`` or ``encode_queries``, and decode the latents."""
        latents = encode(vectors)
        return cls(vectors, latents, decode(latents))


@dataclass(frozen=True, eq=False)
class Histogram:
    """Count how many values lie between given edges.

    Attributes:
        edges: float64 (b - 1,), strictly increasing; a value on an edge belongs to the bin below it.
        counts: int64 (b,).
        total: sum of all values.
    """

    edges: Figures
    counts: NDArray[np.int64]
    total: float

    @classmethod
    def of(cls, values: NDArray[Any], edges: Figures) -> Histogram:
        """Count values, an array of any shape."""
        bins = np.searchsorted(edges, np.ravel(values), side="left")
        return cls(edges, np.bincount(bins, minlength=len(edges) + 1), float(np.sum(values, dtype=np.float64)))

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.edges, self.counts + other.counts, self.total + other.total)

    @property
    def size(self) -> int:
        """Return the number of values."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Mean of the values themselves, not of their bins; nan when there is none."""
        return self.total / self.size if self.size else math.nan

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"edges": _numbers(self.edges), "counts": self.counts.tolist(), "total": self.total}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Histogram:
        """Read what :meth:`to_json` wrote; raises ``KeyError``, ``TypeError`` or ``ValueError`` when it did not."""
        edges, counts = np.array(stored["edges"], np.float64), np.array(stored["counts"], np.int64)
        if edges.shape != (len(counts) - 1,):
            raise ValueError(f"expected one edge less than {len(counts)} counts, got {edges.shape}")
        if (np.diff(edges) <= 0).any() or (counts < 0).any():
            raise ValueError("expected ascending edges and counts of values")
        return cls(edges, counts, float(stored["total"]))


@dataclass(frozen=True, eq=False)
class Moments:
    """Hold sums over latents, from which means and standard deviations follow.

    Attributes:
        rows: how many latents.
        total: float64 (k,), sum.
        squares: float64 (k,), sum of squares.
    """

    rows: int
    total: Figures
    squares: Figures

    @classmethod
    def of(cls, latents: FloatArray) -> Moments:
        """Sum latents, float32 (n, k)."""
        wide = latents.astype(np.float64)
        return cls(len(latents), wide.sum(axis=0), np.einsum("ij,ij->j", wide, wide))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.rows + other.rows, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> Figures:
        """Mean of each dimension, float64 (k,); needs at least one row."""
        return np.asarray(self.total / self.rows)

    @property
    def spread(self) -> Figures:
        """Return the standard deviation of each dimension, float64 (k,), never zero; needs at least one row."""
        variance = self.squares / self.rows - self.mean**2
        # A latent that never changes has a spread of rounding errors only. With the floor, these do not count as drift.
        floor = max(ROUNDING * math.sqrt(self.squares.mean() / self.rows), 1e-12)
        return np.asarray(np.maximum(np.sqrt(np.maximum(variance, 0.0)), floor))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"rows": self.rows, "total": _numbers(self.total), "squares": _numbers(self.squares)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Moments:
        """Read what :meth:`to_json` wrote; raises ``KeyError``, ``TypeError`` or ``ValueError`` when it did not."""
        total, squares = (np.array(stored[name], np.float64) for name in ("total", "squares"))
        if stored["rows"] < 1 or (squares < 0).any():
            raise ValueError("expected sums of at least one latent")
        return cls(int(stored["rows"]), total, squares)


@dataclass(frozen=True, eq=False)
class StreamStatistics:
    """Hold statistics of many vectors in little memory. Adding two gives the statistics of all their vectors.

    Attributes:
        moments: of the latents.
        histograms: of reconstruction and deviation, and of the agreement of documents.
    """

    moments: Moments
    histograms: Mapping[Statistic, Histogram]

    def __add__(self, other: StreamStatistics) -> StreamStatistics:
        return StreamStatistics(
            self.moments + other.moments,
            {name: histogram + other.histograms[name] for name, histogram in self.histograms.items()},
        )

    @property
    def rows(self) -> int:
        """Return the number of vectors."""
        return self.moments.rows

    def with_histogram(self, name: Statistic, histogram: Histogram) -> StreamStatistics:
        """Return the same statistics with one more."""
        return StreamStatistics(self.moments, {**self.histograms, name: histogram})

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "moments": self.moments.to_json(),
            "histograms": {str(name): histogram.to_json() for name, histogram in self.histograms.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> StreamStatistics:
        """Read what :meth:`to_json` wrote; raises ``KeyError``, ``TypeError`` or ``ValueError`` when it did not."""
        histograms = {Statistic(name): Histogram.from_json(value) for name, value in stored["histograms"].items()}
        return cls(Moments.from_json(stored["moments"]), histograms)


def neighbour_agreement(encoded: Encoded, metric: Metric, latent_metric: Metric, group: int) -> Figures:
    """Measure which share of each vector's ten nearest in its group are among the ten nearest by the latents, too.

    Args:
        encoded: vectors and latents.
        metric, latent_metric: how they are compared.
        group: rows of a group, more than ten; groups are consecutive rows, and what is left at the end is not used.

    Returns:
        float64 (n // group * group,).
    """
    figures = [np.empty(0)]
    for start in range(0, len(encoded.vectors) - group + 1, group):
        nearest = []
        for rows, compared in ((encoded.vectors, metric), (encoded.latents, latent_metric)):
            scores = similarities(rows[start : start + group], rows[start : start + group], compared)
            np.fill_diagonal(scores, -np.inf)
            nearest.append(np.argsort(-scores, axis=1, kind="stable")[:, :_DEPTH])
        figures.append(recall(nearest[1], nearest[0], _DEPTH))
    return np.concatenate(figures)


def agreement_histogram(encoded: Encoded, metric: Metric, latent_metric: Metric, group: int) -> Histogram:
    """Count the values of :func:`neighbour_agreement`."""
    return Histogram.of(neighbour_agreement(encoded, metric, latent_metric, group), _AGREEMENT_EDGES)


def vector_values(encoded: Encoded, moments: Moments, *, own: bool = False) -> dict[Statistic, Figures]:
    """Measure the statistics that each vector has by itself. ``own`` says that the moments are of the same vectors."""
    squares = ((encoded.latents - moments.mean) / moments.spread) ** 2
    if own:
        # These rows were used for the moments, so they deviate less than other rows would. Therefore compare each row
        # with the mean and variance of all other rows, which follow from those of all n.
        others = moments.rows - 1
        squares *= moments.rows / others / np.maximum(1 - squares / others, 1 / moments.rows)
    values = {
        Statistic.RECONSTRUCTION: pair_scores(encoded.vectors, encoded.reconstructions, Metric.COSINE),
        Statistic.DEVIATION: np.sqrt(squares.mean(axis=1)),
    }
    # Round, so that differences between processors do not count as drift.
    return {name: np.round(value.astype(np.float64), _DECIMALS) for name, value in values.items()}


def reference_statistics(encoded: Encoded) -> StreamStatistics:
    """Measure vectors and choose the edges of their histograms: as many values in every bin, equal ones together."""
    moments = Moments.of(encoded.latents)
    histograms = {
        name: Histogram.of(values, np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS).round(_DECIMALS)))
        for name, values in vector_values(encoded, moments, own=True).items()
    }
    return StreamStatistics(moments, histograms)


def _numbers(values: Figures) -> list[float]:
    """Round to nine digits, for JSON."""
    return [float(f"{value:.9g}") for value in values]
