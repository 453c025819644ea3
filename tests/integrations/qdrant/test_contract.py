"""Test what a user of the compressed client sees, over every kind of client."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.conversions.conversion import RestToGrpc
from tests.integrations.qdrant.ranking import ranking

from vaecodec import LinearCodec, evaluation, fit_linear
from vaecodec.errors import (
    BadRowsError,
    CodecMismatchError,
    UnsupportedRequestError,
    WrongWidthError,
)
from vaecodec.interface import Metric

N = 400
BAD = {
    "nan": (np.nan, BadRowsError, "holds NaN or infinity"),
    "inf": (np.inf, BadRowsError, "holds NaN or infinity"),
    "beyond float32": (1e39, BadRowsError, "holds NaN or infinity"),
    "zero": (0.0, BadRowsError, "has zero norm"),
}
Open = Callable[..., Any]


def scores(codec: LinearCodec, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return the cosine of the latents, which the engine must report."""
    left, right = codec.encode_queries(queries), codec.encode(documents)
    return left @ right.T


@pytest.fixture
def filled(open_client: Open, svd_codec: LinearCodec, sample: Any, name: str) -> Any:
    client = open_client(svd_codec)
    client.create_collection(name)
    client.upload_collection(
        name,
        sample.base[:N],
        ids=range(N),
        payload=({"number": i, "group": i % 7} for i in range(N)),
        wait=True,
    )
    return client


def top(client: Any, name: str, **query: Any) -> list[int]:
    return [point.id for point in client.query_points(name, **query).points]


