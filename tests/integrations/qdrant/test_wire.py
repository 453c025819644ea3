"""Test what is sent: REST bodies against the client's own request models, gRPC messages at a real gRPC server."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import server as grpc_server
from pydantic import TypeAdapter
from qdrant_client import AsyncQdrantClient, QdrantClient, grpc, models
from qdrant_client.conversions.conversion import RestToGrpc

from vaecodec import LinearCodec
from vaecodec_integrations.qdrant import AsyncCompressedQdrantClient, CompressedQdrantClient
from vaecodec_integrations.qdrant.migration import Migration, migrate

# (method, path) of every request that the translated methods send, and the model of its body.
BODIES: list[tuple[str, str, Any]] = [
    ("PUT", r"/collections/[^/]+", models.CreateCollection),
    ("PATCH", r"/collections/[^/]+", models.UpdateCollection),
    ("PUT", r"/collections/[^/]+/index", models.CreateFieldIndex),
    ("PUT", r"/collections/[^/]+/vectors/[^/]+", models.DenseVectorNameConfig),
    ("PUT", r"/collections/[^/]+/points", models.PointInsertOperations),
    ("PUT", r"/collections/[^/]+/points/vectors", models.UpdateVectors),
    ("POST", r"/collections/[^/]+/points/vectors/delete", models.DeleteVectors),
    ("POST", r"/collections/[^/]+/points/batch", models.UpdateOperations),
    ("POST", r"/collections/[^/]+/points/query", models.QueryRequest),
    ("POST", r"/collections/[^/]+/points/query/batch", models.QueryRequestBatch),
    ("POST", r"/collections/[^/]+/points/query/groups", models.QueryGroupsRequest),
    ("POST", r"/collections/[^/]+/points", models.PointRequest),
    ("POST", r"/collections/[^/]+/points/scroll", models.ScrollRequest),
    ("POST", r"/collections/[^/]+/points/count", models.CountRequest),
]

UPDATED = {"operation_id": 1, "status": "completed"}


class Recorder:
    """Validate and keep every body as a loopback server, and answer as Qdrant would about one collection."""

    def __init__(self, latent: list[float]) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.problems: list[str] = []
        self.collection: dict[str, Any] = {}
        self.latent = latent
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Stay silent."""

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                result = recorder.handle(self.command, self.path.split("?")[0], json.loads(body) if body else None)
                content = json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def handle(self, method: str, path: str, body: Any) -> Any:
        parsed = None
        if body is not None:
            found = [model for verb, pattern, model in BODIES if verb == method and re.fullmatch(pattern, path)]
            if not found:
                self.problems.append(f"unexpected {method} {path}")
            else:
                try:
                    parsed = TypeAdapter(found[0]).validate_python(body)
                except ValueError as error:
                    self.problems.append(f"{method} {path}: {error}")
        self.requests.append((method, path, parsed))
        scored = {"id": 1, "version": 1, "score": 0.5, "payload": {"n": 1}, "vector": self.latent}
        record = {"id": 1, "payload": {"n": 1}, "vector": self.latent}
        if isinstance(parsed, models.CreateCollection):
            self.collection = body
            return True
        if method == "GET":
            return self.info()
        tail = path.split("/points")[-1] if "/points" in path else None
        answers: dict[str | None, Any] = {
            "/query": {"points": [scored]},
            "/query/batch": [{"points": [scored]}] * (len(parsed.searches) if tail == "/query/batch" else 0),
            "/query/groups": {"groups": [{"id": "a", "hits": [scored]}]},
            "/scroll": {"points": [record], "next_page_offset": None},
            "/count": {"count": 0},
            "/batch": [UPDATED],
            None: True,
        }
        if method == "POST" and tail == "":
            return [record]
        return answers.get(tail, UPDATED)

    def info(self) -> dict[str, Any]:
        return {
            "status": "green",
            "optimizer_status": "ok",
            "segments_count": 1,
            "payload_schema": {},
            "points_count": 1,
            "config": {
                "params": {"vectors": self.collection.get("vectors")},
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
                "optimizer_config": {
                    "deleted_threshold": 0.2,
                    "vacuum_min_vector_number": 1000,
                    "default_segment_number": 0,
                    "flush_interval_sec": 5,
                },
                "metadata": self.collection.get("metadata"),
            },
        }

    def bodies(self, kind: Any) -> list[Any]:
        return [body for _, _, body in self.requests if isinstance(body, kind)]


