"""Test LlamaIndex's own stores over compressed vectors: its Qdrant store with our client, any other with our
embeddings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient

from vaecodec import Codec
from vaecodec.errors import CodecMismatchError, WrongWidthError
from vaecodec.evaluation import exact_search
from vaecodec_integrations.qdrant import AsyncCompressedQdrantClient, CompressedQdrantClient

pytest.importorskip("llama_index.core", reason="LlamaIndex is not installed: pip install 'vaecodec[llama-index]'")

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from vaecodec_integrations.llama_index import CompressedEmbedding

QUERIES = [f"query {row}" for row in range(20)]


class SampleEmbedding(BaseEmbedding):
    """Embed as the model of the sample: read the row that a text names."""

    sample: Any

    def _get_text_embedding(self, text: str) -> list[float]:
        return self.sample.base[int(text.split()[1])].tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self.sample.queries[int(query.split()[1])].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


@pytest.fixture(scope="module")
def embed_model(sample: Any) -> SampleEmbedding:
    return SampleEmbedding(sample=sample, model_name="all-MiniLM-L6-v2", embed_batch_size=64)


@pytest.fixture(scope="module")
def codec(vae_path: Any) -> Codec:
    return Codec.load(vae_path)


@pytest.fixture(scope="module")
def expected(codec: Codec, sample: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and scores of exact search over the latents."""
    latents, queries = codec.encode(sample.base[:300]), codec.encode_queries(sample.queries[:20])
    return exact_search(latents, queries, 5, codec.latent_metric)


def nodes() -> list[TextNode]:
    # Metadata stays out of the text that is embedded.
    hidden = {"excluded_embed_metadata_keys": ["even"]}
    return [TextNode(text=f"document {row}", metadata={"even": int(row % 2 == 0)}, **hidden) for row in range(300)]


def found(results: Any) -> list[int]:
    return [int(result.node.get_content(MetadataMode.NONE).split()[1]) for result in results]