class TestCollections:
    def test_size_distance_and_identity_come_from_the_codec(
        self, open_client: Open, svd_codec: LinearCodec, name: str
    ) -> None:
        client = open_client(svd_codec)
        assert client.create_collection(name, metadata={"owner": "search"})
        stored = client.wrapped.get_collection(name).config
        assert (stored.params.vectors.size, stored.params.vectors.distance) == (64, models.Distance.COSINE)
        assert stored.metadata["owner"] == "search"
        assert stored.metadata["vaecodec"] == {
            "codec_id": svd_codec.codec_id,
            "dim": 384,
            "code_dim": 64,
            "metric": "cosine",
            "embedder": "all-MiniLM-L6-v2",
            "originals": "none",
            "original_vector": None,
        }
        seen = client.get_collection(name).config.params.vectors
        assert (seen.size, seen.distance) == (384, models.Distance.COSINE)

    def test_the_users_own_parameters_are_passed_on(self, open_client: Open, svd_codec: LinearCodec, name: str) -> None:
        client = open_client(svd_codec)
        params = models.VectorParams(
            size=384, distance=models.Distance.COSINE, on_disk=True, datatype=models.Datatype.FLOAT16
        )
        client.create_collection(name, vectors_config=params)
        stored = client.wrapped.get_collection(name).config.params.vectors
        assert stored == params.model_copy(update={"size": 64})

    def test_the_size_of_the_latents_is_refused(self, open_client: Open, svd_codec: LinearCodec, name: str) -> None:
        client = open_client(svd_codec)
        with pytest.raises(CodecMismatchError, match=r"expected size 384 and distance Cosine.* got size 64"):
            client.create_collection(name, models.VectorParams(size=64, distance=models.Distance.COSINE))
        assert not client.collection_exists(name)

    def test_another_size_is_refused_where_the_codec_is_given_for_the_collection(
        self, open_client: Open, svd_codec: LinearCodec, name: str
    ) -> None:
        client = open_client(codecs={name: svd_codec})
        with pytest.raises(CodecMismatchError, match=r"expected size 384 and distance Cosine.* got size 768"):
            client.create_collection(name, models.VectorParams(size=768, distance=models.Distance.COSINE))
        assert not client.collection_exists(name)

    def test_another_distance_is_refused(self, open_client: Open, svd_codec: LinearCodec, name: str) -> None:
        client = open_client(svd_codec)
        with pytest.raises(CodecMismatchError, match="got size 384 and distance Dot"):
            client.create_collection(name, models.VectorParams(size=384, distance=models.Distance.DOT))

    @pytest.mark.filterwarnings("ignore:`recreate_collection` method is deprecated:DeprecationWarning")
    def test_a_datatype_that_would_erase_latents_is_refused_before_anything_changes(
        self, filled: Any, name: str
    ) -> None:
        cosine = {"size": 384, "distance": models.Distance.COSINE}
        params = models.VectorParams(**cosine, datatype=models.Datatype.UINT8)
        before = filled.wrapped.get_collection(name)
        for create in (filled.create_collection, filled.recreate_collection):
            with pytest.raises(UnsupportedRequestError, match="got uint8, which cuts latents"):
                create(name, params)
        assert filled.wrapped.get_collection(name) == before
        assert filled.count(name).count == N

    def test_an_added_vector_that_would_be_erased_is_refused_before_anything_changes(
        self, open_client: Open, svd_codec: LinearCodec, name: str
    ) -> None:
        client = open_client(codecs={"late": svd_codec})
        client.create_collection(name, {"raw": models.VectorParams(size=2, distance=models.Distance.DOT)})
        before = client.wrapped.get_collection(name)
        dense = models.DenseVectorConfig(
            size=384, distance=models.Distance.COSINE, datatype=models.VectorStorageDatatype.UINT8
        )
        with pytest.raises(UnsupportedRequestError, match=r"vector 'late': .* got uint8, which cuts latents"):
            client.create_vector_name(name, "late", models.DenseVectorNameConfig(dense=dense))
        assert client.wrapped.get_collection(name) == before

    def test_metadata_keys_of_the_client_are_reserved(
        self, open_client: Open, svd_codec: LinearCodec, name: str
    ) -> None:
        client = open_client(svd_codec)
        with pytest.raises(UnsupportedRequestError, match=r"got \['vaecodec'\]"):
            client.create_collection(name, metadata={"vaecodec": {}})
        client.create_collection(name)
        with pytest.raises(UnsupportedRequestError, match=r"got \['vaecodec:title'\]"):
            client.update_collection(name, metadata={"vaecodec:title": None})
        assert client.update_collection(name, metadata={"owner": "search"})

    @pytest.mark.filterwarnings("ignore:`recreate_collection` method is deprecated:DeprecationWarning")
    def test_recreating_empties_and_identifies(self, filled: Any, name: str) -> None:
        filled.recreate_collection(name)
        assert filled.count(name).count == 0
        assert "vaecodec" in filled.wrapped.get_collection(name).config.metadata

    def test_all_else_passes_through(self, filled: Any, name: str) -> None:
        assert filled.collection_exists(name)
        assert filled.count(name).count == N
        filled.set_payload(name, {"colour": "red"}, points=[3])
        assert filled.retrieve(name, [3])[0].payload == {"number": 3, "group": 3, "colour": "red"}
        filled.delete(name, points_selector=models.PointIdsList(points=[3]))
        assert filled.count(name).count == N - 1
        filled.delete_collection(name)
        assert not filled.collection_exists(name)


