"""Search two embedding models at once, while the documents of one are embedded again by the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from qdrant_client import QdrantClient, models

from vaecodec.errors import MigrationError
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.merging import Merger
from vaecodec_integrations.qdrant.layout import UNNAMED
from vaecodec_integrations.qdrant.messages import copy_with

# Old results of which the new model has a better one are dropped; so many more are asked for at first.
_SPARE = 2


class Model(NamedTuple):
    """Where the vectors of an embedding model are.

    Attributes:
        client: searches them, compressed or not.
        collection: its name, or an alias.
        using: the vector's name, empty for the unnamed one.
        codec: makes the latents whose scores the client returns; None where it returns scores of the embeddings, as it
            does without a codec and with originals.
    """

    client: QdrantClient
    collection: str
    using: str = UNNAMED
    codec: VectorCodec | None = None


class TwoModelSearch:
    """Searches documents by the new model where they are embedded by it, and by the old one elsewhere.

    Args:
        old: the old model's vectors.
        new: the new model's, in the same collection under another name, or in another collection.
        merger: brings the scores of both to one scale; fit on latents where these are searched.
    """

    def __init__(self, old: Model, new: Model, merger: Merger) -> None:
        if (old.collection, old.using) == (new.collection, new.using):
            raise MigrationError("old, new: expected two vectors or two collections, got the same one twice")
        self._old, self._new, self._merger = old, new, merger

    def query_points(
        self,
        old_query: Any,
        new_query: Any,
        *,
        query_filter: models.Filter | None = None,
        limit: int = 10,
        offset: int = 0,
        with_payload: Any = True,
    ) -> list[models.ScoredPoint]:
        """Search by both queries, and merge what they find.

        Args:
            old_query: float (d,), the query embedded by the old model.
            new_query: float (e,), by the new one.
            query_filter: as of one collection.
            limit: how many points are returned after the first ``offset``.
            offset: how many are passed over, as for the pages after the first.
            with_payload: as in ``QdrantClient.query_points``.

        Returns:
            Points, the best first, with scores on the merger's scale.
        """
        wanted = limit + offset
        new = self._search(self._new, new_query, query_filter, wanted, with_payload)
        old = self._old_ones(old_query, query_filter, wanted, with_payload)
        scored = [
            *zip(new, self._scaled(self._new, self._merger.new, new_query, new), strict=True),
            *zip(old, self._scaled(self._old, self._merger.old, old_query, old), strict=True),
        ]
        scored.sort(key=lambda pair: -pair[1])
        return [copy_with(point, score=score) for point, score in scored[offset:wanted]]

    def query_points_groups(
        self,
        old_query: Any,
        new_query: Any,
        group_by: str,
        *,
        query_filter: models.Filter | None = None,
        limit: int = 10,
        group_size: int = 3,
    ) -> list[models.PointGroup]:
        """Search by both queries, and group what they find by a field of the payload.

        Args:
            old_query: as :meth:`query_points` takes it.
            new_query: as :meth:`query_points` takes it.
            group_by: the field; points without it are left out, and one with several values is in several groups.
            query_filter: as :meth:`query_points` takes it.
            limit: how many groups are returned, that with the best point first.
            group_size: points in a group at most.
        """
        asked = limit * group_size * _SPARE
        while True:
            points = self.query_points(old_query, new_query, query_filter=query_filter, limit=asked)
            groups: dict[Any, list[models.ScoredPoint]] = {}
            for point in points:
                for value in _values(point.payload, group_by):
                    groups.setdefault(value, []).append(point)
            best = list(groups.items())[:limit]
            full = len(best) == limit and all(len(hits) >= group_size for _, hits in best)
            if full or len(points) < asked:
                return [models.PointGroup(id=value, hits=hits[:group_size]) for value, hits in best]
            asked *= 2

    def _old_ones(
        self, query: Any, query_filter: models.Filter | None, wanted: int, with_payload: Any
    ) -> list[models.ScoredPoint]:
        """The best points that the new model does not know yet."""
        if self._old.collection == self._new.collection:
            lacking = models.Filter(must_not=[models.HasVectorCondition(has_vector=self._new.using)])
            both = lacking if query_filter is None else models.Filter(must=[query_filter, lacking])
            return self._search(self._old, query, both, wanted, with_payload)
        asked = wanted * _SPARE
        while True:
            found = self._search(self._old, query, query_filter, asked, with_payload)
            done = self._done([point.id for point in found])
            left = [point for point in found if point.id not in done]
            if len(left) >= wanted or len(found) < asked:
                return left[:wanted]
            asked *= 2

    def _done(self, ids: list[Any]) -> set[Any]:
        """Which of these points have a vector of the new model."""
        if not ids:
            return set()
        has = models.HasVectorCondition(has_vector=self._new.using)
        records, _ = self._new.client.scroll(
            self._new.collection,
            models.Filter(must=[models.HasIdCondition(has_id=ids), has]),
            limit=len(ids),
            with_payload=False,
        )
        return {record.id for record in records}

    @staticmethod
    def _search(
        model: Model, query: Any, query_filter: models.Filter | None, limit: int, with_payload: Any
    ) -> list[models.ScoredPoint]:
        answer = model.client.query_points(
            model.collection,
            query=query,
            using=model.using or None,
            query_filter=query_filter,
            limit=limit,
            with_payload=with_payload,
        )
        return list(answer.points)

    def _scaled(self, model: Model, scale: Any, query: Any, points: list[models.ScoredPoint]) -> list[float]:
        """Scores on the merger's scale."""
        vector: FloatArray = np.asarray(query, np.float32)[None]
        metric = self._merger.metrics[0 if model is self._old else 1]
        if model.codec is not None:
            vector, metric = model.codec.encode_queries(vector), model.codec.latent_metric
        scores = np.array([[point.score for point in points]], np.float32)
        if metric is Metric.L2:  # Qdrant returns the distance, the merger knows the negated square
            scores = -(scores**2)
        return [float(score) for score in scale(vector, scores)[0]]


def _values(payload: Mapping[str, Any] | None, key: str) -> Iterator[Any]:
    """The values by which a point is grouped, each once."""
    value: Any = payload
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    yield from dict.fromkeys(item for item in (value if isinstance(value, list) else [value]) if item is not None)
