"""Test the real engine, in-process: the settings we recommend, filled with the vectors that the client sends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge as edge
from qdrant_client import QdrantClient, models

from vaecodec import Codec, LinearCodec, evaluation, fit_linear
from vaecodec.errors import UnsupportedRequestError
from vaecodec.interface import Metric
from vaecodec_exporters.linear import export_linear
from vaecodec_integrations.qdrant import CompressedQdrantClient, recommended_config, recommended_search_params
from vaecodec_integrations.qdrant.migration.job import SAME_FLOATS, SAME_VECTOR
from vaecodec_integrations.report import ReportData, measure, summarise
from vaecodec_integrations.report.engines import open_engine
from vaecodec_integrations.report.engines.base import SearchEngineName

BITS = {
    "bits1": edge.TurboQuantBitSize.Bits1,
    "bits2": edge.TurboQuantBitSize.Bits2,
    "bits4": edge.TurboQuantBitSize.Bits4,
    "bits8": edge.TurboQuantBitSize.Bits8,
}


def shard_like(collection: models.CollectionInfo, quantization: Any, folder: Path) -> Any:
    """Make a shard of the engine with the parameters that the client gave to a collection."""
    params = collection.config.params.vectors
    by_name = params if isinstance(params, dict) else {"": params}
    turbo = None
    if quantization is not None:
        turbo = edge.TurboQuantQuantizationConfig(bits=BITS[quantization.turbo.bits], always_ram=True)
    vectors = {
        name: edge.EdgeVectorParams(
            size=value.size,
            distance=edge.Distance.Cosine,
            on_disk=value.on_disk,
            datatype=edge.VectorStorageDatatype.Float16 if value.datatype == models.Datatype.FLOAT16 else None,
            quantization_config=None if value.hnsw_config and value.hnsw_config.m == 0 else turbo,
            # A low threshold builds the graph on a small collection too.
            hnsw_config=edge.HnswIndexConfig(
                m=16 if value.hnsw_config is None else value.hnsw_config.m, ef_construct=100, full_scan_threshold=1
            ),
        )
        for name, value in by_name.items()
    }
    optimizers = edge.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1)
    return edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors=vectors, optimizers=optimizers))


def fill(shard: Any, vectors: list[Any]) -> None:
    for start in range(0, len(vectors), 500):
        points = [edge.Point(start + i, v, {}) for i, v in enumerate(vectors[start : start + 500])]
        shard.update(edge.UpdateOperation.upsert_points(points))
    shard.optimize()


@pytest.fixture(scope="module")
def codec(sample: Any) -> LinearCodec:
    return fit_linear(sample.train, 192)


@pytest.fixture(scope="module")
def promised(sample: Any, codec: LinearCodec) -> evaluation.Interval:
    """Return the codec's recall@10 with its interval, as the report states it for exact search over the latents."""
    data = ReportData(base=sample.base, queries=sample.queries[:300], train=sample.train)
    run = measure(data, {"svd192": codec}, open_engine(SearchEngineName.EXACT))
    return summarise(run).method("svd192").metrics["recall@10"]


