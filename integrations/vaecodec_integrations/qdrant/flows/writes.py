"""Flows of the methods that write vectors."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, repeat
from typing import Any

import numpy as np
from qdrant_client import models

from vaecodec.errors import UnsupportedRequestError
from vaecodec.vectors import blocks
from vaecodec_integrations.qdrant.flows.base import Call, Flow, FlowBase
from vaecodec_integrations.qdrant.flows.originals import Encoded, KeptOriginals, erase, selected
from vaecodec_integrations.qdrant.layout import UNNAMED, Layout
from vaecodec_integrations.qdrant.messages import as_rest, copy_with, rest_points
from vaecodec_integrations.qdrant.vectors import embed_batch, embed_vectors, encode_batch, encode_vectors


class Record:
    """A point on its way to the wrapped client's uploader, which reads these three fields."""

    __slots__ = ("id", "payload", "vector")

    def __init__(self, id: Any, vector: Any, payload: Any) -> None:  # noqa: A002 - the client's word for it
        self.id, self.vector, self.payload = id, vector, payload


class WriteFlows(FlowBase):
    """Documents are encoded before they are sent, to a collection that is proven to hold latents of their codec."""

    def upsert(
        self, *, collection_name: str, points: Any, update_filter: Any = None, update_mode: Any = None, **rest: Any
    ) -> Flow[Any]:
        """Documents encoded, as points or as a batch."""
        self._refuse_conditional(update_filter, update_mode)
        given = rest_points(points)
        encoded, _ = yield from self.proven(collection_name, partial(self._encoded, points=given))
        kept = KeptOriginals(self._settings.file)
        kept.add(encoded._replace(whole=True))
        arguments = {
            "collection_name": collection_name,
            "points": encoded.sent,
            "update_filter": update_filter,
            "update_mode": update_mode,
            **rest,
        }
        result = yield Call("upsert", arguments)
        kept.commit()
        return result

    def update_vectors(
        self, *, collection_name: str, points: Sequence[Any], update_filter: Any = None, **rest: Any
    ) -> Flow[Any]:
        """Documents encoded."""
        self._refuse_conditional(update_filter, None)
        given = rest_points(points, models.PointVectors)
        encoded, _ = yield from self.proven(collection_name, partial(self._encoded, points=given))
        kept = KeptOriginals(self._settings.file)
        kept.add(encoded)
        arguments = {"collection_name": collection_name, "points": encoded.sent, "update_filter": update_filter, **rest}
        result = yield Call("update_vectors", arguments)
        kept.commit()
        return result

    def delete(self, *, collection_name: str, points_selector: Any, **rest: Any) -> Flow[Any]:
        """The points and their originals."""
        arguments = {"collection_name": collection_name, "points_selector": points_selector, **rest}
        file = self._settings.file
        if file is None or not (yield from self.proof(collection_name)).layout.coded:
            return (yield Call("delete", arguments))
        ids = yield from selected(collection_name, points_selector, rest.get("shard_key_selector"))
        result = yield Call("delete", arguments)
        yield from erase(file, collection_name, ids)
        return result

    def delete_vectors(
        self, *, collection_name: str, vectors: Sequence[str], points: Any, shard_key_selector: Any = None, **rest: Any
    ) -> Flow[Any]:
        """The vectors and their kept originals."""
        layout = (yield from self.proof(collection_name)).layout
        arguments = {
            "collection_name": collection_name,
            "vectors": _with_originals(layout, vectors),
            "points": points,
            "shard_key_selector": shard_key_selector,
            **rest,
        }
        file, coded = self._settings.file, [name for name in vectors if name in layout.coded]
        if file is None or not coded:
            return (yield Call("delete_vectors", arguments))
        ids = yield from selected(collection_name, points, shard_key_selector)
        result = yield Call("delete_vectors", arguments)
        yield from erase(file, collection_name, ids, coded[0])
        return result

    def batch_update_points(self, *, collection_name: str, update_operations: Sequence[Any], **rest: Any) -> Flow[Any]:
        """Each operation translated; all of them before any is sent."""
        given = [as_rest(operation, models.UpdateOperation) for operation in update_operations]

        def encode(layout: Layout) -> list[Encoded]:
            return [self._operation(layout, operation) for operation in given]

        translated, proof = yield from self.proven(collection_name, encode)
        kept, file = KeptOriginals(self._settings.file), self._settings.file
        for encoded in translated:  # none before the last operation has been found good
            kept.add(encoded)
        deleted = []
        if file is not None and proof.layout.coded:
            deleted = yield from self._deleted(collection_name, proof.layout, given)
        operations = [encoded.sent for encoded in translated]
        arguments = {"collection_name": collection_name, "update_operations": operations, **rest}
        results = yield Call("batch_update_points", arguments)
        kept.commit()
        for ids, name in deleted:
            assert file is not None
            yield from erase(file, collection_name, ids, name)
        return results

    def _deleted(
        self, collection: str, layout: Layout, operations: Sequence[Any]
    ) -> Flow[list[tuple[list[Any], str | None]]]:
        """The ids that operations of a batch select for deletion, each list with the vector that they lose, or None."""
        found: list[tuple[list[Any], str | None]] = []
        for operation in operations:
            match operation:
                case models.DeleteOperation(delete=selector):
                    found.append(((yield from selected(collection, selector)), None))
                case models.DeleteVectorsOperation(delete_vectors=deletion):
                    coded = [name for name in deletion.vector if name in layout.coded]
                    ids = deletion.points if deletion.points is not None else deletion.filter
                    if coded and ids is not None:
                        found.append(((yield from selected(collection, ids, deletion.shard_key)), coded[0]))
        return found

    # ------------------------------------------------------------ uploads

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
        self._refuse_conditional(update_filter, update_mode)
        yield from self.layout(collection_name)  # so that a wrong codec is an error before a point is read
        arguments = {
            "collection_name": collection_name,
            "batch_size": batch_size,
            "update_filter": update_filter,
            "update_mode": update_mode,
            **rest,
        }
        kept = KeptOriginals(self._settings.file)
        yield Call("upload_points", arguments, self._encoded_stream(collection_name, iter(points), batch_size, kept))
        kept.commit()

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
        length = _known_length(vectors)
        if length is not None:
            ids = _as_many(ids, length, "ids")
            payload = _as_many(payload, length, "payload")
        _check_arrays(layout, vectors)
        points = map(
            Record,
            _fresh_ids() if ids is None else map(_point_id, ids),
            _rows(vectors),
            repeat(None) if payload is None else payload,
        )
        yield from self.upload_points(collection_name=collection_name, points=points, batch_size=batch_size, **rest)

    def _encoded_stream(
        self, collection: str, points: Iterator[Any], batch_size: int, kept: KeptOriginals
    ) -> Generator[Any, Any, None]:
        """Points as they are uploaded, and between batches the calls that prove the collection."""
        proof = None
        while batch := list(islice(points, batch_size)):
            encode = partial(self._encoded, points=rest_points(batch), upload=True)
            encoded, proof = yield from self.proven(collection, encode, proof)
            kept.add(encoded._replace(whole=True))
            yield from encoded.sent

    # ------------------------------------------------------------ encoding

    def _encoded(self, layout: Layout, points: Any, *, upload: bool = False) -> Encoded:
        """Points or a batch as they are sent.

        Args:
            points: a batch, or ``PointStruct``, ``PointVectors`` or :class:`Record`.
            upload: they go to the wrapped client's uploader, which takes records, and where it can arrays.
        """
        if not layout.coded:
            return Encoded([_as_model(p) for p in points] if upload else points)
        if isinstance(points, models.Batch):
            batch = embed_batch(layout, points, self._texts)
            return Encoded(encode_batch(layout, batch), layout.coded, batch.ids, _rows(batch.vectors))
        ids = [point.id for point in points]
        vectors = embed_vectors(layout, [point.vector for point in points], self._texts)
        # The wrapped client looks for texts in models only, and not between arrays.
        slim = upload and not layout.others
        encoded = encode_vectors(layout, vectors, ids, arrays=slim and self._sends_arrays)
        if slim:
            payloads = (point.payload for point in points)
            return Encoded(list(map(Record, ids, encoded, payloads)), layout.coded, ids, vectors)
        sent = [copy_with(_as_model(p), vector=vector) for p, vector in zip(points, encoded, strict=True)]
        return Encoded(sent, layout.coded, ids, vectors)

    def _operation(self, layout: Layout, operation: Any) -> Encoded:
        match operation:
            case models.UpsertOperation(upsert=models.PointsBatch() as batch):
                self._refuse_conditional(batch.update_filter, batch.update_mode)
                encoded = self._encoded(layout, batch.batch)
                sent = copy_with(operation, upsert=copy_with(batch, batch=encoded.sent))
                return encoded._replace(sent=sent, whole=True)
            case models.UpsertOperation(upsert=models.PointsList() as listed):
                self._refuse_conditional(listed.update_filter, listed.update_mode)
                encoded = self._encoded(layout, listed.points)
                sent = copy_with(operation, upsert=copy_with(listed, points=encoded.sent))
                return encoded._replace(sent=sent, whole=True)
            case models.UpdateVectorsOperation(update_vectors=update):
                self._refuse_conditional(update.update_filter, None)
                encoded = self._encoded(layout, update.points)
                changed = copy_with(update, points=encoded.sent)
                return encoded._replace(sent=copy_with(operation, update_vectors=changed))
            case models.DeleteVectorsOperation(delete_vectors=deletion):
                names = _with_originals(layout, deletion.vector)
                return Encoded(copy_with(operation, delete_vectors=copy_with(deletion, vector=names)))
            case _:
                return Encoded(operation)

    def _refuse_conditional(self, update_filter: Any, update_mode: Any) -> None:
        if self._settings.file is not None and (
            update_filter is not None or update_mode not in (None, models.UpdateMode.UPSERT)
        ):
            raise UnsupportedRequestError(
                "update_filter, update_mode: expected neither beside a file of originals, because only the server "
                "knows which points it will write; keep the originals on disk: originals='disk'"
            )


