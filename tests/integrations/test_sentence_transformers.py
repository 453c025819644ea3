"""Test the codec as a module of a real sentence-transformers model, whose embeddings are the sample's."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaecodec import Codec
from vaecodec.errors import ArtifactNotFoundError, CodecMismatchError, InvalidArtifactError, WrongWidthError

pytest.importorskip("sentence_transformers", reason="not installed: pip install 'vaecodec[sentence-transformers]'")

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from vaecodec_integrations.sentence_transformers import Compress

ROWS = 100


def static(sample: Any) -> StaticEmbedding:
    """Make a model of one word per document: the embedding of ``d7`` is row 7, that of several words is their mean."""
    tokenizer = Tokenizer(WordLevel({f"d{row}": row for row in range(ROWS)}, unk_token="d0"))
    tokenizer.pre_tokenizer = Whitespace()
    return StaticEmbedding(tokenizer, embedding_weights=sample.base[:ROWS].copy())


@pytest.fixture
def model(sample: Any, vae_path: Path) -> SentenceTransformer:
    return SentenceTransformer(modules=[static(sample), Compress(vae_path)], device="cpu")


@pytest.fixture(scope="module")
def codec(vae_path: Path) -> Codec:
    return Codec.load(vae_path)


def test_encodes_documents_and_queries_through_their_own_entries(model, codec, sample):
    latents = model.encode_document(["d3", "d7 d8"])
    rows = np.stack([sample.base[3], sample.base[7:9].mean(axis=0)])
    np.testing.assert_allclose(latents, codec.encode(rows), atol=1e-5)
    assert latents.dtype == np.float32
    np.testing.assert_allclose(model.encode("d3"), latents[0], atol=1e-6)
    np.testing.assert_allclose(model.encode_query("d3"), codec.encode_queries(rows[:1])[0], atol=1e-5)
    tensor = model.encode(["d3"], convert_to_tensor=True)
    assert (tensor.shape, tensor.dtype, str(tensor.device)) == ((1, 64), torch.float32, "cpu")
    assert model.get_embedding_dimension() == 64
    np.testing.assert_allclose(model.similarity(latents, latents).diagonal(), 1, atol=1e-6)


def test_queries_take_the_query_entry(sample, svd_codec, tmp_path):
    """Use a codec whose entries differ: only documents are centred."""
    from vaecodec import LinearKind, fit_linear
    from vaecodec_exporters.linear import export_linear

    codec = fit_linear(sample.train, 64, kind=LinearKind.PCA_DOCUMENTS)
    export_linear(codec, tmp_path / "pca.onnx")
    model = SentenceTransformer(modules=[static(sample), Compress(tmp_path / "pca.onnx")], device="cpu")
    document, query = model.encode_document("d3"), model.encode_query("d3")
    np.testing.assert_allclose(document, codec.encode(sample.base[3:4])[0], atol=1e-5)
    np.testing.assert_allclose(query, codec.encode_queries(sample.base[3:4])[0], atol=1e-5)
    assert np.abs(document - query).max() > 0.01


def test_is_saved_and_loaded_with_the_model(sample, vae_path, tmp_path):
    model = SentenceTransformer(modules=[static(sample), Compress(vae_path, dim=32)], device="cpu")
    model.save(str(tmp_path / "model"))
    assert (tmp_path / "model" / "1_Compress" / "codec.onnx").read_bytes() == vae_path.read_bytes()
    (tmp_path / "model").rename(tmp_path / "moved")

    loaded = SentenceTransformer(str(tmp_path / "moved"), trust_remote_code=True, device="cpu")

    words = [f"d{row}" for row in range(ROWS)]
    np.testing.assert_array_equal(loaded.encode(words), model.encode(words))
    assert loaded.get_embedding_dimension() == 32
    loaded.save(str(tmp_path / "moved"))  # over the file that it reads
    again = SentenceTransformer(str(tmp_path / "moved"), trust_remote_code=True, device="cpu")
    np.testing.assert_array_equal(again.encode(words), model.encode(words))


def test_a_model_whose_codec_is_missing_or_damaged_does_not_load(model, tmp_path):
    model.save(str(tmp_path))
    path = tmp_path / "1_Compress" / "codec.onnx"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InvalidArtifactError, match="checksum"):
        SentenceTransformer(str(tmp_path), trust_remote_code=True)
    path.unlink()
    with pytest.raises(ArtifactNotFoundError, match="there is no such codec file"):
        SentenceTransformer(str(tmp_path), trust_remote_code=True)


def test_a_file_that_was_exchanged_is_not_saved(sample, vae_path, svd_path, tmp_path):
    path = tmp_path / "codec.onnx"
    shutil.copy(vae_path, path)
    model = SentenceTransformer(modules=[static(sample), Compress(path)], device="cpu")
    shutil.copy(svd_path, path)
    with pytest.raises(CodecMismatchError, match="which this model uses, got codec"):
        model.save(str(tmp_path / "model"))


def test_other_processes_load_the_file_themselves(model, sample, codec):
    """Do what ``encode`` with several devices does: each process gets the model as a pickle."""
    copied = pickle.loads(pickle.dumps(model[1]))
    features = copied({"sentence_embedding": torch.from_numpy(sample.base[:5].copy())})
    np.testing.assert_allclose(features["sentence_embedding"], codec.encode(sample.base[:5]), atol=1e-6)


def test_half_precision_models_are_compressed_in_float32(vae_path, codec, sample):
    embeddings = torch.from_numpy(sample.base[:5].copy()).to(torch.bfloat16)
    latents = Compress(vae_path)({"sentence_embedding": embeddings})["sentence_embedding"]
    assert latents.dtype == torch.float32
    np.testing.assert_allclose(latents, codec.encode(embeddings.float().numpy()), atol=1e-6)


def test_a_model_of_another_width_is_refused(sample, vae_path):
    narrow = static(sample)
    narrow.embedding = torch.nn.EmbeddingBag.from_pretrained(torch.from_numpy(sample.base[:ROWS, :100].copy()))
    model = SentenceTransformer(modules=[narrow, Compress(vae_path)], device="cpu")
    with pytest.raises(WrongWidthError, match="expected rows of width 384, got 100"):
        model.encode("d3")