@pytest.fixture
def recorder(svd_codec: LinearCodec, sample: Any) -> Iterator[Recorder]:
    recorder = Recorder(svd_codec.encode(sample.base[:1])[0].tolist())
    yield recorder
    recorder.close()
    assert recorder.problems == []


def exercise(client: Any, sample: Any) -> Iterator[Any]:
    """Yield one call of every translated method that carries vectors; the caller runs and awaits them."""
    raw = sample.base[:4].tolist()
    points = [models.PointStruct(id=i, vector=vector, payload={"n": i}) for i, vector in enumerate(raw)]
    yield client.create_collection, ("docs",), {}
    yield client.upsert, ("docs", points), {}
    yield client.upsert, ("docs", models.Batch(ids=[0, 1], vectors=raw[:2])), {}
    yield client.upload_points, ("docs", iter(points)), {"batch_size": 2}
    yield client.upload_collection, ("docs", sample.base[:4]), {"ids": range(4)}
    yield client.update_vectors, ("docs", [models.PointVectors(id=1, vector=raw[1])]), {}
    yield client.delete_vectors, ("docs", [""]), {"points": [1]}
    yield client.batch_update_points, ("docs", [models.UpsertOperation(upsert=models.PointsList(points=points))]), {}
    pair = models.ContextPair(positive=raw[0], negative=2)
    for query in (
        raw[0],
        sample.base[0],
        models.RecommendQuery(recommend=models.RecommendInput(positive=[raw[0], 1], negative=[raw[1]])),
        models.DiscoverQuery(discover=models.DiscoverInput(target=raw[0], context=[pair])),
        models.ContextQuery(context=pair),
        models.NearestQuery(nearest=raw[0], mmr=models.Mmr(diversity=0.5)),
    ):
        yield client.query_points, ("docs", query), {"with_vectors": True}
    fusion = models.FusionQuery(fusion=models.Fusion.RRF)
    prefetch = [models.Prefetch(query=raw[0], prefetch=models.Prefetch(query=raw[1])), models.Prefetch(query=3)]
    yield client.query_points, ("docs", fusion), {"prefetch": prefetch}
    yield client.query_batch_points, ("docs", [models.QueryRequest(query=vector) for vector in raw]), {}
    yield client.query_points_groups, ("docs", "n"), {"query": raw[0], "with_vectors": True}
    yield client.retrieve, ("docs", [1]), {"with_vectors": True}
    yield client.scroll, ("docs",), {"with_vectors": True}


def floats(value: Any) -> Iterator[list[float]]:
    """Yield every list of floats inside dumped models."""
    if isinstance(value, dict):
        for item in value.values():
            yield from floats(item)
    elif isinstance(value, list):
        if value and all(isinstance(item, float) for item in value):
            yield value
        else:
            for item in value:
                yield from floats(item)


def check(recorder: Recorder, answers: list[Any]) -> None:
    sent = [body.model_dump() for _, _, body in recorder.requests if body is not None]
    widths = [len(vector) for body in sent for vector in floats(body)]
    assert widths == [64] * 34
    returned = [vector for answer in answers for vector in floats(TypeAdapter(Any).dump_python(answer))]
    assert len(returned) > 8
    assert {len(vector) for vector in returned} == {384}