# ---------------------------------------------------------------- parts of requests


def _as_model(point: Any) -> Any:
    if not isinstance(point, Record):
        return point
    return models.PointStruct.model_construct(id=point.id, vector=_plain(point.vector), payload=point.payload)


def _with_originals(layout: Layout, names: Sequence[str]) -> list[str]:
    hidden = [layout.coded[name].original for name in names if name in layout.coded]
    return [*names, *(name for name in hidden if name is not None)]


def _fresh_ids() -> Iterator[str]:
    while True:
        yield str(uuid.uuid4())


def _point_id(given: Any) -> Any:
    return str(given) if isinstance(given, uuid.UUID) else as_rest(given)


def _rows(vectors: Any) -> Iterable[Any]:
    """One point's vectors at a time from any form that ``upload_collection`` takes."""
    if isinstance(vectors, dict):
        return (dict(zip(vectors, row, strict=True)) for row in zip(*vectors.values(), strict=True))
    return vectors  # type: ignore[no-any-return]


def _plain(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {name: _plain(value) for name, value in vector.items()}
    return vector.tolist() if isinstance(vector, np.ndarray) else vector


def _known_length(vectors: Any) -> int | None:
    """How many points there are; None for a stream."""
    if isinstance(vectors, dict):
        return len(next(iter(vectors.values()))) if vectors else 0
    return len(vectors) if isinstance(vectors, (Sequence, np.ndarray)) else None


def _as_many(items: Iterable[Any] | None, length: int, name: str) -> Iterable[Any] | None:
    """So many items; an error as the wrapped client's own where there are fewer."""
    if items is None:
        return None
    if isinstance(items, (Sequence, np.ndarray)) and len(items) < length:
        raise ValueError(f"{name} iterable is shorter than vectors iterable")
    return _counted(items, length, name)


def _counted(items: Iterable[Any], length: int, name: str) -> Iterator[Any]:
    taken = 0
    for item in islice(items, length):
        taken += 1
        yield item
    if taken < length:
        raise ValueError(f"{name} iterable is shorter than vectors iterable")


def _check_arrays(layout: Layout, vectors: Any) -> None:
    columns = vectors if isinstance(vectors, dict) else {UNNAMED: vectors}
    if len({len(column) for column in columns.values() if isinstance(column, np.ndarray)}) > 1:
        raise ValueError("Each named vector should have the same number of vectors")
    for name, coded in layout.coded.items():
        column = columns.get(name)
        if isinstance(column, np.ndarray) and not coded.multi and column.shape[1:] != (coded.codec.code_dim,):
            for _ in blocks(column, coded.codec.dim, coded.codec.metric, name=f"vectors {name!r}"):
                pass