class TestQdrantStore:
    """Test ``llama_index.vector_stores.qdrant.QdrantVectorStore``, unchanged, with a ``CompressedQdrantClient``."""

    @pytest.fixture
    def store_class(self) -> Any:
        return pytest.importorskip(
            "llama_index.vector_stores.qdrant", reason="pip install llama-index-vector-stores-qdrant"
        ).QdrantVectorStore

    @pytest.fixture
    def raw(self) -> Any:
        client = QdrantClient(":memory:")
        yield client
        client.close()

    @pytest.fixture
    def index(self, store_class: Any, raw: QdrantClient, codec: Codec, embed_model: Any) -> VectorStoreIndex:
        client = CompressedQdrantClient(raw, codec)
        # Qdrant's local mode warns that it has no payload indexes.
        store = store_class("docs", client=client, index_doc_id=False)
        context = StorageContext.from_defaults(vector_store=store)
        return VectorStoreIndex(nodes(), storage_context=context, embed_model=embed_model)

    def test_holds_latents_and_finds_what_exact_search_finds(self, index, raw, expected):
        assert raw.get_collection("docs").config.params.vectors.size == 64
        assert raw.count("docs").count == 300
        retriever = index.as_retriever(similarity_top_k=5)
        for query, ids, scores in zip(QUERIES, *expected, strict=True):
            results = retriever.retrieve(query)
            assert found(results) == ids.tolist()
            np.testing.assert_allclose([result.score for result in results], scores, atol=1e-5)

    def test_filters_and_deletion_work(self, index, expected):
        even = MetadataFilters(filters=[MetadataFilter(key="even", value=1, operator=FilterOperator.EQ)])
        results = index.as_retriever(similarity_top_k=5, filters=even).retrieve("query 3")
        assert [result.node.metadata["even"] for result in results] == [1] * 5
        nearest = index.as_retriever(similarity_top_k=1).retrieve("query 3")[0]
        assert found([nearest]) == [expected[0][3][0]]
        index.delete_nodes([nearest.node.node_id])
        assert found(index.as_retriever(similarity_top_k=1).retrieve("query 3")) == [expected[0][3][1]]

    def test_a_filled_collection_opens_again_only_with_its_codec(
        self, index, raw, store_class, codec, svd_codec, embed_model, expected
    ):
        def opened(client: Any) -> VectorStoreIndex:
            store = store_class("docs", client=client, index_doc_id=False)
            return VectorStoreIndex.from_vector_store(store, embed_model=embed_model)

        again = opened(CompressedQdrantClient(raw, codec)).as_retriever(similarity_top_k=5)
        assert found(again.retrieve("query 1")) == expected[0][1].tolist()
        with pytest.raises(CodecMismatchError, match="expected codec"):
            opened(CompressedQdrantClient(raw, svd_codec)).as_retriever().retrieve("query 1")

    def test_hybrid_collections_name_their_vector(self, store_class, raw, codec, embed_model, expected):
        def words(texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
            return [[int(text.split()[1])] for text in texts], [[1.0] for _ in texts]

        client = CompressedQdrantClient(raw, codecs={"text-dense": codec})
        store = store_class(
            "docs", client=client, index_doc_id=False, enable_hybrid=True, sparse_doc_fn=words, sparse_query_fn=words
        )
        context = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex(nodes(), storage_context=context, embed_model=embed_model)
        assert raw.get_collection("docs").config.params.vectors["text-dense"].size == 64
        hybrid = {"vector_store_query_mode": "hybrid", "sparse_top_k": 5}
        retriever = index.as_retriever(similarity_top_k=5, alpha=1.0, **hybrid)  # all weight on the dense vector
        assert found(retriever.retrieve("query 9"))[:4] == expected[0][9].tolist()[:4]
        sparse = index.as_retriever(similarity_top_k=5, alpha=0.0, **hybrid)
        assert found(sparse.retrieve("query 9"))[0] == 9

    async def test_asynchronous_client(self, store_class, codec, embed_model, expected):
        raw = AsyncQdrantClient(":memory:")
        client = AsyncCompressedQdrantClient(raw, codec)
        store = store_class("docs", aclient=client, index_doc_id=False)
        texts = nodes()
        for node, vector in zip(texts, embed_model.get_text_embedding_batch([n.text for n in texts]), strict=True):
            node.embedding = vector
        await store.async_add(texts)
        index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
        results = await index.as_retriever(similarity_top_k=5).aretrieve("query 5")
        assert found(results) == expected[0][5].tolist()
        assert (await raw.get_collection("docs")).config.params.vectors.size == 64
        await raw.close()


class TestEmbedding:
    @pytest.fixture
    def compressed(self, embed_model: SampleEmbedding, codec: Codec) -> CompressedEmbedding:
        return CompressedEmbedding(embed_model, codec)

    def test_documents_and_queries_take_their_own_entry(self, compressed, codec, sample):
        assert (compressed.model_name, compressed.embed_batch_size) == ("all-MiniLM-L6-v2", 64)
        texts = [f"document {row}" for row in range(3)]
        documents = compressed.get_text_embedding_batch(texts)
        np.testing.assert_allclose(documents, codec.encode(sample.base[:3]), atol=1e-6)
        assert isinstance(documents[0][0], float)
        np.testing.assert_allclose(compressed.get_text_embedding(texts[2]), documents[2], atol=1e-6)
        query = codec.encode_queries(sample.queries[4:5])[0]
        np.testing.assert_allclose(compressed.get_query_embedding(QUERIES[4]), query, atol=1e-6)

    async def test_asynchronous_calls(self, compressed, codec, sample):
        documents = await compressed.aget_text_embedding_batch(["document 0", "document 1"])
        np.testing.assert_allclose(documents, codec.encode(sample.base[:2]), atol=1e-6)
        query = codec.encode_queries(sample.queries[4:5])[0]
        np.testing.assert_allclose(await compressed.aget_query_embedding(QUERIES[4]), query, atol=1e-6)

    def test_fills_any_store_of_llama_index(self, compressed, expected):
        index = VectorStoreIndex(nodes(), embed_model=compressed)
        results = index.as_retriever(similarity_top_k=5).retrieve("query 7")
        assert found(results) == expected[0][7].tolist()
        np.testing.assert_allclose([result.score for result in results], expected[1][7], atol=1e-5)

    def test_embeddings_of_another_model_are_refused(self, codec, sample):
        narrow = sample._replace(queries=sample.queries[:, :100])
        compressed = CompressedEmbedding(SampleEmbedding(sample=narrow), codec)
        with pytest.raises(WrongWidthError, match="expected rows of width 384, got 100"):
            compressed.get_query_embedding("query 0")
