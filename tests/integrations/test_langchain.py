"""Test LangChain's stores over compressed vectors: its Qdrant store with our client, others with our embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from vaecodec import Codec
from vaecodec.errors import CodecMismatchError, WrongWidthError
from vaecodec.evaluation import exact_search, similarities
from vaecodec_integrations.qdrant import CompressedQdrantClient

pytest.importorskip("langchain_core", reason="LangChain is not installed: pip install 'vaecodec[langchain]'")

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from vaecodec_integrations.langchain import CompressedEmbeddings

DOCUMENTS = [f"document {row}" for row in range(400)]
QUERIES = [f"query {row}" for row in range(20)]


class SampleEmbeddings(Embeddings):
    """Embed as the model of the sample: read the row that a text names, the first one for any other text."""

    def __init__(self, sample: Any) -> None:
        self._rows = {"document": sample.base, "query": sample.queries}

    def embed_query(self, text: str) -> list[float]:
        kind, _, row = text.partition(" ")
        return (self._rows[kind][int(row)] if row else self._rows["document"][0]).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


@pytest.fixture(scope="module")
def embeddings(sample: Any) -> SampleEmbeddings:
    return SampleEmbeddings(sample)


@pytest.fixture(scope="module")
def codec(vae_path: Any) -> Codec:
    return Codec.load(vae_path)


@pytest.fixture(scope="module")
def expected(codec: Codec, sample: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and scores of exact search over the latents."""
    latents, queries = codec.encode(sample.base[:400]), codec.encode_queries(sample.queries[:20])
    return exact_search(latents, queries, 5, codec.latent_metric)


def found(results: Any) -> list[int]:
    return [int(document.page_content.split()[1]) for document, _ in results]


class TestQdrantStore:
    """Test ``langchain_qdrant.QdrantVectorStore``, unchanged, with a ``CompressedQdrantClient``."""

    @pytest.fixture
    def langchain_qdrant(self) -> Any:
        return pytest.importorskip("langchain_qdrant", reason="pip install langchain-qdrant")

    @pytest.fixture
    def raw(self) -> Any:
        client = QdrantClient(":memory:")
        yield client
        client.close()

    @pytest.fixture
    def store(self, langchain_qdrant: Any, raw: QdrantClient, codec: Codec, embeddings: Embeddings) -> Any:
        client = CompressedQdrantClient(raw, codec)
        client.create_collection("docs", vectors_config=models.VectorParams(size=384, distance=models.Distance.COSINE))
        store = langchain_qdrant.QdrantVectorStore(client=client, collection_name="docs", embedding=embeddings)
        store.add_texts(DOCUMENTS, [{"even": row % 2 == 0} for row in range(400)], ids=list(range(400)))
        return store

    def test_holds_latents_and_finds_what_exact_search_finds(self, store, raw, expected):
        assert raw.get_collection("docs").config.params.vectors.size == 64
        assert raw.count("docs").count == 400
        for query, ids, scores in zip(QUERIES, *expected, strict=True):
            results = store.similarity_search_with_score(query, k=5)
            assert found(results) == ids.tolist()
            np.testing.assert_allclose([score for _, score in results], scores, atol=1e-5)

    def test_the_rest_of_the_store_works(self, store, expected, embeddings):
        even = models.Filter(must=[models.FieldCondition(key="metadata.even", match=models.MatchValue(value=True))])
        results = store.similarity_search("query 3", k=5, filter=even)
        assert [document.metadata["even"] for document in results] == [True] * 5
        by_vector = store.similarity_search_by_vector(embeddings.embed_query("query 3"), k=5)
        assert [document.metadata["_id"] for document in by_vector] == expected[0][3].tolist()
        # Marginal relevance reads vectors back: reconstructions of the original width, next to the query's own.
        diverse = store.max_marginal_relevance_search("query 3", k=3, fetch_k=10, lambda_mult=1.0)
        assert diverse[0].metadata["_id"] == expected[0][3][0]
        assert [document.page_content for document in store.get_by_ids([7])] == ["document 7"]
        assert store.as_retriever(search_kwargs={"k": 2}).invoke("query 3")[0].metadata["_id"] == expected[0][3][0]
        store.delete(ids=[int(expected[0][3][0])])
        assert store.similarity_search("query 3", k=1)[0].metadata["_id"] == expected[0][3][1]

    async def test_asynchronous_calls(self, store, expected):
        results = await store.asimilarity_search_with_score("query 5", k=5)
        assert found(results) == expected[0][5].tolist()

    def test_a_filled_collection_opens_again_only_with_its_codec(
        self, store, raw, langchain_qdrant, svd_codec, codec, embeddings, expected
    ):
        again = langchain_qdrant.QdrantVectorStore(
            client=CompressedQdrantClient(raw, codec), collection_name="docs", embedding=embeddings
        )
        assert found(again.similarity_search_with_score("query 1", k=5)) == expected[0][1].tolist()
        with pytest.raises(CodecMismatchError, match="expected codec"):
            langchain_qdrant.QdrantVectorStore(
                client=CompressedQdrantClient(raw, svd_codec), collection_name="docs", embedding=embeddings
            )
        with pytest.raises(langchain_qdrant.qdrant.QdrantVectorStoreError, match="64"):
            langchain_qdrant.QdrantVectorStore(client=raw, collection_name="docs", embedding=embeddings)

    def test_kept_originals_re_rank(self, langchain_qdrant, raw, codec, embeddings, sample):
        client = CompressedQdrantClient(raw, codec, originals="disk", rerank=20)
        client.create_collection("docs", vectors_config=models.VectorParams(size=384, distance=models.Distance.COSINE))
        store = langchain_qdrant.QdrantVectorStore(client=client, collection_name="docs", embedding=embeddings)
        store.add_texts(DOCUMENTS, ids=list(range(400)))
        truth, scores = exact_search(sample.base[:400], sample.queries[:20], 5, codec.metric)
        for row, query in enumerate(QUERIES):
            results = store.similarity_search_with_score(query, k=5)
            assert found(results) == truth[row].tolist()
            np.testing.assert_allclose([score for _, score in results], scores[row], atol=1e-3)  # kept as float16


