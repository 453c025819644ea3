"""Read the vectors of an existing Qdrant collection, page by page, by scrolling.

Addresses for :func:`vaecodec.sources.open_source`:

- ``qdrant+http://localhost:6333/docs`` and ``qdrant+https://...``: a server; the key is taken from the environment
  variable ``QDRANT_API_KEY`` when that is set
- ``qdrant+file:///data/qdrant/docs``: the collection ``docs`` of a local folder ``/data/qdrant``
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from qdrant_client import QdrantClient, models

from vaecodec.errors import (
    AmbiguousColumnError,
    InvalidVectorsError,
    MissingColumnError,
    SourceNotFoundError,
    UnknownSourceError,
)
from vaecodec.sources import Rows
from vaecodec_integrations.qdrant.connection import open_client, refusals

# Points per request: some megabytes of JSON at the usual widths.
_PAGE = 1000


class QdrantSource:
    """Read the dense vectors of one name in a collection, in the order of their points' ids.

    The length is unknown on purpose: points may come and go while it is read. Points that lack the vector are passed
    over. Values are what the server keeps: under cosine distance it normalises them.

    Args:
        client: a connected client of any kind; it stays the caller's.
        collection: the collection's name.
        vector: the vector's name; by default the collection's only dense vector.

    Raises:
        SourceNotFoundError: there is no such collection.
        MissingColumnError, AmbiguousColumnError: the vector's name does not settle one.
        InvalidVectorsError: it is a multivector.
        StoreError: the server does not answer, refuses the key, or refuses a request.
    """

    rows = None

    def __init__(self, client: QdrantClient, collection: str, vector: str | None = None) -> None:
        with refusals(client):
            if not client.collection_exists(collection):
                known = ", ".join(sorted(item.name for item in client.get_collections().collections)) or "none"
                raise SourceNotFoundError(f"there is no Qdrant collection {collection!r}; there are: {known}")
            vectors = client.get_collection(collection).config.params.vectors
        named = vectors if isinstance(vectors, dict) else {"": vectors} if vectors is not None else {}
        listed = ", ".join(repr(name) for name in sorted(named)) or "none"
        if not named:
            raise MissingColumnError(f"collection {collection!r} has no dense vectors; name another collection")
        if vector is None and len(named) > 1:
            raise AmbiguousColumnError(f"collection {collection!r} has several vectors: {listed}; say which is meant")
        chosen = vector if vector is not None else next(iter(named))
        if chosen not in named:
            raise MissingColumnError(f"collection {collection!r} has no vector {chosen!r}; it has: {listed}")
        if named[chosen].multivector_config is not None:
            raise InvalidVectorsError(
                f"vector {chosen!r} of collection {collection!r} is a multivector; name a vector of one row per point"
            )
        self.name = f"qdrant collection {collection!r}"
        self.dim = named[chosen].size
        self._client = client
        self._collection = collection
        self._vector = chosen

    def blocks(self, rows: int | None = None) -> Iterator[Rows]:
        """Yield the vectors in float32 (m, dim) arrays of at most ``rows``, and at most 1,000, rows."""
        for points in self._pages(rows or _PAGE):
            block = np.asarray([self._of(point) for point in points], np.float32)
            if len(block):
                yield block

    def ids(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield an id for every vector: the payload's, where the first point has a key of such a name, or the point's.

        See :class:`vaecodec.sources.ids.IdentifiedSource`.
        """
        key: str | None = None
        for number, points in enumerate(self._pages(_PAGE, list(columns))):
            if not number and points:
                key = next((name for name in columns if name in (points[0].payload or {})), None)
            for point in points:
                yield point.id if key is None else (point.payload or {}).get(key)

    def _pages(self, rows: int, payload: list[str] | None = None) -> Iterator[list[models.Record]]:
        """Yield the points that have the vector, page by page."""
        page: models.ExtendedPointId | None = None
        while True:
            with refusals(self._client):
                points, page = self._client.scroll(
                    self._collection,
                    limit=min(rows, _PAGE),
                    offset=page,
                    with_payload=payload or False,
                    with_vectors=[self._vector] if self._vector else True,
                )
            yield [point for point in points if self._of(point) is not None]
            if page is None:
                return

    def _of(self, point: models.Record) -> Any:
        return point.vector.get(self._vector) if isinstance(point.vector, dict) else point.vector


def open_address(address: str, *, column: str | None = None) -> QdrantSource:
    """Open the collection at an address (see the module); ``column`` is the vector's name."""
    parts = urlsplit(address.removeprefix("qdrant+"))
    place, _, collection = unquote(parts.path).rpartition("/")
    if not collection:
        raise UnknownSourceError(f"{address}: expected qdrant+http://host:port/collection")
    if parts.scheme == "file":
        if not Path(place).is_dir():
            raise SourceNotFoundError(f"{address}: there is no folder {place}")
        client = open_client(path=place)
    else:
        client = open_client(url=f"{parts.scheme}://{parts.netloc}{place}")
    try:
        return QdrantSource(client, collection, column)
    except BaseException:
        client.close()  # otherwise a kept error would keep a local folder locked
        raise
