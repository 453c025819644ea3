"""Test that an open client never writes with a codec that no longer belongs to the collection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from tests.integrations.qdrant.rest_server import RestServer

from vaecodec import LinearCodec, fit_linear
from vaecodec.errors import CodecMismatchError
from vaecodec_integrations.qdrant import AsyncCompressedQdrantClient, CompressedQdrantClient
from vaecodec_integrations.qdrant.flows.base import CALLER_SECONDS

Open = Callable[..., Any]
REFUSED = "got a collection filled by codec"


def pointing(alias: str, collection: str) -> list[Any]:
    create = models.CreateAlias(collection_name=collection, alias_name=alias)
    return [models.CreateAliasOperation(create_alias=create)]


def writes(client: Any, name: str, sample: Any) -> dict[str, Callable[[], Any]]:
    """Return one call of each method that writes vectors."""
    raw = sample.base[1].tolist()
    point = models.PointStruct(id=1, vector=raw)
    vectors = [models.PointVectors(id=0, vector=raw)]
    update = models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=vectors))
    return {
        "upsert": lambda: client.upsert(name, [point]),
        "batch": lambda: client.upsert(name, models.Batch(ids=[1], vectors=[raw])),
        "upload_points": lambda: client.upload_points(name, [point], max_retries=1),
        "upload_collection": lambda: client.upload_collection(name, sample.base[1:3], max_retries=1),
        "update_vectors": lambda: client.update_vectors(name, vectors),
        "batch_update_points": lambda: client.batch_update_points(name, [update]),
        "delete_vectors": lambda: client.delete_vectors(name, [""], points=[0]),
    }


pytestmark = pytest.mark.filterwarnings("ignore:`recreate_collection` method is deprecated:DeprecationWarning")


@pytest.fixture
def other_codec(svd_codec: LinearCodec) -> LinearCodec:
    """Make a codec of the same width and metric, so that the server would take its latents."""
    return replace(svd_codec, components=svd_codec.components[::-1].copy())


@pytest.fixture
def live(open_client: Open, svd_codec: LinearCodec, other_codec: LinearCodec, sample: Any, name: str) -> Any:
    """Open a client that uses the alias ``{name}-live`` of its own collection, beside one of another codec."""
    client = open_client(svd_codec)
    for codec, collection in ((svd_codec, name), (other_codec, f"{name}-other")):
        opened = open_client(codec)
        opened.create_collection(collection)
        opened.upsert(collection, [models.PointStruct(id=0, vector=sample.base[0].tolist())])
    client.update_collection_aliases(pointing(f"{name}-live", name))
    client.query_points(f"{name}-live", sample.base[0])
    return client


def contents(client: Any, collection: str) -> dict[Any, list[float]]:
    records, _ = client.wrapped.scroll(collection, with_vectors=True)
    return {record.id: record.vector for record in records}


def test_no_write_follows_an_alias_to_another_codec(live: Any, sample: Any, name: str) -> None:
    alias, before = f"{name}-live", contents(live, f"{name}-other")
    for way, write in writes(live, alias, sample).items():
        live.wrapped.update_collection_aliases(pointing(alias, name))
        live.upsert(alias, [models.PointStruct(id=0, vector=sample.base[0].tolist())])
        live.wrapped.update_collection_aliases(pointing(alias, f"{name}-other"))
        with pytest.raises(CodecMismatchError, match=REFUSED):
            write()
        assert contents(live, f"{name}-other") == before, way
        # What a write has found out, searches know as well.
        with pytest.raises(CodecMismatchError, match=REFUSED):
            live.query_points(alias, sample.base[0])


def test_no_write_goes_to_a_collection_that_was_made_again(
    live: Any, other_codec: LinearCodec, sample: Any, name: str
) -> None:
    stranger = CompressedQdrantClient(QdrantClient(":memory:"), other_codec)
    stranger.create_collection("like this")
    made = stranger.wrapped.get_collection("like this").config
    for way, write in writes(live, name, sample).items():
        live.wrapped.delete_collection(name)
        live.wrapped.create_collection(name, made.params.vectors, metadata=made.metadata)
        with pytest.raises(CodecMismatchError, match=REFUSED):
            write()
        assert live.count(name).count == 0, way


def test_an_upload_ends_where_the_alias_moves(
    rest_server: RestServer, svd_codec: LinearCodec, other_codec: LinearCodec, sample: Any
) -> None:
    client = CompressedQdrantClient(QdrantClient(url=rest_server.url, check_compatibility=False), svd_codec)
    other = CompressedQdrantClient(client.wrapped, other_codec)
    client.create_collection("one")
    other.create_collection("two")
    client.update_collection_aliases(pointing("live", "one"))

    def points() -> Iterator[models.PointStruct]:
        for row in range(30):
            if row == 20:
                # By somebody else, without this process knowing.
                rest_server.local.update_collection_aliases(pointing("live", "two"))
                time.sleep(2 * CALLER_SECONDS)
            yield models.PointStruct(id=row, vector=sample.base[row].tolist())

    with pytest.raises(CodecMismatchError, match=REFUSED):
        client.upload_points("live", points(), batch_size=10)
    assert (client.count("one").count, other.count("two").count) == (20, 0)
    client.close()


def test_an_upload_goes_on_where_the_alias_moves_to_a_collection_of_its_codec(
    rest_server: RestServer, svd_codec: LinearCodec, sample: Any
) -> None:
    client = CompressedQdrantClient(QdrantClient(url=rest_server.url, check_compatibility=False), svd_codec)
    for collection in ("one", "two"):
        client.create_collection(collection)
    client.update_collection_aliases(pointing("live", "one"))

    def rows() -> Iterator[np.ndarray]:
        for number, row in enumerate(sample.base[:30]):
            if number == 20:
                client.update_collection_aliases(pointing("live", "two"))
            yield row

    client.upload_collection("live", rows(), ids=range(30), batch_size=10)
    assert [record.id for record in client.scroll("two", limit=50)[0]] == list(range(20, 30))
    assert client.count("one").count == 20
    client.close()


def test_what_one_client_changes_all_of_the_process_notice(
    svd_codec: LinearCodec, other_codec: LinearCodec, sample: Any
) -> None:
    """Refuse at once, not after some seconds: the next search already reads the collection again."""
    source = CompressedQdrantClient(QdrantClient(":memory:"), other_codec)
    target = CompressedQdrantClient(QdrantClient(":memory:"), svd_codec)
    for client in (source, target):
        client.create_collection("docs")
        client.upload_collection("docs", sample.base[:20], ids=range(20))
        client.query_points("docs", sample.base[0])
    source.migrate(target, recreate_on_collision=True)
    for call in (lambda: target.query_points("docs", sample.base[0]), *writes(target, "docs", sample).values()):
        # A client before 1.20 copies no metadata.
        with pytest.raises(CodecMismatchError, match=f"{REFUSED}|got points but no id"):
            call()
    moved = CompressedQdrantClient(target.wrapped, other_codec, trust=True)
    assert moved.query_points("docs", sample.base[3], limit=1).points[0].id == 3

    again = CompressedQdrantClient(target.wrapped, svd_codec)
    moved.delete_collection("docs")
    again.create_collection("docs")
    for client in (moved, again):
        client.close()


def test_a_recovered_snapshot_is_read_again(rest_server: RestServer, svd_codec: LinearCodec, sample: Any) -> None:
    """Restore whatever the server does with it; the stand-in does not know snapshots."""
    client = CompressedQdrantClient(QdrantClient(url=rest_server.url, check_compatibility=False), svd_codec)
    client.create_collection("docs")
    for before in (0, 1):
        client.query_points("docs", sample.base[0])
        assert rest_server.requests.count(("GET", "/collections/docs")) == 1 + before
        client.query_points("docs", sample.base[0])
        assert rest_server.requests.count(("GET", "/collections/docs")) == 1 + before
        if not before:
            with pytest.raises(Exception, match=r"unexpected PUT|points/recover|snapshots"):
                client.recover_snapshot("docs", "http://127.0.0.1:1/docs.snapshot")
    client.close()


def test_each_write_is_proven_by_one_request(rest_server: RestServer, svd_codec: LinearCodec, sample: Any) -> None:
    client = CompressedQdrantClient(QdrantClient(url=rest_server.url, check_compatibility=False), svd_codec)
    client.create_collection("docs")
    rest_server.requests.clear()
    for row in range(3):
        client.upsert("docs", [models.PointStruct(id=row, vector=sample.base[row].tolist())])
    read, written = ("GET", "/collections/docs"), ("PUT", "/collections/docs/points")
    sent = rest_server.requests
    assert sent.count(written) == 3
    assert all(sent[number - 1] == read for number, request in enumerate(sent) if request == written)
    client.close()


def test_an_async_client_proves_its_writes_as_well(
    rest_server: RestServer, svd_codec: LinearCodec, other_codec: LinearCodec, sample: Any
) -> None:
    async def run() -> None:
        raw = AsyncQdrantClient(url=rest_server.url, check_compatibility=False)
        client, other = (AsyncCompressedQdrantClient(raw, codec) for codec in (svd_codec, other_codec))
        await client.create_collection("one")
        await other.create_collection("two")
        await client.update_collection_aliases(pointing("live", "one"))
        point = models.PointStruct(id=1, vector=sample.base[0].tolist())
        await client.upsert("live", [point])
        rest_server.local.update_collection_aliases(pointing("live", "two"))
        with pytest.raises(CodecMismatchError, match=REFUSED):
            await client.upsert("live", [point])
        with pytest.raises(CodecMismatchError, match=REFUSED):
            client.upload_collection("live", sample.base[:3], ids=[1, 2, 3])
        assert (await other.count("two")).count == 0
        await raw.close()

    asyncio.run(run())


def test_an_empty_collection_is_adopted_by_a_write_not_by_a_search(
    open_client: Open, svd_codec: LinearCodec, sample: Any, name: str
) -> None:
    client = open_client(svd_codec)
    client.wrapped.create_collection(name, models.VectorParams(size=64, distance=models.Distance.COSINE))
    assert client.query_points(name, sample.base[0]).points == []
    assert not client.wrapped.get_collection(name).config.metadata
    client.upsert(name, [models.PointStruct(id=1, vector=sample.base[0].tolist())])
    assert client.wrapped.get_collection(name).config.metadata["vaecodec"]["codec_id"] == svd_codec.codec_id


def test_a_search_that_began_before_a_change_does_not_hide_it(svd_codec: LinearCodec, sample: Any) -> None:
    """Use two threads: what was read before the other one's change is not kept after it."""
    raw = QdrantClient(":memory:")
    client, other = CompressedQdrantClient(raw, svd_codec), CompressedQdrantClient(raw, fit_linear(sample.train, 32))
    client.create_collection("docs")
    flow = client._flows.layout("docs")
    call = next(flow)
    answer = getattr(raw, call.method)(**call.arguments)
    other.recreate_collection("docs")
    with pytest.raises(StopIteration):
        flow.send(answer)
    with pytest.raises(CodecMismatchError, match="expected vectors of size 64, got size 32|" + REFUSED):
        client.query_points("docs", sample.base[0])
