"""Test candidates from the compressed vectors, ranked by the originals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from vaecodec import LinearCodec, evaluation, fit_linear
from vaecodec.errors import (
    BadRowsError,
    CodecMismatchError,
    MissingOriginalsError,
    OriginalsError,
    UnsupportedRequestError,
)
from vaecodec.interface import Metric
from vaecodec_integrations.qdrant import OriginalsFile, erase_deleted

N = 600
Open = Callable[..., Any]
PLACES = ["disk", "file"]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[OriginalsFile]:
    with OriginalsFile(tmp_path / "originals.f16", 384) as opened:
        yield opened


@pytest.fixture(params=PLACES)
def originals(request: pytest.FixtureRequest, file: OriginalsFile) -> Any:
    return "disk" if request.param == "disk" else file


def fill(client: Any, name: str, base: np.ndarray) -> Any:
    client.create_collection(name)
    client.upload_collection(
        name, base[:N], ids=range(N), payload=({"group": i % 5} for i in range(N)), wait=True, batch_size=100
    )
    return client


def ids(points: Any) -> list[int]:
    return [point.id for point in points]


def test_recall_rises_to_one_and_scores_are_exact(
    open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, originals: Any
) -> None:
    truth, exact = evaluation.exact_search(sample.base[:N], sample.queries[:30], 10, Metric.COSINE)
    fill(open_client(svd_codec, originals=originals), name, sample.base)
    recalls = []
    for rerank in (1, 2, 8):
        client = open_client(svd_codec, originals=originals, rerank=rerank)
        found = [client.query_points(name, query.tolist()).points for query in sample.queries[:30]]
        recalls.append(evaluation.recall(np.array([ids(points) for points in found]), truth, 10).mean())
    assert recalls[0] < recalls[1] < recalls[2]
    assert recalls[2] > 0.97
    np.testing.assert_allclose([p.score for p in found[0]], exact[0], atol=2e-3)


def test_thresholds_offsets_filters_and_batches(
    open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, originals: Any
) -> None:
    client = fill(open_client(svd_codec, originals=originals, rerank=N), name, sample.base)
    row = sample.queries[0] @ sample.base[:N].T
    order = np.argsort(-row)
    query = sample.queries[0].tolist()
    threshold = float(row[order[6]] + row[order[7]]) / 2
    assert ids(client.query_points(name, query, score_threshold=threshold).points) == order[:7].tolist()
    assert ids(client.query_points(name, query, limit=4, offset=3).points) == order[3:7].tolist()
    group = models.Filter(must=[models.FieldCondition(key="group", match=models.MatchValue(value=2))])
    wanted = [i for i in order.tolist() if i % 5 == 2][:4]
    assert ids(client.query_points(name, query, query_filter=group, limit=4).points) == wanted
    by_id = client.query_points(name, 17, limit=5).points
    near = np.argsort(-(sample.base[17] @ sample.base[:N].T))
    assert ids(by_id) == near[near != 17][:5].tolist()
    requests = [models.QueryRequest(query=q.tolist(), limit=3, score_threshold=0.1) for q in sample.queries[:3]]
    for request, response in zip(requests, client.query_batch_points(name, requests), strict=True):
        assert ids(response.points) == ids(client.query_points(name, request.query, limit=3).points)
    assert client.query_points(name, query, score_threshold=2.0).points == []


def test_what_comes_back_is_the_original(
    open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, originals: Any
) -> None:
    client = fill(open_client(svd_codec, originals=originals), name, sample.base)
    records, _ = client.scroll(name, limit=5, with_vectors=True)
    np.testing.assert_allclose([record.vector for record in records], sample.base[:5], atol=5e-4)
    (record,) = client.retrieve(name, [9], with_vectors=[""])
    np.testing.assert_allclose(record.vector, sample.base[9], atol=5e-4)
    (found,) = client.query_points(name, 9, limit=1, with_vectors=True).points
    np.testing.assert_allclose(found.vector, sample.base[found.id], atol=5e-4)
    assert client.get_collection(name).config.params.vectors.size == 384


def test_updates_reach_the_originals(
    open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, originals: Any
) -> None:
    client = fill(open_client(svd_codec, originals=originals), name, sample.base)
    new = sample.base[N : N + 4].tolist()
    client.upsert(name, models.Batch(ids=[0], vectors=[new[0]]))
    client.update_vectors(name, [models.PointVectors(id=1, vector=new[1])])
    client.batch_update_points(
        name,
        [
            models.UpsertOperation(upsert=models.PointsList(points=[models.PointStruct(id=2, vector=new[2])])),
            models.UpdateVectorsOperation(
                update_vectors=models.UpdateVectors(points=[models.PointVectors(id=3, vector=new[3])])
            ),
        ],
    )
    for point_id in range(4):
        (best,) = client.query_points(name, new[point_id], limit=1).points
        assert best.id == point_id
        assert best.score == pytest.approx(1, abs=1e-3)


def test_a_collection_remembers_where_its_originals_are(
    open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, originals: Any
) -> None:
    fill(open_client(svd_codec, originals=originals), name, sample.base)
    with pytest.raises(CodecMismatchError, match="expected originals kept none, got a collection that keeps them"):
        open_client(svd_codec).upsert(name, [models.PointStruct(id=1, vector=sample.base[1].tolist())])


class TestOnDisk:
    def test_they_are_stored_cheaply_and_never_quantised(
        self, open_client: Open, svd_codec: LinearCodec, name: str
    ) -> None:
        client = open_client(svd_codec, originals="disk")
        scalar = models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8))
        client.create_collection(name, quantization_config=scalar)
        params = client.wrapped.get_collection(name).config.params.vectors
        assert params[""].size == 64
        assert params[""].quantization_config == scalar
        original = params["original"]
        assert (original.size, original.datatype, original.on_disk) == (384, models.Datatype.FLOAT16, True)
        assert original.hnsw_config.m == 0
        assert original.quantization_config is None

    def test_other_kinds_of_query_are_ranked_by_originals_too(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        client = fill(open_client(svd_codec, originals="disk", rerank=N), name, sample.base)
        plain = f"{name}-plain"
        # A server keeps float16 of the originals, local mode float32: the same on both sides.
        params = models.VectorParams(size=384, distance=models.Distance.COSINE, datatype=models.Datatype.FLOAT16)
        client.wrapped.create_collection(plain, params)
        client.wrapped.upload_collection(plain, sample.base[:N], ids=range(N), wait=True)
        a, b = sample.queries[:2].tolist()
        pair = models.ContextPair(positive=a, negative=b)
        for query in (
            models.RecommendQuery(recommend=models.RecommendInput(positive=[a, 3], negative=[b])),
            models.DiscoverQuery(discover=models.DiscoverInput(target=a, context=[pair])),
            models.NearestQuery(nearest=a, mmr=models.Mmr(diversity=0.5, candidates_limit=30)),
        ):
            expected = client.wrapped.query_points(plain, query, limit=6).points
            found = client.query_points(name, query, limit=6).points
            assert ids(found) == ids(expected)
            np.testing.assert_allclose([p.score for p in found], [p.score for p in expected], atol=1e-5)

    def test_fused_prefetches_are_ranked_by_originals_too(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        client = fill(open_client(svd_codec, originals="disk", rerank=N), name, sample.base)
        a, b = sample.queries[:2]
        prefetch = [models.Prefetch(query=a.tolist(), limit=5), models.Prefetch(query=b.tolist(), limit=5)]
        found = client.query_points(name, models.FusionQuery(fusion=models.Fusion.RRF), prefetch=prefetch).points
        exact = [np.argsort(-(q @ sample.base[:N].T))[:5].tolist() for q in (a, b)]
        assert set(ids(found)) == set(exact[0]) | set(exact[1])

    def test_groups(self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str) -> None:
        client = fill(open_client(svd_codec, originals="disk", rerank=N), name, sample.base)
        row = sample.queries[0] @ sample.base[:N].T
        groups = client.query_points_groups(
            name, "group", query=sample.queries[0].tolist(), limit=2, group_size=2, with_vectors=True
        ).groups
        best = sorted(range(5), key=lambda g: -row[g::5].max())[:2]
        assert [group.id for group in groups] == best
        for group in groups:
            members = np.arange(group.id, N, 5)
            assert ids(group.hits) == members[np.argsort(-row[members])[:2]].tolist()
            np.testing.assert_allclose(group.hits[0].vector, sample.base[group.hits[0].id], atol=5e-4)

    def test_named_vectors_keep_an_original_each(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        client = open_client(codecs={"title": svd_codec, "body": fit_linear(sample.train, 32)}, originals="disk")
        client.create_collection(name)
        vectors = {"title": sample.base[0].tolist(), "body": sample.base[1].tolist()}
        client.upsert(name, [models.PointStruct(id=1, vector=vectors)])
        stored = client.wrapped.get_collection(name).config.params.vectors
        assert {n: p.size for n, p in stored.items()} == {
            "title": 64,
            "title_original": 384,
            "body": 32,
            "body_original": 384,
        }
        assert set(client.get_collection(name).config.params.vectors) == {"title", "body"}
        (record,) = client.retrieve(name, [1], with_vectors=True)
        assert set(record.vector) == {"title", "body"}
        np.testing.assert_allclose(record.vector["body"], sample.base[1], atol=5e-4)
        client.delete_vectors(name, ["title"], points=[1])
        (raw,) = client.wrapped.retrieve(name, [1], with_vectors=True)
        assert set(raw.vector) == {"body", "body_original"}

    def test_a_vector_added_later_keeps_its_original(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        client = open_client(codecs={"late": svd_codec}, originals="disk")
        client.create_collection(name, {"raw": models.VectorParams(size=2, distance=models.Distance.DOT)})
        dense = models.DenseVectorConfig(size=384, distance=models.Distance.COSINE)
        client.create_vector_name(name, "late", models.DenseVectorNameConfig(dense=dense))
        client.upsert(name, [models.PointStruct(id=1, vector={"raw": [1.0, 1.0], "late": sample.base[0].tolist()})])
        assert client.query_points(name, sample.base[0].tolist(), using="late").points[0].score == pytest.approx(
            1, abs=1e-3
        )
        client.delete_vector_name(name, "late")
        assert set(client.wrapped.get_collection(name).config.params.vectors) == {"raw"}

    def test_quantising_later_spares_the_originals(self, open_client: Open, svd_codec: LinearCodec, name: str) -> None:
        client = open_client(svd_codec, originals="disk")
        client.create_collection(name)
        binary = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
        calls = []
        flow = client._flows.update_collection(collection_name=name, quantization_config=binary)
        response = None
        while True:
            try:
                call = flow.send(response)
            except StopIteration:
                break
            calls.append(call)
            response = getattr(client.wrapped, call.method)(**call.arguments)
        assert calls[-1].arguments["quantization_config"] is None
        assert set(calls[-1].arguments["vectors_config"]) == {""}
        assert calls[-1].arguments["vectors_config"][""].quantization_config == binary


class TestInAFile:
    def test_points_without_a_row_are_named(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, file: OriginalsFile
    ) -> None:
        client = fill(open_client(svd_codec, originals=file), name, sample.base)
        latent = svd_codec.encode(sample.queries[:1])[0].tolist()
        client.wrapped.upsert(name, [models.PointStruct(id=77_777, vector=latent)])
        with pytest.raises(MissingOriginalsError, match="got none for 1: 77777; these points were written without"):
            client.query_points(name, sample.queries[0].tolist())

    def test_conditional_upserts_are_refused(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, file: OriginalsFile
    ) -> None:
        client = fill(open_client(svd_codec, originals=file), name, sample.base)
        points = [models.PointStruct(id=1, vector=sample.base[700].tolist())]
        with pytest.raises(UnsupportedRequestError, match="expected neither beside a file of originals"):
            client.upsert(name, points, update_mode=models.UpdateMode.INSERT_ONLY)
        np.testing.assert_allclose(file.get([1])[0], sample.base[1], atol=5e-4)

    def test_a_bad_operation_keeps_the_originals_of_the_whole_batch_as_they_were(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, file: OriginalsFile
    ) -> None:
        client = fill(open_client(svd_codec, originals=file), name, sample.base)
        good = models.PointVectors(id=1, vector=sample.base[700].tolist())
        bad = models.PointVectors(id=2, vector=[0.0] * 384)
        operations = [
            models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=[points]))
            for points in (good, bad)
        ]
        with pytest.raises(BadRowsError, match=r"^point 2, vector ''"):
            client.batch_update_points(name, operations)
        np.testing.assert_allclose(file.get([1, 2]), sample.base[1:3], atol=5e-4)

    def test_distances_are_those_of_qdrant(
        self, open_client: Open, sample: Any, name: str, file: OriginalsFile
    ) -> None:
        codec = fit_linear(sample.train, 64, metric=Metric.L2)
        client = fill(open_client(codec, originals=file, rerank=N), name, sample.base)
        distances = np.linalg.norm(sample.base[:N] - sample.queries[0], axis=1)
        order = np.argsort(distances)
        found = client.query_points(name, sample.queries[0].tolist(), limit=5).points
        assert ids(found) == order[:5].tolist()
        np.testing.assert_allclose([p.score for p in found], distances[order[:5]], atol=1e-3)
        limit = float(distances[order[2]] + distances[order[3]]) / 2
        near = client.query_points(name, sample.queries[0].tolist(), score_threshold=limit).points
        assert ids(near) == order[:3].tolist()

    def test_vectors_of_tiny_norm_have_their_cosine(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, file: OriginalsFile
    ) -> None:
        client = fill(open_client(svd_codec, originals=file), name, sample.base * np.float32(1e-9))
        (found,) = client.query_points(name, sample.base[7].tolist(), limit=1).points
        assert (found.id, found.score) == (7, pytest.approx(1, abs=1e-3))


class TestAFileInStepWithTheEngine:
    """Test that the file holds the originals of those vectors that the engine has, whatever happens to a write."""

    @pytest.fixture
    def client(self, open_client: Open, svd_codec: LinearCodec, name: str, file: OriginalsFile, sample: Any) -> Any:
        return fill(open_client(svd_codec, originals=file), name, sample.base)

    @staticmethod
    def found(client: Any, name: str, query: np.ndarray) -> tuple[int, float]:
        (point,) = client.query_points(name, query.tolist(), limit=1).points
        return point.id, round(point.score, 2)

    def test_a_write_that_the_engine_refuses_leaves_the_originals(self, client: Any, name: str, sample: Any) -> None:
        vector = {"": sample.base[700].tolist(), "no such vector": [1.0]}
        with pytest.raises((ValueError, UnexpectedResponse), match="no such vector"):
            client.upsert(name, [models.PointStruct(id=7, vector=vector)])
        assert self.found(client, name, sample.base[7]) == (7, 1)
        (record,) = client.retrieve(name, [7], with_vectors=True)
        np.testing.assert_allclose(record.vector, sample.base[7], atol=5e-4)
        client.upsert(name, [models.PointStruct(id=7, vector=sample.base[700].tolist())])
        assert self.found(client, name, sample.base[700]) == (7, 1)

    def test_a_write_that_the_engine_took_before_the_client_died(
        self, client: Any, svd_codec: LinearCodec, name: str, sample: Any, file: OriginalsFile
    ) -> None:
        file.stage().add([7, 9000], sample.base[700:702])
        latents = svd_codec.encode(sample.base[700:702]).tolist()
        points = [models.PointStruct(id=i, vector=v) for i, v in zip([7, 9000], latents, strict=True)]
        client.wrapped.upsert(name, points, wait=True)
        assert self.found(client, name, sample.base[700]) == (7, 1)
        assert self.found(client, name, sample.base[701]) == (9000, 1)
        assert next(point.id for point in client.query_points(name, 7, limit=2).points) != 7

    def test_deleted_points_are_erased(self, client: Any, name: str, sample: Any, file: OriginalsFile) -> None:
        client.delete(name, [1, 2], wait=True)
        client.delete(name, models.PointIdsList(points=[3]), wait=True)
        group = models.FieldCondition(key="group", match=models.MatchValue(value=4))
        client.delete(name, models.Filter(must=[group]), wait=True)
        assert set(file.ids()) == set(range(N)) - {1, 2, 3} - set(range(4, N, 5))
        delete = models.DeleteOperation(delete=models.PointIdsList(points=[5, 6]))
        point = models.PointStruct(id=6, vector=sample.base[6].tolist())
        again = models.UpsertOperation(upsert=models.PointsList(points=[point]))
        client.batch_update_points(name, [delete, again], wait=True)
        assert file.find([5, 6])[1].tolist() == [False, True]
        client.delete_vectors(name, [""], [10], wait=True)
        assert not file.find([10])[1].any()

    def test_what_others_deleted_is_erased_on_demand(
        self, client: Any, name: str, sample: Any, file: OriginalsFile
    ) -> None:
        client.wrapped.delete(name, list(range(100)), wait=True)
        assert erase_deleted(client, name, file) == 100
        assert len(file) == N - 100
        assert file.path.stat().st_size == (N - 100) * 770
        assert self.found(client, name, sample.base[150]) == (150, 1)

    def test_another_collection_is_refused_and_an_alias_is_not(
        self, client: Any, open_client: Open, svd_codec: LinearCodec, name: str, sample: Any, file: OriginalsFile
    ) -> None:
        other, alias = f"{name}_other", f"{name}_alias"
        with pytest.raises(OriginalsError, match="give each collection a file of its own"):
            client.create_collection(other)
        assert not client.collection_exists(other)
        create = models.CreateAlias(collection_name=name, alias_name=alias)
        client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])
        client.upsert(alias, [models.PointStruct(id=7, vector=sample.base[700].tolist())])
        assert self.found(client, alias, sample.base[700]) == (7, 1)

    def test_a_copy_of_the_collection_is_refused(
        self, client: Any, open_client: Open, svd_codec: LinearCodec, name: str, sample: Any
    ) -> None:
        copied = f"{name}_copy"
        info = client.wrapped.get_collection(name)
        client.wrapped.create_collection(copied, info.config.params.vectors, metadata=info.config.metadata)
        try:
            with pytest.raises(OriginalsError, match=f"got the file of collection '{name}'"):
                client.upsert(copied, [models.PointStruct(id=7, vector=sample.base[700].tolist())])
        finally:
            client.wrapped.delete_collection(copied)

    def test_another_file_is_refused(
        self, client: Any, open_client: Open, svd_codec: LinearCodec, name: str, sample: Any, tmp_path: Path
    ) -> None:
        with OriginalsFile(tmp_path / "another", 384) as another:
            wrong = open_client(svd_codec, originals=another)
            with pytest.raises(CodecMismatchError, match="whose originals are in the file with the id"):
                wrong.query_points(name, sample.base[7].tolist())

    def test_a_collection_that_is_deleted_takes_its_originals_along(
        self, client: Any, name: str, sample: Any, file: OriginalsFile
    ) -> None:
        client.delete_collection(name)
        assert (len(file), file.owner) == (0, None)
        fill(client, name, sample.base[100:])
        assert self.found(client, name, sample.base[107]) == (7, 1)
        assert (len(file), file.owner.collection) == (N, name)