class TestEmbeddings:
    @pytest.fixture
    def compressed(self, embeddings: Embeddings, codec: Codec) -> CompressedEmbeddings:
        return CompressedEmbeddings(embeddings, codec)

    def test_documents_and_queries_take_their_own_entry(self, compressed, codec, sample):
        documents = compressed.embed_documents(DOCUMENTS[:3])
        np.testing.assert_allclose(documents, codec.encode(sample.base[:3]), atol=1e-6)
        query = compressed.embed_query(QUERIES[4])
        np.testing.assert_allclose(query, codec.encode_queries(sample.queries[4:5])[0], atol=1e-6)
        assert isinstance(documents[0][0], float)
        assert compressed.embed_documents([]) == []

    async def test_the_models_own_asynchronous_methods_are_used(self, codec, sample):
        class Asynchronous(SampleEmbeddings):
            async def aembed_query(self, text: str) -> list[float]:
                return SampleEmbeddings.embed_query(self, text)

            async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
                return [SampleEmbeddings.embed_query(self, text) for text in texts]

            def embed_query(self, text: str) -> list[float]:
                raise AssertionError("the blocking method was called")

        compressed = CompressedEmbeddings(Asynchronous(sample), codec)
        documents = await compressed.aembed_documents(DOCUMENTS[:2])
        np.testing.assert_allclose(documents, codec.encode(sample.base[:2]), atol=1e-6)
        query = await compressed.aembed_query(QUERIES[4])
        np.testing.assert_allclose(query, codec.encode_queries(sample.queries[4:5])[0], atol=1e-6)

    def test_fill_any_store_of_langchain(self, compressed, expected, codec, sample):
        store = InMemoryVectorStore(compressed)
        store.add_texts(DOCUMENTS)
        for row in (0, 7):
            results = store.similarity_search_with_score(QUERIES[row], k=5)
            assert found(results) == expected[0][row].tolist()
            latents = codec.encode(sample.base[expected[0][row]])
            scores = similarities(codec.encode_queries(sample.queries[row : row + 1]), latents, codec.latent_metric)
            np.testing.assert_allclose([score for _, score in results], scores[0], atol=1e-5)

    def test_embeddings_of_another_model_are_refused(self, codec, sample):
        narrow = SampleEmbeddings(sample._replace(base=sample.base[:, :100], queries=sample.queries[:, :100]))
        compressed = CompressedEmbeddings(narrow, codec)
        with pytest.raises(WrongWidthError, match="queries: expected rows of width 384, got 100"):
            compressed.embed_query("query 0")
        with pytest.raises(WrongWidthError, match="vectors: expected rows of width 384, got 100"):
            InMemoryVectorStore(compressed).add_texts(DOCUMENTS)
