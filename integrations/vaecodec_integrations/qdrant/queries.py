"""Find, encode and put back the vectors of queries; nothing is sent here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, get_args

import numpy as np
from pydantic import BaseModel
from qdrant_client import models

from vaecodec.errors import CodecMismatchError
from vaecodec.interface import Metric
from vaecodec_integrations.qdrant.layout import UNNAMED, CodedVector, Layout
from vaecodec_integrations.qdrant.messages import QUERY, as_plain, as_rest, copy_with
from vaecodec_integrations.qdrant.texts import INFERENCE, TextEmbedder
from vaecodec_integrations.qdrant.vectors import as_lists, encode_column, plain_floats

# Qdrant's own default for `limit`, in queries and in prefetches.
DEFAULT_LIMIT = 10


class Search(NamedTuple):
    """Hold the parts of a query that are translated, the same for a request, a prefetch and a call.

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
    def of(
        cls,
        *,
        query: Any = None,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: Any = None,
        search_params: Any = None,
        score_threshold: float | None = None,
        limit: int | None = None,
        offset: int | None = None,
        lookup_from: Any = None,
    ) -> Search:
        """Return the arguments of a query, each in any form that the client takes."""
        return cls(
            as_query(query),
            using,
            _as_prefetches(prefetch),
            as_rest(query_filter, models.Filter),
            as_rest(search_params, models.SearchParams),
            score_threshold,
            DEFAULT_LIMIT if limit is None else limit,
            offset or 0,
            as_rest(lookup_from, models.LookupLocation),
        )

    @classmethod
    def from_model(cls, request: Any) -> Search:
        """Return a ``QueryRequest`` or ``Prefetch`` as a search."""
        return cls.of(
            query=request.query,
            using=request.using,
            prefetch=request.prefetch,
            query_filter=request.filter,
            search_params=request.params,
            score_threshold=request.score_threshold,
            limit=request.limit,
            offset=getattr(request, "offset", None),
            lookup_from=request.lookup_from,
        )

    def model_fields(self) -> dict[str, Any]:
        """Return the fields that ``QueryRequest`` and ``Prefetch`` share."""
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
    """Return the short forms of a query (an id, a vector, an array) as the models they stand for."""
    query = as_plain(as_rest(query, QUERY))
    if isinstance(query, (np.ndarray, tuple)):
        query = list(query) if isinstance(query, tuple) else query.tolist()
    elif query is None or (not isinstance(query, list) and isinstance(query, _QUERY_MODELS)):
        return query
    # Do not validate every float: the codec checks the vector, and the wrapped client has checked the rest.
    return copy_with(_NEAREST, nearest=query)


def _as_prefetches(prefetch: Any) -> Any:
    if isinstance(prefetch, (list, tuple)):
        return [as_rest(item, models.Prefetch) for item in prefetch]
    return as_rest(prefetch, models.Prefetch)


_NEAREST = models.NearestQuery(nearest=0)
_QUERY_MODELS: tuple[type[BaseModel], ...] = get_args(models.Query)


def map_query(query: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of a query model with ``change`` applied to each of its inputs: vectors, ids, sparse vectors."""
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
    """Tell whether a query compares vectors at all, unlike fusion, formula, order, text and sampling."""
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


def is_dense(vector: Any) -> bool:
    """Tell whether a query input is a vector or multivector, not an id, a sparse vector or an object to be embedded."""
    return isinstance(vector, (list, np.ndarray))


def averages(query: Any) -> bool:
    """Tell whether a query searches for the average of its examples."""
    return isinstance(query, models.RecommendQuery) and query.recommend.strategy in (
        None,
        models.RecommendStrategy.AVERAGE_VECTOR,
    )


class QueryVectors:
    """Encode all query vectors of a request in one call per codec.

    A request is walked once: each vector is replaced by an empty list, and :meth:`encode` fills these in place.
    """

    def __init__(self) -> None:
        self._gathered: dict[str, list[_Place]] = {}

    def encoded(self, coded: CodedVector, query: Any) -> Any:
        """Return a query whose vectors will be their encoded form; ids and sparse vectors stay as they are."""
        weighted = averages(query) and coded.codec.metric is Metric.COSINE and not coded.multi

        def replace(vector: Any) -> Any:
            if not is_dense(vector):
                return vector
            place = _Place(coded, vector, weighted, [])
            self._gathered.setdefault(coded.name, []).append(place)
            return place.latent

        return map_query(query, replace)

    def encode(self) -> None:
        """Fill in the latents of all replaced vectors; raise ``InvalidVectorsError`` naming the first bad vector."""
        for places in self._gathered.values():
            coded = places[0].coded
            # A multivector collection also takes a single vector as a query, as one row.
            single = [coded.multi and np.ndim(place.vector[0]) == 0 for place in places]
            column = [[p.vector] if s else p.vector for p, s in zip(places, single, strict=True)]
            encoded = as_lists(encode_column(coded, column, "query {}".format, queries=True))
            for place, latent, alone in zip(places, encoded, single, strict=True):
                place.fill(latent[0] if alone else latent)


class _Place(NamedTuple):
    """Hold a vector of a query, and the list that its latent is written into.

    ``weighted``: it is averaged with others, where a vector counts by its length, which latents under cosine lack.
    """

    coded: CodedVector
    vector: Any
    weighted: bool
    latent: list[Any]

    def fill(self, latent: list[Any]) -> None:
        length = float(np.linalg.norm(self.vector)) if self.weighted else 1.0
        self.latent.extend([length * value for value in latent] if self.weighted else latent)


def with_embedded_texts(layout: Layout, search: Search, texts: TextEmbedder) -> Search:
    """Return a search, its prefetches included, whose texts and images are embedded where their vector is
    compressed."""
    name = search.using or UNNAMED

    def embed(value: Any) -> Any:
        if not isinstance(value, INFERENCE):
            return value
        return texts.embed([value], queries=True, label=f"query, vector {name!r}")[0]

    query = map_query(search.query, embed) if name in layout.coded else search.query
    prefetch = search.prefetch
    if prefetch is not None:
        alone = isinstance(prefetch, models.Prefetch)
        searches = map(Search.from_model, [prefetch] if alone else prefetch)
        filled = [with_embedded_texts(layout, inner, texts).model_fields() for inner in searches]
        prefetches = [copy_with(p, **f) for p, f in zip([prefetch] if alone else prefetch, filled, strict=True)]
        prefetch = prefetches[0] if alone else prefetches
    return search._replace(query=query, prefetch=prefetch)


def original_query(query: Any) -> Any:
    """Return a query over uncompressed vectors: its vectors as lists of floats."""
    return map_query(query, lambda vector: plain_floats(vector) if is_dense(vector) else vector)


def lookup_collections(search: Any) -> Iterator[str]:
    """Yield the collections that a search, or its prefetches, look ids up in."""
    if search.lookup_from is not None:
        yield search.lookup_from.collection
    prefetch = search.prefetch
    for item in [prefetch] if isinstance(prefetch, models.Prefetch) else prefetch or []:
        yield from lookup_collections(item)


def lookup_vector(coded: CodedVector, search: Search, lookups: Mapping[str, Layout]) -> CodedVector | None:
    """Return the vector of another collection that ids are looked up in; it must be compressed by the same codec."""
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
