"""Test every form of an argument: models, plain dicts, numbers of numpy, and ready latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from qdrant_client import models

from vaecodec import LinearCodec, LinearKind, Metric
from vaecodec.errors import BadRowsError, UnsupportedRequestError, WrongWidthError

Open = Callable[..., Any]
N = 60


def rotation(dim: int, metric: Metric = Metric.COSINE) -> LinearCodec:
    """Make a codec that loses nothing, so that results must equal those of uncompressed vectors."""
    rows = np.linalg.qr(np.random.default_rng(5).standard_normal((dim, dim)))[0].astype(np.float32)
    return LinearCodec(LinearKind.SVD, rows, np.zeros(dim, np.float32), metric)


@pytest.fixture(params=[None, "disk"])
def filled(request: pytest.FixtureRequest, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str) -> Any:
    client = open_client(svd_codec, originals=request.param)
    client.create_collection(name)
    client.upload_collection(
        name, sample.base[:N], ids=range(N), payload=({"group": i % 4} for i in range(N)), wait=True
    )
    return client


def found(response: Any) -> list[tuple[Any, Any]]:
    """Return ids and scores; a server returns points of equal scores in any order."""
    points = sorted(response.points, key=lambda point: (-round(point.score, 5), point.id))
    return [(point.id, pytest.approx(point.score, abs=1e-6)) for point in points]


class TestDicts:
    @pytest.mark.filterwarnings("ignore:Local mode performs exact")
    def test_searches(self, filled: Any, sample: Any, name: str) -> None:
        query, other = sample.queries[:2].tolist()
        group = models.FieldCondition(key="group", match=models.MatchValue(value=1))
        forms: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({"query": {"nearest": query}}, {"query": models.NearestQuery(nearest=query)}),
            (
                {"query": {"recommend": {"positive": [query, 3]}}},
                {"query": models.RecommendQuery(recommend=models.RecommendInput(positive=[query, 3]))},
            ),
            (
                {"query": query, "prefetch": {"query": other, "limit": 20}},
                {"query": query, "prefetch": models.Prefetch(query=other, limit=20)},
            ),
            (
                {"query": {"fusion": "rrf"}, "prefetch": [{"query": query, "limit": 9}, {"query": other}], "limit": 30},
                {
                    "limit": 30,
                    "query": models.FusionQuery(fusion=models.Fusion.RRF),
                    "prefetch": [models.Prefetch(query=query, limit=9), models.Prefetch(query=other)],
                },
            ),
            (
                {"query": 3, "lookup_from": {"collection": name}},
                {"query": 3, "lookup_from": models.LookupLocation(collection=name)},
            ),
            (
                {"query": query, "query_filter": {"must": [{"key": "group", "match": {"value": 1}}]}},
                {"query": query, "query_filter": models.Filter(must=[group])},
            ),
            ({"query": query, "search_params": {"exact": True}}, {"query": query}),
        ]
        for plain, modelled in forms:
            assert found(filled.query_points(name, **plain)) == found(filled.query_points(name, **modelled)), plain
        (batch,) = filled.query_batch_points(name, [{"query": query, "limit": 4}])
        assert found(batch) == found(filled.query_points(name, query, limit=4))
        with pytest.raises(ValidationError, match="nearst"):
            filled.query_points(name, {"nearst": query})

    def test_points_in_another_wrapping_are_refused(self, filled: Any, sample: Any, name: str) -> None:
        point = models.PointStruct(id=100, vector=sample.base[N].tolist())
        refused: list[tuple[Any, str]] = [
            (models.PointsList(points=[point]), "points: expected a Batch or a list of PointStruct, got a PointsList"),
            (point, "points: expected a Batch or a list of PointStruct, got a PointStruct; pass a list"),
            ({"points": [point.model_dump()]}, "points: expected a Batch, got other values .ids: Field required"),
        ]
        for given, message in refused:
            with pytest.raises(UnsupportedRequestError, match=f"^{message}"):
                filled.upsert(name, given)
        assert filled.count(name).count == N

    def test_writes(self, filled: Any, svd_codec: LinearCodec, sample: Any, name: str) -> None:
        new = sample.base[N : N + 6].tolist()
        filled.upsert(name, [{"id": 100, "vector": new[0]}])
        filled.upsert(name, {"ids": [101], "vectors": [new[1]]})
        filled.upload_points(name, [{"id": 102, "vector": new[2], "payload": {"n": 1}}], wait=True)
        filled.update_vectors(name, [{"id": 1, "vector": new[3]}])
        filled.batch_update_points(
            name,
            [
                {"upsert": {"points": [{"id": 103, "vector": new[4]}]}},
                {"update_vectors": {"points": [{"id": 2, "vector": new[5]}]}},
                {"set_payload": {"payload": {"n": 2}, "points": [103]}},
            ],
        )
        ids = [100, 101, 102, 1, 103, 2]
        stored = {record.id: record for record in filled.wrapped.retrieve(name, ids, with_vectors=True)}
        latents = [v[""] if isinstance(v := stored[i].vector, dict) else v for i in ids]
        np.testing.assert_allclose(latents, svd_codec.encode(sample.base[N : N + 6]), atol=1e-6)
        assert (stored[102].payload, stored[103].payload) == ({"n": 1}, {"n": 2})

    def test_collections(self, open_client: Open, svd_codec: LinearCodec, name: str) -> None:
        client = open_client(svd_codec)
        client.create_collection(name, {"size": 384, "distance": "Cosine", "on_disk": True})
        stored = client.wrapped.get_collection(name).config
        assert stored.params.vectors == models.VectorParams(size=64, distance=models.Distance.COSINE, on_disk=True)
        assert stored.metadata["vaecodec"]["codec_id"] == svd_codec.codec_id
        named = open_client(codecs={"title": svd_codec, "late": svd_codec})
        named.create_collection(f"{name}-named", {"title": {"size": 384, "distance": "Cosine"}})
        named.create_vector_name(f"{name}-named", "late", {"dense": {"size": 384, "distance": "Cosine"}})
        vectors = client.wrapped.get_collection(f"{name}-named").config.params.vectors
        assert {vector: params.size for vector, params in vectors.items()} == {"title": 64, "late": 64}


class TestNumbersOfNumpy:
    def test_queries_are_lists_of_them(self, filled: Any, sample: Any, name: str) -> None:
        """Pass lists as ``list(embedding)`` makes them; no serialiser takes numpy's scalars."""
        expected = found(filled.query_points(name, sample.queries[0].tolist()))
        for form in (list(sample.queries[0]), sample.queries[0], tuple(sample.queries[0].tolist())):
            assert found(filled.query_points(name, form)) == expected
        groups = filled.query_points_groups(name, "group", query=list(sample.queries[0]), limit=2).groups
        assert len(groups) == 2

    def test_points_are_lists_of_them(self, filled: Any, svd_codec: LinearCodec, sample: Any, name: str) -> None:
        for point_id, vector in enumerate((list(sample.base[N]), sample.base[N], sample.base[N].astype(np.float64))):
            filled.upsert(name, [models.PointStruct.model_construct(id=point_id, vector=vector, payload=None)])
        filled.upload_points(name, [models.PointStruct.model_construct(id=3, vector=sample.base[N], payload=None)])
        records = filled.wrapped.retrieve(name, [0, 1, 2, 3], with_vectors=True)
        assert len(records) == 4
        for record in records:
            vector = record.vector[""] if isinstance(record.vector, dict) else record.vector
            np.testing.assert_allclose(vector, svd_codec.encode(sample.base[N : N + 1])[0], atol=1e-6)


