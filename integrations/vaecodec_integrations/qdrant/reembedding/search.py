"""Search two embedding models at once, while the documents of one are embedded again by the other.

What is asked and merged is written once, as generators that yield calls; a client sends them, in its own way.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from vaecodec.errors import MigrationError
from vaecodec.interface import Metric, VectorCodec
from vaecodec.two_models.merging import Embedded, Merger
from vaecodec_integrations.qdrant.layout import UNNAMED
from vaecodec_integrations.qdrant.messages import copy_with

T = TypeVar("T")

# Old results that the new model also has are dropped. Therefore first ask for this many times as many.
_SPARE = 2


class Model(NamedTuple):
    """Say where the vectors of an embedding model are.

    Attributes:
        client: searches them, compressed or not; an asynchronous one for :class:`AsyncTwoModelSearch`.
        collection: its name, or an alias.
        using: the vector's name, empty for the unnamed one.
        codec: makes the latents whose scores the client returns; None where it returns scores of the embeddings, as it
            does without a codec and with originals.
    """

    client: QdrantClient | AsyncQdrantClient
    collection: str
    using: str = UNNAMED
    codec: VectorCodec | None = None


class _Call(NamedTuple):
    """Describe one call of a model's client."""

    model: Model
    method: str
    arguments: dict[str, Any]


_Flow = Generator[_Call, Any, T]


class _Flows:
    """Ask both models and merge their answers."""

    def __init__(self, old: Model, new: Model, merger: Merger) -> None:
        if (old.collection, old.using) == (new.collection, new.using):
            raise MigrationError("old, new: expected two vectors or two collections, got the same one twice")
        self._old, self._new, self._merger = old, new, merger

    def points(
        self,
        old_query: Any,
        new_query: Any,
        query_filter: models.Filter | None,
        limit: int,
        offset: int,
        with_payload: Any,
    ) -> _Flow[list[models.ScoredPoint]]:
        wanted = limit + offset
        # The new side is asked last: a point that is embedded meanwhile is then found twice, and not missed.
        old = yield from self._old_ones(old_query, query_filter, wanted, with_payload)
        new = yield from _found(self._new, new_query, query_filter, wanted, with_payload)
        twice = {point.id for point in new}
        old = [point for point in old if point.id not in twice]
        asked, scores = zip(self._compared(0, old_query, old), self._compared(1, new_query, new), strict=True)
        order, common = self._merger.rank(Embedded(*asked), Embedded(*scores))
        both = [*old, *new]
        ranked = zip(order[0, offset:wanted].tolist(), common[0, offset:wanted].tolist(), strict=True)
        return [copy_with(both[place], score=score) for place, score in ranked]

    def groups(
        self,
        old_query: Any,
        new_query: Any,
        group_by: str,
        query_filter: models.Filter | None,
        limit: int,
        group_size: int,
    ) -> _Flow[list[models.PointGroup]]:
        asked = limit * group_size * _SPARE
        while True:
            points = yield from self.points(old_query, new_query, query_filter, asked, 0, True)
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
    ) -> _Flow[list[models.ScoredPoint]]:
        """Return the best points that the new model has not embedded yet."""
        if self._old.collection == self._new.collection:
            lacking = models.Filter(must_not=[models.HasVectorCondition(has_vector=self._new.using)])
            both = lacking if query_filter is None else models.Filter(must=[query_filter, lacking])
            return (yield from _found(self._old, query, both, wanted, with_payload))
        asked = wanted * _SPARE
        while True:
            found = yield from _found(self._old, query, query_filter, asked, with_payload)
            done = yield from self._done([point.id for point in found])
            left = [point for point in found if point.id not in done]
            if len(left) >= wanted or len(found) < asked:
                return left[:wanted]
            asked *= 2

    def _done(self, ids: list[Any]) -> _Flow[set[Any]]:
        """Return which of these points have a vector of the new model."""
        if not ids:
            return set()
        has = models.HasVectorCondition(has_vector=self._new.using)
        arguments = {
            "collection_name": self._new.collection,
            "scroll_filter": models.Filter(must=[models.HasIdCondition(has_id=ids), has]),
            "limit": len(ids),
            "with_payload": False,
        }
        records, _ = yield _Call(self._new, "scroll", arguments)
        return {record.id for record in records}

    def _compared(self, side: int, query: Any, points: list[models.ScoredPoint]) -> tuple[Any, Any]:
        """Return the query in its compared form, float32 (1, w), and the scores for the merger, float32 (1, n)."""
        codec, metric = (self._old, self._new)[side].codec, self._merger.metrics[side]
        vector = np.asarray(query, np.float32)[None]
        if codec is not None:
            vector, metric = codec.encode_queries(vector), codec.latent_metric
        scores = np.array([[point.score for point in points]], np.float32)
        # Qdrant returns the distance; the merger takes the negated square.
        return vector, -(scores**2) if metric is Metric.L2 else scores


def _found(
    model: Model, query: Any, query_filter: models.Filter | None, limit: int, with_payload: Any
) -> _Flow[list[models.ScoredPoint]]:
    arguments = {
        "collection_name": model.collection,
        "query": query,
        "using": model.using or None,
        "query_filter": query_filter,
        "limit": limit,
        "with_payload": with_payload,
    }
    answer = yield _Call(model, "query_points", arguments)
    return list(answer.points)


class TwoModelSearch:
    """Search documents by the new model where they are embedded by it, and otherwise by the old one.

    Args:
        old: the old model's vectors.
        new: the new model's, in the same collection under another name, or in another collection.
        merger: brings the scores of both to one scale; fit on latents where these are searched.
    """

    def __init__(self, old: Model, new: Model, merger: Merger) -> None:
        self._flows = _Flows(old, new, merger)

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
        return _run(self._flows.points(old_query, new_query, query_filter, limit, offset, with_payload))

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
        return _run(self._flows.groups(old_query, new_query, group_by, query_filter, limit, group_size))


class AsyncTwoModelSearch:
    """Search as :class:`TwoModelSearch` does, with asynchronous clients."""

    def __init__(self, old: Model, new: Model, merger: Merger) -> None:
        self._flows = _Flows(old, new, merger)

    async def query_points(
        self,
        old_query: Any,
        new_query: Any,
        *,
        query_filter: models.Filter | None = None,
        limit: int = 10,
        offset: int = 0,
        with_payload: Any = True,
    ) -> list[models.ScoredPoint]:
        """Search as :meth:`TwoModelSearch.query_points` does."""
        return await _run_async(self._flows.points(old_query, new_query, query_filter, limit, offset, with_payload))

    async def query_points_groups(
        self,
        old_query: Any,
        new_query: Any,
        group_by: str,
        *,
        query_filter: models.Filter | None = None,
        limit: int = 10,
        group_size: int = 3,
    ) -> list[models.PointGroup]:
        """Group as :meth:`TwoModelSearch.query_points_groups` does."""
        return await _run_async(self._flows.groups(old_query, new_query, group_by, query_filter, limit, group_size))


def _run(flow: _Flow[T]) -> T:
    response = None
    while True:
        try:
            call = flow.send(response)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        response = getattr(call.model.client, call.method)(**call.arguments)


async def _run_async(flow: _Flow[T]) -> T:
    response = None
    while True:
        try:
            call = flow.send(response)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        response = await getattr(call.model.client, call.method)(**call.arguments)


def _values(payload: Mapping[str, Any] | None, key: str) -> Iterator[Any]:
    """Return the values by which a point is grouped, each once."""
    value: Any = payload
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    yield from dict.fromkeys(item for item in (value if isinstance(value, list) else [value]) if item is not None)