def test_rest_sends_valid_requests(recorder: Recorder, svd_codec: LinearCodec, sample: Any) -> None:
    raw = QdrantClient(url=recorder.url, check_compatibility=False)
    client = CompressedQdrantClient(raw, svd_codec)
    check(recorder, [call(*args, **kwargs) for call, args, kwargs in exercise(client, sample)])
    (created,) = recorder.bodies(models.CreateCollection)
    assert created.vectors == models.VectorParams(size=64, distance=models.Distance.COSINE)
    assert created.metadata["vaecodec"]["codec_id"] == svd_codec.codec_id
    upserted = [body for body in recorder.bodies(models.PointsList) if len(body.points) == 4]
    np.testing.assert_allclose([p.vector for p in upserted[0].points], svd_codec.encode(sample.base[:4]), atol=1e-6)
    nearest = recorder.bodies(models.QueryRequest)[0].query
    np.testing.assert_allclose(nearest.nearest, svd_codec.encode_queries(sample.base[:1])[0], atol=1e-6)
    client.close()


def test_async_rest_sends_the_same(recorder: Recorder, svd_codec: LinearCodec, sample: Any) -> None:
    async def run() -> list[Any]:
        client = AsyncCompressedQdrantClient(AsyncQdrantClient(url=recorder.url, check_compatibility=False), svd_codec)
        answers = []
        for call, args, kwargs in exercise(client, sample):
            result = call(*args, **kwargs)
            answers.append(await result if asyncio.iscoroutine(result) else result)
        await client.close()
        return answers

    check(recorder, asyncio.run(run()))


def test_a_plain_async_upload_proves_the_codec_first(recorder: Recorder, svd_codec: LinearCodec, sample: Any) -> None:
    async def run() -> None:
        raw = AsyncQdrantClient(url=recorder.url, check_compatibility=False)
        await AsyncCompressedQdrantClient(raw, svd_codec).create_collection("docs")
        fresh = AsyncCompressedQdrantClient(raw, svd_codec)
        fresh.upload_collection("docs", sample.base[:3], ids=[1, 2, 3])
        await fresh.close()

    asyncio.run(run())
    sent = [method for method, _ in groupby(method for method, _, _ in recorder.requests)]
    assert sent == ["PUT", "GET", "PUT"]  # on a busy machine the proof is read again before it is used
    assert [len(point.vector) for point in recorder.bodies(models.PointsList)[0].points] == [64] * 3


def test_uploads_in_parallel_processes(recorder: Recorder, svd_codec: LinearCodec, sample: Any) -> None:
    client = CompressedQdrantClient(QdrantClient(url=recorder.url, check_compatibility=False), svd_codec)
    client.create_collection("docs")
    client.upload_collection("docs", iter(sample.base[:20].tolist()), ids=range(20), batch_size=5, parallel=2)
    sent = {point.id: point.vector for body in recorder.bodies(models.PointsList) for point in body.points}
    assert sorted(sent) == list(range(20))
    np.testing.assert_allclose([sent[i] for i in range(20)], svd_codec.encode(sample.base[:20]), atol=1e-6)
    client.close()


@pytest.mark.parametrize("form", [np.asarray, np.ndarray.tolist], ids=["array", "lists"])
def test_batches_of_an_array_are_encoded_together_and_sent_apart(
    recorder: Recorder, svd_codec: LinearCodec, sample: Any, form: Any
) -> None:
    client = CompressedQdrantClient(QdrantClient(url=recorder.url, check_compatibility=False), svd_codec)
    client.create_collection("docs")
    payload = ({"row": row} for row in range(1_100))
    client.upload_collection("docs", form(sample.base[:1_100]), payload, ids=range(1_100), batch_size=300)
    sent = [body.points for body in recorder.bodies(models.PointsList)]
    assert [len(points) for points in sent] == [300, 300, 300, 200]
    points = [point for batch in sent for point in batch]
    assert [point.id for point in points] == [point.payload["row"] for point in points] == list(range(1_100))
    np.testing.assert_allclose(
        [point.vector for point in points], svd_codec.encode(sample.base[:1_100]), rtol=1e-5, atol=1e-6
    )
    client.close()