class TestWeights:
    @pytest.mark.parametrize("metric", [Metric.COSINE, Metric.DOT])
    def test_examples_count_by_their_length_as_without_a_codec(
        self, open_client: Open, sample: Any, name: str, metric: Metric
    ) -> None:
        """Compare with the average of raw examples; under cosine, latents alone would all count alike."""
        codec = rotation(384, metric)
        client = open_client(codec)
        client.create_collection(name)
        distance = client.get_collection(name).config.params.vectors.distance
        client.wrapped.create_collection(f"{name}-plain", models.VectorParams(size=384, distance=distance))
        client.upload_collection(name, sample.base[:N], ids=range(N), wait=True)
        client.wrapped.upload_collection(f"{name}-plain", sample.base[:N], ids=range(N), wait=True)
        long, short = (5 * sample.queries[0]).tolist(), (0.2 * sample.queries[1]).tolist()
        for strategy in (None, models.RecommendStrategy.AVERAGE_VECTOR, models.RecommendStrategy.BEST_SCORE):
            asked = models.RecommendInput(positive=[long, short, 7], negative=[short, 8], strategy=strategy)
            query = models.RecommendQuery(recommend=asked)
            expected = client.wrapped.query_points(f"{name}-plain", query, limit=8).points
            points = client.query_points(name, query, limit=8).points
            assert [p.id for p in points] == [p.id for p in expected]
            np.testing.assert_allclose([p.score for p in points], [p.score for p in expected], atol=1e-4)


