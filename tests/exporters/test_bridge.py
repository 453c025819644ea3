"""Test bridges: an old collection searched with a new codec, through the real index and the real client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from qdrant_client import QdrantClient

from vaecodec import Codec, LinearCodec, LinearKind, Metric, VectorCodec, fit_linear
from vaecodec.bulk import BulkOptions, decode, encode
from vaecodec.errors import CodecMismatchError, UnusableDataError, WrongWidthError
from vaecodec.evaluation import exact_search, recall
from vaecodec.two_models.bridge import Affine, BridgedCodec, fit_bridge
from vaecodec_cli.main import main
from vaecodec_exporters.bridge import export_bridge
from vaecodec_integrations.hnsw import CompressedIndex
from vaecodec_integrations.qdrant import CompressedQdrantClient


@pytest.fixture(scope="module")
def bridge_path(svd_path: Path, vae_path: Path, sample: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a bridge from the learned codec to collections that the linear one filled."""
    bridge, figures = fit_bridge(Codec.load(svd_path), Codec.load(vae_path), sample.train)
    path = tmp_path_factory.mktemp("bridge") / "bridge.onnx"
    export_bridge(bridge, path, figures)
    return path


@pytest.fixture(scope="module")
def bridged(vae_path: Path, bridge_path: Path) -> BridgedCodec:
    return BridgedCodec.load(vae_path, bridge_path)


def found_by(codec: VectorCodec, latents: np.ndarray, sample: Any) -> float:
    """Return the recall@10 of queries over the latents of the base."""
    truth, _ = exact_search(sample.base, sample.queries, 10, Metric.COSINE)
    ids, _ = exact_search(latents, codec.encode_queries(sample.queries), 10, codec.latent_metric)
    return float(recall(ids, truth, 10).mean())


def rotation(width: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))[0].astype(np.float32)


def test_the_old_collection_is_found_through_the_bridge(
    bridged: BridgedCodec, vae_codec: Codec, svd_codec: LinearCodec, bridge_path: Path, sample: Any
) -> None:
    old = svd_codec.encode(sample.base)
    with_old, with_new = found_by(svd_codec, old, sample), found_by(vae_codec, vae_codec.encode(sample.base), sample)
    across = found_by(bridged, old, sample)
    carried = found_by(vae_codec, Codec.load(bridge_path).decode(old), sample)
    # Neither side knows more of a document than 64 numbers that the old codec chose.
    assert across > with_old - 0.02
    assert carried > with_new - 0.02
    # Without the bridge the same search finds nothing.
    assert found_by(vae_codec, old @ rotation(64), sample) < 0.05


def test_rows_of_a_bridge_are_named_at_inputs_only(bridge_path: Path) -> None:
    """Runtimes that fix the batch name a symbol, and refuse outputs that have another one."""
    graph = onnx.load(bridge_path).graph
    rows = [value.type.tensor_type.shape.dim[0].WhichOneof("value") for value in (*graph.input, *graph.output)]
    assert rows == ["dim_param"] * 3 + [None] * 3


def test_figures_are_those_of_the_rows_that_were_not_fitted_on(
    vae_codec: Codec, svd_codec: LinearCodec, sample: Any
) -> None:
    bridge, figures = fit_bridge(svd_codec, vae_codec, sample.base)
    held_out = sample.base[::5]
    documents, queries = np.delete(held_out, np.s_[::5], axis=0), held_out[::5]
    truth, _ = exact_search(documents, queries, 10, Metric.COSINE)
    ids, _ = exact_search(
        svd_codec.encode(documents), bridge.encode_queries(vae_codec.encode_queries(queries)), 10, Metric.COSINE
    )
    np.testing.assert_array_equal(figures["bridged"], recall(ids, truth, 10))
    assert list(figures) == ["re-encoded", "bridged", "carried over", "decoded, re-encoded", "old"]
    other = sample.base.copy()
    other[::5] = np.random.default_rng(0).normal(size=held_out.shape)
    np.testing.assert_allclose(fit_bridge(svd_codec, vae_codec, other)[0].documents.matrix, bridge.documents.matrix)


def test_another_embedding_model_of_the_same_texts_is_bridged(sample: Any) -> None:
    turned = rotation(384)
    old, new = fit_linear(sample.train, 64), fit_linear(sample.train @ turned, 96)
    bridge, figures = fit_bridge(old, new, sample.base[:3_000], sample.base[:3_000] @ turned)
    assert figures["bridged"].mean() > recall_of(old, sample) - 0.02
    assert list(figures) == ["re-encoded", "bridged", "carried over"]
    latents = bridge.encode(new.encode(sample.base[3_000:] @ turned))
    similar = np.einsum("ij,ij->i", latents, old.encode(sample.base[3_000:]))
    assert similar.mean() > 0.95