def test_a_generator_is_read_no_further_than_the_batch_that_is_sent(
    recorder: Recorder, svd_codec: LinearCodec, sample: Any
) -> None:
    client = CompressedQdrantClient(QdrantClient(url=recorder.url, check_compatibility=False), svd_codec)
    client.create_collection("docs")
    ahead = []

    def points() -> Iterator[models.PointStruct]:
        for number in range(40):
            sent = sum(len(body.points) for body in recorder.bodies(models.PointsList))
            ahead.append(number - sent)
            yield models.PointStruct(id=number, vector=sample.base[number].tolist())

    client.upload_points("docs", points(), batch_size=8)
    assert len(ahead) == 40
    assert max(ahead) <= 8 + 1
    client.close()


def test_a_migrated_collection_gets_the_settings_and_indexes_of_its_source(
    recorder: Recorder, svd_codec: LinearCodec, tmp_path: Path
) -> None:
    """Use REST, because local mode has no such settings; the source is empty."""
    parameters = {
        "vectors": {"size": 384, "distance": "Cosine", "on_disk": True, "hnsw_config": {"m": 24}},
        "sparse_vectors": {"words": {"modifier": "idf"}},
        "shard_number": 3,
        "replication_factor": 2,
        "write_consistency_factor": 2,
        "on_disk_payload": True,
    }
    own = {
        "hnsw_config": {"m": 20, "ef_construct": 150, "full_scan_threshold": 5000, "max_indexing_threads": 2},
        "optimizer_config": {
            "deleted_threshold": 0.3,
            "vacuum_min_vector_number": 500,
            "default_segment_number": 4,
            "flush_interval_sec": 7,
        },
        "wal_config": {"wal_capacity_mb": 64, "wal_segments_ahead": 1, "wal_retain_closed": 2},
        "quantization_config": {"scalar": {"type": "int8", "always_ram": True}},
        "strict_mode_config": {"enabled": True, "max_query_limit": 500},
    }
    answer = recorder.handle

    def handle(method: str, path: str, body: Any) -> Any:
        if method == "GET" and path == "/collections/docs":
            index = {"data_type": "text", "points": 0, "params": {"type": "text", "tokenizer": "word"}}
            schema = {"owner": {"data_type": "keyword", "points": 0}, "title": index}
            config = {**recorder.info()["config"], "params": parameters, **own, "metadata": {"owner": "search"}}
            return {**recorder.info(), "payload_schema": schema, "config": config}
        if path == "/collections/small/exists":
            return {"exists": bool(recorder.collection)}
        if path == "/aliases":
            return {"aliases": []}
        result = answer(method, path, body)
        if path in ("/collections/docs/points/scroll", "/collections/docs/points/query"):
            return {"points": []}
        return UPDATED if path.endswith("/index") else result

    recorder.handle = handle  # type: ignore[method-assign]
    client = QdrantClient(url=recorder.url, check_compatibility=False)
    migrate(Migration(client, "docs", svd_codec, tmp_path / "state.json", into="small"))
    client.close()

    (created,) = recorder.bodies(models.CreateCollection)
    sent = created.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    assert sent.pop("vectors") == {**parameters["vectors"], "size": 64}
    assert sent.pop("metadata").keys() == {"owner", "vaecodec", "vaecodec-migration"}
    assert sent.pop("optimizers_config") == own.pop("optimizer_config")
    assert sent == {**{key: value for key, value in parameters.items() if key != "vectors"}, **own}
    assert [(index.field_name, index.field_schema) for index in recorder.bodies(models.CreateFieldIndex)] == [
        ("owner", models.PayloadSchemaType.KEYWORD),
        ("title", models.TextIndexParams(type="text", tokenizer="word")),
    ]


