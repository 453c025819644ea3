"""Translate the methods that search and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

from vaecodec.calibration import scores_of
from vaecodec.scores import ScoreCalibration
from vaecodec_integrations.qdrant import rescoring
from vaecodec_integrations.qdrant.flows.base import Call, Flow, FlowBase
from vaecodec_integrations.qdrant.layout import UNNAMED, Layout
from vaecodec_integrations.qdrant.messages import as_rest, copy_with
from vaecodec_integrations.qdrant.queries import (
    DEFAULT_LIMIT,
    QueryVectors,
    Search,
    is_dense,
    lookup_collections,
    lookup_vector,
    original_query,
    searches_vectors,
    with_embedded_texts,
)
from vaecodec_integrations.qdrant.vectors import stored_selection


class SearchFlows(FlowBase):
    """Encode query vectors as queries, re-rank candidates, and restore vectors to the original width."""

    def retrieve(self, *, collection_name: str, with_vectors: Any = False, **rest: Any) -> Flow[Any]:
        """Return points with their vectors restored."""
        layout = yield from self.layout(collection_name)
        selection = stored_selection(layout, with_vectors)
        arguments = {"collection_name": collection_name, "with_vectors": selection, **rest}
        return (yield from self._restored(collection_name, layout, (yield Call("retrieve", arguments))))

    def scroll(self, *, collection_name: str, with_vectors: Any = False, **rest: Any) -> Flow[Any]:
        """Return points with their vectors restored."""
        layout = yield from self.layout(collection_name)
        selection = stored_selection(layout, with_vectors)
        arguments = {"collection_name": collection_name, "with_vectors": selection, **rest}
        records, following = yield Call("scroll", arguments)
        return (yield from self._restored(collection_name, layout, records)), following

    def search_matrix_pairs(self, *, collection_name: str, **rest: Any) -> Flow[Any]:
        """Return scores between compressed vectors, once the codec is proven."""
        yield from self.layout(collection_name)
        return (yield Call("search_matrix_pairs", {"collection_name": collection_name, **rest}))

    def search_matrix_offsets(self, *, collection_name: str, **rest: Any) -> Flow[Any]:
        """Return scores between compressed vectors, once the codec is proven."""
        yield from self.layout(collection_name)
        return (yield Call("search_matrix_offsets", {"collection_name": collection_name, **rest}))

    def query_points(
        self,
        *,
        collection_name: str,
        query: Any = None,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: Any = None,
        search_params: Any = None,
        limit: int = DEFAULT_LIMIT,
        offset: int | None = None,
        with_vectors: Any = False,
        score_threshold: float | None = None,
        lookup_from: Any = None,
        **rest: Any,
    ) -> Flow[Any]:
        """Encode the query's vectors, re-rank the candidates, and restore their vectors."""
        layout = yield from self.layout(collection_name)
        search = Search.of(
            query=query,
            using=using,
            prefetch=prefetch,
            query_filter=query_filter,
            search_params=search_params,
            score_threshold=score_threshold,
            limit=limit,
            offset=offset,
            lookup_from=lookup_from,
        )
        search = with_embedded_texts(layout, search, self._texts)
        (sent,) = yield from self._translate(collection_name, layout, [search])
        arguments = {
            "collection_name": collection_name,
            "query": sent.query,
            "using": sent.using,
            "prefetch": sent.prefetch,
            "query_filter": sent.filter,
            "search_params": sent.params,
            "score_threshold": sent.score_threshold,
            "limit": sent.limit,
            "offset": sent.offset if sent.offset or offset is not None else None,
            "lookup_from": sent.lookup_from,
            "with_vectors": stored_selection(layout, with_vectors),
            **rest,
        }
        response = yield Call("query_points", arguments)
        return (yield from self._answer(collection_name, layout, search, response))

    def query_batch_points(self, *, collection_name: str, requests: Sequence[Any], **rest: Any) -> Flow[Any]:
        """Encode all query vectors of the batch in one call per codec."""
        layout = yield from self.layout(collection_name)
        requests = [as_rest(request, models.QueryRequest) for request in requests]
        searches = [with_embedded_texts(layout, Search.from_model(request), self._texts) for request in requests]
        sent = yield from self._translate(collection_name, layout, searches)
        translated = [
            copy_with(
                request,
                **search.model_fields(),
                offset=search.offset if search.offset or request.offset is not None else None,
                with_vector=stored_selection(layout, request.with_vector),
            )
            for request, search in zip(requests, sent, strict=True)
        ]
        arguments = {"collection_name": collection_name, "requests": translated, **rest}
        responses = yield Call("query_batch_points", arguments)
        answers = []
        for search, response in zip(searches, responses, strict=True):
            answers.append((yield from self._answer(collection_name, layout, search, response)))
        return answers

    def query_points_groups(
        self,
        *,
        collection_name: str,
        group_by: str,
        query: Any = None,
        using: str | None = None,
        prefetch: Any = None,
        query_filter: Any = None,
        search_params: Any = None,
        limit: int = DEFAULT_LIMIT,
        group_size: int = 3,
        with_vectors: Any = False,
        score_threshold: float | None = None,
        with_lookup: Any = None,
        lookup_from: Any = None,
        **rest: Any,
    ) -> Flow[Any]:
        """Work as :meth:`query_points`; a file of originals does not re-rank groups, originals on disk do."""
        layout = yield from self.layout(collection_name)
        search = Search.of(
            query=query,
            using=using,
            prefetch=prefetch,
            query_filter=query_filter,
            search_params=search_params,
            score_threshold=score_threshold,
            limit=limit * group_size,
            lookup_from=lookup_from,
        )
        search = with_embedded_texts(layout, search, self._texts)
        (sent,) = yield from self._translate(collection_name, layout, [search], by_file=False)
        looked_up, with_lookup = yield from self._lookup(as_rest(with_lookup, models.WithLookup))
        arguments = {
            "collection_name": collection_name,
            "group_by": group_by,
            "query": sent.query,
            "using": sent.using,
            "prefetch": sent.prefetch,
            "query_filter": sent.filter,
            "search_params": sent.params,
            "score_threshold": sent.score_threshold,
            "limit": limit,
            "group_size": group_size,
            "with_vectors": stored_selection(layout, with_vectors),
            "with_lookup": with_lookup,
            "lookup_from": sent.lookup_from,
            **rest,
        }
        response = yield Call("query_points_groups", arguments)
        groups = []
        for group in response.groups:
            scored = rescoring.calibrated(self._calibration(layout, search), group.hits)
            hits = yield from self._restored(collection_name, layout, scored)
            lookup = group.lookup
            if looked_up is not None and lookup is not None:
                (lookup,) = yield from self._restored(with_lookup.collection, looked_up, [lookup])
            groups.append(copy_with(group, hits=hits, lookup=lookup))
        return copy_with(response, groups=groups)

    def _lookup(self, with_lookup: Any) -> Flow[tuple[Layout | None, Any]]:
        """Return the layout of the collection in which records are looked up, if their vectors are asked for, and the
        request.
        """
        if not isinstance(with_lookup, models.WithLookup) or not with_lookup.with_vectors:
            return None, with_lookup
        layout = yield from self.layout(with_lookup.collection)
        selection = stored_selection(layout, with_lookup.with_vectors)
        return layout, copy_with(with_lookup, with_vectors=selection)

    def _translate(
        self, collection: str, layout: Layout, searches: Sequence[Search], *, by_file: bool = True
    ) -> Flow[list[Search]]:
        """Return the searches as they are sent."""
        lookups: dict[str, Layout] = {}
        for name in {name for search in searches for name in lookup_collections(search)}:
            lookups[name] = layout if name == collection else (yield from self.layout(name))
        vectors = QueryVectors()
        sent = []
        for search in searches:
            rewritten = self._rewritten(layout, lookups, search, vectors)
            if by_file and self._ranks_by_file(layout, search):
                candidates = (search.limit + search.offset) * self._settings.rerank
                rewritten = rewritten._replace(limit=candidates, offset=0, score_threshold=None)
            sent.append(rewritten)
        vectors.encode()
        return sent

    def _rewritten(
        self, layout: Layout, lookups: Mapping[str, Layout], search: Search, vectors: QueryVectors
    ) -> Search:
        """Return one search as it is sent, with its prefetches first.

        A search over kept originals becomes a prefetch over the compressed vectors, re-ranked by the same query over
        the originals.
        """
        prefetch = self._prefetches(layout, lookups, search.prefetch, vectors)
        coded = layout.coded.get(search.using or UNNAMED) if searches_vectors(search.query) else None
        if coded is None:
            return search._replace(prefetch=prefetch)
        lookup = lookup_vector(coded, search, lookups)
        encoded = vectors.encoded(coded, search.query)
        if coded.original is None:
            threshold = rescoring.to_compressed(self._calibration(layout, search), search.score_threshold)
            return search._replace(query=encoded, prefetch=prefetch, score_threshold=threshold)
        raw = original_query(search.query)
        if not prefetch:
            wanted, candidates = search.limit + search.offset, encoded
            if isinstance(encoded, models.NearestQuery) and encoded.mmr is not None:
                # Diversity concerns the final order only. The candidates are simply the nearest points.
                wanted = max(wanted, encoded.mmr.candidates_limit or 0)
                candidates = copy_with(encoded, mmr=None)
            prefetch = models.Prefetch.model_construct(
                query=candidates,
                using=search.using,
                filter=search.filter,
                params=search.params,
                limit=wanted * self._settings.rerank,
                lookup_from=search.lookup_from,
            )
            search = search._replace(filter=None, params=None)
        if search.lookup_from is not None and lookup is not None:
            search = search._replace(lookup_from=copy_with(search.lookup_from, vector=lookup.original))
        return search._replace(query=raw, using=coded.original, prefetch=prefetch)

    def _prefetches(self, layout: Layout, lookups: Mapping[str, Layout], prefetch: Any, vectors: QueryVectors) -> Any:
        if prefetch is None:
            return None
        if isinstance(prefetch, models.Prefetch):
            search = self._rewritten(layout, lookups, Search.from_model(prefetch), vectors)
            return copy_with(prefetch, **search.model_fields())
        return [self._prefetches(layout, lookups, item, vectors) for item in prefetch]

    def _answer(self, collection: str, layout: Layout, search: Search, response: Any) -> Flow[Any]:
        points = response.points
        if self._ranks_by_file(layout, search):
            assert self._settings.file is not None
            coded, nearest = layout.coded[search.using or UNNAMED], search.query.nearest
            asked = [point.id for point in points] + ([] if is_dense(nearest) else [nearest])
            decided = yield from self._decided(collection, layout, asked)
            points = rescoring.by_file(
                self._settings.file,
                coded.codec.metric,
                nearest,
                points,
                decided,
                limit=search.limit,
                offset=search.offset,
                score_threshold=search.score_threshold,
            )
        else:
            points = rescoring.calibrated(self._calibration(layout, search), points)
        points = yield from self._restored(collection, layout, points)
        return response if points is response.points else copy_with(response, points=points)

    def _ranks_by_file(self, layout: Layout, search: Search) -> bool:
        query = search.query
        return (
            self._settings.file is not None
            and (search.using or UNNAMED) in layout.coded
            and isinstance(query, models.NearestQuery)
            and query.mmr is None
            and search.lookup_from is None
            and not isinstance(query.nearest, models.SparseVector)
        )

    def _calibration(self, layout: Layout, search: Search) -> ScoreCalibration | None:
        """Return the map from compressed to original scores, if the search returns compressed similarities."""
        if not self._settings.calibrate:
            return None
        coded = layout.coded.get(search.using or UNNAMED)
        if coded is None or coded.original is not None or not isinstance(search.query, models.NearestQuery):
            return None
        return scores_of(coded.codec)
