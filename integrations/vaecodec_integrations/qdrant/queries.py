"""Queries as they are translated: their vectors found, encoded and put back; nothing is sent here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, get_args

import numpy as np
from pydantic import BaseModel
from qdrant_client import models

from vaecodec.errors import CodecMismatchError
from vaecodec_integrations.qdrant.layout import UNNAMED, CodedVector, Layout
from vaecodec_integrations.qdrant.vectors import INFERENCE, as_rest, check_form, copy_with, encode_column, is_dense

ChangeInput = Callable[[CodedVector, Any], Any]

# Qdrant's own default for `limit`, in queries and in prefetches.
DEFAULT_LIMIT = 10


class Search(NamedTuple):
    """The parts of a query that translation touches, the same for a request, a prefetch and a call.

    ``query`` is a model, or None.
    """

    query: Any
    using: str | None
    prefetch: Any
    filter: Any
    params: Any
    score_threshold: float | None
    limit: int
    offset: int
    lookup_from: Any

    @classmethod
    def from_model(cls, request: Any) -> Search:
        """A ``QueryRequest`` or ``Prefetch`` as a search."""
        return cls(
            as_query(request.query),
            request.using,
            request.prefetch,
            request.filter,
            request.params,
            request.score_threshold,
            DEFAULT_LIMIT if request.limit is None else request.limit,
            getattr(request, "offset", None) or 0,
            request.lookup_from,
        )

    def model_fields(self) -> dict[str, Any]:
        """The fields that ``QueryRequest`` and ``Prefetch`` share."""
        return {
            "query": self.query,
            "using": self.using,
            "prefetch": self.prefetch,
            "filter": self.filter,
            "params": self.params,
            "score_threshold": self.score_threshold,
            "limit": self.limit,
            "lookup_from": self.lookup_from,
        }


def as_query(query: Any) -> Any:
    """The short forms of a query (an id, a vector, an array) as the models they stand for."""
    query = as_rest(query)
    if isinstance(query, np.ndarray):
        query = query.tolist()
    elif query is None or (not isinstance(query, list) and isinstance(query, _QUERY_MODELS)):
        return query
    # Not validated float by float: the codec checks the vector, and anything else was checked by the wrapped client.
    return copy_with(_NEAREST, nearest=query)


_NEAREST = models.NearestQuery(nearest=0)
_QUERY_MODELS: tuple[type[BaseModel], ...] = get_args(models.Query)


def map_query(query: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a query model with ``change`` applied to each of its inputs: vectors, ids, sparse vectors."""
    match query:
        case models.NearestQuery():
            return copy_with(query, nearest=change(query.nearest))
        case models.RecommendQuery():
            sides = {
                side: None if values is None else [change(value) for value in values]
                for side, values in (("positive", query.recommend.positive), ("negative", query.recommend.negative))
            }
            return copy_with(query, recommend=copy_with(query.recommend, **sides))
        case models.DiscoverQuery():
            target = change(query.discover.target)
            context = _map_context(query.discover.context, change)
            return copy_with(query, discover=copy_with(query.discover, target=target, context=context))
        case models.ContextQuery():
            return copy_with(query, context=_map_context(query.context, change))
        case models.RelevanceFeedbackQuery():
            asked = query.relevance_feedback
            target = change(asked.target)
            feedback = [copy_with(item, example=change(item.example)) for item in asked.feedback]
            return copy_with(query, relevance_feedback=copy_with(asked, target=target, feedback=feedback))
        case _:
            return query


def _map_context(context: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(context, models.ContextPair):
        return copy_with(context, positive=change(context.positive), negative=change(context.negative))
    return [_map_context(pair, change) for pair in context]


def searches_vectors(query: Any) -> bool:
    """Whether a query compares vectors at all; fusion, formula, order, text and sampling do not."""
    return isinstance(
        query,
        (
            models.NearestQuery,
            models.RecommendQuery,
            models.DiscoverQuery,
            models.ContextQuery,
            models.RelevanceFeedbackQuery,
        ),
    )


class QueryVectors:
    """Encodes all query vectors of a request in one call per codec.

    A request is walked once: each vector is replaced by an empty list, and :meth:`encode` fills these in place.
    """

    def __init__(self) -> None:
        self._gathered: dict[str, tuple[CodedVector, list[Any], list[list[Any]]]] = {}

    def replace(self, coded: CodedVector, vector: Any) -> Any:
        """What will be the encoded form of a vector; ids and sparse vectors as they are."""
        if isinstance(vector, INFERENCE):
            check_form(coded, vector, "query")
        if not is_dense(vector):
            return vector
        _, vectors, places = self._gathered.setdefault(coded.name, (coded, [], []))
        vectors.append(vector)
        places.append([])
        return places[-1]

    def encode(self) -> None:
        """Fill in what was replaced; raises ``InvalidVectorsError`` naming the first bad vector."""
        for coded, vectors, places in self._gathered.values():
            # A multivector collection takes a single vector as a query too: it counts as one row.
            single = [coded.multi and np.ndim(vector[0]) == 0 for vector in vectors]
            column = [[v] if s else v for v, s in zip(vectors, single, strict=True)]
            encoded = encode_column(coded, column, coded.codec.encode_queries, lambda i: f"query {i}")
            for place, latent, alone in zip(places, encoded, single, strict=True):
                place.extend(latent[0] if alone else latent)


def lookup_collections(search: Any) -> Iterator[str]:
    if search.lookup_from is not None:
        yield search.lookup_from.collection
    prefetch = search.prefetch
    for item in [prefetch] if isinstance(prefetch, models.Prefetch) else prefetch or []:
        yield from lookup_collections(item)


def lookup_vector(coded: CodedVector, search: Search, lookups: Mapping[str, Layout]) -> CodedVector | None:
    """The vector of another collection that ids are looked up in; it must be compressed by the same codec."""
    if search.lookup_from is None:
        return None
    name = search.lookup_from.vector or search.using or UNNAMED
    found = lookups[search.lookup_from.collection].coded.get(name)
    if found is None or found.codec.codec_id != coded.codec.codec_id:
        raise CodecMismatchError(
            f"lookup_from: expected vector {name!r} of collection {search.lookup_from.collection!r} to be compressed "
            f"by the codec of vector {coded.name!r}; look ids up in a collection that is"
        )
    return found
