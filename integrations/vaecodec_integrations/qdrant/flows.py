"""Every translated method of the Qdrant clients, as a generator that yields the calls to send.

A flow yields a :class:`Call`, is sent its response, and returns what the user gets. The sync and the async client
only send, so that both behave alike (httpx builds its authentication this way).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any, NamedTuple, TypeVar

import numpy as np
from qdrant_client import models
from qdrant_client.common.validation import require_length, vectors_length

from vaecodec.errors import CodecMismatchError, UnsupportedRequestError
from vaecodec.interface import VectorCodec
from vaecodec.scores import ScoreCalibration
from vaecodec.vectors import blocks
from vaecodec_integrations.qdrant import rescoring
from vaecodec_integrations.qdrant.layout import (
    DISTANCES,
    UNNAMED,
    CodedVector,
    Layout,
    Originals,
    dense_params,
    identity,
    logical_info,
    metadata_key,
    metadata_not_kept,
    names_codec,
    no_identity,
    original_name,
    read_layout,
)
from vaecodec_integrations.qdrant.originals import OriginalsFile
from vaecodec_integrations.qdrant.vectors import (
    QueryVectors,
    as_query,
    as_rest,
    copy_with,
    encode_batch,
    encode_points,
    map_query,
    rest_points,
    restore_records,
    searches_vectors,
    stored_selection,
)

T = TypeVar("T")
Flow = Generator["Call", Any, T]
ChangeInput = Callable[[CodedVector, Any], Any]

# An alias can be pointed at another collection by anyone, so what was read about a collection is read again.
RECHECK_SECONDS = 30.0

# Qdrant's own default for `limit`, in queries and in prefetches.
DEFAULT_LIMIT = 10


class Call(NamedTuple):
    """One call of the wrapped client."""

    method: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How the client was opened; see :class:`~vaecodec_integrations.qdrant.CompressedQdrantClient`."""

    codecs: Mapping[str, VectorCodec]
    originals: Originals
    file: OriginalsFile | None
    rerank: int
    calibrate: bool
    trust: bool


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


