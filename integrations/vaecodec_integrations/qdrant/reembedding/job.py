"""Describe what is embedded again, by which model, and where it is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from qdrant_client import QdrantClient, models

from vaecodec.errors import MigrationError, UnusableDataError
from vaecodec.interface import FloatArray, VectorCodec
from vaecodec.vectors import as_vectors
from vaecodec_integrations.qdrant.client import CompressedQdrantClient
from vaecodec_integrations.qdrant.connection import collection_info
from vaecodec_integrations.qdrant.layout import DISTANCES, UNNAMED, dense_params, metric_of

Embed = Callable[[list[str]], Any]
"""Embeds texts: a list of n strings to float (n, d)."""
_MOST_DIGITS = len(str(2**64))


@dataclass(frozen=True)
class Reembedding:
    """Describe a change of the embedding model.

    Attributes:
        client: the uncompressed client.
        collection: holds the old model's vectors, and the texts in its payload.
        embed: the new model: a function from a list of texts to float (n, d), such as an
            :class:`~vaecodec_integrations.embedder.OnnxEmbedder`.
        into: the name of a new collection. Give exactly one of ``into`` and ``named``.
        named: the name of a new vector in the collection itself (Qdrant 1.18 or later).
        vector: the old model's vector; empty for the unnamed one.
        text: where the text is in the payload, as ``text`` or ``page.content``.
        codec: compresses the new vectors; without one they are stored as they are.
        first_ids: ids to embed first, such as those that are found most often.
        batch_size: points that are read, embedded and written at a time.
        texts_per_second: at most so many are embedded, as a paid service allows; None for as many as possible.
    """

    client: QdrantClient
    collection: str
    embed: Embed
    into: str | None = None
    named: str | None = None
    vector: str = UNNAMED
    text: str = "text"
    codec: VectorCodec | None = None
    first_ids: Sequence[Any] = ()
    batch_size: int = 64
    texts_per_second: float | None = None

    def __post_init__(self) -> None:
        """Refuse arguments that contradict each other."""
        if (self.into is None) == (self.named is None):
            raise MigrationError("into, named: expected one, a new collection or a new vector, got both or none")
        if self.into == self.collection or self.named == self.vector:
            raise MigrationError("into, named: expected a name of its own for the new vectors, got the old ones'")
        if self.texts_per_second is not None and self.texts_per_second <= 0:
            raise MigrationError(f"texts_per_second: expected a positive number, got {self.texts_per_second}")

    @property
    def target(self) -> str:
        """Return the collection that gets the new vectors."""
        return self.collection if self.into is None else self.into

    @property
    def target_vector(self) -> str:
        """Return the name of the new vectors."""
        return self.vector if self.named is None else self.named

    @cached_property
    def writer(self) -> QdrantClient:
        """Return the client that writes new vectors, compressed where there is a codec."""
        if self.codec is None:
            return self.client
        # The old vectors, and any others, may be latents of another codec: they pass as they are stored.
        others = dict.fromkeys(dense_params(collection_info(self.client, self.collection)))
        return CompressedQdrantClient(self.client, codecs={self.target: {**others, self.target_vector: self.codec}})

    @cached_property
    def distance(self) -> models.Distance:
        """Return how the new vectors are compared: as the codec says, or as the old ones are."""
        return self.old_distance if self.codec is None else DISTANCES[self.codec.metric]

    @cached_property
    def old_distance(self) -> models.Distance:
        """Return how the old vectors are compared; raise ``MigrationError`` if there are none of that name."""
        params = dense_params(collection_info(self.client, self.collection))
        if self.vector not in params:
            names = ", ".join(map(repr, params)) or "none"
            raise MigrationError(
                f"collection {self.collection!r}: expected a dense vector {self.vector!r}, got {names}"
            )
        return params[self.vector].distance

    @property
    def others(self) -> list[str]:
        """Return the names of all other vectors, which a new collection gets unchanged."""
        info = collection_info(self.client, self.collection)
        names = [*dense_params(info), *(info.config.params.sparse_vectors or {})]
        return [name for name in names if name != self.vector]

    def text_of(self, payload: Mapping[str, Any] | None) -> str | None:
        """Return a point's text; None where it has none."""
        value: Any = payload
        for key in self.text.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, str) and value.strip() else None

    def embedded(self, texts: list[str]) -> FloatArray:
        """Embed texts, and check what comes back: float32 (n, d), finite; raise ``MigrationError`` if it is not so."""
        vectors = np.asarray(self.embed(texts))
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise MigrationError(
                f"embed: expected one vector for each of {len(texts)} texts, got an array of shape {vectors.shape}"
            )
        metric = metric_of(self.distance)
        width = vectors.shape[1] if self.codec is None else self.codec.dim
        return as_vectors(vectors.astype(np.float32, copy=False), width, metric, name="embedded texts")

    def undone_pages(self) -> Iterator[list[models.Record]]:
        """Read the points whose turn it is, first those of ``first_ids``, a batch at a time.

        Of a new vector only those that lack it; of a new collection all, since payloads may have changed.
        """
        selection: dict[str, Any] = {"with_payload": True, "with_vectors": self.others if self.into else False}
        for start in range(0, len(self.first_ids), self.batch_size):
            ids = list(self.first_ids[start : start + self.batch_size])
            yield self.client.retrieve(self.collection, ids, **selection)
        lacking = None
        if self.named is not None and self.named in dense_params(collection_info(self.client, self.collection)):
            lacking = models.Filter(must_not=[models.HasVectorCondition(has_vector=self.named)])
        offset = None
        while True:
            records, offset = self.client.scroll(
                self.collection, scroll_filter=lacking, limit=self.batch_size, offset=offset, **selection
            )
            yield records
            if offset is None:
                return


def read_ids(path: str | os.PathLike[str]) -> list[int | str]:
    """Read point ids, one a line: integers, or UUIDs.

    Raises:
        UnusableDataError: a line is neither.
        OSError: the file cannot be read.
    """
    lines = Path(path).read_text(encoding="utf-8-sig", errors="backslashreplace").splitlines()
    return [point_id(line.strip(), f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def point_id(text: str, where: str) -> int | str:
    """Return the id of a point, an integer or a UUID; raise ``UnusableDataError`` with the place if it is neither."""
    try:
        number = int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None
        if number is None or number >= 2**64:
            return str(UUID(text))
        return number
    except ValueError:
        raise UnusableDataError(f"{where}: expected the id of a point, below 2^64 or a UUID, got {text!r}") from None
