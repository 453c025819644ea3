"""Measure what a migration costs in recall: by searching the source, the latents, and the copy.

The exact neighbours are gathered from the points as the migration reads them to compare both sides. That takes constant
memory, and no server is asked for exact searches while it serves others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from qdrant_client import QdrantClient, models

from vaecodec.evaluation import Interval, bootstrap, similarities
from vaecodec.interface import FloatArray, Metric
from vaecodec_integrations.qdrant.config import recommended_search_params
from vaecodec_integrations.qdrant.layout import Originals
from vaecodec_integrations.qdrant.migration.bad_points import find_bad
from vaecodec_integrations.qdrant.migration.job import Migration, by_name


class Recalls(NamedTuple):
    """Hold the shares of the exact top 10 that searches found, over a sample, each with its 95 % interval.

    Attributes:
        before: by searching the source. It is 1 in local mode, which always searches exactly. Where no sampled vector
            has a neighbour, as in an empty collection, all three shares are None.
        latents: by exact search over the latents that the target holds. What is missing was lost by the codec and, a
            little, by the target's datatype. None for multivectors.
        after: by searching the target as an application does, re-ranked where originals are kept. In local mode
            without originals these are ``latents``.
        queries: size of the sample.
    """

    before: Interval | None
    latents: Interval | None
    after: Interval | None
    queries: int


class Neighbours:
    """Gather the exact nearest points of some queries while all points are read.

    Args:
        queries: float32 (q, d).
        own: for each query the id of its own point, which is not counted as its neighbour.
        metric: how rows are compared.
        count: neighbours kept for each query.
    """

    def __init__(self, queries: FloatArray, own: Sequence[Any], metric: Metric, count: int) -> None:
        self._queries, self._own, self._metric, self._count = queries, own, metric, count
        self._ids = np.empty((len(queries), 0), object)
        self._scores = np.empty((len(queries), 0), np.float32)

    def add(self, ids: Sequence[Any], rows: FloatArray) -> None:
        """Add points: n ids and their vectors, float32 (n, d)."""
        scores = similarities(self._queries, rows, self._metric)
        columns = {point_id: column for column, point_id in enumerate(ids)}
        for row, point_id in enumerate(self._own):
            if point_id in columns:
                scores[row, columns[point_id]] = -np.inf
        names = np.empty(len(ids), object)
        names[:] = ids
        scores = np.concatenate([self._scores, scores], axis=1)
        names = np.concatenate([self._ids, np.broadcast_to(names, (len(self._own), len(ids)))], axis=1)
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, : self._count]
        self._scores = np.take_along_axis(scores, nearest, axis=1)
        self._ids = np.take_along_axis(names, nearest, axis=1)

    def found(self) -> list[set[Any]]:
        """Return the ids of the nearest points of each query."""
        return [set(ids[scores > -np.inf]) for ids, scores in zip(self._ids, self._scores, strict=True)]


class RecallComparison:
    """Search for a sample of the source's own vectors, each without its own point among the answers.

    Args:
        migration: whose two sides are compared; its points are already copied.
        sample: vectors drawn from the source.
        count: neighbours that make the truth.
    """

    def __init__(self, migration: Migration, sample: int, count: int = 10) -> None:
        self._migration, self._count = migration, count
        drawn = migration.client.query_points(
            migration.collection,
            models.SampleQuery(sample=models.Sample.RANDOM),
            limit=sample,
            with_payload=False,
            with_vectors=[migration.vector],
        ).points
        bad = find_bad(migration, drawn)
        held = [(p.id, by_name(p.vector).get(migration.vector)) for p in drawn if p.id not in bad]
        self._queries = [(point_id, vector) for point_id, vector in held if vector is not None]
        self._exact: Neighbours | None = None
        self._latents: Neighbours | None = None
        if self._queries and not migration.multi:
            codec, own = migration.codec, [point_id for point_id, _ in self._queries]
            rows = np.array([vector for _, vector in self._queries], np.float32)
            self._exact = Neighbours(rows, own, codec.metric, count)
            self._latents = Neighbours(codec.encode_queries(rows), own, codec.latent_metric, count)

    def add(self, ids: Sequence[Any], vectors: Sequence[Any], latents: Sequence[Any]) -> None:
        """Add points of both sides: ids, the source's vectors, the target's latents; not multivectors."""
        if ids and self._exact is not None and self._latents is not None:
            self._exact.add(ids, np.array(vectors, np.float32))
            self._latents.add(ids, np.array(latents, np.float32))

    def recalls(self) -> Recalls:
        """Search both sides as an application would, and compare with the exact neighbours."""
        if not self._queries:
            return Recalls(None, None, None, 0)
        source, compressed = self._migration.client, self._migration.compressed
        if self._exact is not None and self._latents is not None:
            truth = self._exact.found()
            latents = _share(truth, self._latents.found())
        else:  # multivectors: let the engine compare every row with every row
            # Local mode always searches exactly, and warns when it is asked to.
            exact = None if self._searches_exactly else models.SearchParams(exact=True)
            truth, latents = self._search(source, exact), None
        # Do not search in local mode: that takes twice the memory of the vectors, and finds the exact neighbours again.
        before = _share(truth, truth if self._searches_exactly else self._search(source))
        known = latents is not None and self._searches_exactly and self._migration.originals is Originals.NONE
        after = latents if known else _share(truth, self._search(compressed, self._advised))
        return Recalls(before, latents, after, len(self._queries))

    @property
    def _advised(self) -> models.SearchParams | None:
        """Return the recommended search parameters for a collection of this size."""
        size = self._migration.code_bytes
        return None if size is None else recommended_search_params(self._migration.codec, bytes=size)

    @property
    def _searches_exactly(self) -> bool:
        options = self._migration.client.init_options
        return options["location"] == ":memory:" or options["path"] is not None

    def _search(self, searched: QdrantClient, params: models.SearchParams | None = None) -> list[set[Any]]:
        migration = self._migration
        small = searched is migration.compressed
        found = []
        for own, vector in self._queries:
            points = searched.query_points(
                migration.target if small else migration.collection,
                vector,
                using=(migration.target_vector if small else migration.vector) or None,
                limit=self._count + 1,
                with_payload=False,
                search_params=params,
            ).points
            found.append({point.id for point in [p for p in points if p.id != own][: self._count]})
        return found


def _share(truth: Sequence[set[Any]], found: Sequence[set[Any]]) -> Interval | None:
    """Return the mean share of true neighbours found, over the queries that have any; None where none has."""
    shares = [len(wanted & got) / len(wanted) for wanted, got in zip(truth, found, strict=True) if wanted]
    return bootstrap(np.array(shares)) if shares else None
