"""Translate the methods that write vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from qdrant_client import models

from vaecodec.errors import UnsupportedRequestError
from vaecodec_integrations.qdrant.flows.base import Call, Flow, FlowBase
from vaecodec_integrations.qdrant.flows.originals import EncodedWrite, KeptOriginals, erase, selected
from vaecodec_integrations.qdrant.layout import Layout
from vaecodec_integrations.qdrant.messages import as_rest, copy_with, rest_points
from vaecodec_integrations.qdrant.vectors import embed_batch, embed_vectors, encode_batch, encode_vectors


class WriteFlows(FlowBase):
    """Encode documents before they are sent to a collection that is proven to hold latents of their codec."""

    def upsert(
        self, *, collection_name: str, points: Any, update_filter: Any = None, update_mode: Any = None, **rest: Any
    ) -> Flow[Any]:
        """Encode documents, given as points or as a batch."""
        self.refuse_conditional(update_filter, update_mode)
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
        """Encode documents."""
        self.refuse_conditional(update_filter, None)
        given = rest_points(points, models.PointVectors)
        encoded, _ = yield from self.proven(collection_name, partial(self._encoded, points=given))
        kept = KeptOriginals(self._settings.file)
        kept.add(encoded)
        arguments = {"collection_name": collection_name, "points": encoded.sent, "update_filter": update_filter, **rest}
        result = yield Call("update_vectors", arguments)
        kept.commit()
        return result

    def delete(self, *, collection_name: str, points_selector: Any, **rest: Any) -> Flow[Any]:
        """Delete the points and their originals."""
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
        """Delete the vectors and their kept originals."""
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
        """Translate each operation; all of them before any is sent."""
        given = [as_rest(operation, models.UpdateOperation) for operation in update_operations]

        def encode(layout: Layout) -> list[EncodedWrite]:
            return [self._operation(layout, operation) for operation in given]

        translated, proof = yield from self.proven(collection_name, encode)
        kept, file = KeptOriginals(self._settings.file), self._settings.file
        for encoded in translated:  # keep nothing until the last operation has been checked
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
        """Return the ids that operations of a batch delete, each list with the vector that they lose, or None."""
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

    # ------------------------------------------------------------ encoding

    def _encoded(self, layout: Layout, points: Any) -> EncodedWrite:
        """Return a batch, ``PointStruct`` or ``PointVectors`` as they are sent."""
        if not layout.coded:
            return EncodedWrite(points)
        if isinstance(points, models.Batch):
            batch = embed_batch(layout, points, self._texts)
            return EncodedWrite(encode_batch(layout, batch), layout.coded, batch.ids, rows_of(batch.vectors))
        ids = [point.id for point in points]
        vectors = embed_vectors(layout, [point.vector for point in points], self._texts)
        encoded = encode_vectors(layout, vectors, ids)
        sent = [copy_with(p, vector=vector) for p, vector in zip(points, encoded, strict=True)]
        return EncodedWrite(sent, layout.coded, ids, vectors)

    def _operation(self, layout: Layout, operation: Any) -> EncodedWrite:
        match operation:
            case models.UpsertOperation(upsert=models.PointsBatch() as batch):
                self.refuse_conditional(batch.update_filter, batch.update_mode)
                encoded = self._encoded(layout, batch.batch)
                sent = copy_with(operation, upsert=copy_with(batch, batch=encoded.sent))
                return encoded._replace(sent=sent, whole=True)
            case models.UpsertOperation(upsert=models.PointsList() as listed):
                self.refuse_conditional(listed.update_filter, listed.update_mode)
                encoded = self._encoded(layout, listed.points)
                sent = copy_with(operation, upsert=copy_with(listed, points=encoded.sent))
                return encoded._replace(sent=sent, whole=True)
            case models.UpdateVectorsOperation(update_vectors=update):
                self.refuse_conditional(update.update_filter, None)
                encoded = self._encoded(layout, update.points)
                changed = copy_with(update, points=encoded.sent)
                return encoded._replace(sent=copy_with(operation, update_vectors=changed))
            case models.DeleteVectorsOperation(delete_vectors=deletion):
                names = _with_originals(layout, deletion.vector)
                return EncodedWrite(copy_with(operation, delete_vectors=copy_with(deletion, vector=names)))
            case _:
                return EncodedWrite(operation)

    def refuse_conditional(self, update_filter: Any, update_mode: Any) -> None:
        """Refuse a write to unknown points: only the server knows them, so a file of originals cannot follow."""
        if self._settings.file is not None and (
            update_filter is not None or update_mode not in (None, models.UpdateMode.UPSERT)
        ):
            raise UnsupportedRequestError(
                "update_filter, update_mode: expected neither beside a file of originals, because only the server "
                "knows which points it will write; keep the originals on disk: originals='disk'"
            )


# ---------------------------------------------------------------- parts of requests


def _with_originals(layout: Layout, names: Sequence[str]) -> list[str]:
    hidden = [layout.coded[name].original for name in names if name in layout.coded]
    return [*names, *(name for name in hidden if name is not None)]


def rows_of(vectors: Any) -> Iterable[Any]:
    """Return one point's vectors at a time, of columns by name or of the unnamed vector."""
    if isinstance(vectors, dict):
        return (dict(zip(vectors, row, strict=True)) for row in zip(*vectors.values(), strict=True))
    return vectors  # type: ignore[no-any-return]