@pytest.mark.parametrize(("bytes_", "bits", "single_pass"), [(48, "bits2", 0.78), (96, "bits4", 0.88)])
def test_the_recommended_settings_give_the_recall_that_the_report_promises(
    sample: Any,
    codec: LinearCodec,
    promised: evaluation.Interval,
    tmp_path: Path,
    bytes_: int,
    bits: str,
    single_pass: float,
) -> None:
    """The engine finds as much from its codes with the recommended search parameters, and a known share without
    re-scoring.
    """
    config = recommended_config(codec, bytes=bytes_)
    assert config["quantization_config"].turbo.bits.value == bits
    local = QdrantClient(":memory:")
    client = CompressedQdrantClient(local, codec)
    client.create_collection("docs", **config)
    shard = shard_like(local.get_collection("docs"), config["quantization_config"], tmp_path)
    latents, queries = codec.encode(sample.base), codec.encode_queries(sample.queries[:300])
    fill(shard, latents.tolist())
    truth, _ = evaluation.exact_search(sample.base, sample.queries[:300], 10, Metric.COSINE)

    def searched(asked: models.SearchParams) -> np.ndarray:
        found = asked.quantization
        assert found is not None
        quantization = edge.QuantizationSearchParams(rescore=found.rescore, oversampling=found.oversampling)
        params = edge.SearchParams(hnsw_ef=asked.hnsw_ef, quantization=quantization)
        requests = [
            edge.QueryRequest(limit=10, query=edge.Query.Nearest(query), params=params) for query in queries.tolist()
        ]
        answers = shard.query_batch(edge.QueryBatchRequest(requests))
        return evaluation.recall(np.array([[point.id for point in answer] for answer in answers]), truth, 10)

    recall = searched(recommended_search_params(codec, bytes=bytes_)).mean()
    assert promised.low <= recall <= promised.high
    codes_only = models.SearchParams(quantization=models.QuantizationSearchParams(rescore=False))
    assert recall > searched(codes_only).mean() > single_pass
    shard.close()
    local.close()