def recall_of(codec: LinearCodec, sample: Any) -> float:
    held_out = sample.base[:3_000:5]
    documents, queries = np.delete(held_out, np.s_[::5], axis=0), held_out[::5]
    truth, _ = exact_search(documents, queries, 10, Metric.COSINE)
    ids, _ = exact_search(codec.encode(documents), codec.encode_queries(queries), 10, Metric.COSINE)
    return float(recall(ids, truth, 10).mean())


@pytest.mark.parametrize(("kind", "metric"), [("pca-documents", "cosine"), ("pca", "l2"), ("svd", "dot")])
def test_every_kind_of_codec_is_bridged_and_exported(kind: str, metric: str, sample: Any, tmp_path: Path) -> None:
    old = fit_linear(sample.train, 48, kind=LinearKind(kind), metric=Metric(metric))
    new = fit_linear(sample.train, 64, metric=Metric(metric))
    bridge, figures = fit_bridge(old, new, sample.base)
    export_bridge(bridge, tmp_path / "bridge.onnx", figures)
    file = Codec.load(tmp_path / "bridge.onnx")
    assert (file.metric, file.latent_metric) == (new.latent_metric, old.latent_metric)
    latents = new.encode(sample.base[:50])
    np.testing.assert_allclose(file.encode(latents), bridge.encode(latents), atol=1e-5)
    np.testing.assert_allclose(file.encode_queries(latents), bridge.encode_queries(latents), atol=1e-5)
    np.testing.assert_allclose(
        file.decode(old.encode(sample.base[:50])), bridge.decode(old.encode(sample.base[:50])), atol=1e-5
    )
    assert figures["bridged"].mean() > figures["old"].mean() - 0.03


