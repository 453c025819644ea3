"""Describe the vectors at training by statistics that a codec file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vaecodec.drift.statistics import (
    Encoded,
    Histogram,
    Moments,
    Statistic,
    Stream,
    StreamStatistics,
    agreement_histogram,
    reference_statistics,
    vector_values,
)
from vaecodec.drift.verdict import DriftReport, compare
from vaecodec.interface import Metric

FEWEST_REFERENCE = 64
MOST_REFERENCE = 4_096

_LARGEST_GROUP = 256


@dataclass(frozen=True, eq=False)
class Reference:
    """Hold the statistics of the vectors at training.

    Attributes:
        streams: statistics of held-out documents, and of held-out queries where there were any.
        group: number of documents among which neighbours were searched.
        code_dim: width of the latents that the statistics belong to.
    """

    streams: Mapping[Stream, StreamStatistics]
    group: int
    code_dim: int

    @classmethod
    def fit(
        cls, documents: Encoded, queries: Encoded | None, metric: Metric, latent_metric: Metric
    ) -> Reference | None:
        """Measure vectors that the codec was not trained on. More than 4,096 of a kind gain nothing.

        Args:
            documents: what the codec makes of them.
            queries: the same of queries, if there are any.
            metric: how embeddings are compared.
            latent_metric: how latents are compared.

        Returns:
            None if there are fewer than 64 documents. Fewer than 64 queries are left out.
        """
        rows, code_dim = documents.latents.shape
        if rows < FEWEST_REFERENCE:
            return None
        group = min(_LARGEST_GROUP, 1 << (rows.bit_length() - 1))
        measured = reference_statistics(documents)
        agreement = agreement_histogram(documents, metric, latent_metric, group)
        streams = {Stream.DOCUMENTS: measured.with_histogram(Statistic.AGREEMENT, agreement)}
        if queries is not None and len(queries.latents) >= FEWEST_REFERENCE:
            streams[Stream.QUERIES] = reference_statistics(queries)
        return cls(streams, group, code_dim)

    def with_queries(self, queries: Encoded) -> Reference:
        """Return the same with the statistics of other queries; fewer than 64 leave them out."""
        streams = {Stream.DOCUMENTS: self.streams[Stream.DOCUMENTS]}
        if len(queries.latents) >= FEWEST_REFERENCE:
            streams[Stream.QUERIES] = reference_statistics(queries)
        return replace(self, streams=streams)

    def measure(self, stream: Stream, encoded: Encoded) -> StreamStatistics:
        """Measure the same statistics on other vectors, all but the agreement."""
        known = self.streams.get(stream) or self.streams[Stream.DOCUMENTS]
        values = vector_values(encoded, known.moments)
        histograms = {name: Histogram.of(value, known.histograms[name].edges) for name, value in values.items()}
        return StreamStatistics(Moments.of(encoded.latents), histograms)

    def agreement(self, encoded: Encoded, metric: Metric, latent_metric: Metric) -> Histogram:
        """Measure neighbour agreement of other documents, in groups as large as at training (may be empty)."""
        return agreement_histogram(encoded, metric, latent_metric, self.group)

    def compare(self, found: Mapping[Stream, StreamStatistics]) -> DriftReport:
        """Test every stream that has a reference and enough vectors; the report names the others."""
        return compare(self.streams, found)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for the codec file's calibration. docs/drift.md specifies them."""
        return {
            "code_dim": self.code_dim,
            "group": self.group,
            **{str(stream): known.to_json() for stream, known in self.streams.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Reference:
        """Read what :meth:`to_json` wrote; raises ``KeyError``, ``TypeError`` or ``ValueError`` when it did not."""
        streams = {stream: StreamStatistics.from_json(stored[stream]) for stream in Stream if stream in stored}
        reference = cls(streams, int(stored["group"]), int(stored["code_dim"]))
        for known in streams.values():
            if not known.moments.total.shape == known.moments.squares.shape == (reference.code_dim,):
                raise ValueError(f"expected moments of {reference.code_dim} latents")
        if not 1 < reference.group <= _LARGEST_GROUP:
            raise ValueError(f"expected groups of 2 to {_LARGEST_GROUP} documents, got {reference.group}")
        return reference