class TestLatents:
    """Test vectors of an embedding model that contains the codec: the client stores them unchanged."""

    def test_they_are_stored_and_searched_as_they_are(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        client = open_client(svd_codec)
        client.create_collection(name)
        latents = svd_codec.encode(sample.base[:8])
        client.upsert(name, [models.PointStruct(id=0, vector=latents[0].tolist())])
        client.upsert(name, models.Batch(ids=[1], vectors=[latents[1].tolist()]))
        client.upload_collection(name, latents[2:5], ids=[2, 3, 4], wait=True)
        client.upload_points(name, [models.PointStruct(id=5, vector=latents[5].tolist())], wait=True)
        client.upsert(name, [models.PointStruct(id=6, vector=sample.base[6].tolist())])  # beside embeddings
        stored = [record.vector for record in client.wrapped.retrieve(name, range(7), with_vectors=True)]
        np.testing.assert_allclose(stored, latents[:7], atol=1e-6)
        query = svd_codec.encode_queries(sample.queries[:1])[0]
        assert found(client.query_points(name, query.tolist())) == found(client.query_points(name, sample.queries[0]))
        (record,) = client.retrieve(name, [3], with_vectors=True)
        np.testing.assert_allclose(record.vector, svd_codec.decode(latents[3:4])[0], atol=1e-5)

    @pytest.mark.parametrize("value", [np.nan, 0.0])
    def test_bad_ones_are_refused_by_name(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, value: float
    ) -> None:
        client = open_client(svd_codec)
        client.create_collection(name)
        latents = svd_codec.encode(sample.base[:3])
        latents[1] = value
        points = [models.PointStruct(id=i, vector=row.tolist()) for i, row in enumerate(latents)]
        with pytest.raises(BadRowsError, match=r"^point 1, vector '': latents: row 1 h"):
            client.upsert(name, points)
        points[1] = models.PointStruct(id=1, vector=sample.base[0].tolist())
        with pytest.raises(WrongWidthError, match=r"^point 1, vector '': expected width 64, got 384"):
            client.upsert(name, points)
        assert client.count(name).count == 0

    def test_they_have_no_originals(self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str) -> None:
        client = open_client(svd_codec, originals="disk")
        client.create_collection(name)
        latent = svd_codec.encode(sample.base[:1])[0].tolist()
        expected = "because the collection keeps originals to re-rank by, got latents of width 64"
        with pytest.raises(UnsupportedRequestError, match="^point 1, .*" + expected):
            client.upsert(name, [models.PointStruct(id=1, vector=latent)])
        with pytest.raises(UnsupportedRequestError, match="^query 0, .*" + expected):
            client.query_points(name, latent)
