"""What a collection holds, and how it looks to a user of the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from qdrant_client import models

from vaecodec.interface import Metric, VectorCodec

UNNAMED = ""

DISTANCES = {
    Metric.COSINE: models.Distance.COSINE,
    Metric.DOT: models.Distance.DOT,
    Metric.L2: models.Distance.EUCLID,
}


class Originals(StrEnum):
    """Where the uncompressed vectors of a collection are kept."""

    NONE = "none"
    DISK = "disk"
    """A second named vector of the same collection: float16, on disk, without a graph."""
    FILE = "file"
    """An :class:`~vaecodec_integrations.qdrant.OriginalsFile` beside the application."""


@dataclass(frozen=True)
class CodedVector:
    """One compressed vector of a collection.

    Attributes:
        name: its name, empty for the unnamed vector.
        codec: what compresses it.
        multi: whether a point holds several rows under this name.
        original: name of the vector that holds the uncompressed form in the same collection, if one does.
    """

    name: str
    codec: VectorCodec
    multi: bool = False
    original: str | None = None


@dataclass(frozen=True)
class Layout:
    """The vectors of one collection: the compressed ones, and the names of all others that a user sees."""

    coded: Mapping[str, CodedVector]
    others: tuple[str, ...] = ()

    @property
    def hides_originals(self) -> bool:
        """Whether the collection holds vectors that a user of the client does not see."""
        return any(vector.original is not None for vector in self.coded.values())


def original_name(name: str) -> str:
    """The name that new collections give to the uncompressed form of the vector ``name``."""
    return f"{name}_original" if name else "original"


def dense_params(info: models.CollectionInfo) -> dict[str, models.VectorParams]:
    """The dense vectors of a collection by name, the unnamed one under the empty name."""
    vectors = info.config.params.vectors
    if vectors is None:
        return {}
    return dict(vectors) if isinstance(vectors, Mapping) else {UNNAMED: vectors}


def logical_info(info: models.CollectionInfo, layout: Layout) -> models.CollectionInfo:
    """The collection as a user of the client sees it: original sizes and distances, kept originals not listed.

    Frameworks compare these with their embedding model before they use a collection.
    """
    if not layout.coded:
        return info
    params = dense_params(info)
    seen = {
        name: params[name].model_copy(
            update={"size": layout.coded[name].codec.dim, "distance": DISTANCES[layout.coded[name].codec.metric]}
        )
        if name in layout.coded
        else params[name]
        for name in params
        if name in layout.coded or name in layout.others
    }
    vectors: Any = seen[UNNAMED] if list(seen) == [UNNAMED] else seen
    config = info.config.model_copy(
        update={"params": info.config.params.model_copy(update={"vectors": vectors})},
    )
    return info.model_copy(update={"config": config})
