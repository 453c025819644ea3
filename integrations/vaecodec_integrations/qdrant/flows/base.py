"""What every flow shares: the calls that it yields, and the proof of what a collection holds."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeVar

from qdrant_client import models

from vaecodec_integrations.qdrant.identity import metadata_not_kept, no_identity, read_layout
from vaecodec_integrations.qdrant.layout import Layout
from vaecodec_integrations.qdrant.settings import Settings
from vaecodec_integrations.qdrant.vectors import restore_records

T = TypeVar("T")
Flow = Generator["Call", Any, T]

# An alias can be pointed at another collection by anyone, so what was read about a collection is read again.
RECHECK_SECONDS = 30.0


class Call(NamedTuple):
    """One call of the wrapped client."""

    method: str
    arguments: dict[str, Any]


class FlowBase:
    """The settings that a client was opened with, and what it knows about collections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._layouts: dict[str, tuple[float, Layout]] = {}

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

    def _restored(self, layout: Layout, records: Sequence[Any]) -> Sequence[Any]:
        file = self._settings.file
        return restore_records(layout, records, None if file is None else file.find)