def test_the_maps_are_ridge_regressions(sample: Any) -> None:
    from sklearn.linear_model import Ridge

    x, y = sample.base[:800, :20], sample.base[:800, 20:30]
    fitted = Affine.fit(x, y)
    strength = 1e-3 * np.var(x, axis=0, dtype=np.float64).mean() * len(x)
    theirs = Ridge(alpha=strength, solver="cholesky").fit(x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(fitted.matrix, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(fitted.bias, theirs.intercept_, atol=1e-6)


# The adapters


def test_an_hnswlib_index_of_the_old_codec_opens_with_the_bridge(
    bridged: BridgedCodec, vae_codec: Codec, svd_path: Path, sample: Any, tmp_path: Path
) -> None:
    index = CompressedIndex("cosine", 384, Codec.load(svd_path))
    index.init_index(1_100)
    index.add_items(sample.base[:1_000])
    index.save_index(tmp_path / "old.index")

    refused = CompressedIndex("cosine", 384, vae_codec)
    with pytest.raises(CodecMismatchError, match=r"old\.index"):
        refused.load_index(tmp_path / "old.index")
    opened = CompressedIndex("cosine", 384, bridged)
    opened.load_index(tmp_path / "old.index", max_elements=1_100)
    labels, _ = opened.knn_query(sample.base[:200], k=1)
    assert np.mean(labels[:, 0] == np.arange(200)) > 0.95
    opened.add_items(sample.base[1_000:1_100])
    labels, _ = opened.knn_query(sample.base[1_000:1_100], k=1)
    assert np.mean(labels[:, 0] == np.arange(1_000, 1_100)) > 0.95
    assert np.einsum("ij,ij->i", opened.get_items(range(100)), sample.base[:100]).mean() > 0.75


def test_a_qdrant_collection_of_the_old_codec_opens_with_the_bridge(
    bridged: BridgedCodec, vae_codec: Codec, svd_path: Path, sample: Any
) -> None:
    raw = QdrantClient(":memory:")
    old = CompressedQdrantClient(raw, Codec.load(svd_path))
    old.create_collection("docs")
    old.upload_collection("docs", sample.base[:300], ids=range(300), wait=True)

    with pytest.raises(CodecMismatchError, match="'docs'"):
        CompressedQdrantClient(raw, vae_codec).query_points("docs", sample.base[0].tolist())
    new = CompressedQdrantClient(raw, bridged)
    first = [new.query_points("docs", row.tolist(), limit=1).points[0].id for row in sample.base[:100]]
    assert np.mean(np.array(first) == np.arange(100)) > 0.95
    new.upload_collection("docs", sample.base[300:310], ids=range(300, 310), wait=True)
    (point,) = old.query_points("docs", sample.base[305].tolist(), limit=1).points
    assert point.id == 305
    raw.close()


def test_originals_of_another_embedder_do_not_rerank(svd_path: Path, sample: Any, tmp_path: Path) -> None:
    old, new = Codec.load(svd_path), fit_linear(sample.train @ rotation(384), 64, embedder="another")
    bridge, figures = fit_bridge(old, new, sample.base, sample.base @ rotation(384))
    export_bridge(bridge, tmp_path / "bridge.onnx", figures)
    bridged = BridgedCodec(new, Codec.load(tmp_path / "bridge.onnx"))
    raw = QdrantClient(":memory:")
    CompressedQdrantClient(raw, old, originals="disk").create_collection("docs")
    with pytest.raises(CodecMismatchError, match="keeps originals of all-MiniLM-L6-v2, which queries of another"):
        CompressedQdrantClient(raw, bridged, originals="disk").query_points("docs", sample.base[0].tolist())
    raw.close()


def test_latents_on_disk_are_carried_over_in_bulk(
    bridge_path: Path, vae_codec: Codec, svd_path: Path, sample: Any, tmp_path: Path
) -> None:
    np.save(tmp_path / "base.npy", sample.base[:2_000])
    encode(str(tmp_path / "base.npy"), tmp_path / "old.npy", Codec.load(svd_path), options=BulkOptions())
    bridge = Codec.load(bridge_path)
    decode(str(tmp_path / "old.npy"), tmp_path / "new.npy", bridge, options=BulkOptions())
    carried = np.load(tmp_path / "new.npy")
    assert np.einsum("ij,ij->i", carried, vae_codec.encode(sample.base[:2_000])).mean() > 0.9
    encode(str(tmp_path / "base.npy"), tmp_path / "other.npy", vae_codec, options=BulkOptions())
    with pytest.raises(CodecMismatchError, match="cannot be decoded by codec"):
        decode(str(tmp_path / "other.npy"), tmp_path / "none.npy", bridge, options=BulkOptions())


# What is refused


def test_a_bridge_leads_to_its_own_codecs_only(
    bridge_path: Path, svd_path: Path, vae_path: Path, svd_codec: LinearCodec
) -> None:
    bridge = Codec.load(bridge_path)
    with pytest.raises(CodecMismatchError, match=r"expected codec \w+… of 64 dimensions, which the bridge leads to"):
        BridgedCodec(svd_codec, bridge)
    with pytest.raises(CodecMismatchError, match=r"of 64 dimensions, which the bridge leads to, got .* of 32"):
        BridgedCodec(Codec.load(vae_path, dim=32), bridge)
    with pytest.raises(CodecMismatchError, match="expected the file of a bridge, got the codec"):
        BridgedCodec.load(vae_path, svd_path)


def test_samples_that_do_not_fit_are_refused(svd_codec: LinearCodec, vae_codec: Codec, sample: Any) -> None:
    with pytest.raises(UnusableDataError, match="expected at least 500 rows for a bridge, got 499"):
        fit_bridge(svd_codec, vae_codec, sample.base[:499])
    with pytest.raises(
        UnusableDataError, match="expected as many rows as the sample has, in the same order, 600, got 599"
    ):
        fit_bridge(svd_codec, vae_codec, sample.base[:600], sample.base[:599])
    with pytest.raises(WrongWidthError, match="new sample: expected rows of width 384, got 100"):
        fit_bridge(svd_codec, vae_codec, sample.base[:600], sample.base[:600, :100])


def test_the_command_writes_the_bridge_and_says_what_it_costs(
    svd_path: Path, vae_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    base = Path(__file__).parents[2] / "examples" / "debian-sample" / "base.npy"
    out = tmp_path / "bridge.onnx"
    arguments = ["bridge", str(svd_path), str(vae_path), "--sample", str(base), "--out", str(out)]
    for options in ([], ["--json", "--overwrite"]):
        with pytest.raises(SystemExit) as end:
            main([*arguments, *options])
        assert end.value.code == 0
        shown = capsys.readouterr().out
        if options:
            figures = json.loads(shown)
        else:
            assert "recall@10 of 240 held-out queries" in shown
            assert shown.count("[0.") == 5
    bridge = Codec.load(out)
    assert bridge.metadata.provenance["validation"] == figures
    assert bridge.metadata.provenance["bridge"] == {
        "old": Codec.load(svd_path).codec_id,
        "new": Codec.load(vae_path).codec_id,
    }
    assert BridgedCodec.load(vae_path, out).codec_id == Codec.load(svd_path).codec_id
