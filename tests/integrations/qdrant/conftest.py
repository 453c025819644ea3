"""Provide real Qdrant clients of every kind that can run here, through one synchronous interface."""

from __future__ import annotations

import asyncio
import inspect
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient
from tests.integrations.qdrant.rest_server import RestServer

from vaecodec_integrations.qdrant import AsyncCompressedQdrantClient, CompressedQdrantClient

KINDS = ["memory", "path", "async", "rest", "server"]


class Awaited:
    """Run the coroutines of an async client to their end, so that one suite covers both kinds."""

    def __init__(self, client: Any, runner: asyncio.Runner) -> None:
        self._client, self._runner = client, runner

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if name == "wrapped":
            return Awaited(attribute, self._runner)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            result = attribute(*args, **kwargs)
            return self._runner.run(result) if inspect.iscoroutine(result) else result

        return call


@pytest.fixture
def rest_server() -> Iterator[RestServer]:
    """Yield a stand-in for a server that answers REST requests."""
    server = RestServer()
    yield server
    server.close()


@pytest.fixture(params=KINDS)
def open_client(request: pytest.FixtureRequest, fast_path: Path) -> Iterator[Callable[..., Any]]:
    """Yield a function that opens compressed clients over one storage: ``open_client(codec, **settings)``."""
    if request.param == "server":
        url = os.environ.get("QDRANT_URL")
        if not url:
            pytest.skip("QDRANT_URL is not set: no Qdrant server to test against")
        # Warnings are errors here, and the client warns of servers of other versions than its own.
        grpc = bool(os.environ.get("QDRANT_GRPC"))
        raw: Any = QdrantClient(url=url, prefer_grpc=grpc, check_compatibility=False)
    elif request.param == "async":
        raw = AsyncQdrantClient(":memory:")
    elif request.param == "rest":
        served = request.getfixturevalue("rest_server")
        raw = QdrantClient(url=served.url, check_compatibility=False)
    else:
        raw = QdrantClient(":memory:") if request.param == "memory" else QdrantClient(path=str(fast_path / "qdrant"))

    with asyncio.Runner() as runner:

        def open_it(*args: Any, **kwargs: Any) -> Any:
            if isinstance(raw, AsyncQdrantClient):
                return Awaited(AsyncCompressedQdrantClient(raw, *args, **kwargs), runner)
            return CompressedQdrantClient(raw, *args, **kwargs)

        yield open_it
        if isinstance(raw, AsyncQdrantClient):
            runner.run(raw.close())
            return
    if request.param == "server":
        for collection in raw.get_collections().collections:
            if collection.name.startswith("vaecodec-test-"):
                raw.delete_collection(collection.name)
    raw.close()


@pytest.fixture
def name() -> str:
    """Return a collection name that no other test uses."""
    return f"vaecodec-test-{uuid.uuid4().hex[:12]}"
