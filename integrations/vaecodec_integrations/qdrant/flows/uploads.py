"""Translate the methods that upload points: batch by batch, as columns, so that arrays stay arrays."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, repeat
from typing import Any, NamedTuple

import numpy as np
from qdrant_client import models

from vaecodec.vectors import as_rows, is_table
from vaecodec.vectors import blocks as blocks_of
from vaecodec_integrations.qdrant.flows.base import CALLER_SECONDS, UPLOAD_SECONDS, Call, Flow
from vaecodec_integrations.qdrant.flows.originals import EncodedWrite, KeptOriginals
from vaecodec_integrations.qdrant.flows.writes import WriteFlows, rows_of
from vaecodec_integrations.qdrant.layout import UNNAMED, Layout
from vaecodec_integrations.qdrant.messages import as_rest, rest_points
from vaecodec_integrations.qdrant.vectors import embed_vectors, encode_vectors

# Most points of an array or a list to encode together, but at least one batch. More do not fit the processor's caches.
_BLOCK_ROWS = 256


class PointColumns(NamedTuple):
    """Hold points by their parts.

    Attributes:
        ids: of the points.
        vectors: for each id its vector, or its vectors by name; or an array of the unnamed vectors.
        payloads: for each id.
    """

    ids: Sequence[Any]
    vectors: Sequence[Any]
    payloads: Sequence[Any]


class Block:
    """Hold points that are encoded together and sent in batches.

    Args:
        columns: the points.
        encode: encodes them for a layout: what becomes :class:`EncodedWrite`, with vectors instead of points to send.
        sent: makes points that are sent of columns.
    """

    def __init__(
        self,
        columns: PointColumns,
        encode: Callable[[Layout, PointColumns], EncodedWrite],
        sent: Callable[[Layout, PointColumns], list[Any]],
    ) -> None:
        self._columns, self._encode, self._sent = columns, encode, sent
        self._layout: Layout | None = None
        self._encoded = EncodedWrite([])

    def batch(self, layout: Layout, *, start: int, size: int) -> EncodedWrite:
        """Return some of the points as they are sent; all of them are encoded once for each layout."""
        if self._layout is None or not layout.stores_like(self._layout):
            self._layout, self._encoded = layout, self._encode(layout, self._columns)
        rows, encoded = slice(start, start + size), self._encoded
        points = PointColumns(self._columns.ids[rows], encoded.sent[rows], self._columns.payloads[rows])
        return EncodedWrite(self._sent(layout, points), encoded.names, points.ids, encoded.vectors[rows], whole=True)


class UploadRecord:
    """Hold a point for the wrapped client's uploader, which reads these three fields."""

    __slots__ = ("id", "payload", "vector")

    def __init__(self, id: Any, vector: Any, payload: Any) -> None:  # noqa: A002 - the client's word for it
        self.id, self.vector, self.payload = id, vector, payload


class UploadFlows(WriteFlows):
    """Read and encode points one batch at a time, as the wrapped client asks for them."""

    def upload_points(
        self, *, collection_name: str, points: Iterable[Any], batch_size: int = 64, **rest: Any
    ) -> Flow[None]:
        """Upload points in any form that the wrapped client takes."""
        yield from self.layout(collection_name)  # so that a wrong codec is noticed before a point is read
        rows_each = _rows_each(batch_size, known=isinstance(points, Sequence))
        yield from self._upload(collection_name, _point_blocks(iter(points), rows_each), batch_size, rest)

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
        """Upload vectors of any kind that the wrapped client takes; arrays are checked whole before anything is
        sent."""
        layout = yield from self.layout(collection_name)
        vectors = {n: _column(v) for n, v in vectors.items()} if isinstance(vectors, dict) else _column(vectors)
        length = _known_length(vectors)
        if length is not None:
            ids = _as_many(ids, length, "ids")
            payload = _as_many(payload, length, "payload")
        _check_arrays(layout, vectors)
        blocks = _column_blocks(vectors, ids, payload, _rows_each(batch_size, known=length is not None))
        yield from self._upload(collection_name, blocks, batch_size, rest)

    def _upload(
        self, collection: str, blocks: Iterator[PointColumns], batch_size: int, rest: dict[str, Any]
    ) -> Flow[None]:
        self.refuse_conditional(rest.get("update_filter"), rest.get("update_mode"))
        arguments = {"collection_name": collection, "batch_size": batch_size, **rest}
        kept = KeptOriginals(self._settings.file)
        yield Call("upload_points", arguments, self._encoded_stream(collection, blocks, batch_size, kept))
        kept.commit()

    def _encoded_stream(
        self, collection: str, blocks: Iterator[PointColumns], batch_size: int, kept: KeptOriginals
    ) -> Generator[Any, Any, None]:
        """Yield batches of points as they are uploaded, and between them the calls that prove the collection."""
        proof = None
        asked = time.monotonic()
        for columns in blocks:
            if self._local or time.monotonic() - asked > CALLER_SECONDS:
                proof = None
            block = Block(columns, self._encoded_columns, self._sent)
            for start in range(0, len(columns.ids), batch_size):
                encode = partial(block.batch, start=start, size=batch_size)
                encoded, proof = yield from self.proven(collection, encode, proof, seconds=UPLOAD_SECONDS)
                kept.add(encoded)
                yield encoded.sent
            asked = time.monotonic()

    def _encoded_columns(self, layout: Layout, columns: PointColumns) -> EncodedWrite:
        """Return points with vectors as they are stored: in arrays, unless originals would lose digits as lists."""
        ids, given, _ = columns
        if not layout.coded:
            return EncodedWrite(given, (), ids, given)
        vectors = embed_vectors(layout, given, self._texts)
        arrays = not layout.others and (self._sends_arrays or not layout.hides_originals)
        return EncodedWrite(encode_vectors(layout, vectors, ids, arrays=arrays), layout.coded, ids, vectors)

    def _sent(self, layout: Layout, columns: PointColumns) -> list[Any]:
        """Return points as they are sent: records, which can hold arrays, or models where the client looks into them.

        The wrapped client looks for texts in models only, and not between arrays.
        """
        ids, vectors, payloads = columns
        slim = layout.coded and not layout.others
        if not (slim and self._sends_arrays):
            vectors = vectors.tolist() if isinstance(vectors, np.ndarray) else [_plain(vector) for vector in vectors]
        return list(map(UploadRecord if slim else _model, ids, vectors, payloads))


