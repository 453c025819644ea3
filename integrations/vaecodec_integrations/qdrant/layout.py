"""Describe what a collection holds, and how a user of the client sees it."""

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
    """Say where the uncompressed vectors of a collection are kept."""

    NONE = "none"
    DISK = "disk"
    """A second named vector of the same collection: float16, on disk, without a graph."""
    FILE = "file"
    """An :class:`~vaecodec_integrations.qdrant.OriginalsFile` beside the application."""


@dataclass(frozen=True)
class CodedVector:
    """Describe one compressed vector of a collection.

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

    @property
    def stored_as(self) -> tuple[Any, ...]:
        """Return a key that is equal for two vectors that hold the same kind of latents."""
        return self.name, self.codec.codec_id, self.codec.code_dim, self.multi, self.original


@dataclass(frozen=True)
class Layout:
    """Describe the vectors of one collection.

    Attributes:
        coded: the compressed ones by name.
        others: the names of all others that a user sees.
        unwritable: why nothing may be written to it; empty if it may.
    """

    coded: Mapping[str, CodedVector]
    others: tuple[str, ...] = ()
    unwritable: str = ""

    @property
    def hides_originals(self) -> bool:
        """Tell whether the collection holds vectors that a user of the client does not see."""
        return any(vector.original is not None for vector in self.coded.values())

    def stores_like(self, other: Layout) -> bool:
        """Tell whether vectors that were encoded for one collection may be written to the other."""
        return self.others == other.others and [vector.stored_as for vector in self.coded.values()] == [
            vector.stored_as for vector in other.coded.values()
        ]


def original_name(name: str) -> str:
    """Return the name that new collections give to the uncompressed form of the vector ``name``."""
    return f"{name}_original" if name else "original"


def metric_of(distance: models.Distance) -> Metric:
    """Return the metric of a distance that :data:`DISTANCES` has."""
    return next(metric for metric, known in DISTANCES.items() if known == distance)


def dense_params(info: models.CollectionInfo) -> dict[str, models.VectorParams]:
    """Return the dense vectors of a collection by name, the unnamed one under the empty name."""
    vectors = info.config.params.vectors
    if vectors is None:
        return {}
    return dict(vectors) if isinstance(vectors, Mapping) else {UNNAMED: vectors}
