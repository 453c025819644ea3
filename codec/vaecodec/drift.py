"""Do vectors still look like those that a codec was trained for? Statistics of vectors, and tests between two of them.

Training leaves in the codec file the statistics of documents (and queries) that it held out; docs/drift.md
says what is in them and why the tests are the ones they are. :mod:`vaecodec.monitor` gathers the same statistics from
what is encoded in production.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.artifact import stored_values
from vaecodec.errors import NoReferenceError
from vaecodec.evaluation import Figures, pair_scores, recall, similarities
from vaecodec.interface import FloatArray, Metric, VectorCodec

# Where the codec file's calibration keeps it.
KEY = "drift"

ALPHA = 0.01
"""Probability that a check of vectors that are as at training finds drift in any of its tests."""
EFFECT = 0.1
"""The least difference between two distributions that counts, however many vectors prove it: see :class:`Finding`."""

# Fewer vectors say nothing about the mean of a latent whose distribution may be anything.
FEWEST_VECTORS = 100
FEWEST_REFERENCE = 64
MOST_REFERENCE = 4_096

_BINS = 32
_DECIMALS = 5
_DEPTH = 10
_LARGEST_GROUP = 256
# Between the eleven values that the agreement of one vector can have.
_AGREEMENT_EDGES = (np.arange(_DEPTH) + 0.5) / _DEPTH


class Stream(StrEnum):
    """What is encoded: each has statistics of its own."""

    DOCUMENTS = "documents"
    QUERIES = "queries"


class Statistic(StrEnum):
    """What is compared."""

    RECONSTRUCTION = "reconstruction"
    """Cosine between a vector and what its latents are decoded to."""
    DEVIATION = "deviation"
    """Root mean square of a vector's latents, each in standard deviations from its mean at training."""
    AGREEMENT = "agreement"
    """Share of a document's ten nearest among others that are among the ten nearest by the latents, too."""
    LATENT_MEAN = "latent mean"
    """Mean of the latent dimension that has moved most."""


class Encoded(NamedTuple):
    """Vectors and what a codec makes of them, row by row.

    Attributes:
        vectors: float32 (n, dim), checked.
        latents: float32 (n, k).
        reconstructions: float32 (n, dim).
    """

    vectors: FloatArray
    latents: FloatArray
    reconstructions: FloatArray

    @classmethod
    def by(
        cls,
        encode: Callable[[FloatArray], FloatArray],
        decode: Callable[[FloatArray], FloatArray],
        vectors: FloatArray,
    ) -> Encoded:
        """Encode and decode."""
        latents = encode(vectors)
        return cls(vectors, latents, decode(latents))


@dataclass(frozen=True, eq=False)
class Histogram:
    """How many values lie between given edges.

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
        """The histogram of values of any shape."""
        bins = np.searchsorted(edges, np.ravel(values), side="left")
        return cls(edges, np.bincount(bins, minlength=len(edges) + 1), float(np.sum(values, dtype=np.float64)))

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.edges, self.counts + other.counts, self.total + other.total)

    @property
    def size(self) -> int:
        """How many values."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Of the values themselves, not of their bins; nan when there is none."""
        return self.total / self.size if self.size else math.nan

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"edges": _numbers(self.edges), "counts": self.counts.tolist(), "total": self.total}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Histogram:
        """Read what :meth:`to_json` wrote; raises ``KeyError``, ``TypeError`` or ``ValueError`` when it did not."""
        edges, counts = np.array(stored["edges"], np.float64), np.array(stored["counts"], np.int64)
        if edges.shape != (len(counts) - 1,):
            raise ValueError(f"expected one edge less than {len(counts)} counts, got {edges.shape}")
        return cls(edges, counts, float(stored["total"]))


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over latents: what their means and standard deviations are made of.

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
        """Of float32 (n, k)."""
        wide = latents.astype(np.float64)
        return cls(len(latents), wide.sum(axis=0), np.einsum("ij,ij->j", wide, wide))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.rows + other.rows, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> Figures:
        """Of each dimension, float64 (k,); at least one row."""
        return np.asarray(self.total / self.rows)

    @property
    def spread(self) -> Figures:
        """Standard deviation of each dimension, float64 (k,), never quite zero; at least one row."""
        variance = self.squares / self.rows - self.mean**2
        # A latent that never changes must not make every vector infinitely strange through its rounding.
        floor = max(1e-6 * math.sqrt(self.squares.mean() / self.rows), 1e-12)
        return np.asarray(np.maximum(np.sqrt(np.maximum(variance, 0.0)), floor))

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"rows": self.rows, "total": _numbers(self.total), "squares": _numbers(self.squares)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Moments:
        """Read what :meth:`to_json` wrote; raises ``KeyError``, ``TypeError`` or ``ValueError`` when it did not."""
        total, squares = (np.array(stored[name], np.float64) for name in ("total", "squares"))
        return cls(int(stored["rows"]), total, squares)