class TestWriting:
    def points(self, vectors: Any) -> list[models.PointStruct]:
        return [models.PointStruct(id=i, vector=v.tolist(), payload={"n": i}) for i, v in enumerate(vectors)]

    def check(self, client: Any, codec: LinearCodec, name: str, vectors: np.ndarray) -> None:
        records = client.retrieve(name, range(len(vectors)), with_vectors=True)
        found = np.array([record.vector for record in records])
        np.testing.assert_allclose(found, codec.decode(codec.encode(vectors)), atol=2e-6)
        assert [record.payload for record in records] == [{"n": i} for i in range(len(vectors))]

    def test_points(self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str) -> None:
        client = open_client(svd_codec)
        client.create_collection(name)
        points = self.points(sample.base[:30])
        client.upsert(name, points)
        self.check(client, svd_codec, name, sample.base[:30])
        assert len(points[0].vector) == 384, "the caller's points are not written to"

    def test_batch(self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str) -> None:
        client = open_client(svd_codec)
        client.create_collection(name)
        batch = models.Batch(
            ids=list(range(30)), vectors=sample.base[:30].tolist(), payloads=[{"n": i} for i in range(30)]
        )
        client.upsert(name, batch)
        self.check(client, svd_codec, name, sample.base[:30])

    def test_grpc_points(self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str) -> None:
        client = open_client(svd_codec)
        client.create_collection(name)
        points = self.points(sample.base[:3])
        client.upsert(name, [RestToGrpc.convert_point_struct(point) for point in points])
        self.check(client, svd_codec, name, sample.base[:3])

    def test_upload_points_reads_a_generator_lazily(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        client = open_client(svd_codec)
        client.create_collection(name)
        client.upload_points(name, iter(self.points(sample.base[:30])), batch_size=7, wait=True)
        self.check(client, svd_codec, name, sample.base[:30])

    @pytest.mark.parametrize("form", ["array", "list", "generator", "float16"])
    def test_upload_collection(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, form: str
    ) -> None:
        client = open_client(svd_codec)
        client.create_collection(name)
        base = sample.base[:30].astype(np.float16) if form == "float16" else sample.base[:30]
        vectors: Any = {"array": base, "float16": base, "list": list(base), "generator": iter(base.tolist())}[form]
        client.upload_collection(
            name, vectors, ids=range(30), payload=({"n": i} for i in range(30)), batch_size=7, wait=True
        )
        self.check(client, svd_codec, name, base.astype(np.float32))

    def test_upload_collection_makes_ids_as_the_wrapped_client_does(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        client = open_client(svd_codec)
        client.create_collection(name)
        client.upload_collection(name, sample.base[:5], wait=True)
        records, _ = client.scroll(name)
        assert len(records) == 5
        assert all(uuid.UUID(record.id) for record in records)

    @pytest.mark.parametrize("what", ["ids", "payload"])
    def test_too_few_ids_or_payloads_are_refused(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, what: str
    ) -> None:
        client = open_client(svd_codec)
        client.create_collection(name)
        short = {"ids": [1, 2]} if what == "ids" else {"payload": [{}, {}]}
        with pytest.raises(ValueError, match=f"{what} iterable is shorter than vectors iterable"):
            client.upload_collection(name, sample.base[:5], **short)

    def test_update_vectors(self, filled: Any, svd_codec: LinearCodec, sample: Any, name: str) -> None:
        filled.update_vectors(name, [models.PointVectors(id=1, vector=sample.base[N].tolist())])
        (record,) = filled.retrieve(name, [1], with_vectors=True)
        np.testing.assert_allclose(
            record.vector, svd_codec.decode(svd_codec.encode(sample.base[N : N + 1]))[0], atol=2e-6
        )
        assert record.payload == {"number": 1, "group": 1}

    def test_batch_update(self, filled: Any, svd_codec: LinearCodec, sample: Any, name: str) -> None:
        new = sample.base[N : N + 3].tolist()
        filled.batch_update_points(
            name,
            [
                models.UpsertOperation(
                    upsert=models.PointsList(points=[models.PointStruct(id=N, vector=new[0], payload={"n": 1})])
                ),
                models.UpsertOperation(upsert=models.PointsBatch(batch=models.Batch(ids=[N + 1], vectors=[new[1]]))),
                models.UpdateVectorsOperation(
                    update_vectors=models.UpdateVectors(points=[models.PointVectors(id=0, vector=new[2])])
                ),
                models.DeleteVectorsOperation(delete_vectors=models.DeleteVectors(points=[5], vector=[""])),
                models.DeleteOperation(delete=models.PointIdsList(points=[6])),
                models.SetPayloadOperation(set_payload=models.SetPayload(payload={"colour": "red"}, points=[7])),
            ],
        )
        found = {record.id: record for record in filled.retrieve(name, [N, N + 1, 0, 5, 6, 7], with_vectors=True)}
        decoded = svd_codec.decode(svd_codec.encode(sample.base[N : N + 3]))
        np.testing.assert_allclose([found[i].vector for i in (N, N + 1, 0)], decoded, atol=2e-6)
        assert not found[5].vector
        assert 6 not in found
        assert found[7].payload["colour"] == "red"

    def test_delete_vectors(self, filled: Any, name: str) -> None:
        filled.delete_vectors(name, [""], points=[4])
        assert not filled.retrieve(name, [4], with_vectors=True)[0].vector

    @pytest.mark.parametrize("form", ["integers", "array", "numpy scalars"])
    def test_vectors_of_other_numbers(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, form: str
    ) -> None:
        vector = np.rint(sample.base[0] * 1000)
        given: Any = {"integers": [int(x) for x in vector], "array": vector, "numpy scalars": list(vector)}[form]
        client = open_client(svd_codec)
        client.create_collection(name)
        client.upsert(name, [models.PointStruct.model_construct(id=0, vector=given, payload={"n": 0})])
        self.check(client, svd_codec, name, vector[None])
        (point,) = client.query_points(name, models.NearestQuery.model_construct(nearest=given)).points
        assert point.score == pytest.approx(1, abs=1e-5)

    def test_update_mode_and_filter_keep_their_meaning(self, filled: Any, sample: Any, name: str) -> None:
        point = models.PointStruct(id=2, vector=sample.base[9].tolist(), payload={"new": True})
        filled.upsert(name, [point], update_mode=models.UpdateMode.INSERT_ONLY)
        assert filled.retrieve(name, [2])[0].payload == {"number": 2, "group": 2}

    @pytest.mark.parametrize("kind", [*BAD, "narrow"])
    @pytest.mark.parametrize("way", ["upsert", "batch", "upload_points", "upload_collection", "update_vectors"])
    def test_one_bad_row_inserts_nothing_and_names_the_point(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str, kind: str, way: str
    ) -> None:
        client = open_client(svd_codec)
        client.create_collection(name)
        client.upsert(name, self.points(sample.base[:20]))
        rows: list[Any] = sample.base[100:120].tolist()
        if kind == "narrow":
            error: type[Exception] = WrongWidthError
            text = "expected width 384, got 383"
            rows[13] = rows[13][:-1]
        else:
            value, error, text = BAD[kind]
            rows[13] = [value] * 384
        ids = list(range(20))
        points = [models.PointStruct(id=i, vector=v) for i, v in zip(ids, rows, strict=True)]
        write = {
            "upsert": lambda: client.upsert(name, points),
            "batch": lambda: client.upsert(name, models.Batch(ids=ids, vectors=rows)),
            "upload_points": lambda: client.upload_points(name, points),
            "upload_collection": lambda: client.upload_collection(name, rows, ids=ids),
            "update_vectors": lambda: client.update_vectors(
                name, [models.PointVectors(id=p.id, vector=p.vector) for p in points]
            ),
        }[way]
        with pytest.raises(error, match=rf"^point 13, vector '': .*{text}"):
            write()
        self.check(client, svd_codec, name, sample.base[:20])

    def test_an_array_is_checked_whole_before_its_first_batch_is_sent(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        client = open_client(svd_codec)
        client.create_collection(name)
        rows = sample.base[:500].copy()
        rows[499, 3] = np.nan
        with pytest.raises(BadRowsError, match=r"^vectors '': row 499 holds NaN"):
            client.upload_collection(name, rows, batch_size=10)
        assert client.count(name).count == 0


class TestQuerying:
    def test_nearest_is_the_exact_search_on_latents(
        self, filled: Any, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        expected = scores(svd_codec, sample.queries[:20], sample.base[:N])
        for query, row in zip(sample.queries[:20], expected, strict=True):
            points = filled.query_points(name, query.tolist(), limit=5).points
            order = np.argsort(-row)[:5]
            assert [point.id for point in points] == order.tolist()
            np.testing.assert_allclose([point.score for point in points], row[order], atol=1e-5)

    def test_every_form_of_a_nearest_query(self, filled: Any, sample: Any, name: str) -> None:
        query = sample.queries[0]
        expected = top(filled, name, query=query.tolist())
        assert top(filled, name, query=query) == expected
        assert top(filled, name, query=models.NearestQuery(nearest=query.tolist())) == expected
        by_id = top(filled, name, query=7)
        assert 7 not in by_id
        assert len(by_id) == 10

    def test_filters_offsets_thresholds_and_payloads_keep_their_meaning(
        self, filled: Any, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        row = scores(svd_codec, sample.queries[:1], sample.base[:N])[0]
        order = np.argsort(-row)
        threshold = float(row[order[6]]) - 1e-4
        query = sample.queries[0].tolist()
        assert top(filled, name, query=query, score_threshold=threshold) == order[:7].tolist()
        assert top(filled, name, query=query, limit=3, offset=4) == order[4:7].tolist()
        group = models.Filter(must=[models.FieldCondition(key="group", match=models.MatchValue(value=3))])
        wanted = [i for i in order.tolist() if i % 7 == 3][:5]
        points = filled.query_points(name, query, query_filter=group, limit=5, with_payload=["number"]).points
        assert [point.id for point in points] == wanted
        assert [point.payload for point in points] == [{"number": i} for i in wanted]

    def test_vectors_come_back_at_their_original_width(
        self, filled: Any, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        decoded = svd_codec.decode(svd_codec.encode(sample.base[:N]))
        for point in filled.query_points(name, sample.queries[0], with_vectors=True, limit=3).points:
            np.testing.assert_allclose(point.vector, decoded[point.id], atol=2e-6)
        records, following = filled.scroll(name, limit=4, with_vectors=[""])
        assert [record.id for record in records] == [0, 1, 2, 3]
        assert following == 4
        np.testing.assert_allclose([record.vector for record in records], decoded[:4], atol=2e-6)
        assert filled.retrieve(name, [1])[0].vector is None

    def test_batches_equal_single_queries(self, filled: Any, sample: Any, name: str) -> None:
        requests = [
            models.QueryRequest(query=query.tolist(), limit=limit, with_vector=True, with_payload=True)
            for query, limit in zip(sample.queries[:4], (3, 1, 5, 2), strict=True)
        ]
        responses = filled.query_batch_points(name, requests)
        for request, response in zip(requests, responses, strict=True):
            alone = filled.query_points(name, request.query, limit=request.limit, with_vectors=True)
            assert [point.id for point in response.points] == [point.id for point in alone.points]
            np.testing.assert_allclose(
                [point.vector for point in response.points], [point.vector for point in alone.points], atol=2e-6
            )
        assert len(requests[0].query) == 384, "the caller's requests are not written to"

    def test_groups(self, filled: Any, svd_codec: LinearCodec, sample: Any, name: str) -> None:
        row = scores(svd_codec, sample.queries[:1], sample.base[:N])[0]
        groups = filled.query_points_groups(
            name, "group", query=sample.queries[0].tolist(), limit=3, group_size=2, with_vectors=True
        ).groups
        best = sorted(range(7), key=lambda g: -row[g::7].max())[:3]
        assert [group.id for group in groups] == best
        for group in groups:
            members = np.arange(group.id, N, 7)
            assert [hit.id for hit in group.hits] == members[np.argsort(-row[members])[:2]].tolist()
            assert len(group.hits[0].vector) == 384

    def kinds(self, sample: Any) -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
        """Yield each kind of query with raw vectors, and how the same query is built from latents."""
        a, b, c = sample.queries[:3].tolist()
        strategy = models.RecommendStrategy
        for chosen in (None, strategy.BEST_SCORE, strategy.SUM_SCORES):
            yield (
                f"recommend {chosen}",
                [a, b, c],
                lambda v, chosen=chosen: models.RecommendQuery(  # type: ignore[misc]
                    recommend=models.RecommendInput(positive=[v[0], 11, v[1]], negative=[v[2], 12], strategy=chosen)
                ),
            )
        yield (
            "discover",
            [a, b, c],
            lambda v: models.DiscoverQuery(
                discover=models.DiscoverInput(
                    target=v[0],
                    context=[
                        models.ContextPair(positive=v[1], negative=v[2]),
                        models.ContextPair(positive=3, negative=4),
                    ],
                )
            ),
        )
        yield (
            "discover with one pair",
            [a, b],
            lambda v: models.DiscoverQuery(
                discover=models.DiscoverInput(target=5, context=models.ContextPair(positive=v[0], negative=v[1]))
            ),
        )
        yield (
            "context",
            [a, b],
            lambda v: models.ContextQuery(context=[models.ContextPair(positive=v[0], negative=v[1])]),
        )
        yield (
            "mmr",
            [a],
            lambda v: models.NearestQuery(nearest=v[0], mmr=models.Mmr(diversity=0.6, candidates_limit=40)),
        )
        yield (
            "feedback",
            [a, b],
            lambda v: models.RelevanceFeedbackQuery(
                relevance_feedback=models.RelevanceFeedbackInput(
                    target=v[0],
                    feedback=[
                        models.FeedbackItem(example=v[1], score=0.9),
                        models.FeedbackItem(example=8, score=0.1),
                    ],
                    strategy=models.NaiveFeedbackStrategy(
                        naive=models.NaiveFeedbackStrategyParams(a=1.0, b=1.0, c=1.0)
                    ),
                )
            ),
        )

    def test_every_kind_of_query_equals_the_same_query_on_latents(
        self, filled: Any, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        for kind, vectors, build in self.kinds(sample):
            latents = svd_codec.encode_queries(np.array(vectors, np.float32)).tolist()
            expected = filled.wrapped.query_points(name, query=build(latents), limit=8).points
            found = filled.query_points(name, query=build(vectors), limit=8).points
            assert [p.id for p in found] == [p.id for p in expected], kind
            np.testing.assert_allclose([p.score for p in found], [p.score for p in expected], atol=1e-5)

    def test_queries_without_vectors_pass(self, filled: Any, name: str) -> None:
        assert top(filled, name) == list(range(10))
        sampled = filled.query_points(name, models.SampleQuery(sample=models.Sample.RANDOM), limit=5, with_vectors=True)
        assert {len(point.vector) for point in sampled.points} == {384}

    def test_nested_prefetches_with_fusion_and_formula(
        self, filled: Any, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        raw = sample.queries[:3].tolist()
        latents = svd_codec.encode_queries(sample.queries[:3]).tolist()

        def prefetch(v: Any) -> list[models.Prefetch]:
            return [
                models.Prefetch(
                    query=v[0], limit=30, prefetch=models.Prefetch(query=models.NearestQuery(nearest=v[1]), limit=60)
                ),
                models.Prefetch(query=v[2], limit=30, score_threshold=0.1),
            ]

        boost = models.FormulaQuery(
            formula=models.SumExpression(sum=["$score[0]", models.MultExpression(mult=[0.001, "number"])])
        )
        fusions = [models.FusionQuery(fusion=f) for f in (models.Fusion.RRF, models.Fusion.DBSF)]
        for query in (*fusions, models.RrfQuery(rrf=models.Rrf(k=7)), boost):
            expected = filled.wrapped.query_points(name, query=query, prefetch=prefetch(latents), limit=9).points
            found = filled.query_points(name, query=query, prefetch=prefetch(raw), limit=9).points
            assert len(ranking(found)) > 3
            assert ranking(found) == ranking(expected)
            np.testing.assert_allclose([p.score for p in found], [p.score for p in expected], atol=1e-5)
        rescored = filled.query_points(name, query=raw[0], prefetch=prefetch(raw), limit=4).points
        expected = filled.wrapped.query_points(name, query=latents[0], prefetch=prefetch(latents), limit=4).points
        assert [p.id for p in rescored] == [p.id for p in expected]

    def test_a_bad_query_vector_is_named(self, filled: Any, sample: Any, name: str) -> None:
        requests = [models.QueryRequest(query=sample.queries[i].tolist()) for i in range(3)]
        requests[2].query = [float("nan")] * 384
        with pytest.raises(BadRowsError, match=r"^query 2, vector '': .*holds NaN"):
            filled.query_batch_points(name, requests)
        with pytest.raises(WrongWidthError, match=r"^query 0, vector '': expected width 384, got 3;"):
            filled.query_points(name, [1.0, 2.0, 3.0])

    def test_search_matrix(self, filled: Any, name: str) -> None:
        pairs = filled.search_matrix_pairs(name, sample=20, limit=3).pairs
        assert len(pairs) == 60
        assert all(-1 <= pair.score <= 1.001 for pair in pairs)
        assert len(filled.search_matrix_offsets(name, sample=20, limit=3).ids) == 20

    def test_ids_are_looked_up_in_collections_of_the_same_codec_only(
        self, filled: Any, svd_codec: LinearCodec, open_client: Open, sample: Any, name: str
    ) -> None:
        filled.create_collection(f"{name}-queries")
        filled.upsert(f"{name}-queries", [models.PointStruct(id=1, vector=sample.queries[0].tolist())])
        lookup = models.LookupLocation(collection=f"{name}-queries")
        row = scores(svd_codec, sample.queries[:1], sample.base[:N])[0]
        assert top(filled, name, query=1, lookup_from=lookup) == np.argsort(-row)[:10].tolist()
        filled.wrapped.create_collection(
            f"{name}-plain", {"other": models.VectorParams(size=384, distance=models.Distance.COSINE)}
        )
        plain = models.LookupLocation(collection=f"{name}-plain", vector="other")
        with pytest.raises(CodecMismatchError, match=r"^lookup_from: expected vector 'other'"):
            filled.query_points(name, 1, lookup_from=plain)
        nested = models.Prefetch(query=1, lookup_from=plain)
        with pytest.raises(CodecMismatchError, match=r"^lookup_from: expected vector 'other'"):
            filled.query_points(name, models.FusionQuery(fusion=models.Fusion.RRF), prefetch=[nested])


class TestNamedVectors:
    @pytest.fixture
    def codecs(self, svd_codec: LinearCodec, sample: Any) -> dict[str, LinearCodec]:
        return {"title": svd_codec, "body": fit_linear(sample.train, 32)}

    @pytest.fixture
    def client(self, open_client: Open, codecs: Any, sample: Any, name: str) -> Any:
        client = open_client(codecs=codecs)
        cosine = {"size": 384, "distance": models.Distance.COSINE}
        client.create_collection(
            name,
            {
                "title": models.VectorParams(**cosine),
                "body": models.VectorParams(**cosine),
                "raw": models.VectorParams(**cosine),
                "tokens": models.VectorParams(size=4, distance=models.Distance.DOT),
            },
            sparse_vectors_config={"words": models.SparseVectorParams()},
        )
        words = models.SparseVector(indices=[1, 5], values=[0.5, 2.0])
        client.upsert(
            name,
            [
                models.PointStruct(
                    id=i,
                    vector={
                        "title": sample.base[i].tolist(),
                        "body": sample.base[i + 50].tolist(),
                        "raw": sample.base[i].tolist(),
                        "tokens": [1.0, 2.0, 3.0, float(i)],
                        "words": words,
                    },
                )
                for i in range(40)
            ]
            + [models.PointStruct(id=99, vector={"raw": sample.base[99].tolist()})],
        )
        return client

    def test_each_has_its_own_codec_and_the_rest_is_untouched(
        self, client: Any, codecs: Any, sample: Any, name: str
    ) -> None:
        stored = client.wrapped.get_collection(name).config
        assert {n: p.size for n, p in stored.params.vectors.items()} == {
            "title": 64,
            "body": 32,
            "raw": 384,
            "tokens": 4,
        }
        assert {"vaecodec:title", "vaecodec:body"} <= set(stored.metadata)
        (record,) = client.retrieve(name, [3], with_vectors=True)
        np.testing.assert_allclose(record.vector["raw"], sample.base[3], atol=2e-6)
        assert record.vector["tokens"] == [1.0, 2.0, 3.0, 3.0]
        assert record.vector["words"] == models.SparseVector(indices=[1, 5], values=[0.5, 2.0])
        for vector, row in (("title", 3), ("body", 53)):
            codec = codecs[vector]
            expected = codec.decode(codec.encode(sample.base[row : row + 1]))[0]
            np.testing.assert_allclose(record.vector[vector], expected, atol=2e-6)
        (some,) = client.retrieve(name, [3], with_vectors=["body", "words"])
        assert set(some.vector) == {"body", "words"}
        (lone,) = client.retrieve(name, [99], with_vectors=True)
        assert set(lone.vector) == {"raw"}

    def test_queries_follow_the_name(self, client: Any, codecs: Any, sample: Any, name: str) -> None:
        for vector, first in (("title", 0), ("body", 50)):
            row = scores(codecs[vector], sample.queries[:1], sample.base[first : first + 40])[0]
            found = top(client, name, query=sample.queries[0].tolist(), using=vector)
            assert found == np.argsort(-row)[:10].tolist()
        exact = sample.queries[0] @ sample.base[:40].T
        found = client.query_points(name, sample.queries[0].tolist(), using="raw").points[0]
        assert found.score == pytest.approx(exact.max(), abs=1e-5)
        sparse = models.SparseVector(indices=[5], values=[1.0])
        assert client.query_points(name, sparse, using="words").points[0].score == 2.0

    def test_hybrid_search(self, client: Any, sample: Any, name: str) -> None:
        prefetch = [
            models.Prefetch(query=sample.queries[0].tolist(), using="title", limit=10),
            models.Prefetch(query=sample.queries[1].tolist(), using="body", limit=10),
            models.Prefetch(query=models.SparseVector(indices=[5], values=[1.0]), using="words", limit=10),
        ]
        response = client.query_points(name, models.FusionQuery(fusion=models.Fusion.RRF), prefetch=prefetch)
        assert len(response.points) == 10

    def test_a_named_array_upload(self, client: Any, codecs: Any, sample: Any, name: str) -> None:
        arrays = {"title": sample.base[100:110], "tokens": np.ones((10, 4), np.float32)}
        client.upload_collection(name, arrays, ids=range(100, 110), wait=True)
        (record,) = client.retrieve(name, [104], with_vectors=["title", "tokens"])
        expected = codecs["title"].decode(codecs["title"].encode(sample.base[104:105]))[0]
        np.testing.assert_allclose(record.vector["title"], expected, atol=2e-6)
        assert record.vector["tokens"] == [1.0] * 4

    def test_a_vector_can_be_added_and_removed(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        client = open_client(codecs={"late": svd_codec, "raw": None})
        client.create_collection(name, {"raw": models.VectorParams(size=384, distance=models.Distance.COSINE)})
        client.upsert(name, [models.PointStruct(id=1, vector={"raw": sample.base[0].tolist()})])
        dense = models.DenseVectorConfig(size=384, distance=models.Distance.COSINE)
        client.create_vector_name(name, "late", models.DenseVectorNameConfig(dense=dense))
        assert client.wrapped.get_collection(name).config.params.vectors["late"].size == 64
        client.update_vectors(name, [models.PointVectors(id=1, vector={"late": sample.base[0].tolist()})])
        assert top(client, name, query=sample.base[0].tolist(), using="late") == [1]
        client.delete_vector_name(name, "late")
        stored = client.wrapped.get_collection(name).config
        assert set(stored.params.vectors) == {"raw"}
        # Local mode before 1.20 keeps the name; gRPC has no metadata then.
        assert (stored.metadata or {}).get("vaecodec:late") is None


class TestMultivectors:
    def test_rows_are_encoded_one_by_one(
        self, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
    ) -> None:
        client = open_client(svd_codec)
        maximum = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        params = models.VectorParams(size=384, distance=models.Distance.COSINE, multivector_config=maximum)
        client.create_collection(name, params)
        stacks = {i: sample.base[10 * i : 10 * i + 1 + i % 3] for i in range(12)}
        client.upsert(name, [models.PointStruct(id=i, vector=rows.tolist()) for i, rows in stacks.items()])
        (record,) = client.retrieve(name, [5], with_vectors=True)
        np.testing.assert_allclose(record.vector, svd_codec.decode(svd_codec.encode(stacks[5])), atol=2e-6)
        queries = sample.queries[:2]
        expected = {i: scores(svd_codec, queries, rows).max(axis=1).sum() for i, rows in stacks.items()}
        found = client.query_points(name, queries.tolist(), limit=12).points
        assert [p.id for p in found] == sorted(expected, key=lambda i: -expected[i])
        np.testing.assert_allclose([p.score for p in found], [expected[p.id] for p in found], atol=1e-4)


class TestOtherMetrics:
    @pytest.mark.parametrize(
        ("metric", "distance"), [(Metric.DOT, models.Distance.DOT), (Metric.L2, models.Distance.EUCLID)]
    )
    def test_nearest(
        self, open_client: Open, sample: Any, name: str, metric: Metric, distance: models.Distance
    ) -> None:
        scale = np.linspace(0.5, 3, N, dtype=np.float32)[:, None]
        codec = fit_linear(sample.train, 64, metric=metric)
        client = open_client(codec)
        client.create_collection(name)
        assert client.get_collection(name).config.params.vectors.distance == distance
        client.upload_collection(name, sample.base[:N] * scale, ids=range(N), wait=True)
        latents, queries = codec.encode(sample.base[:N] * scale), codec.encode_queries(sample.queries[:5])
        truth, _ = evaluation.exact_search(latents, queries, 6, codec.latent_metric)
        for query, ids in zip(sample.queries[:5], truth, strict=True):
            assert top(client, name, query=query.tolist(), limit=6) == ids.tolist()