class Flows:
    """The translated methods. Flows take the arguments of the client's method of the same name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._layouts: dict[str, tuple[float, Layout]] = {}

    # ------------------------------------------------------------ identity

    def layout(self, collection: str) -> Flow[Layout]:
        """What the collection holds, once it is proven that these codecs filled it.

        Raises:
            CodecMismatchError: they did not, or the proof is missing.
        """
        known = self._layouts.get(collection)
        if known is not None and time.monotonic() - known[0] < RECHECK_SECONDS:
            return known[1]
        info = yield Call("get_collection", {"collection_name": collection})
        layout, missing = self._read(collection, info)
        if missing:
            counted = yield Call("count", {"collection_name": collection, "exact": True})
            if counted.count:
                raise no_identity(collection, missing)
            yield Call("update_collection", {"collection_name": collection, "metadata": missing})
            info = yield Call("get_collection", {"collection_name": collection})
            layout, missing = self._read(collection, info)
            if missing:
                raise metadata_not_kept(collection)
        self._layouts[collection] = (time.monotonic(), layout)
        return layout

    def _read(self, collection: str, info: models.CollectionInfo) -> tuple[Layout, dict[str, Any]]:
        return read_layout(
            collection, info, self._settings.codecs, self._settings.originals, trust=self._settings.trust
        )

    def _forgetting(self, method: str, collection_name: str, arguments: dict[str, Any]) -> Flow[Any]:
        self._layouts.pop(collection_name, None)
        return (yield Call(method, {"collection_name": collection_name, **arguments}))

    # ------------------------------------------------------------ collections

    def create_collection(self, **arguments: Any) -> Flow[Any]:
        """Compressed sizes and distances in, the codec's identity into the metadata."""
        return (yield from self._create("create_collection", **arguments))

    def recreate_collection(self, **arguments: Any) -> Flow[Any]:
        """See :meth:`create_collection`."""
        return (yield from self._create("recreate_collection", **arguments))

    def _create(
        self,
        method: str,
        *,
        collection_name: str,
        vectors_config: Any = None,
        quantization_config: Any = None,
        metadata: Any = None,
        **rest: Any,
    ) -> Flow[Any]:
        _refuse_reserved(metadata)
        quantization_config = as_rest(quantization_config)
        asked = self._asked_vectors(vectors_config)
        stored, records = dict(asked), {}
        for name, codec in self._settings.codecs.items():
            if name not in asked:
                continue
            keeps = self._settings.originals is Originals.DISK
            original = original_name(name) if keeps else None
            stored[name] = _compressed_params(name, asked[name], codec, self._settings.originals)
            if original is not None:
                stored[original] = _original_params(asked[name], codec)
            records[metadata_key(name)] = identity(codec, self._settings.originals, original)
        if records and self._settings.originals is Originals.DISK and quantization_config is not None:
            # Quantising the originals too would cost RAM and gain nothing: they are only read to re-rank.
            for name in asked:
                if stored[name].quantization_config is None:
                    stored[name] = copy_with(stored[name], quantization_config=quantization_config)
            quantization_config = None
        if records:
            vectors_config = stored[UNNAMED] if list(stored) == [UNNAMED] else stored
            metadata = {**(metadata or {}), **records}
        return (
            yield from self._forgetting(
                method,
                collection_name,
                {
                    "vectors_config": vectors_config,
                    "quantization_config": quantization_config,
                    "metadata": metadata,
                    **rest,
                },
            )
        )

    def _asked_vectors(self, config: Any) -> dict[str, models.VectorParams]:
        if config is None:
            # The codecs know what they need, so the size and the distance may be left out.
            return {
                name: models.VectorParams(size=codec.dim, distance=DISTANCES[codec.metric])
                for name, codec in self._settings.codecs.items()
            }
        return dict(config) if isinstance(config, Mapping) else {UNNAMED: config}

    def create_vector_name(
        self, *, collection_name: str, vector_name: str, vector_name_config: Any, **rest: Any
    ) -> Flow[Any]:
        """A compressed vector added to an existing collection, its identity first."""
        codec = self._settings.codecs.get(vector_name)
        if codec is None or not isinstance(vector_name_config, models.DenseVectorNameConfig):
            arguments = {"vector_name": vector_name, "vector_name_config": vector_name_config, **rest}
            return (yield from self._forgetting("create_vector_name", collection_name, arguments))
        originals = self._settings.originals
        dense = vector_name_config.dense
        original = original_name(vector_name) if originals is Originals.DISK else None
        metadata = {metadata_key(vector_name): identity(codec, originals, original)}
        params = _compressed_params(vector_name, dense, codec, originals)
        yield from self._forgetting("update_collection", collection_name, {"metadata": metadata})
        if original is not None:
            kept = copy_with(dense, datatype=models.VectorStorageDatatype.FLOAT16)
            config = models.DenseVectorNameConfig(dense=kept)
            arguments = {"collection_name": collection_name, "vector_name_config": config, **rest}
            yield Call("create_vector_name", {"vector_name": original, **arguments})
            graphless = models.VectorParamsDiff(on_disk=True, hnsw_config=models.HnswConfigDiff(m=0))
            vectors = {original: graphless}
            yield Call("update_collection", {"collection_name": collection_name, "vectors_config": vectors})
        config = models.DenseVectorNameConfig(dense=params)
        arguments = {"vector_name": vector_name, "vector_name_config": config, **rest}
        return (yield from self._forgetting("create_vector_name", collection_name, arguments))

    def delete_vector_name(self, *, collection_name: str, vector_name: str, **rest: Any) -> Flow[Any]:
        """The vector, its kept originals and its identity."""
        layout = yield from self.layout(collection_name)
        coded = layout.coded.get(vector_name)
        result = yield Call(
            "delete_vector_name", {"collection_name": collection_name, "vector_name": vector_name, **rest}
        )
        if coded is not None:
            if coded.original is not None:
                arguments = {"collection_name": collection_name, "vector_name": coded.original, **rest}
                yield Call("delete_vector_name", arguments)
            metadata = {metadata_key(vector_name): None}
            yield Call("update_collection", {"collection_name": collection_name, "metadata": metadata})
        self._layouts.pop(collection_name, None)
        return result

    def update_collection(
        self,
        *,
        collection_name: str,
        vectors_config: Any = None,
        quantization_config: Any = None,
        metadata: Any = None,
        **rest: Any,
    ) -> Flow[Any]:
        """Settings of the stored vectors; kept originals are never quantised."""
        _refuse_reserved(metadata)
        vectors_config, quantization_config = as_rest(vectors_config), as_rest(quantization_config)
        layout = yield from self.layout(collection_name)
        if layout.hides_originals and quantization_config is not None:
            info = yield Call("get_collection", {"collection_name": collection_name})
            dense = [name for name in dense_params(info) if name in layout.coded or name in layout.others]
            vectors_config = dict(vectors_config or {})
            for name in dense:
                diff = vectors_config.get(name, models.VectorParamsDiff())
                if diff.quantization_config is None:
                    vectors_config[name] = copy_with(diff, quantization_config=quantization_config)
            quantization_config = None
        arguments = {
            "vectors_config": vectors_config,
            "quantization_config": quantization_config,
            "metadata": metadata,
            **rest,
        }
        return (yield from self._forgetting("update_collection", collection_name, arguments))

    def delete_collection(self, *, collection_name: str, **rest: Any) -> Flow[Any]:
        """Forget what was known about the collection."""
        return (yield from self._forgetting("delete_collection", collection_name, rest))

    def update_collection_aliases(self, **arguments: Any) -> Flow[Any]:
        """Forget what was known under any name."""
        result = yield Call("update_collection_aliases", arguments)
        self._layouts.clear()
        return result

    def get_collection(self, *, collection_name: str, **rest: Any) -> Flow[Any]:
        """The collection as if it were not compressed; its metadata tells what is stored."""
        layout = yield from self.layout(collection_name)
        info = yield Call("get_collection", {"collection_name": collection_name, **rest})
        return logical_info(info, layout)

    # ------------------------------------------------------------ writing

    def upsert(
        self, *, collection_name: str, points: Any, update_filter: Any = None, update_mode: Any = None, **rest: Any
    ) -> Flow[Any]:
        """Documents encoded, as points or as a batch."""
        layout = yield from self.layout(collection_name)
        self._refuse_conditional(update_filter, update_mode)
        arguments = {
            "collection_name": collection_name,
            "points": self._encoded(layout, points),
            "update_filter": update_filter,
            "update_mode": update_mode,
            **rest,
        }
        return (yield Call("upsert", arguments))

    def _encoded(self, layout: Layout, points: Any) -> Any:
        """Points or a batch as they are sent, their originals kept."""
        points = rest_points(points)
        encoded = _encode(layout, points)
        self._keep(layout, points)
        return encoded

    def _keep(self, layout: Layout, points: Any) -> None:
        """Originals go to the file before the server sees the point: a row too many is harmless, one too few not."""
        file = self._settings.file
        if file is None:
            return
        for name in layout.coded:
            if isinstance(points, models.Batch):
                columns = points.vectors if isinstance(points.vectors, dict) else {UNNAMED: points.vectors}
                held = list(zip(points.ids, columns.get(name, ()), strict=False))
            else:
                vectors = [p.vector if isinstance(p.vector, dict) else {UNNAMED: p.vector} for p in points]
                held = [(p.id, v[name]) for p, v in zip(points, vectors, strict=True) if v.get(name) is not None]
            if held:
                ids, rows = zip(*held, strict=True)
                file.append(ids, np.array(rows, np.float32))

    def _refuse_conditional(self, update_filter: Any, update_mode: Any) -> None:
        if self._settings.file is not None and (
            update_filter is not None or update_mode not in (None, models.UpdateMode.UPSERT)
        ):
            raise UnsupportedRequestError(
                "update_filter, update_mode: expected neither beside a file of originals, because only the server "
                "knows which points it will write; keep the originals on disk: originals='disk'"
            )

    def upload_points(
        self,
        *,
        collection_name: str,
        points: Iterable[Any],
        batch_size: int = 64,
        update_filter: Any = None,
        update_mode: Any = None,
        **rest: Any,
    ) -> Flow[None]:
        """Points read and encoded one batch at a time, as the wrapped client asks for them."""
        layout = yield from self.layout(collection_name)
        self._refuse_conditional(update_filter, update_mode)
        arguments = {
            "collection_name": collection_name,
            "points": self._encoded_stream(layout, iter(points), batch_size),
            "batch_size": batch_size,
            "update_filter": update_filter,
            "update_mode": update_mode,
            **rest,
        }
        yield Call("upload_points", arguments)

    def _encoded_stream(self, layout: Layout, points: Iterator[Any], batch_size: int) -> Iterator[Any]:
        while batch := list(islice(points, batch_size)):
            yield from self._encoded(layout, batch)

    def upload_collection(
        self,
        *,
        collection_name: str,
        vectors: Any,
        payload: Iterable[Any] | None = None,
        ids: Iterable[Any] | None = None,
        batch_size: int = 64,
        **rest: Any,
    ) -> Flow[None]:
        """Vectors of any kind that the wrapped client takes; arrays are checked whole before anything is sent."""
        layout = yield from self.layout(collection_name)
        length = vectors_length(vectors)
        if length is not None:
            ids = require_length(ids, length, "ids")
            payload = require_length(payload, length, "payload")
        self._check_arrays(layout, vectors)
        points = (
            models.PointStruct.model_construct(
                id=str(i) if isinstance(i, uuid.UUID) else as_rest(i), vector=v, payload=p
            )
            for i, v, p in zip(
                _fresh_ids() if ids is None else ids,
                _rows(vectors),
                repeat(None) if payload is None else payload,
                strict=False,
            )
        )
        yield from self.upload_points(collection_name=collection_name, points=points, batch_size=batch_size, **rest)

    def _check_arrays(self, layout: Layout, vectors: Any) -> None:
        columns = vectors if isinstance(vectors, dict) else {UNNAMED: vectors}
        if len({len(column) for column in columns.values() if isinstance(column, np.ndarray)}) > 1:
            raise ValueError("Each named vector should have the same number of vectors")
        for name, coded in layout.coded.items():
            column = columns.get(name)
            if isinstance(column, np.ndarray) and not coded.multi:
                for _ in blocks(column, coded.codec.dim, coded.codec.metric, name=f"vectors {name!r}"):
                    pass

    def update_vectors(
        self, *, collection_name: str, points: Sequence[Any], update_filter: Any = None, **rest: Any
    ) -> Flow[Any]:
        """Documents encoded."""
        layout = yield from self.layout(collection_name)
        self._refuse_conditional(update_filter, None)
        arguments = {"collection_name": collection_name, "points": self._encoded(layout, points), **rest}
        return (yield Call("update_vectors", {**arguments, "update_filter": update_filter}))

    def delete_vectors(self, *, collection_name: str, vectors: Sequence[str], **rest: Any) -> Flow[Any]:
        """The vectors and their kept originals."""
        layout = yield from self.layout(collection_name)
        arguments = {"collection_name": collection_name, "vectors": _with_originals(layout, vectors), **rest}
        return (yield Call("delete_vectors", arguments))

    def batch_update_points(self, *, collection_name: str, update_operations: Sequence[Any], **rest: Any) -> Flow[Any]:
        """Each operation translated; all of them before any is sent."""
        layout = yield from self.layout(collection_name)
        operations = [self._operation(layout, operation) for operation in update_operations]
        for operation in update_operations:  # none before the last operation has been found good
            self._keep(layout, _written_points(operation))
        arguments = {"collection_name": collection_name, "update_operations": operations, **rest}
        return (yield Call("batch_update_points", arguments))

    def _operation(self, layout: Layout, operation: Any) -> Any:
        match operation:
            case models.UpsertOperation(upsert=models.PointsBatch() as batch):
                self._refuse_conditional(batch.update_filter, batch.update_mode)
                return copy_with(operation, upsert=copy_with(batch, batch=_encode(layout, batch.batch)))
            case models.UpsertOperation(upsert=models.PointsList() as listed):
                self._refuse_conditional(listed.update_filter, listed.update_mode)
                return copy_with(operation, upsert=copy_with(listed, points=_encode(layout, listed.points)))
            case models.UpdateVectorsOperation(update_vectors=update):
                self._refuse_conditional(update.update_filter, None)
                points = _encode(layout, update.points)
                return copy_with(operation, update_vectors=copy_with(update, points=points))
            case models.DeleteVectorsOperation(delete_vectors=deletion):
                names = _with_originals(layout, deletion.vector)
                return copy_with(operation, delete_vectors=copy_with(deletion, vector=names))
            case _:
                return operation

    # ------------------------------------------------------------ reading

    def retrieve(self, *, collection_name: str, with_vectors: Any = False, **rest: Any) -> Flow[Any]:
        """Vectors restored."""
        layout = yield from self.layout(collection_name)
        selection = stored_selection(layout, with_vectors)
        arguments = {"collection_name": collection_name, "with_vectors": selection, **rest}
        return self._restored(layout, (yield Call("retrieve", arguments)))

    def scroll(self, *, collection_name: str, with_vectors: Any = False, **rest: Any) -> Flow[Any]:
        """Vectors restored."""
        layout = yield from self.layout(collection_name)
        selection = stored_selection(layout, with_vectors)
        arguments = {"collection_name": collection_name, "with_vectors": selection, **rest}
        records, following = yield Call("scroll", arguments)
        return self._restored(layout, records), following

    def _restored(self, layout: Layout, records: Sequence[Any]) -> Sequence[Any]:
        file = self._settings.file
        return restore_records(layout, records, None if file is None else file.find)

    def search_matrix_pairs(self, *, collection_name: str, **rest: Any) -> Flow[Any]:
        """Scores between compressed vectors, once the codec is proven."""
        yield from self.layout(collection_name)
        return (yield Call("search_matrix_pairs", {"collection_name": collection_name, **rest}))

    def search_matrix_offsets(self, *, collection_name: str, **rest: Any) -> Flow[Any]:
        """Scores between compressed vectors, once the codec is proven."""
        yield from self.layout(collection_name)
        return (yield Call("search_matrix_offsets", {"collection_name": collection_name, **rest}))

    # ------------------------------------------------------------ querying

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
        """Query vectors encoded as queries, candidates re-ranked, vectors restored."""
        layout = yield from self.layout(collection_name)
        search = Search(
            as_query(query),
            using,
            prefetch,
            as_rest(query_filter),
            as_rest(search_params),
            score_threshold,
            limit,
            offset or 0,
            as_rest(lookup_from),
        )
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
        return self._answer(layout, search, response)

    def query_batch_points(self, *, collection_name: str, requests: Sequence[Any], **rest: Any) -> Flow[Any]:
        """All query vectors of the batch encoded in one call per codec."""
        layout = yield from self.layout(collection_name)
        searches = [_from_model(request) for request in requests]
        sent = yield from self._translate(collection_name, layout, searches)
        translated = [
            copy_with(
                request,
                **_model_fields(search),
                offset=search.offset if search.offset or request.offset is not None else None,
                with_vector=stored_selection(layout, request.with_vector),
            )
            for request, search in zip(requests, sent, strict=True)
        ]
        arguments = {"collection_name": collection_name, "requests": translated, **rest}
        responses = yield Call("query_batch_points", arguments)
        return [self._answer(layout, search, r) for search, r in zip(searches, responses, strict=True)]

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
        """As :meth:`query_points`; a file of originals does not re-rank groups, originals on disk do."""
        layout = yield from self.layout(collection_name)
        search = Search(
            as_query(query),
            using,
            prefetch,
            as_rest(query_filter),
            as_rest(search_params),
            score_threshold,
            limit * group_size,
            0,
            as_rest(lookup_from),
        )
        (sent,) = yield from self._translate(collection_name, layout, [search], by_file=False)
        looked_up = None
        if isinstance(with_lookup, models.WithLookup) and with_lookup.with_vectors:
            looked_up = yield from self.layout(with_lookup.collection)
            selection = stored_selection(looked_up, with_lookup.with_vectors)
            with_lookup = copy_with(with_lookup, with_vectors=selection)
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
            hits = self._restored(layout, rescoring.calibrated(self._calibration(layout, search), group.hits))
            lookup = group.lookup
            if looked_up is not None and lookup is not None:
                (lookup,) = self._restored(looked_up, [lookup])
            groups.append(copy_with(group, hits=hits, lookup=lookup))
        return copy_with(response, groups=groups)

    def _translate(
        self, collection: str, layout: Layout, searches: Sequence[Search], *, by_file: bool = True
    ) -> Flow[list[Search]]:
        """The searches as they are sent."""
        lookups: dict[str, Layout] = {}
        for name in {name for search in searches for name in _lookup_collections(search)}:
            lookups[name] = layout if name == collection else (yield from self.layout(name))
        vectors = QueryVectors()
        sent = []
        for search in searches:
            rewritten = self._rewritten(layout, lookups, search, vectors.replace)
            if by_file and self._ranks_by_file(layout, search):
                candidates = (search.limit + search.offset) * self._settings.rerank
                rewritten = rewritten._replace(limit=candidates, offset=0, score_threshold=None)
            sent.append(rewritten)
        vectors.encode()
        return sent

    def _rewritten(self, layout: Layout, lookups: Mapping[str, Layout], search: Search, change: ChangeInput) -> Search:
        """One search as it is sent, its prefetches first.

        A search over kept originals becomes a prefetch over the compressed vectors, re-ranked by the same query over
        the originals.
        """
        prefetch = self._prefetches(layout, lookups, search.prefetch, change)
        coded = layout.coded.get(search.using or UNNAMED) if searches_vectors(search.query) else None
        if coded is None:
            return search._replace(prefetch=prefetch)
        lookup = _lookup_vector(coded, search, lookups)
        encoded = map_query(search.query, lambda vector: change(coded, vector))
        if coded.original is None:
            threshold = rescoring.to_compressed(self._calibration(layout, search), search.score_threshold)
            return search._replace(query=encoded, prefetch=prefetch, score_threshold=threshold)
        raw = map_query(search.query, lambda vector: vector.tolist() if isinstance(vector, np.ndarray) else vector)
        if not prefetch:
            wanted, candidates = search.limit + search.offset, encoded
            if isinstance(encoded, models.NearestQuery) and encoded.mmr is not None:
                # Diversity is a matter of the final order; the candidates are simply the nearest.
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

    def _prefetches(self, layout: Layout, lookups: Mapping[str, Layout], prefetch: Any, change: ChangeInput) -> Any:
        if prefetch is None:
            return None
        if isinstance(prefetch, models.Prefetch):
            search = self._rewritten(layout, lookups, _from_model(prefetch), change)
            return copy_with(prefetch, **_model_fields(search))
        return [self._prefetches(layout, lookups, item, change) for item in prefetch]

    def _answer(self, layout: Layout, search: Search, response: Any) -> Any:
        points = response.points
        if self._ranks_by_file(layout, search):
            assert self._settings.file is not None
            coded = layout.coded[search.using or UNNAMED]
            points = rescoring.by_file(
                self._settings.file,
                coded.codec.metric,
                search.query.nearest,
                points,
                limit=search.limit,
                offset=search.offset,
                score_threshold=search.score_threshold,
            )
        else:
            points = rescoring.calibrated(self._calibration(layout, search), points)
        points = self._restored(layout, points)
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
        """The map from compressed to original scores, where the search's scores are compressed similarities."""
        if not self._settings.calibrate:
            return None
        coded = layout.coded.get(search.using or UNNAMED)
        if coded is None or coded.original is not None or not isinstance(search.query, models.NearestQuery):
            return None
        return ScoreCalibration.of(coded.codec)


