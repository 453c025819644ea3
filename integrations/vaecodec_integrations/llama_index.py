"""Compress embeddings for any vector store of LlamaIndex.

For Qdrant there is a better way, which keeps the codec's identity with the collection and can re-rank: pass a
:class:`~vaecodec_integrations.qdrant.CompressedQdrantClient` to LlamaIndex's ``QdrantVectorStore``. For every other
store, wrap the embedding model.
"""

from __future__ import annotations

from typing import Any

from vaecodec.extras import require
from vaecodec.interface import FloatArray, VectorCodec
from vaecodec.vectors import as_rows

require("llama_index.core", extra="llama-index")

from llama_index.core.base.embeddings.base import BaseEmbedding  # noqa: E402
from llama_index.core.bridge.pydantic import PrivateAttr  # noqa: E402


class CompressedEmbedding(BaseEmbedding):  # type: ignore[misc]
    """Turn an embedding model into one that returns latents; documents and queries use their own encoders.

    The store must compare them by ``codec.latent_metric``. It knows nothing of the codec: keep the file that filled a
    store with the store.

    Args:
        embed_model: the model that the codec was trained for.
        codec: compresses its embeddings.

    Raises:
        InvalidVectorsError: by any method, when the model's embeddings are not of the codec's width, are not finite,
            or have no direction under cosine.

    Examples:
        >>> from llama_index.core import MockEmbedding
        >>> from vaecodec import Codec
        >>> from vaecodec_integrations.llama_index import CompressedEmbedding
        >>> model = MockEmbedding(embed_dim=384)  # yours, in its place
        >>> len(CompressedEmbedding(model, Codec.load("codec.onnx")).get_query_embedding("how do I mount a disk?"))
        64
    """

    _embed_model: BaseEmbedding = PrivateAttr()
    _codec: VectorCodec = PrivateAttr()

    def __init__(self, embed_model: BaseEmbedding, codec: VectorCodec, **settings: Any) -> None:
        model = {"model_name": embed_model.model_name, "embed_batch_size": embed_model.embed_batch_size}
        super().__init__(**(model | settings))
        self._embed_model = embed_model
        self._codec = codec

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex writes in its records."""
        return "CompressedEmbedding"

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _lists(self._codec.encode(as_rows(self._embed_model.get_text_embedding_batch(texts))))

    def _get_query_embedding(self, query: str) -> list[float]:
        return _lists(self._codec.encode_queries(as_rows([self._embed_model.get_query_embedding(query)])))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _lists(self._codec.encode(as_rows(await self._embed_model.aget_text_embedding_batch(texts))))

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return _lists(self._codec.encode_queries(as_rows([await self._embed_model.aget_query_embedding(query)])))[0]


def _lists(latents: FloatArray) -> list[list[float]]:
    lists: list[list[float]] = latents.tolist()
    return lists
