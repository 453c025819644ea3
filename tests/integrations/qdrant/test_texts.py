"""Test that texts which the wrapped client embeds itself are embedded first and compressed then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from tests.integrations.qdrant.rest_server import RestServer

from vaecodec import LinearCodec
from vaecodec.errors import UnsupportedRequestError
from vaecodec_integrations.qdrant import CompressedQdrantClient

Open = Callable[..., Any]
MODEL = "vaecodec-tests/words"
WORDS = ["[UNK]", "mount", "disk", "compile", "kernel", "play", "music", "edit", "text", "read", "mail", "draw"]
TEXTS = [" ".join(WORDS[row : row + 2]) for row in range(1, len(WORDS) - 1)]


@pytest.fixture(scope="session")
def word_model(sample: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model of a few words for fastembed: a row of the sample for each, averaged."""
    fastembed = pytest.importorskip("fastembed", reason="fastembed is not installed: pip install fastembed")
    onnx = pytest.importorskip("onnx")
    from fastembed.common.model_description import ModelSource, PoolingType
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    folder = tmp_path_factory.mktemp("words")
    tokenizer = Tokenizer(WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"pad_token_id": 0}')
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 32, "pad_token": "[UNK]"}')
    (folder / "special_tokens_map.json").write_text('{"unk_token": "[UNK]", "pad_token": "[UNK]"}')
    shape = ["rows", "tokens"]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["rows", "input_ids"], ["states"])],
        "words",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, [*shape, 384])],
        [numpy_helper.from_array(np.array(sample.base[: len(WORDS)]), "rows")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    fastembed.TextEmbedding.add_custom_model(
        model=MODEL,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=MODEL),
        dim=384,
        model_file="model.onnx",
    )
    return folder


@pytest.fixture
def document(word_model: Path) -> Callable[[str], models.Document]:
    return lambda text: models.Document(text=text, model=MODEL, options={"specific_model_path": str(word_model)})


def embedding(sample: Any, text: str) -> np.ndarray:
    row = np.mean([sample.base[WORDS.index(word)] for word in text.split()], axis=0)
    return row / np.linalg.norm(row)


@pytest.fixture
def vectors(sample: Any) -> np.ndarray:
    return np.array([embedding(sample, text) for text in TEXTS], np.float32)


@pytest.mark.parametrize("way", ["upsert", "batch", "named batch", "upload_points", "upload_collection", "update"])
def test_texts_are_stored_as_latents_of_their_embeddings(
    open_client: Open,
    svd_codec: LinearCodec,
    name: str,
    way: str,
    document: Callable[[str], models.Document],
    vectors: np.ndarray,
) -> None:
    client, ids = open_client(svd_codec), list(range(len(TEXTS)))
    client.create_collection(name)
    texts = [document(text) for text in TEXTS]
    points = [models.PointStruct(id=i, vector=text) for i, text in enumerate(texts)]
    if way == "upsert":
        client.upsert(name, points)
    elif way == "batch":
        client.upsert(name, models.Batch(ids=ids, vectors=texts))
    elif way == "named batch":
        client.upsert(name, models.Batch(ids=ids, vectors={"": texts}))
    elif way == "upload_points":
        client.upload_points(name, points, batch_size=3, wait=True)
    elif way == "upload_collection":
        client.upload_collection(name, texts, ids=ids, batch_size=3, wait=True)
    else:
        client.upsert(name, [models.PointStruct(id=i, vector=vectors[0].tolist()) for i in ids])
        client.update_vectors(name, [models.PointVectors(id=i, vector=text) for i, text in enumerate(texts)])
    stored = [record.vector for record in client.wrapped.retrieve(name, ids, with_vectors=True)]
    np.testing.assert_allclose(stored, svd_codec.encode(vectors), atol=1e-5)


