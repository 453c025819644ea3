"""Test that the examples of docs/ecosystem.md run unchanged, each section with the real package."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GUIDE = (Path(__file__).parents[2] / "docs" / "ecosystem.md").read_text()
PACKAGES = {
    "LangChain": "langchain_qdrant",
    "LlamaIndex": "llama_index.vector_stores.qdrant",
    "sentence-transformers": "sentence_transformers",
    "scikit-learn": "sklearn",
    "usearch": "usearch",
    "faiss": "faiss",
}
EXAMPLES = [
    (section.splitlines()[0], example)
    for section in GUIDE.split("\n## ")[1:]
    for example in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
]

# What holds after the examples of a section; texts are embedded alike as documents and as queries.
OUTCOMES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "LangChain": lambda names: names["store"].similarity_search_with_score("text 7", k=1)[0][1] > 0.99,
    "LlamaIndex": lambda names: names["index"].as_retriever(similarity_top_k=1).retrieve("text 7")[0].score > 0.99,
    "sentence-transformers": lambda names: names["model"].encode_document(names["texts"]).shape == (200, 64),
    "scikit-learn": lambda names: names["classifier"].score(names["vectors"], names["labels"]) > 0.7,
    "usearch": lambda names: np.shape(names["restored"]) == (10, 384),
    "faiss": lambda names: names["restored"].shape == (10, 384) and names["index"].ntotal == 1_000,
}


def given(section: str, sample: Any) -> dict[str, Any]:
    """Provide what the examples of a section start from."""
    texts = [f"text {row}" for row in range(200)]
    vectors, queries = sample.base[:1_000], sample.queries[:20]

    def embedded(text: str) -> list[float]:
        return vectors[sum(text.encode()) % 1_000].tolist()

    if section == "LangChain":
        from langchain_core.embeddings import Embeddings

        class Model(Embeddings):
            def embed_query(self, text: str) -> list[float]:
                return embedded(text)

            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return [embedded(text) for text in texts]

        return {"embeddings": Model(), "texts": texts}
    if section == "LlamaIndex":
        from llama_index.core.base.embeddings.base import BaseEmbedding
        from llama_index.core.schema import TextNode

        class EmbedModel(BaseEmbedding):
            def _get_text_embedding(self, text: str) -> list[float]:
                return embedded(text)

            def _get_query_embedding(self, query: str) -> list[float]:
                return embedded(query)

            async def _aget_query_embedding(self, query: str) -> list[float]:
                return embedded(query)

        return {"embed_model": EmbedModel(), "nodes": [TextNode(text=text) for text in texts]}
    if section == "sentence-transformers":
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Whitespace

        words = ["text", "how", "do", "I", "mount", "a", "disk"] + [str(row) for row in range(200)]
        tokenizer = Tokenizer(WordLevel({word: row for row, word in enumerate(words)}, unk_token="text"))
        tokenizer.pre_tokenizer = Whitespace()
        static = StaticEmbedding(tokenizer, embedding_weights=vectors[: len(words)].copy())
        return {"model": SentenceTransformer(modules=[static], device="cpu"), "texts": texts}
    return {
        "vectors": vectors,
        "ids": np.arange(1_000),
        "query": queries[:1],
        "labels": (vectors[:, 0] > 0).astype(int),
    }


@pytest.mark.parametrize(("section", "example"), EXAMPLES, ids=[section for section, _ in EXAMPLES])
def test_an_example_runs(section, example, sample, vae_path, tmp_path, monkeypatch):
    pytest.importorskip(PACKAGES[section], reason=f"{PACKAGES[section]} is not installed")
    shutil.copy(vae_path, tmp_path / "vae128.onnx")
    monkeypatch.chdir(tmp_path)
    names = given(section, sample)
    with warnings.catch_warnings():
        # The server's stand-in, Qdrant's local mode, has no payload indexes and says so.
        warnings.filterwarnings("ignore", "Payload indexes have no effect in the local Qdrant")
        exec(compile(example.replace("http://localhost:6333", ":memory:"), "docs/ecosystem.md", "exec"), names)
    assert OUTCOMES[section](names)


def test_every_section_with_a_package_has_an_example():
    assert {section for section, _ in EXAMPLES} == set(PACKAGES)