@dataclass(frozen=True, eq=False)
class Summary:
    """Statistics of many vectors in little memory. The sum of two summaries is that of both sets of vectors.

    Attributes:
        moments: of the latents.
        histograms: of reconstruction and deviation, and of the agreement of documents.
    """

    moments: Moments
    histograms: Mapping[Statistic, Histogram]

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            self.moments + other.moments,
            {name: histogram + other.histograms[name] for name, histogram in self.histograms.items()},
        )

    @property
    def rows(self) -> int:
        """How many vectors."""
        return self.moments.rows

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "moments": self.moments.to_json(),
            "histograms": {str(name): histogram.to_json() for name, histogram in self.histograms.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Summary:
        """Read what :meth:`to_json` wrote; raises ``KeyError``, ``TypeError`` or ``ValueError`` when it did not."""
        histograms = {Statistic(name): Histogram.from_json(value) for name, value in stored["histograms"].items()}
        return cls(Moments.from_json(stored["moments"]), histograms)


@dataclass(frozen=True, eq=False)
class Reference:
    """What vectors looked like at training.

    Attributes:
        streams: the summary of held-out documents, and of held-out queries where there were any.
        group: documents among which neighbours were looked for.
        code_dim: width of the latents it holds for.
    """

    streams: Mapping[Stream, Summary]
    group: int
    code_dim: int

    @classmethod
    def fit(
        cls, documents: Encoded, queries: Encoded | None, metric: Metric, latent_metric: Metric
    ) -> Reference | None:
        """Measure vectors that the codec was not trained on; more than 4,096 of a kind gain nothing.

        Args:
            documents, queries: what the codec makes of them.
            metric, latent_metric: how embeddings and latents are compared.

        Returns:
            None where there are fewer than 64 documents. Fewer than 64 queries are left out.
        """
        rows, code_dim = documents.latents.shape
        if rows < FEWEST_REFERENCE:
            return None
        group = min(_LARGEST_GROUP, 1 << (rows.bit_length() - 1))
        summary = _first_summary(documents)
        agreement = neighbour_agreement(documents, metric, latent_metric, group)
        histograms = {**summary.histograms, Statistic.AGREEMENT: Histogram.of(agreement, _AGREEMENT_EDGES)}
        streams = {Stream.DOCUMENTS: Summary(summary.moments, histograms)}
        if queries is not None and len(queries.latents) >= FEWEST_REFERENCE:
            streams[Stream.QUERIES] = _first_summary(queries)
        return cls(streams, group, code_dim)

    @classmethod
    def of(cls, codec: VectorCodec) -> Reference:
        """The reference that a codec's file holds.

        Raises:
            NoReferenceError: it holds none, or one for another width of the latents.
            CorruptArtifactError: what it holds is malformed.
        """
        metadata = getattr(codec, "metadata", None)
        stored: Mapping[str, Any] | None = metadata.calibration.get(KEY) if metadata is not None else None
        with stored_values("drift statistics"):
            if stored is None or stored["code_dim"] != codec.code_dim:
                found = "none" if stored is None else f"one for {stored['code_dim']} dimensions"
                raise NoReferenceError(
                    f"expected a codec file with drift statistics for {codec.code_dim} dimensions, got {found}; load "
                    "the file at its full width, or train or fit the codec again, holding out at least "
                    f"{FEWEST_REFERENCE} rows"
                )
            return cls.from_json(stored)

    def summary(self, stream: Stream, encoded: Encoded) -> Summary:
        """The same statistics of other vectors, all but the agreement."""
        known = self.streams.get(stream) or self.streams[Stream.DOCUMENTS]
        values = _values(encoded, known.moments)
        histograms = {name: Histogram.of(value, known.histograms[name].edges) for name, value in values.items()}
        return Summary(Moments.of(encoded.latents), histograms)

    def agreement(self, encoded: Encoded, metric: Metric, latent_metric: Metric) -> Histogram:
        """Neighbour agreement of other documents, in groups as large as at training; empty when they fill none."""
        return Histogram.of(neighbour_agreement(encoded, metric, latent_metric, self.group), _AGREEMENT_EDGES)

    def compare(self, found: Mapping[Stream, Summary]) -> DriftReport:
        """Test every stream that has a reference and enough vectors; the report names the others."""
        not_compared = {stream: reason for stream, summary in found.items() if (reason := self._lacks(stream, summary))}
        findings = [
            finding
            for stream, summary in found.items()
            if stream not in not_compared
            for finding in _tests(stream, self.streams[stream], summary)
        ]
        return DriftReport(
            {stream: summary.rows for stream, summary in found.items()},
            tuple(replace(finding, p_value=min(1.0, finding.p_value * len(findings))) for finding in findings),
            not_compared,
        )

    def _lacks(self, stream: Stream, found: Summary) -> str:
        """Why a stream cannot be compared; empty where it can."""
        if stream not in self.streams:
            return f"the codec file holds no statistics of {stream}"
        return "" if found.rows >= FEWEST_VECTORS else f"fewer than {FEWEST_VECTORS} vectors"

    def to_json(self) -> dict[str, Any]:
        """JSON values for the codec file's calibration; docs/drift.md specifies them."""
        return {
            "code_dim": self.code_dim,
            "group": self.group,
            **{str(stream): summary.to_json() for stream, summary in self.streams.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Reference:
        """Read what :meth:`to_json` wrote; raises ``KeyError``, ``TypeError`` or ``ValueError`` when it did not."""
        streams = {stream: Summary.from_json(stored[stream]) for stream in Stream if stream in stored}
        reference = cls(streams, int(stored["group"]), int(stored["code_dim"]))
        for summary in streams.values():
            if not summary.moments.total.shape == summary.moments.squares.shape == (reference.code_dim,):
                raise ValueError(f"expected moments of {reference.code_dim} latents")
        return reference


@dataclass(frozen=True)
class Finding:
    """One test.

    Attributes:
        stream: documents or queries.
        statistic: what was compared.
        expected: its mean at training.
        found: its mean now.
        effect: how different the distributions are, 0 to 1: the largest difference of their cumulative
            distributions (Kolmogorov-Smirnov), or for a latent's mean what that difference is between two normal
            distributions whose means are as many standard deviations apart.
        p_value: of that difference when nothing changed, times the number of tests of the check (Bonferroni).
        dimension: which latent has moved most, counted from 0; None for the other statistics.
    """

    stream: Stream
    statistic: Statistic
    expected: float
    found: float
    effect: float
    p_value: float
    dimension: int | None = None

    @property
    def drifted(self) -> bool:
        """Whether the difference is both larger than chance makes it and large enough to matter."""
        return self.p_value < ALPHA and self.effect >= EFFECT

    def __str__(self) -> str:
        name = f"{self.statistic} {self.dimension}" if self.dimension is not None else str(self.statistic)
        verdict = "DRIFT" if self.drifted else "as at training"
        return (
            f"{self.stream}: {name}: {self.found:.3f}, at training {self.expected:.3f} "
            f"(effect {self.effect:.2f}, p {self.p_value:.1g}): {verdict}"
        )


@dataclass(frozen=True)
class DriftReport:
    """What a check found.

    Attributes:
        rows: vectors seen, by stream.
        findings: one for each test; none of a stream that is in ``not_compared``.
        not_compared: for each stream that was seen and has no verdict, why: the codec file holds no statistics of it,
            or it has fewer than 100 vectors.
    """

    rows: Mapping[Stream, int]
    findings: tuple[Finding, ...] = ()
    not_compared: Mapping[Stream, str] = field(default_factory=dict)

    @property
    def drifted(self) -> bool:
        """Whether any test found drift."""
        return any(finding.drifted for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "drifted": self.drifted,
            "alpha": ALPHA,
            "least_effect": EFFECT,
            "rows": {str(stream): rows for stream, rows in self.rows.items()},
            "not_compared": {str(stream): reason for stream, reason in self.not_compared.items()},
            "findings": [{**finding.__dict__, "drifted": finding.drifted} for finding in self.findings],
        }

    def __str__(self) -> str:
        # The verdict is on what was compared, and names nothing else.
        compared = {stream: rows for stream, rows in self.rows.items() if stream not in self.not_compared}
        seen = ", ".join(f"{rows:,} {stream}" for stream, rows in (compared or self.rows).items()) or "no vectors"
        if not self.findings:
            verdict = f"no verdict: {seen} seen, at least {FEWEST_VECTORS} of a kind known from training are needed"
        elif self.drifted:
            verdict = f"drift: train again on vectors such as these, after a look at what changed ({seen})"
        else:
            verdict = f"no drift: nothing that calls for training again ({seen})"
        left_out = [f"{stream}: not compared, {reason}" for stream, reason in self.not_compared.items()]
        return "\n".join([verdict, *left_out, *map(str, self.findings)])


def neighbour_agreement(encoded: Encoded, metric: Metric, latent_metric: Metric, group: int) -> Figures:
    """Share of each vector's ten nearest within its group that are among the ten nearest by the latents, too.

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


def _values(encoded: Encoded, moments: Moments, *, own: bool = False) -> dict[Statistic, Figures]:
    """The statistics that each vector has by itself; ``own`` says that the moments are those of the same vectors."""
    squares = ((encoded.latents - moments.mean) / moments.spread) ** 2
    if own:
        # The moments are pulled towards these very rows, and other rows would seem to deviate more. So each row is
        # held against the mean and variance of all others, which follow from those of all n.
        others = moments.rows - 1
        squares *= moments.rows / others / np.maximum(1 - squares / others, 1 / moments.rows)
    values = {
        Statistic.RECONSTRUCTION: pair_scores(encoded.vectors, encoded.reconstructions, Metric.COSINE),
        Statistic.DEVIATION: np.sqrt(squares.mean(axis=1)),
    }
    # What another processor rounds otherwise is not drift.
    return {name: np.round(value.astype(np.float64), _DECIMALS) for name, value in values.items()}


def _first_summary(encoded: Encoded) -> Summary:
    """The summary that sets the edges: as many values in every bin, equal ones together."""
    moments = Moments.of(encoded.latents)
    histograms = {
        name: Histogram.of(values, np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS).round(_DECIMALS)))
        for name, values in _values(encoded, moments, own=True).items()
    }
    return Summary(moments, histograms)


def _tests(stream: Stream, known: Summary, found: Summary) -> list[Finding]:
    """Every test of a stream, its p-value not yet corrected for the number of tests."""
    tests = [
        _distributions(stream, name, known.histograms[name], found.histograms[name])
        for name in Statistic
        if name in known.histograms and name in found.histograms and found.histograms[name].size
    ]
    return [*tests, _means(stream, known.moments, found.moments)]


def _distributions(stream: Stream, name: Statistic, known: Histogram, found: Histogram) -> Finding:
    """Two-sample Kolmogorov-Smirnov on the edges, which can only make the difference smaller than on the values.

    The p-value is the first term of the Kolmogorov distribution's alternating series, which bounds it from above.
    """
    shares = [np.cumsum(histogram.counts[:-1]) / histogram.size for histogram in (known, found)]
    effect = float(np.abs(shares[0] - shares[1]).max(initial=0.0))
    size = known.size * found.size / (known.size + found.size)
    return Finding(stream, name, known.mean, found.mean, effect, min(1.0, 2 * math.exp(-2 * size * effect**2)))


def _means(stream: Stream, known: Moments, found: Moments) -> Finding:
    """Two-sample t-test of every latent's mean, the normal distribution in place of Student's; the largest counts."""
    variance = (known.rows * known.spread**2 + found.rows * found.spread**2) / (known.rows + found.rows - 2)
    distances = np.abs(found.mean - known.mean) / np.sqrt(variance)
    dimension = int(distances.argmax())
    distance = float(distances[dimension])
    p_value = math.erfc(distance / math.sqrt(2 / known.rows + 2 / found.rows)) * len(distances)
    return Finding(
        stream,
        Statistic.LATENT_MEAN,
        float(known.mean[dimension]),
        float(found.mean[dimension]),
        math.erf(distance / math.sqrt(8)),
        min(1.0, p_value),
        dimension,
    )


def _numbers(values: Figures) -> list[float]:
    """With nine digits, for JSON."""
    return [float(f"{value:.9g}") for value in values]