def _model(id: Any, vector: Any, payload: Any) -> models.PointStruct:  # noqa: A002 - as above
    return models.PointStruct.model_construct(id=id, vector=vector, payload=payload)


def _plain(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {name: _plain(value) for name, value in vector.items()}
    return vector.tolist() if isinstance(vector, np.ndarray) else vector


def _rows_each(batch_size: int, *, known: bool) -> int:
    """Return how many points are read at once: of a stream no more than the wrapped client asks for."""
    return batch_size * max(1, _BLOCK_ROWS // batch_size) if known else batch_size


# ---------------------------------------------------------------- batches


def _point_blocks(points: Iterator[Any], rows_each: int) -> Iterator[PointColumns]:
    while block := list(islice(points, rows_each)):
        read = rest_points(block)
        yield PointColumns([p.id for p in read], [p.vector for p in read], [p.payload for p in read])


def _column_blocks(
    vectors: Any, ids: Iterable[Any] | None, payload: Iterable[Any] | None, rows_each: int
) -> Iterator[PointColumns]:
    """Yield the arguments of ``upload_collection`` cut into blocks; as many rows as the shortest argument has."""
    given = _fresh_ids() if ids is None else iter(ids)
    payloads = repeat(None) if payload is None else iter(payload)
    for rows in _row_blocks(vectors, rows_each):
        numbers = [i if i.__class__ in (int, str) else _point_id(i) for i in islice(given, len(rows))]
        held = list(islice(payloads, len(numbers)))
        if held:
            yield PointColumns(numbers[: len(held)], rows[: len(held)], held)
        if len(held) < len(rows):
            return


def _row_blocks(vectors: Any, rows_each: int) -> Iterator[Any]:
    if isinstance(vectors, np.ndarray):
        for start in range(0, len(vectors), rows_each):
            yield vectors[start : start + rows_each]
        return
    rows = iter(rows_of(vectors))
    while block := list(islice(rows, rows_each)):
        yield block


def _column(vectors: Any) -> Any:
    """Return vectors of a frame, tensor or table column as an array; return lists and streams unchanged."""
    plain = isinstance(vectors, np.ndarray) and not isinstance(vectors, np.ma.MaskedArray)
    return as_rows(vectors) if (hasattr(type(vectors), "__array__") and not plain) or is_table(vectors) else vectors


def _fresh_ids() -> Iterator[str]:
    while True:
        yield str(uuid.uuid4())


def _point_id(given: Any) -> Any:
    return str(given) if isinstance(given, uuid.UUID) else as_rest(given)


def _known_length(vectors: Any) -> int | None:
    """Return the number of points; None for a stream."""
    if isinstance(vectors, dict):
        return len(next(iter(vectors.values()))) if vectors else 0
    return len(vectors) if isinstance(vectors, (Sequence, np.ndarray)) else None


def _as_many(items: Iterable[Any] | None, length: int, name: str) -> Iterable[Any] | None:
    """Yield so many items; raise the wrapped client's own error if there are fewer."""
    if items is None:
        return None
    if isinstance(items, (Sequence, np.ndarray)):
        if len(items) < length:
            raise ValueError(f"{name} iterable is shorter than vectors iterable")
        return items[:length]
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
            for _ in blocks_of(column, coded.codec.dim, coded.codec.metric, name=f"vectors {name!r}"):
                pass