@pytest.mark.parametrize("originals", [None, "disk"])
def test_arguments_in_the_form_of_grpc_are_sent_as_those_of_rest(
    recorder: Recorder, svd_codec: LinearCodec, sample: Any, originals: Any
) -> None:
    """The client's own types allow both, whatever it speaks."""
    client = CompressedQdrantClient(
        QdrantClient(url=recorder.url, check_compatibility=False), svd_codec, originals=originals
    )
    codes = models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8))
    named = {"": models.VectorParamsDiff(on_disk=True, hnsw_config=models.HnswConfigDiff(m=7))}
    red = models.FieldCondition(key="colour", match=models.MatchValue(value="red"))
    only_red = models.Filter(must=[red], should=[], must_not=[])  # gRPC has no other form of none
    forms: list[dict[str, Any]] = [
        {
            "filter": only_red,
            "params": models.SearchParams(hnsw_ef=70),
            "lookup": models.LookupLocation(collection="docs", vector=""),
            "id": 5,
            "vectors": named,
            "codes": codes,
            "codes_diff": codes,
        },
        {
            "filter": RestToGrpc.convert_filter(only_red),
            "params": grpc.SearchParams(hnsw_ef=70),
            "lookup": grpc.LookupLocation(collection_name="docs", vector_name=""),
            "id": grpc.PointId(num=5),
            "vectors": RestToGrpc.convert_vectors_config_diff(named),
            "codes": RestToGrpc.convert_quantization_config(codes),
            "codes_diff": RestToGrpc.convert_quantization_config_diff(codes),
        },
    ]
    sent = []
    for form in forms:
        client.create_collection("docs", quantization_config=form["codes"])
        client.update_collection("docs", vectors_config=form["vectors"], quantization_config=form["codes_diff"])
        client.upload_collection("docs", sample.base[:1], ids=[form["id"]])
        asked = {"query_filter": form["filter"], "search_params": form["params"], "lookup_from": form["lookup"]}
        client.query_points("docs", form["id"], **asked)
        client.query_points_groups("docs", "colour", query=sample.queries[0], **asked)
        sent.append([request for request in recorder.requests if request[2] is not None])
        recorder.requests.clear()
    assert sent[0] == sent[1]
    query = next(body for _, _, body in sent[1] if isinstance(body, models.QueryRequest))
    searched = query.prefetch[0] if originals and isinstance(query.prefetch, list) else query.prefetch or query
    assert (searched.filter, searched.params.hnsw_ef) == (only_red, 70)
    assert query.lookup_from.collection == "docs"
    update = next(body for _, _, body in sent[1] if isinstance(body, models.UpdateCollection) and body.vectors)
    assert update.vectors[""].hnsw_config.m == 7
    client.close()


@pytest.mark.parametrize(
    ("source", "added"), [(None, None), ("float16", "float16"), ("turbo4", "turbo4"), ("uint8", None)]
)
def test_a_vector_that_a_migration_adds_is_stored_as_the_source_is_but_never_cut_to_integers(
    recorder: Recorder, svd_codec: LinearCodec, tmp_path: Path, source: str | None, added: str | None
) -> None:
    """Use REST, because local mode forgets the datatype of added vectors; the source is empty."""
    vectors: dict[str, Any] = {"": {"size": 384, "distance": "Cosine", "datatype": source}}
    metadata: dict[str, Any] = {}
    answer = recorder.handle

    def handle(method: str, path: str, body: Any) -> Any:
        result = answer(method, path, body)
        if method == "PATCH":
            metadata.update(body["metadata"])
            return True
        if method == "PUT" and path.endswith("/vectors/latent"):
            vectors["latent"] = body["dense"]
            return UPDATED
        if path == "/aliases":
            return {"aliases": []}
        if method == "GET":
            config = {**recorder.info()["config"], "params": {"vectors": vectors}, "metadata": metadata}
            return {**recorder.info(), "config": config}
        return {"points": []} if path.endswith(("/scroll", "/query")) else result

    recorder.handle = handle  # type: ignore[method-assign]
    client = QdrantClient(url=recorder.url, check_compatibility=False)
    assert migrate(Migration(client, "docs", svd_codec, tmp_path / "state.json", named="latent")).settled
    client.close()
    (created,) = recorder.bodies(models.DenseVectorNameConfig)
    assert created.dense == models.DenseVectorConfig(size=64, distance=models.Distance.COSINE, datatype=added)
    assert metadata["vaecodec:latent"]["codec_id"] == svd_codec.codec_id