@pytest.mark.parametrize("originals", [None, "disk"])
def test_queries_by_text_are_queries_by_its_embedding(
    open_client: Open,
    svd_codec: LinearCodec,
    sample: Any,
    name: str,
    originals: Any,
    document: Callable[[str], models.Document],
    vectors: np.ndarray,
) -> None:
    client = open_client(svd_codec, originals=originals)
    client.create_collection(name)
    client.upload_collection(name, vectors, ids=range(len(TEXTS)), wait=True)
    asked, vector = document("play music"), embedding(sample, "play music").tolist()
    example = models.RecommendQuery(recommend=models.RecommendInput(positive=[asked, 2]))
    same = models.RecommendQuery(recommend=models.RecommendInput(positive=[vector, 2]))
    fusion = models.FusionQuery(fusion=models.Fusion.RRF)
    for by_text, by_vector in (
        ({"query": asked}, {"query": vector}),
        ({"query": example}, {"query": same}),
        (
            {"query": fusion, "prefetch": [models.Prefetch(query=asked)]},
            {"query": fusion, "prefetch": [models.Prefetch(query=vector)]},
        ),
    ):
        found, expected = (client.query_points(name, limit=4, **form).points for form in (by_text, by_vector))
        assert [p.id for p in found] == [p.id for p in expected]
        np.testing.assert_allclose([p.score for p in found], [p.score for p in expected], atol=1e-5)
    assert client.query_points(name, asked, limit=1).points[0].id == TEXTS.index("play music")
    (grouped,) = client.query_batch_points(name, [models.QueryRequest(query=asked, limit=1)])
    assert grouped.points[0].id == TEXTS.index("play music")


def test_texts_for_a_model_with_the_codec_inside_are_stored_as_it_gives_them(
    open_client: Open, svd_codec: LinearCodec, svd_path: Path, name: str, word_model: Path, vectors: np.ndarray
) -> None:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    from vaecodec_exporters.fuse import fuse

    fuse(word_model / "model.onnx", svd_path, word_model / "fused.onnx", pooling="mean", overwrite=True)
    fused = "vaecodec-tests/words64"
    if fused not in [each["model"] for each in TextEmbedding.list_supported_models()]:
        TextEmbedding.add_custom_model(
            model=fused,
            pooling=PoolingType.DISABLED,
            normalization=False,
            sources=ModelSource(hf=fused),
            dim=svd_codec.code_dim,
            model_file="fused.onnx",
        )
    options = {"specific_model_path": str(word_model)}
    client = open_client(svd_codec)
    client.create_collection(name)
    documents = [models.Document(text=text, model=fused, options=options) for text in TEXTS]
    client.upload_collection(name, documents, ids=range(len(TEXTS)), wait=True)
    stored = [record.vector for record in client.wrapped.retrieve(name, range(len(TEXTS)), with_vectors=True)]
    np.testing.assert_allclose(stored, svd_codec.encode(vectors), atol=1e-5)
    asked = models.Document(text="play music", model=fused, options=options)
    # Latents and embeddings of the same text are the same query.
    for query in (asked, vectors[TEXTS.index("play music")]):
        assert client.query_points(name, query, limit=1).points[0].id == TEXTS.index("play music")


def test_only_inference_in_the_cloud_is_refused(rest_server: RestServer, svd_codec: LinearCodec, name: str) -> None:
    """There the text would be embedded after it was sent."""
    cloud = QdrantClient(url=rest_server.url, cloud_inference=True, check_compatibility=False)
    client = CompressedQdrantClient(cloud, svd_codec)
    client.create_collection(name)
    document = models.Document(text="a package manager", model="any")
    refused = "vector '': expected a vector, got a Document that Qdrant's cloud would embed after it was sent"
    with pytest.raises(UnsupportedRequestError, match=refused):
        client.upsert(name, [models.PointStruct(id=1, vector=document)])
    with pytest.raises(UnsupportedRequestError, match=refused):
        client.query_points(name, document)
    assert client.count(name).count == 0
    client.close()
