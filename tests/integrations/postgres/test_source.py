"""Test that vectors of a table are read as any other source, and compressed by the command that ``compress`` prints."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pgvector import Vector

from vaecodec import Codec
from vaecodec.codes import CodeType
from vaecodec.errors import (
    AmbiguousColumnError,
    MalformedSourceError,
    MissingColumnError,
    SourceNotFoundError,
    StoreError,
    UnknownSourceError,
)
from vaecodec.sources import open_source
from vaecodec_cli.main import main
from vaecodec_integrations.plan import Goal, plan
from vaecodec_integrations.plan.candidates import Setting
from vaecodec_integrations.plan.stores import STORES, StoreName, Use
from vaecodec_integrations.postgres.source import TableAddress, open_address

ROWS = 30


@pytest.fixture
def address(server: str, schema: str, connection: Any, base: np.ndarray) -> str:
    """Make a table whose key is not called id, with rows in another order than their keys, and one without a vector."""
    connection.execute("CREATE TABLE docs (number bigint PRIMARY KEY, embedding vector(384), small halfvec(4))")
    with connection.cursor() as cursor:
        rows = [(row, Vector(base[row]).to_text(), f"[{row},1,0,0]") for row in reversed(range(ROWS))]
        cursor.executemany("INSERT INTO docs VALUES (%s, %s, %s)", rows)
    connection.execute("INSERT INTO docs (number) VALUES (99)")
    joint = "&" if "?" in server else "?"
    return f"{server}{joint}table={schema}.docs"


def test_a_column_is_read_in_the_order_of_its_key(address: str, base: np.ndarray) -> None:
    source = open_address(address, column="embedding")
    assert (source.dim, source.rows, source.key, source.column) == (384, None, "number", "embedding")
    blocks = list(source.blocks(7))
    assert [len(block) for block in blocks] == [7, 7, 7, 7, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), base[:ROWS])
    (small,) = open_address(address, column="small").blocks()
    assert small.dtype == np.float16
    np.testing.assert_array_equal(small[:, 0], np.arange(ROWS))


def test_ids_are_those_of_a_column_or_the_key(address: str) -> None:
    source = open_address(address, column="embedding")
    assert list(source.ids(["document_id", "id"])) == list(range(ROWS))  # the key, which has another name
    assert list(source.ids(["number"])) == list(range(ROWS))


def test_a_column_without_a_fixed_width_is_read_where_all_are_as_wide_as_the_first(
    connection: Any, server: str, schema: str
) -> None:
    connection.execute("CREATE TABLE loose (embedding vector)")
    connection.execute("INSERT INTO loose VALUES ('[1,2,3]'), ('[4,5,6]')")
    address = f"{server}{'&' if '?' in server else '?'}table={schema}.loose"
    source = open_source(address)
    assert (source.dim, np.concatenate(list(source.blocks())).tolist()) == (3, [[1, 2, 3], [4, 5, 6]])
    connection.execute("INSERT INTO loose VALUES ('[1,2]')")
    with pytest.raises(
        MalformedSourceError, match="column 'embedding': expected vectors of width 3 in every row, got 2"
    ):
        list(source.blocks())
    connection.execute("DELETE FROM loose")
    with pytest.raises(SourceNotFoundError, match="no row has a vector in 'embedding'"):
        open_source(address)


def test_what_is_not_there_is_named(address: str, server: str) -> None:
    with pytest.raises(AmbiguousColumnError, match="several columns hold vectors: embedding, small"):
        open_source(address)
    with pytest.raises(MissingColumnError, match="has no column 'title'"):
        open_source(f"{address}#title")
    with pytest.raises(MalformedSourceError, match="expected the column 'number' to be a vector or halfvec, got int8"):
        open_source(f"{address}#number")
    with pytest.raises(SourceNotFoundError, match=r"no table 'none\.docs'"):
        open_source(f"{server}{'&' if '?' in server else '?'}table=none.docs")
    with pytest.raises(UnknownSourceError, match=r"expected the table in the address, postgresql://HOST/DATABASE\?tab"):
        open_source(server)
    with pytest.raises(StoreError, match="the PostgreSQL server does not answer, or refuses"):
        open_source("postgresql://127.0.0.1:1/app?table=docs")


def test_an_address_is_the_servers_with_the_table() -> None:
    found = TableAddress.parse("postgresql://me@db:5433/app?sslmode=require&table=app.docs")
    assert found == ("postgresql://me@db:5433/app?sslmode=require", "app.docs")


@pytest.mark.parametrize(("dtype", "kind"), [(CodeType.FLOAT32, "vector"), (CodeType.FLOAT16, "halfvec")])
def test_a_table_is_migrated_by_the_next_command(
    address: str, connection: Any, base: np.ndarray, svd_path: Path, dtype: CodeType, kind: str
) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install 'vaecodec[train]'")
    from vaecodec_integrations.compress import CompressionData, next_command

    data = CompressionData(documents=f"{address}#embedding")
    command = next_command(
        data, Setting("svd64.onnx", str(svd_path), 64, 384, 32, dtype, 64), svd_path, StoreName.PGVECTOR
    )
    assert command.startswith("vaecodec migrate-pg --url ")
    with pytest.raises(SystemExit, match="0"):
        main(shlex.split(command)[1:])
    found = connection.execute(
        "SELECT pg_typeof(embedding_compressed)::text, embedding_compressed::real[] FROM docs WHERE number = 7"
    ).fetchone()
    assert found[0] == kind
    np.testing.assert_allclose(found[1], Codec.load(svd_path, dim=32).encode(base[7:8])[0], atol=1e-3)


def test_a_plan_for_pgvector_counts_what_its_index_takes_and_prints_what_can_be_typed(
    connection: Any, server: str, schema: str, sample: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    monkeypatch.chdir(tmp_path)
    base = sample.base[:400, :96]
    np.save("docs.npy", base)
    goal = Goal(recall=0.6, rerank=2, vectors=400, stores=(StoreName.PGVECTOR,))
    found = plan(open_source("docs.npy"), goal)
    (answer,) = found.answers
    assert answer.met
    assert answer.setting.dtype in (CodeType.FLOAT32, CodeType.FLOAT16)
    shell, _, code = answer.instructions.partition("\n\n")
    with pytest.raises(SystemExit, match="0"):
        main(shell.removeprefix("$ vaecodec ").split())
    place = f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{schema},public"
    names: dict[str, Any] = {"embeddings": base, "query": base[0]}
    exec(code.replace("postgresql://localhost/app", place), names)
    assert names["hits"][0].key == 0
    assert len(names["hits"]) == 10


@pytest.mark.parametrize(("dtype", "kind"), [(CodeType.FLOAT32, "vector"), (CodeType.FLOAT16, "halfvec")])
@pytest.mark.parametrize("width", [64, 384])
def test_the_index_is_as_large_as_planned(connection: Any, sample: Any, dtype: CodeType, kind: str, width: int) -> None:
    rows = 1_000
    connection.execute(f"CREATE TABLE x (id bigint PRIMARY KEY, e {kind}({width}))")
    with connection.cursor().copy("COPY x FROM STDIN") as copy:
        for row, vector in enumerate(sample.base[:rows, :width]):
            copy.write_row((row, Vector(vector).to_text()))
    connection.execute(f"CREATE INDEX sized ON x USING hnsw (e {kind}_cosine_ops)")
    (measured,) = connection.execute("SELECT pg_relation_size('sized')").fetchone()
    store = next(store for store in STORES if store.name is StoreName.PGVECTOR)
    size = width * (4 if dtype is CodeType.FLOAT32 else 2)
    setting = Setting("svd", None, width, 384, width, dtype, size)
    assert store.holds(setting)
    assert measured / rows == pytest.approx(store.ram(setting), rel=0.06)
    assert not store.holds(Setting("svd", None, 4_001, 5_000, 4_001, dtype, size))
    assert "rerank" not in store.instructions(setting, Use("docs.npy", None, rows, 10, 1))  # type: ignore[arg-type]
