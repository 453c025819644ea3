"""Test that engines which compare codes themselves rank as docs/codes.md says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vaecodec import Codec, fit_linear
from vaecodec_exporters.linear import export_linear

ROWS, QUERIES, K = 400, 25, 10


@pytest.fixture(scope="module")
def codec(sample, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    linear = fit_linear(sample.train, 64)
    path = tmp_path_factory.mktemp("engines") / "svd64.onnx"
    export_linear(linear, path)
    return Codec.load(path)


def same_order(distances: np.ndarray, ids: np.ndarray) -> bool:
    """Tell whether ids are nearest first by these distances (queries, rows); equal ones may come in any order."""
    found = np.take_along_axis(distances, ids.astype(np.int64), axis=1)
    return np.array_equal(found, np.sort(distances, axis=1)[:, : ids.shape[1]])


@pytest.mark.parametrize(("dtype", "engine_dtype", "metric"), [("int8", "i8", "ip"), ("binary", "b1", "hamming")])
def test_usearch(sample, codec: Codec, dtype: str, engine_dtype: str, metric: str) -> None:
    usearch = pytest.importorskip("usearch.index")
    codes = codec.encode(sample.base[:ROWS], dtype=dtype)
    # A query is coded as a document is: the codec is symmetric.
    queries = codec.encode(sample.queries[:QUERIES], dtype=dtype)
    index = usearch.Index(ndim=64, dtype=engine_dtype, metric=metric)
    index.add(np.arange(ROWS), codes)
    found = index.search(queries, K, exact=True).keys
    if dtype == "int8":
        distances = -(queries.astype(np.int64) @ codes.T.astype(np.int64))
    else:
        distances = np.unpackbits(queries[:, None] ^ codes, axis=2).sum(axis=2, dtype=np.int64)
    assert same_order(distances, found)


def test_qdrant_uint8(sample, codec: Codec, tmp_path: Path) -> None:
    edge = pytest.importorskip("qdrant_edge")
    codes = codec.encode(sample.base[:ROWS], dtype="int8").astype(np.int64) + 128
    queries = codec.encode(sample.queries[:QUERIES], dtype="int8").astype(np.int64) + 128
    vectors = edge.EdgeVectorParams(size=64, distance=edge.Distance.Euclid, datatype=edge.VectorStorageDatatype.Uint8)
    shard = edge.EdgeShard.create(str(tmp_path), edge.EdgeConfig(vectors=vectors))
    points = [edge.Point(row, list(map(float, code)), {}) for row, code in enumerate(codes)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    search = edge.SearchParams(exact=True)
    found = [
        shard.query(edge.QueryRequest(limit=K, query=edge.Query.Nearest(list(map(float, query))), params=search))
        for query in queries
    ]
    shard.close()
    ids = np.array([[point.id for point in points] for points in found])
    assert same_order(((queries[:, None] - codes) ** 2).sum(axis=2), ids)


def test_faiss_signed_bytes(sample, codec: Codec) -> None:
    faiss = pytest.importorskip("faiss")
    codes = codec.encode(sample.base[:ROWS], dtype="int8").astype(np.float32)
    queries = codec.encode(sample.queries[:QUERIES], dtype="int8").astype(np.float32)
    index = faiss.IndexScalarQuantizer(64, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT)
    index.train(codes)
    index.add(codes)
    found = index.search(queries, K)[1]
    assert same_order(-(queries @ codes.T), found)
