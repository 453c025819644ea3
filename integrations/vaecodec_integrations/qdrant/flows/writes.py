"""Flows of the methods that write vectors."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import Any

import numpy as np
from qdrant_client import models
from qdrant_client.common.validation import require_length, vectors_length

from vaecodec.errors import UnsupportedRequestError
from vaecodec.vectors import blocks
from vaecodec_integrations.qdrant.flows.base import Call, Flow, FlowBase
from vaecodec_integrations.qdrant.layout import UNNAMED, Layout
from vaecodec_integrations.qdrant.vectors import as_rest, copy_with, encode_batch, encode_points, rest_points


class WriteFlows(FlowBase):
    """Documents are encoded before they are sent."""

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
