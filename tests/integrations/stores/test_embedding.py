"""Test that texts are stored as latents, through the embedding functions of Chroma and LanceDB."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integrations.stores.words import embed

from vaecodec import Codec, fit_linear
from vaecodec.errors import CodecMismatchError
from vaecodec_exporters.linear import export_linear

pytestmark = pytest.mark.filterwarnings("ignore")  # what the engines warn of is theirs

TEXTS = ["how to mount a disk", "mount a network drive", "bake a cake with apples", "the weather in spring"]


@pytest.fixture
def codec_file(svd_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(svd_path, tmp_path / "codec.onnx"))


@pytest.fixture(scope="module")
def other_file(sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "codec.onnx"
    export_linear(fit_linear(sample.base, 64), path)
    return path


class TestChroma:
    @pytest.fixture
    def client(self, words_of_chroma: Any, tmp_path: Path) -> Any:
        import chromadb

        return chromadb.PersistentClient(
            str(tmp_path / "chroma"), settings=chromadb.config.Settings(anonymized_telemetry=False)
        )

    def test_stores_latents_of_texts_and_finds_by_a_text(
        self, words_of_chroma: Any, client: Any, codec_file: Path
    ) -> None:
        from vaecodec_integrations.stores.chroma_embedding import CompressedEmbeddingFunction

        codec = Codec.load(codec_file)
        function = CompressedEmbeddingFunction(words_of_chroma, codec_file)
        collection = client.create_collection("docs", embedding_function=function)
        collection.add(ids=list("abcd"), documents=TEXTS)

        stored = np.array(collection.get(ids=list("abcd"), include=["embeddings"])["embeddings"])
        np.testing.assert_allclose(stored, codec.encode(embed(TEXTS)), atol=1e-6)
        assert collection.query(query_texts=["mount a network disk"], n_results=2)["ids"] in (
            [["a", "b"]],
            [["b", "a"]],
        )
        assert collection.configuration_json["hnsw"]["space"] == "cosine"
        again = client.get_collection("docs")
        assert again.query(query_texts=["apples"], n_results=1)["ids"] == [["c"]]

    def test_another_codec_in_the_same_place_is_refused(
        self, words_of_chroma: Any, client: Any, codec_file: Path, other_file: Path
    ) -> None:
        from vaecodec_integrations.stores.chroma_embedding import CompressedEmbeddingFunction

        function = CompressedEmbeddingFunction(words_of_chroma, codec_file)
        client.create_collection("docs", embedding_function=function).add(ids=["a"], documents=TEXTS[:1])
        shutil.copy(other_file, codec_file)
        with pytest.raises(CodecMismatchError, match=r"expected the codec .* which the collection was filled with"):
            CompressedEmbeddingFunction.build_from_config(function.get_config())
        with pytest.raises(Exception, match="which the collection was filled with"):
            client.get_collection("docs").query(query_texts=["mount"], n_results=1)


class TestLanceDb:
    def made(self, words_of_lancedb: Any, codec_file: Path, folder: Path) -> Any:
        import lancedb
        from lancedb.pydantic import LanceModel, Vector

        function = words_of_lancedb.get("vaecodec").create(model="words", codec=str(codec_file))

        class Document(LanceModel):
            text: str = function.SourceField()
            latent: Vector(function.ndims()) = function.VectorField()  # type: ignore[valid-type]

        return lancedb.connect(folder / "lance").create_table("docs", schema=Document)

    def test_stores_latents_of_texts_and_finds_by_a_text(
        self, words_of_lancedb: Any, codec_file: Path, tmp_path: Path
    ) -> None:
        import lancedb

        self.made(words_of_lancedb, codec_file, tmp_path).add([{"text": text} for text in TEXTS])
        table = lancedb.connect(tmp_path / "lance").open_table("docs")
        rows = {row["text"]: row["latent"] for row in table.to_arrow().to_pylist()}
        codec = Codec.load(codec_file)
        np.testing.assert_allclose([rows[text] for text in TEXTS], codec.encode(embed(TEXTS)), atol=1e-6)
        found = table.search("apples").limit(1).to_list()
        assert found[0]["text"] == "bake a cake with apples"

    def test_another_codec_in_the_same_place_is_refused(
        self, words_of_lancedb: Any, codec_file: Path, other_file: Path, tmp_path: Path
    ) -> None:
        import lancedb

        self.made(words_of_lancedb, codec_file, tmp_path).add([{"text": TEXTS[0]}])
        shutil.copy(other_file, codec_file)
        with pytest.raises(CodecMismatchError, match=r"expected the codec .* which the collection was filled with"):
            lancedb.connect(tmp_path / "lance").open_table("docs").search("apples").limit(1).to_list()
