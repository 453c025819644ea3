"""Provide models of texts in the registries of Chroma and LanceDB."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integrations.stores.words import embed


@pytest.fixture
def words_of_chroma() -> Any:
    """Return an embedding function that Chroma knows by the name ``words``."""
    pytest.importorskip("chromadb", reason="the extra chroma is not installed")
    from chromadb.api.types import EmbeddingFunction
    from chromadb.utils.embedding_functions import register_embedding_function

    @register_embedding_function
    class Words(EmbeddingFunction[Any]):
        def __init__(self) -> None:
            """Keep nothing."""

        def __call__(self, input: Any) -> Any:  # noqa: A002
            return list(embed(input))

        @staticmethod
        def name() -> str:
            return "words"

        def get_config(self) -> dict[str, Any]:
            return {}

        @staticmethod
        def build_from_config(config: dict[str, Any]) -> Words:
            return Words()

    return Words()


@pytest.fixture
def words_of_lancedb() -> Any:
    """Return LanceDB's registry, which holds an embedding function of the name ``words``."""
    pytest.importorskip("lancedb", reason="the extra lancedb is not installed")
    from lancedb.embeddings import TextEmbeddingFunction, get_registry

    import vaecodec_integrations.stores.lancedb_embedding  # noqa: F401

    registry = get_registry()
    if "words" not in registry._functions:

        @registry.register("words")
        class Words(TextEmbeddingFunction):
            def ndims(self) -> int:
                return 384

            def generate_embeddings(self, texts: Any, *_: Any, **__: Any) -> list[Any]:
                return list(embed(texts))

    return registry
