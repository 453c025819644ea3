"""Embed texts and images that the wrapped client would embed itself, before they are compressed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from qdrant_client import models
from qdrant_client.embed.model_embedder import ModelEmbedder

from vaecodec.errors import UnsupportedRequestError

INFERENCE = (models.Document, models.Image, models.InferenceObject)

# Objects that a model embeds at a time, unless the client was given another number.
_BATCH = 8


class TextEmbedder:
    """Embed ``models.Document`` and ``models.Image`` by fastembed, as Qdrant's own client does.

    Args:
        local: whether the wrapped client runs Qdrant in its own process.
        cloud: whether the wrapped client leaves that to Qdrant's cloud, which returns no vectors to compress.
        batch_size: objects that a model embeds at a time.
    """

    def __init__(self, *, local: bool, cloud: bool, batch_size: int | None) -> None:
        self._local = local
        self._cloud = cloud
        self._batch_size = batch_size or _BATCH

    @cached_property
    def _models(self) -> ModelEmbedder:
        return ModelEmbedder(is_local_mode=self._local)

    def embed(self, objects: Sequence[Any], *, queries: bool, label: str) -> list[Any]:
        """Return a vector, or a multivector, for each object: lists of floats.

        Args:
            objects: of :data:`INFERENCE`.
            queries: whether they are searched for; some models embed queries otherwise.
            label: what the first of them is called in error messages.

        Raises:
            UnsupportedRequestError: they would be embedded in the cloud.
        """
        if self._cloud:
            raise UnsupportedRequestError(
                f"{label}: expected a vector, got a {type(objects[0]).__name__} that Qdrant's cloud would embed "
                "after it was sent, and so uncompressed; embed it first, or open the wrapped client without "
                "cloud_inference"
            )
        return list(self._models.embed_models(list(objects), is_query=queries, batch_size=self._batch_size))


def embedded(texts: TextEmbedder, vectors: Sequence[Any], *, queries: bool, label: str) -> Sequence[Any]:
    """Return the vectors, with every object to be embedded replaced by its embedding."""
    rows = [row for row, vector in enumerate(vectors) if isinstance(vector, INFERENCE)]
    if not rows:
        return vectors
    filled = list(vectors)
    for row, vector in zip(
        rows, texts.embed([vectors[row] for row in rows], queries=queries, label=label), strict=True
    ):
        filled[row] = vector
    return filled