class GrpcRecorder:
    """Keep every message as a loopback gRPC server, and answer as Qdrant would about one collection."""

    def __init__(self, latent: list[float]) -> None:
        self.messages: list[Any] = []
        self.collection: Any = None
        vectors = RestToGrpc.convert_vector_struct_output(latent)
        one = {"id": grpc.PointId(num=1), "vectors": vectors, "payload": RestToGrpc.convert_payload({"n": 1})}
        hit, record = grpc.ScoredPoint(**one, score=0.5, version=1), grpc.RetrievedPoint(**one)
        updated = grpc.UpdateResult(operation_id=1, status=grpc.UpdateStatus.Completed)
        operation = grpc.PointsOperationResponse(result=updated)
        group = grpc.PointGroup(id=grpc.GroupId(string_value="a"), hits=[hit])
        points: dict[str, Callable[[Any], Any]] = {
            "Upsert": lambda _: operation,
            "UpdateVectors": lambda _: operation,
            "DeleteVectors": lambda _: operation,
            "UpdateBatch": lambda asked: grpc.UpdateBatchResponse(result=[updated] * len(asked.operations)),
            "Query": lambda _: grpc.QueryResponse(result=[hit]),
            "QueryBatch": lambda asked: grpc.QueryBatchResponse(
                result=[grpc.BatchResult(result=[hit])] * len(asked.query_points)
            ),
            "QueryGroups": lambda _: grpc.QueryGroupsResponse(result=grpc.GroupsResult(groups=[group])),
            "Get": lambda _: grpc.GetResponse(result=[record]),
            "Scroll": lambda _: grpc.ScrollResponse(result=[record]),
        }
        collections: dict[str, Callable[[Any], Any]] = {"Create": self.create, "Get": lambda _: self.info()}
        self.server = grpc_server(ThreadPoolExecutor(4))
        grpc.add_PointsServicer_to_server(self.servicer(grpc.PointsServicer, points), self.server)
        grpc.add_CollectionsServicer_to_server(self.servicer(grpc.CollectionsServicer, collections), self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def servicer(self, base: type, answers: dict[str, Callable[[Any], Any]]) -> Any:
        def method(answer: Callable[[Any], Any]) -> Any:
            def handle(_: Any, request: Any, __: Any) -> Any:
                self.messages.append(request)
                return answer(request)

            return handle

        return type("Servicer", (base,), {name: method(answer) for name, answer in answers.items()})()

    def create(self, request: Any) -> Any:
        self.collection = request
        return grpc.CollectionOperationResponse(result=True)

    def info(self) -> Any:
        params = grpc.CollectionParams(vectors_config=self.collection.vectors_config)
        config = grpc.CollectionConfig(
            params=params,
            hnsw_config=grpc.HnswConfigDiff(m=16, ef_construct=100, full_scan_threshold=10_000),
            optimizer_config=grpc.OptimizersConfigDiff(
                deleted_threshold=0.2, vacuum_min_vector_number=1000, default_segment_number=0, flush_interval_sec=5
            ),
            wal_config=grpc.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
            metadata=self.collection.metadata,
        )
        optimizer = grpc.OptimizerStatus(ok=True)
        green = grpc.CollectionStatus.Green
        info = grpc.CollectionInfo(status=green, optimizer_status=optimizer, config=config, points_count=1)
        return grpc.GetCollectionInfoResponse(result=info)


@pytest.fixture
def grpc_recorder(svd_codec: LinearCodec, sample: Any) -> Iterator[GrpcRecorder]:
    recorder = GrpcRecorder(svd_codec.encode(sample.base[:1])[0].tolist())
    yield recorder
    recorder.server.stop(None).wait()


def message_floats(message: Any) -> Iterator[list[float]]:
    """Yield every list of floats inside a gRPC message."""
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values = list(value.values())
        else:
            values = list(value) if field.is_repeated else [value]
        if field.message_type is not None:
            for item in values:
                yield from message_floats(item) if hasattr(item, "ListFields") else ()
        elif field.is_repeated and field.cpp_type == field.CPPTYPE_FLOAT:
            yield values


def check_grpc(recorder: GrpcRecorder, answers: list[Any], codec: LinearCodec, sample: Any) -> None:
    assert recorder.collection.vectors_config.params.size == 64
    assert [len(vector) for message in recorder.messages for vector in message_floats(message)] == [64] * 34
    first = next(message for message in recorder.messages if isinstance(message, grpc.UpsertPoints))
    latents = [next(message_floats(point)) for point in first.points]
    np.testing.assert_allclose(latents, codec.encode(sample.base[:4]), atol=1e-6)
    query = next(message for message in recorder.messages if isinstance(message, grpc.QueryPoints))
    np.testing.assert_allclose(next(message_floats(query)), codec.encode_queries(sample.base[:1])[0], atol=1e-6)
    returned = [vector for answer in answers for vector in floats(TypeAdapter(Any).dump_python(answer))]
    assert len(returned) > 8
    assert {len(vector) for vector in returned} == {384}


def test_grpc_sends_the_same(grpc_recorder: GrpcRecorder, svd_codec: LinearCodec, sample: Any) -> None:
    raw = QdrantClient("127.0.0.1", grpc_port=grpc_recorder.port, prefer_grpc=True, check_compatibility=False)
    client = CompressedQdrantClient(raw, svd_codec)
    answers = [call(*args, **kwargs) for call, args, kwargs in exercise(client, sample)]
    check_grpc(grpc_recorder, answers, svd_codec, sample)
    client.close()


def test_async_grpc_sends_the_same(grpc_recorder: GrpcRecorder, svd_codec: LinearCodec, sample: Any) -> None:
    async def run() -> list[Any]:
        raw = AsyncQdrantClient("127.0.0.1", grpc_port=grpc_recorder.port, prefer_grpc=True, check_compatibility=False)
        client = AsyncCompressedQdrantClient(raw, svd_codec)
        answers = []
        for call, args, kwargs in exercise(client, sample):
            result = call(*args, **kwargs)
            answers.append(await result if asyncio.iscoroutine(result) else result)
        await client.close()
        return answers

    check_grpc(grpc_recorder, asyncio.run(run()), svd_codec, sample)


def test_grpc_sends_originals_and_prefetches(grpc_recorder: GrpcRecorder, svd_codec: LinearCodec, sample: Any) -> None:
    raw = QdrantClient("127.0.0.1", grpc_port=grpc_recorder.port, prefer_grpc=True, check_compatibility=False)
    client = CompressedQdrantClient(raw, svd_codec, originals="disk", rerank=3)
    client.create_collection("docs")
    client.upsert("docs", [models.PointStruct(id=1, vector=sample.base[0].tolist())])
    client.query_points("docs", sample.queries[0], limit=5)
    created = grpc_recorder.collection.vectors_config.params_map.map
    assert {name: (params.size, params.on_disk) for name, params in created.items()} == {
        "": (64, False),
        "original": (384, True),
    }
    sent, asked = grpc_recorder.messages[-2:]
    vectors = sent.points[0].vectors.vectors.vectors
    assert {name: next(map(len, message_floats(vector))) for name, vector in vectors.items()} == {
        "": 64,
        "original": 384,
    }
    (prefetch,) = asked.prefetch
    assert (prefetch.limit, asked.limit, asked.using) == (15, 5, "original")
    np.testing.assert_allclose(
        next(message_floats(prefetch)), svd_codec.encode_queries(sample.queries[:1])[0], atol=1e-6
    )
    np.testing.assert_allclose(next(message_floats(asked.query)), sample.queries[0], atol=1e-6)
    client.close()
