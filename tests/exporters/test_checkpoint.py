"""Test that a training run becomes a codec file that computes what the model computes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from vaecodec import Codec, Kind, LinearKind, fit_linear
from vaecodec.errors import CheckpointError, ExportError
from vaecodec.graph.nodes import Precision
from vaecodec.interface import Metric
from vaecodec.vectors import normalised
from vaecodec_cli.export import export
from vaecodec_cli.options import CodecOutput
from vaecodec_exporters.checkpoint import export_checkpoint
from vaecodec_training.checkpoint import Checkpoint, load_checkpoint, new_model
from vaecodec_training.recipe import LatentMetric, Recipe


def test_the_file_computes_what_the_model_computes(sample, vae_run: Path, vae_codec: Codec) -> None:
    model = load_checkpoint(vae_run).model.eval()
    with torch.inference_mode():
        latents = model.encode(torch.from_numpy(sample.base[:700].copy()))
        query_latents = model.encode_queries(torch.from_numpy(sample.queries[:100].copy()))
        restored = model.decode(latents)
    assert np.allclose(vae_codec.encode(sample.base[:700]), latents.numpy(), atol=1e-5)
    assert np.allclose(vae_codec.encode_queries(sample.queries[:100]), query_latents.numpy(), atol=1e-5)
    assert np.allclose(vae_codec.decode(latents.numpy()), restored.numpy(), atol=1e-5)


def test_the_file_says_where_it_comes_from(vae_codec: Codec) -> None:
    metadata = vae_codec.metadata
    assert metadata.kind is Kind.VAE
    assert metadata.nested_dims == (16, 32)
    assert metadata.embedder == "all-MiniLM-L6-v2"
    provenance = metadata.provenance
    assert provenance["recipe"]["dim"] == 64
    assert provenance["data"]["rows"] == 7500
    assert len(provenance["data"]["fingerprint"]) == 64
    assert {"vaecodec", "torch", "onnx"} <= provenance["versions"].keys()
    for codec in ("codec", "svd", "pca", "pca-documents", "truncation"):
        figure = provenance["validation"][codec]["recall@10"]
        assert 0 < figure["low"] <= figure["mean"] <= figure["high"] < 1


def test_a_nested_width_is_its_own_codec(sample, vae_path: Path, vae_codec: Codec) -> None:
    narrow = Codec.load(vae_path, dim=16)
    latents = narrow.encode(sample.base[:50])
    prefix = vae_codec.encode(sample.base[:50])[:, :16]
    assert np.allclose(latents, prefix / np.linalg.norm(prefix, axis=1, keepdims=True), atol=1e-6)
    assert narrow.codec_id == vae_codec.codec_id


@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-5), ("float16", 2e-3), ("int8", 5e-3)])
def test_latents_that_keep_the_root_of_their_length_are_compared_by_dot_product(
    precision: str, bound: float, sample, tmp_path: Path
) -> None:
    recipe = Recipe(dim=24, hidden=32, latent_metric=LatentMetric.ROOT)
    model = new_model(sample.base.shape[1], recipe, Metric.COSINE).eval()
    linear = fit_linear(sample.train, 24, kind=LinearKind.SVD_DOT)
    model.start_at(linear)
    export_checkpoint(Checkpoint(model, recipe, Metric.COSINE, "", {}), tmp_path / "root.onnx", precision=precision)
    codec = Codec.load(tmp_path / "root.onnx")
    assert codec.latent_metric is Metric.DOT
    whole = linear.encode(sample.base[:50])
    latents = codec.encode(sample.base[:50])
    assert np.allclose(latents, whole / np.sqrt(np.linalg.norm(whole, axis=1, keepdims=True)), atol=bound)
    assert np.allclose(codec.decode(latents), normalised(linear.decode(whole)), atol=bound)


@pytest.mark.parametrize(("precision", "bound"), [("float16", 2e-3), ("int8", 5e-3)])
def test_smaller_numbers_on_request(
    precision: str, bound: float, sample, vae_run: Path, vae_codec: Codec, tmp_path: Path
) -> None:
    export(vae_run, CodecOutput(out=tmp_path / "small.onnx"), precision=Precision(precision))
    small = Codec.load(tmp_path / "small.onnx")
    assert small.metadata.provenance["precision"] == precision
    assert small.metadata.provenance["parity_bound"] == bound
    assert "precision" not in vae_codec.metadata.provenance
    assert 0 < np.abs(small.encode(sample.base[:700]) - vae_codec.encode(sample.base[:700])).max() < bound


def test_an_unknown_precision_is_refused(vae_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^expected precision to be one of float32, float16, int8, got 'fp8'"):
        export_checkpoint(vae_run, tmp_path / "fp8.onnx", precision="fp8")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        export_checkpoint(tmp_path, tmp_path / "codec.onnx")
    assert list(tmp_path.iterdir()) == []
