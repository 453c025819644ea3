"""Keep a file of originals in step with the engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from qdrant_client import models

from vaecodec.vectors import as_rows
from vaecodec_integrations.qdrant.flows.base import Call, Flow
from vaecodec_integrations.qdrant.messages import as_rest
from vaecodec_integrations.qdrant.originals import OriginalsFile, Staged
from vaecodec_integrations.qdrant.originals.file import point_key
from vaecodec_integrations.qdrant.vectors import vector_of

_PAGE = 1000


class EncodedWrite(NamedTuple):
    """Hold what is sent, and what it was made from.

    Attributes:
        sent: points, a batch or an operation with latents.
        names: the vectors that were compressed.
        ids: of the points.
        vectors: for each id the vectors before.
        whole: whether a point is replaced with all its vectors, so that it loses those that are not sent.
    """

    sent: Any
    names: Iterable[str] = ()
    ids: Sequence[Any] = ()
    vectors: Any = ()
    whole: bool = False


class KeptOriginals:
    """Hold the originals of one write: they are on disk before the engine is asked, and valid when it has agreed.

    Args:
        file: where they go; without one nothing is kept.
    """

    def __init__(self, file: OriginalsFile | None) -> None:
        self._file = file
        self._staged: Staged | None = None
        self._lost: list[Any] = []

    def add(self, encoded: EncodedWrite) -> None:
        """Write the originals of a batch."""
        if self._file is None:
            return
        for name in encoded.names:
            column = [v.get(name) if isinstance(v, dict) else v for v in encoded.vectors]
            held = [(i, vector) for i, vector in zip(encoded.ids, column, strict=False) if vector is not None]
            if encoded.whole:
                self._lost += [i for i, vector in zip(encoded.ids, column, strict=False) if vector is None]
            if held:
                ids, rows = zip(*held, strict=True)
                self._staged = self._staged or self._file.stage()
                self._staged.add(ids, as_rows(rows))

    def commit(self) -> None:
        """Make the originals valid."""
        if self._staged is not None:
            self._staged.commit()
        if self._file is not None and self._lost:
            self._file.remove(self._lost)


def selected(collection: str, selector: Any, shard_key_selector: Any = None) -> Flow[list[Any]]:
    """Return the ids of the points that a deletion selects.

    Args:
        selector: ids, a filter, or one of the models of either.
        shard_key_selector: where they are looked for.
    """
    selector = as_rest(selector, models.PointsSelector)
    if isinstance(selector, models.PointIdsList):
        return list(selector.points)
    if isinstance(selector, models.FilterSelector):
        shard_key_selector, selector = selector.shard_key or shard_key_selector, selector.filter
    selector = as_rest(selector, models.Filter) if not isinstance(selector, Sequence) else selector
    if not isinstance(selector, models.Filter):
        return [as_rest(point_id) for point_id in selector]
    ids: list[Any] = []
    offset = None
    while True:
        arguments = {"scroll_filter": selector, "limit": _PAGE, "offset": offset, "with_payload": False}
        if shard_key_selector is not None:
            arguments["shard_key_selector"] = shard_key_selector
        records, offset = yield Call("scroll", {"collection_name": collection, **arguments})
        ids += [record.id for record in records]
        if offset is None:
            return ids


def erase(file: OriginalsFile, collection: str, ids: Sequence[Any], vector: str | None = None) -> Flow[None]:
    """Remove the originals of those points that the engine no longer has, or that have lost a vector.

    Args:
        vector: the name of the vector that was removed from the points; by default the points were.
    """
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        arguments = {"ids": page, "with_payload": False, "with_vectors": False if vector is None else [vector]}
        records = yield Call("retrieve", {"collection_name": collection, **arguments})
        there = {point_key(record.id) for record in records if vector is None or vector_of(record, vector) is not None}
        file.remove([point_id for point_id in page if point_key(point_id) not in there])
