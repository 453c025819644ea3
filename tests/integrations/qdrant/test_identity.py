"""Test that no vector is written or returned unless the collection was filled by the given codec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from vaecodec import LinearCodec, fit_linear
from vaecodec.errors import CodecMismatchError, NotCalibratedError, OriginalsError, UnsupportedRequestError
from vaecodec_integrations.qdrant import CompressedQdrantClient, OriginalsFile
from vaecodec_integrations.qdrant.codecs import Codecs
from vaecodec_integrations.qdrant.flows import Flows
from vaecodec_integrations.qdrant.flows.base import SEARCH_SECONDS
from vaecodec_integrations.qdrant.identity import METADATA_KEY, read_layout
from vaecodec_integrations.qdrant.layout import Originals
from vaecodec_integrations.qdrant.settings import Settings

Open = Callable[..., Any]
COSINE = models.Distance.COSINE


def point(sample: Any, row: int = 0) -> models.PointStruct:
    return models.PointStruct(id=row, vector=sample.base[row].tolist())


@pytest.fixture
def filled(open_client: Open, svd_codec: LinearCodec, sample: Any, name: str) -> Any:
    client = open_client(svd_codec)
    client.create_collection(name)
    client.upsert(name, [point(sample)])
    return client


def test_another_codec_is_refused_by_every_method(
    filled: Any, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
) -> None:
    other = open_client(fit_linear(sample.base, 64, embedder="other-model"))
    raw = sample.base[1].tolist()
    vectors = [models.PointVectors(id=0, vector=raw)]
    operation = models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=vectors))
    attempts: list[Callable[[], Any]] = [
        lambda: other.upsert(name, [point(sample, 1)]),
        lambda: other.upload_points(name, [point(sample, 1)]),
        lambda: other.upload_collection(name, sample.base[1:3]),
        lambda: other.update_vectors(name, vectors),
        lambda: other.batch_update_points(name, [operation]),
        lambda: other.delete_vectors(name, [""], points=[0]),
        lambda: other.query_points(name, raw),
        lambda: other.query_batch_points(name, [models.QueryRequest(query=raw)]),
        lambda: other.query_points_groups(name, "group", query=raw),
        lambda: other.search_matrix_pairs(name),
        lambda: other.search_matrix_offsets(name),
        lambda: other.retrieve(name, [0]),
        lambda: other.scroll(name),
        lambda: other.get_collection(name),
    ]
    expected = rf"expected codec {other_id(other)} \(other-model\), got a collection filled by codec "
    for attempt in attempts:
        with pytest.raises(CodecMismatchError, match=expected + svd_codec.codec_id[:12]):
            attempt()
    (record,) = filled.scroll(name, with_vectors=True)[0]
    assert record.id == 0
    assert sample.base[0] @ record.vector > 0.7


def other_id(client: Any) -> str:
    (codec,) = client._flows._settings.codecs
    return str(codec.codec_id[:12])


def test_a_collection_filled_without_the_client_needs_trust(
    open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
) -> None:
    client = open_client(svd_codec)
    client.wrapped.create_collection(name, models.VectorParams(size=64, distance=COSINE))
    latent = svd_codec.encode(sample.base[:1])[0].tolist()
    client.wrapped.upsert(name, [models.PointStruct(id=0, vector=latent)])
    message = r"expected the codec's id in its metadata \('vaecodec'\), got points but no id; .* trust=True"
    with pytest.raises(CodecMismatchError, match=message):
        client.query_points(name, sample.base[0].tolist())
    trusting = open_client(svd_codec, trust=True)
    assert trusting.query_points(name, sample.base[0].tolist()).points[0].score == pytest.approx(1, abs=1e-5)


def test_trust_does_not_excuse_a_known_mismatch(filled: Any, open_client: Open, sample: Any, name: str) -> None:
    with pytest.raises(CodecMismatchError, match="got a collection filled by codec"):
        open_client(fit_linear(sample.base, 64), trust=True).scroll(name)


def test_an_empty_collection_of_the_right_shape_is_adopted(
    open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
) -> None:
    client = open_client(svd_codec)
    client.wrapped.create_collection(name, models.VectorParams(size=64, distance=COSINE), metadata={"owner": "me"})
    client.upsert(name, [point(sample)])
    metadata = client.wrapped.get_collection(name).config.metadata
    assert metadata["owner"] == "me"
    assert metadata["vaecodec"]["codec_id"] == svd_codec.codec_id


def test_an_uncompressed_collection_is_not_touched(
    open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
) -> None:
    client = open_client(svd_codec)
    client.wrapped.create_collection(name, models.VectorParams(size=384, distance=COSINE))
    message = "expected compressed vectors of size 64, got uncompressed ones of size 384; copy the collection with"
    with pytest.raises(CodecMismatchError, match=message):
        client.upsert(name, [point(sample)])
    assert client.count(name).count == 0


@pytest.mark.parametrize(
    ("size", "distance", "message"),
    [
        (32, COSINE, "expected vectors of size 64, got size 32"),
        (64, models.Distance.DOT, "expected distance Cosine, got Dot"),
    ],
)
def test_another_size_or_distance_is_refused(
    open_client: Open, svd_codec: LinearCodec, name: str, size: int, distance: models.Distance, message: str
) -> None:
    client = open_client(svd_codec, trust=True)
    client.wrapped.create_collection(name, models.VectorParams(size=size, distance=distance))
    with pytest.raises(CodecMismatchError, match=message):
        client.scroll(name)


def test_a_shorter_cut_of_the_same_codec_is_refused(
    filled: Any, open_client: Open, svd_codec: LinearCodec, name: str
) -> None:
    with pytest.raises(CodecMismatchError, match="expected vectors of size 32, got size 64"):
        open_client(svd_codec.truncated(32)).scroll(name)


def test_a_server_that_keeps_no_metadata_is_named(svd_codec: LinearCodec) -> None:
    """Servers before 1.16 drop the field: what they answer is sent to the flow as they would send it."""
    answer = models.CollectionInfo.model_validate(
        {
            "status": "green",
            "optimizer_status": "ok",
            "segments_count": 1,
            "payload_schema": {},
            "config": {
                "params": {"vectors": {"size": 64, "distance": "Cosine"}},
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
                "optimizer_config": {
                    "deleted_threshold": 0.2,
                    "vacuum_min_vector_number": 1000,
                    "default_segment_number": 0,
                    "flush_interval_sec": 5,
                },
            },
        }
    )
    settings = Settings(Codecs(svd_codec), Originals.NONE, None, 4, calibrate=False, trust=False)
    flow = Flows(settings, QdrantClient(":memory:")).proof("docs")
    assert next(flow).method == "get_collection"
    assert flow.send(answer).method == "count"
    assert flow.send(models.CountResult(count=0)).method == "update_collection"
    assert flow.send(True).method == "get_collection"
    with pytest.raises(CodecMismatchError, match=r"the server did not keep .* from version 1\.16 on.* trust=True"):
        flow.send(answer)
    layout, missing = read_layout("docs", answer, Codecs(svd_codec), Originals.NONE, trust=True)
    assert (set(layout.coded), missing) == ({""}, {})


def test_a_collection_without_the_codecs_vector_passes_through(
    open_client: Open, svd_codec: LinearCodec, name: str
) -> None:
    client = open_client(svd_codec)
    plain = {"plain": models.VectorParams(size=2, distance=models.Distance.DOT)}
    client.create_collection(name, plain)
    client.upsert(name, [models.PointStruct(id=1, vector={"plain": [1.0, 2.0]})])
    (record,) = client.scroll(name, with_vectors=True)[0]
    assert record.vector == {"plain": [1.0, 2.0]}
    assert client.query_points(name, [1.0, 1.0], using="plain").points[0].score == 3
    assert client.get_collection(name).config.params.vectors == plain
    assert not client.wrapped.get_collection(name).config.metadata


def test_an_alias_that_was_pointed_elsewhere_is_noticed(
    filled: Any, open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
) -> None:
    def pointing(collection: str) -> list[Any]:
        alias = f"{name}-alias"
        delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        create = models.CreateAlias(collection_name=collection, alias_name=alias)
        return [delete, models.CreateAliasOperation(create_alias=create)]

    filled.update_collection_aliases(pointing(name))
    assert len(filled.scroll(f"{name}-alias")[0]) == 1
    other = open_client(replace(svd_codec, embedder="other"))
    other.create_collection(f"{name}-other")
    filled.update_collection_aliases(pointing(f"{name}-other"))
    with pytest.raises(CodecMismatchError, match="got a collection filled by codec"):
        filled.scroll(f"{name}-alias")
    filled.update_collection_aliases(pointing(name))
    filled.scroll(f"{name}-alias")
    # Someone else's switch is seen when what was read has become old.
    filled.wrapped.update_collection_aliases(pointing(f"{name}-other"))
    old = {key: proof._replace(read=proof.read - SEARCH_SECONDS) for key, proof in filled._flows._proofs.items()}
    filled._flows._proofs.update(old)
    with pytest.raises(CodecMismatchError, match="got a collection filled by codec"):
        filled.scroll(f"{name}-alias")


@pytest.mark.parametrize("record", [5, True, "codec", [], [{}], {}, {"codec_id": 5}, {"vectors": {"": None}}], ids=str)
def test_a_record_that_somebody_else_wrote_is_no_record(svd_codec: LinearCodec, sample: Any, record: Any) -> None:
    client = QdrantClient(":memory:")
    filled = CompressedQdrantClient(client, svd_codec)
    filled.create_collection("docs")
    filled.upsert("docs", [point(sample)])
    client.update_collection("docs", metadata={METADATA_KEY: record})
    for writer in (filled, CompressedQdrantClient(client, svd_codec)):
        with pytest.raises(CodecMismatchError, match="expected the record of a codec in its metadata 'vaecodec', got"):
            writer.upsert("docs", [point(sample, 1)])
    assert client.count("docs").count == 1


class TestArguments:
    @pytest.mark.parametrize("given", [5, "codec.onnx", {"": "codec.onnx"}], ids=str)
    def test_what_is_no_codec_is_named(self, open_client: Open, name: str, given: Any) -> None:
        with pytest.raises(
            UnsupportedRequestError, match=r"expected a codec or None for vector '', got a (int|str); load"
        ):
            open_client(
                given if not isinstance(given, dict) else None, codecs=given if isinstance(given, dict) else None
            )
        client = open_client(codecs=lambda _: given)
        with pytest.raises(UnsupportedRequestError, match="expected a codec or None for vector ''"):
            client.create_collection(name)

    def test_a_codec_is_needed(self, open_client: Open) -> None:
        with pytest.raises(
            UnsupportedRequestError, match=r"^codec: expected a codec, or codecs by vector name, got none$"
        ):
            open_client()

    def test_one_codec_per_vector(self, open_client: Open, svd_codec: LinearCodec) -> None:
        with pytest.raises(UnsupportedRequestError, match="expected one codec for the unnamed vector, got two"):
            open_client(svd_codec, codecs={"": svd_codec})

    @pytest.mark.parametrize(("originals", "rerank"), [(None, 4), ("disk", 0)])
    def test_reranking_needs_originals(
        self, open_client: Open, svd_codec: LinearCodec, originals: Any, rerank: int
    ) -> None:
        with pytest.raises(UnsupportedRequestError, match=r"^rerank: expected at least 1, and originals"):
            open_client(svd_codec, originals=originals, rerank=rerank)

    def test_unknown_places_of_originals(self, open_client: Open, svd_codec: LinearCodec) -> None:
        with pytest.raises(UnsupportedRequestError, match="got 'memory'"):
            open_client(svd_codec, originals="memory")

    def test_a_file_of_another_width(self, open_client: Open, svd_codec: LinearCodec, tmp_path: Any) -> None:
        with (
            OriginalsFile(tmp_path / "o", 7) as file,
            pytest.raises(OriginalsError, match="expected vectors of width 384, got width 7"),
        ):
            open_client(svd_codec, originals=file)

    def test_a_file_holds_one_vector_per_point(self, open_client: Open, svd_codec: LinearCodec, tmp_path: Any) -> None:
        with (
            OriginalsFile(tmp_path / "o", 384) as file,
            pytest.raises(UnsupportedRequestError, match="expected one codec beside a file of originals"),
        ):
            open_client(codecs={"a": svd_codec, "b": svd_codec}, originals=file)

    def test_calibration_needs_an_artifact_that_has_one(self, open_client: Open, svd_codec: LinearCodec) -> None:
        with pytest.raises(NotCalibratedError, match="expected a codec file with a calibration of scores for 64 dim"):
            open_client(svd_codec, calibrate=True)
