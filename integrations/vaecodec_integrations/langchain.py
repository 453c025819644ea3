"""Compress embeddings for any vector store of LangChain.

For Qdrant there is a better way, which keeps the codec's identity with the collection and can re-rank: pass a
:class:`~vaecodec_integrations.qdrant.CompressedQdrantClient` to ``langchain_qdrant.QdrantVectorStore``. For every other
store, wrap the embedding model.
"""

from __future__ import annotations

from vaecodec.extras import require
from vaecodec.interface import VectorCodec
from vaecodec.vectors import as_row, as_rows

require("langchain_core", extra="langchain")

from langchain_core.embeddings import Embeddings  # noqa: E402
from langchain_core.runnables.config import run_in_executor  # noqa: E402


class CompressedEmbeddings(Embeddings):  # type: ignore[misc]
    """Turn an embedding model into one that returns latents; documents and queries use their own encoders.

    The store must compare them by ``codec.latent_metric``. It knows nothing of the codec: keep the file that filled a
    store with the store.

    Args:
        embeddings: the model that the codec was trained for.
        codec: compresses its embeddings.

    Raises:
        InvalidVectorsError: by any method, when the model's embeddings are not of the codec's width, are not finite,
            or have no direction under cosine.

    Examples:
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> from vaecodec import Codec
        >>> from vaecodec_integrations.langchain import CompressedEmbeddings
        >>> model = DeterministicFakeEmbedding(size=384)  # yours, in its place
        >>> len(CompressedEmbeddings(model, Codec.load("codec.onnx")).embed_query("how do I mount a disk?"))
        64
    """

    def __init__(self, embeddings: Embeddings, codec: VectorCodec) -> None:
        self.embeddings = embeddings
        self.codec = codec

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return latents of documents: for each text ``code_dim`` floats."""
        return self._documents(self.embeddings.embed_documents(texts))

    def embed_query(self, text: str) -> list[float]:
        """Return the latent of a query: ``code_dim`` floats."""
        return self._query(self.embeddings.embed_query(text))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Work as :meth:`embed_documents`, through the model's own asynchronous method."""
        vectors = await self.embeddings.aembed_documents(texts)
        latents: list[list[float]] = await run_in_executor(None, self._documents, vectors)
        return latents

    async def aembed_query(self, text: str) -> list[float]:
        """Work as :meth:`embed_query`, through the model's own asynchronous method."""
        latent: list[float] = await run_in_executor(None, self._query, await self.embeddings.aembed_query(text))
        return latent

    def _documents(self, vectors: list[list[float]]) -> list[list[float]]:
        latents: list[list[float]] = self.codec.encode(as_rows(vectors)).tolist() if len(vectors) else []
        return latents

    def _query(self, vector: list[float]) -> list[float]:
        latent: list[float] = self.codec.encode_queries(as_row(vector))[0].tolist()
        return latent