# ---------------------------------------------------------------- parts of requests


def _encode(layout: Layout, points: Any) -> Any:
    """Points or a batch with their compressed vectors encoded."""
    if not layout.coded:
        return points
    return encode_batch(layout, points) if isinstance(points, models.Batch) else encode_points(layout, points)


def _written_points(operation: Any) -> Any:
    """The points or the batch that an update operation writes vectors of; none for the others."""
    match operation:
        case models.UpsertOperation(upsert=models.PointsBatch(batch=batch)):
            return batch
        case models.UpsertOperation(upsert=models.PointsList(points=points)):
            return points
        case models.UpdateVectorsOperation(update_vectors=update):
            return update.points
        case _:
            return []


def _refuse_reserved(metadata: Any) -> None:
    reserved = [key for key in metadata or {} if names_codec(str(key))]
    if reserved:
        raise UnsupportedRequestError(
            f"metadata: expected keys of your own, got {reserved}; these name the codecs and are written by the client"
        )


def _compressed_params(name: str, params: Any, codec: VectorCodec, originals: Originals) -> Any:
    """``VectorParams`` or ``DenseVectorConfig`` for the latents, from those for the embeddings."""
    distance = DISTANCES[codec.metric]
    if params.size != codec.dim or params.distance != distance:
        raise CodecMismatchError(
            f"vector {name!r}: expected size {codec.dim} and distance {distance}, as the codec's embeddings have, got "
            f"size {params.size} and distance {params.distance}"
        )
    if params.datatype is not None and str(params.datatype.value) == "uint8":
        raise UnsupportedRequestError(
            f"vector {name!r}: expected a datatype that keeps fractions, got uint8, which cuts latents (mostly between "
            "-1 and 1) to zero; for one byte per dimension on the disk use turbo8, in RAM recommended_config"
        )
    if params.multivector_config is not None and originals is Originals.FILE:
        raise UnsupportedRequestError(
            f"vector {name!r}: a file of originals holds one row per point, not multivectors; use originals='disk'"
        )
    return copy_with(params, size=codec.code_dim, distance=DISTANCES[codec.latent_metric])


