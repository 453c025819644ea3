"""Test that what a server is too old for is refused before it is asked, with the version that has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from tests.integrations.qdrant.rest_server import RestServer

from vaecodec import LinearCodec
from vaecodec.errors import UnsupportedRequestError
from vaecodec_integrations.qdrant import (
    AsyncCompressedQdrantClient,
    CompressedQdrantClient,
    recommended_config,
)
from vaecodec_integrations.qdrant.migration import Migration, migrate
from vaecodec_integrations.qdrant.versions import FIRST_VERSIONS, check_version, features

TURBO = models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS2))
EIGHT = getattr(models.TurboQuantBitSize, "BITS8", None)


def params(**options: Any) -> models.VectorParams:
    return models.VectorParams(size=384, distance=models.Distance.COSINE, **options)


def dense(**options: Any) -> models.DenseVectorNameConfig:
    return models.DenseVectorNameConfig(
        dense=models.DenseVectorConfig(size=384, distance=models.Distance.COSINE, **options)
    )


CALLS: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "datatype turbo4": ("1.18.3", "1.19", lambda c: c.create_collection("new", params(datatype="turbo4"))),
    "datatype of a name": (
        "1.18.3",
        "1.19",
        lambda c: c.create_collection("new", {"title": params(datatype="turbo4")}),
    ),
    "TurboQuant codes (quantization_config)": (
        "1.17.1",
        "1.18",
        lambda c: c.create_collection("new", params(), quantization_config=TURBO),
    ),
    "TurboQuant codes (quantization_config) of a vector": (
        "1.17.1",
        "1.18",
        lambda c: c.update_collection("docs", vectors_config={"": models.VectorParamsDiff(quantization_config=TURBO)}),
    ),
    "create_vector_name": ("1.17.1", "1.18", lambda c: c.create_vector_name("docs", "late", dense())),
    "create_vector_name of a codec": ("1.17.1", "1.18", lambda c: c.create_vector_name("docs", "title", dense())),
}


@pytest.fixture
def codecs(svd_codec: LinearCodec) -> dict[str, LinearCodec]:
    return {"": svd_codec, "title": svd_codec}


@pytest.fixture
def client(rest_server: RestServer, codecs: dict[str, LinearCodec]) -> Any:
    client = CompressedQdrantClient(QdrantClient(url=rest_server.url, check_compatibility=False), codecs=codecs)
    client.create_collection("docs", params())
    yield client
    client.close()


def changes(server: RestServer) -> list[tuple[str, str]]:
    reading = ("/points/count", "/points/scroll", "/points/query")
    return [(method, path) for method, path in server.requests if method != "GET" and not path.endswith(reading)]


@pytest.mark.parametrize(("version", "needed", "call"), CALLS.values(), ids=list(CALLS))
def test_a_server_that_is_too_old_is_asked_for_nothing(
    rest_server: RestServer, client: Any, version: str, needed: str, call: Callable[[Any], Any]
) -> None:
    rest_server.version, before = version, changes(rest_server)
    message = rf"expected a Qdrant server of version {needed} or later, got {version}; upgrade the server"
    with pytest.raises(UnsupportedRequestError, match=message):
        call(client)
    assert changes(rest_server) == before


async def test_the_async_client_looks_as_well(rest_server: RestServer, codecs: dict[str, LinearCodec]) -> None:
    rest_server.version = "1.18.3"
    client = AsyncCompressedQdrantClient(
        AsyncQdrantClient(url=rest_server.url, check_compatibility=False), codecs=codecs
    )
    with pytest.raises(UnsupportedRequestError, match=r"^datatype turbo4: expected a Qdrant server of version 1\.19"):
        await client.create_collection("new", params(datatype="turbo4"))
    await client.close()


def test_the_version_is_asked_for_only_where_something_depends_on_it(rest_server: RestServer, client: Any) -> None:
    client.create_collection("plain", params(datatype="float16"))
    client.upsert("plain", [models.PointStruct(id=1, vector=[1.0] * 384)])
    assert ("GET", "/") not in rest_server.requests
    client.create_collection("small", params(datatype="turbo4"))
    assert ("GET", "/") in rest_server.requests


@pytest.mark.parametrize("datatype", ["turbo4", "turbo8", "turbo16"])
def test_every_compact_datatype_needs_the_same_version(datatype: str) -> None:
    feature = f"datatype {datatype}"
    with pytest.raises(UnsupportedRequestError, match=rf"^{feature}: .* of version 1\.19 or later, got 1\.18\.3"):
        check_version("1.18.3", [feature])
    check_version("1.19.0", [feature])


@pytest.mark.skipif(EIGHT is None, reason="this qdrant-client does not know 8 bits")
def test_codes_of_8_bits_are_newer_than_the_others(svd_codec: LinearCodec) -> None:
    wanted = recommended_config(svd_codec, bytes=64)
    (feature,) = features([wanted["vectors_config"]], wanted["quantization_config"])
    with pytest.raises(UnsupportedRequestError, match=r"of 8 bits .* of version 1\.20 or later, got 1\.19\.2"):
        check_version("1.19.2", [feature])
    check_version("1.19.2", features([params(quantization_config=TURBO)]))


def test_a_build_of_developers_is_taken_to_know_everything() -> None:
    check_version("dev", FIRST_VERSIONS)


@pytest.mark.parametrize(
    ("version", "arguments", "message"),
    [
        ("1.17.1", {"named": "small"}, r"^create_vector_name: expected a Qdrant server of version 1\.18 or later"),
        ("1.17.1", {"into": "copy", "code_bytes": 16}, r"^TurboQuant codes .* of version 1\.18 or later, got 1\.17\.1"),
        ("1.15.0", {"into": "copy"}, r"^collection metadata: expected a Qdrant server of version 1\.16 or later"),
    ],
)
def test_a_migration_that_the_server_is_too_old_for_changes_nothing(
    rest_server: RestServer, svd_codec: LinearCodec, tmp_path: Path, version: str, arguments: Any, message: str
) -> None:
    rest_server.local.create_collection("source", params())
    rest_server.local.upsert("source", [models.PointStruct(id=1, vector=[1.0] * 384)])
    rest_server.version = version
    raw = QdrantClient(url=rest_server.url, check_compatibility=False)
    with pytest.raises(UnsupportedRequestError, match=message):
        migrate(Migration(raw, "source", svd_codec, tmp_path / "state.json", **arguments))
    assert changes(rest_server) == []
    assert list(tmp_path.iterdir()) == []
    raw.close()