def test_originals_beside_the_unnamed_vector_rerank_in_the_engine(
    sample: Any, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    """Use the layout that originals='disk' makes, and the prefetch that the client sends, in the real engine."""
    local = QdrantClient(":memory:")
    client = CompressedQdrantClient(local, svd_codec, originals="disk", rerank=8)
    client.create_collection("docs")
    base = sample.base[:2000]
    client.upload_collection("docs", base[:5], ids=range(5))
    info = local.get_collection("docs")
    shard = shard_like(info, None, tmp_path)
    latents = svd_codec.encode(base).tolist()
    fill(shard, [{"": z, "original": x} for z, x in zip(latents, base.tolist(), strict=True)])
    truth, exact = evaluation.exact_search(base, sample.queries[:60], 10, Metric.COSINE)
    found, scores = [], []
    for query, latent in zip(sample.queries[:60], svd_codec.encode_queries(sample.queries[:60]), strict=True):
        prefetch = edge.Prefetch(limit=80, query=edge.Query.Nearest(latent.tolist(), using=""))
        request = edge.QueryRequest(
            limit=10, query=edge.Query.Nearest(query.tolist(), using="original"), prefetches=[prefetch]
        )
        points = shard.query(request)
        found.append([point.id for point in points])
        scores.append([point.score for point in points])
    assert evaluation.recall(np.array(found), truth, 10).mean() > 0.97
    same = np.array(found) == truth
    np.testing.assert_allclose(np.array(scores)[same], exact[same], atol=2e-3)
    shard.close()
    local.close()


@pytest.mark.parametrize(("datatype", "loss"), [("float16", 0.002), ("turbo8", 0.01), ("turbo4", 0.04)])
def test_smaller_datatypes_keep_the_order_and_the_vectors_within_what_a_migration_tolerates(
    sample: Any, codec: LinearCodec, tmp_path: Path, datatype: str, loss: float
) -> None:
    """Use what replaces uint8, which would cut the latents: the collection's ``datatype`` is passed on."""
    if datatype not in {each.value for each in models.Datatype}:
        pytest.skip(f"this release of qdrant-client does not know {datatype}")
    local = QdrantClient(":memory:")
    client = CompressedQdrantClient(local, codec)
    asked = models.VectorParams(size=384, distance=models.Distance.COSINE, datatype=datatype)
    client.create_collection("docs", asked)
    stored = local.get_collection("docs").config.params.vectors
    assert (stored.size, stored.datatype) == (192, datatype)
    local.close()
    params = edge.EdgeVectorParams(
        size=stored.size,
        distance=edge.Distance.Cosine,
        datatype=getattr(edge.VectorStorageDatatype, stored.datatype.value.capitalize()),
    )
    base, asking = sample.base[:2000], sample.queries[:100]
    latents = codec.encode(base)
    shard = edge.EdgeShard.create(str(tmp_path), edge.EdgeConfig(vectors=params))
    fill(shard, latents.tolist())
    search = edge.SearchParams(exact=True)
    found = [
        [p.id for p in shard.query(edge.QueryRequest(limit=10, query=edge.Query.Nearest(query), params=search))]
        for query in codec.encode_queries(asking).tolist()
    ]
    read = shard.retrieve(list(range(len(base))), with_payload=False, with_vector=True)
    shard.close()
    truth, _ = evaluation.exact_search(base, asking, 10, Metric.COSINE)
    exact, _ = evaluation.exact_search(latents, codec.encode_queries(asking), 10, Metric.COSINE)
    recalls = [evaluation.recall(np.array(ids), truth, 10).mean() for ids in (found, exact)]
    assert recalls[0] == pytest.approx(recalls[1], abs=loss)
    rows = {point.id: point.vector for point in read}
    errors = np.linalg.norm(np.array([rows[i] for i in range(len(base))], np.float32) - latents, axis=1)
    assert errors.max() < SAME_VECTOR.get(models.Datatype(datatype), SAME_FLOATS)


class TestRecommendedConfig:
    @pytest.mark.parametrize(
        ("bytes_", "bits"),
        [(8, "bits1"), (12, "bits1_5"), (16, "bits2"), (31, "bits2"), (32, "bits4"), (64, "bits8"), (100, "bits8")],
    )
    def test_the_most_bits_that_fit(self, svd_codec: LinearCodec, bytes_: int, bits: str) -> None:
        if bits not in {each.value for each in models.TurboQuantBitSize}:
            pytest.skip(f"this release of qdrant-client does not know {bits}")
        config = recommended_config(svd_codec, bytes=bytes_)
        assert config["quantization_config"].turbo.bits.value == bits
        assert config["vectors_config"].size == 384
        assert config["vectors_config"].on_disk is True
        again = recommended_search_params(svd_codec, bytes=bytes_).quantization
        assert again is not None
        assert (again.rescore, again.oversampling) == (True, 3.0)

    @pytest.mark.parametrize(("bytes_", "datatype"), [(128, "float16"), (256, "float32"), (5000, "float32")])
    def test_floats_where_they_fit(self, svd_codec: LinearCodec, bytes_: int, datatype: str) -> None:
        config = recommended_config(svd_codec, bytes=bytes_)
        assert set(config) == {"vectors_config"}
        assert config["vectors_config"].datatype.value == datatype
        assert config["vectors_config"].on_disk is False
        assert recommended_search_params(svd_codec, bytes=bytes_) == models.SearchParams()

    def test_too_few_bytes_name_a_width_that_fits_and_that_the_codec_has(
        self, svd_codec: LinearCodec, tmp_path: Path
    ) -> None:
        export_linear(svd_codec, tmp_path / "all.onnx")
        every = Codec.load(tmp_path / "all.onnx")
        with pytest.raises(UnsupportedRequestError, match=r"least 8, .* got 7; .*: Codec\.load\(path, dim=56\)$"):
            recommended_config(every, bytes=7)
        assert recommended_config(Codec.load(tmp_path / "all.onnx", dim=56), bytes=7)
        some = Codec(every._runtime, replace(every.metadata, nested_dims=(16, 40, 64)), 64)
        with pytest.raises(UnsupportedRequestError, match=r": Codec\.load\(path, dim=40\)$"):
            recommended_config(some, bytes=7)
        with pytest.raises(UnsupportedRequestError, match=r"train a codec of at most 8 dimensions, .* no such width$"):
            recommended_search_params(some, bytes=1)
        with pytest.raises(UnsupportedRequestError, match=r"take fewer dimensions: codec\.truncated\(56\)$"):
            recommended_search_params(svd_codec, bytes=7)
        assert recommended_config(svd_codec.truncated(56), bytes=7)