def _original_params(params: models.VectorParams, codec: VectorCodec) -> models.VectorParams:
    return models.VectorParams(
        size=codec.dim,
        distance=DISTANCES[codec.metric],
        datatype=models.Datatype.FLOAT16,
        on_disk=True,
        # Never searched by itself, only read to re-rank, so it needs no graph.
        hnsw_config=models.HnswConfigDiff(m=0),
        multivector_config=params.multivector_config,
    )


def _with_originals(layout: Layout, names: Sequence[str]) -> list[str]:
    hidden = [layout.coded[name].original for name in names if name in layout.coded]
    return [*names, *(name for name in hidden if name is not None)]


def _fresh_ids() -> Iterator[str]:
    while True:
        yield str(uuid.uuid4())


def _rows(vectors: Any) -> Iterator[Any]:
    """One point's vectors at a time from any form that ``upload_collection`` takes."""
    if isinstance(vectors, dict):
        for row in zip(*vectors.values(), strict=True):
            yield dict(zip(vectors, map(_plain, row), strict=True))
    else:
        yield from map(_plain, vectors)


def _plain(vector: Any) -> Any:
    return vector.tolist() if isinstance(vector, np.ndarray) else vector


def _from_model(request: Any) -> Search:
    """A ``QueryRequest`` or ``Prefetch`` as a search."""
    return Search(
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


def _model_fields(search: Search) -> dict[str, Any]:
    """The fields that ``QueryRequest`` and ``Prefetch`` share."""
    return {
        "query": search.query,
        "using": search.using,
        "prefetch": search.prefetch,
        "filter": search.filter,
        "params": search.params,
        "score_threshold": search.score_threshold,
        "limit": search.limit,
        "lookup_from": search.lookup_from,
    }


def _lookup_collections(search: Any) -> Iterator[str]:
    if search.lookup_from is not None:
        yield search.lookup_from.collection
    prefetch = search.prefetch
    for item in [prefetch] if isinstance(prefetch, models.Prefetch) else prefetch or []:
        yield from _lookup_collections(item)


def _lookup_vector(coded: CodedVector, search: Search, lookups: Mapping[str, Layout]) -> CodedVector | None:
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
