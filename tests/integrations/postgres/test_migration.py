"""Test the migration of a column on a real server, with writers beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector import Vector
from pgvector.psycopg import register_vector

from vaecodec import Codec, fit_linear
from vaecodec.calibration import CodecCalibration
from vaecodec.errors import CodecMismatchError, MigrationError
from vaecodec.evaluation import exact_search
from vaecodec.interface import Metric
from vaecodec_cli.main import main
from vaecodec_exporters.linear import export_linear
from vaecodec_integrations.postgres.column import CompressedColumn
from vaecodec_integrations.postgres.migration import (
    ColumnMigration,
    migrate_column,
    search_both,
    switch,
    switch_back,
)
from vaecodec_integrations.reranking import OriginalsColumn


def interrupt(_: int, total: int) -> None:
    """End a migration between two batches."""
    raise KeyboardInterrupt("between two batches")


@pytest.fixture(params=["vector", "halfvec"])
def table(connection: Any, base: np.ndarray, request: pytest.FixtureRequest) -> str:
    """Make a table of 300 uncompressed vectors."""
    register_vector(connection)
    connection.execute(f"CREATE TABLE docs (id bigint PRIMARY KEY, embedding {request.param}(384))")
    insert(connection, range(300), base[:300])
    return "docs"


def insert(connection: Any, ids: Any, vectors: np.ndarray) -> None:
    with connection.cursor() as cursor:
        rows = [(row, Vector(vector).to_text()) for row, vector in zip(ids, vectors, strict=True)]
        cursor.executemany("INSERT INTO docs (id, embedding) VALUES (%s, %s)", rows)


def migration_of(codec: Codec, **column: Any) -> ColumnMigration:
    return ColumnMigration(CompressedColumn(codec, "docs", "embedding_vae", **column), "embedding")


def column_names(connection: Any) -> set[str]:
    cursor = connection.execute("SELECT * FROM docs LIMIT 0")
    return {column.name for column in cursor.description}


def stored(connection: Any, column: CompressedColumn) -> dict[int, np.ndarray]:
    rows = connection.execute("SELECT id, embedding_vae FROM docs WHERE embedding_vae IS NOT NULL").fetchall()
    return dict(zip([row[0] for row in rows], column.vectors([row[1] for row in rows]), strict=True))


def test_every_row_is_filled_and_the_source_is_as_it_was(connection, table, base, vae_codec: Codec) -> None:
    before = connection.execute("SELECT id, embedding::text FROM docs ORDER BY id").fetchall()
    migration = migration_of(vae_codec, originals=OriginalsColumn("original"))
    seen: list[tuple[int, int]] = []
    result = migrate_column(connection, migration, batch_rows=70, advance=lambda *each: seen.append(each))
    assert (result.filled, result.left, result.bad_keys) == (300, 0, ())
    assert seen == [(done, 300) for done in (70, 140, 210, 280, 300)]
    expected = vae_codec.decode(vae_codec.encode(base[:300]))
    found = stored(connection, migration.target)
    np.testing.assert_allclose(np.stack([found[row] for row in range(300)]), expected, atol=2e-2)
    assert result.recall is not None
    assert 0.5 < result.recall.mean <= 1
    assert connection.execute("SELECT id, embedding::text FROM docs ORDER BY id").fetchall() == before
    assert connection.execute("SELECT count(*) FROM docs WHERE original IS NULL").fetchone() == (0,)


def test_vectors_that_are_too_wide_for_an_index_get_one_as_latents(connection: Any, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 2_100)).astype(np.float32)
    export_linear(fit_linear(rows, 16), tmp_path / "codec.onnx")
    register_vector(connection)
    connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, embedding vector(2100))")
    insert(connection, range(60), rows)
    index = "CREATE INDEX ON docs USING hnsw ({} {})"
    with pytest.raises(psycopg.Error, match="cannot have more than 2000 dimensions"):
        connection.execute(index.format("embedding", "vector_cosine_ops"))
    migration = migration_of(Codec.load(tmp_path / "codec.onnx"))
    assert migrate_column(connection, migration).filled == 60
    connection.execute(index.format("embedding_vae", migration.target.operator_class))
    assert migration.target.search(connection, rows[7], 1)[0].key == 7


def test_an_interrupted_migration_goes_on_where_it_stopped(connection, table, vae_codec: Codec) -> None:
    migration = migration_of(vae_codec)

    with pytest.raises(KeyboardInterrupt, match="between two batches"):
        migrate_column(connection, migration, batch_rows=100, advance=interrupt)
    result = migrate_column(connection, migration, batch_rows=100)
    assert (result.filled, result.left) == (200, 0)


def test_what_is_written_meanwhile_is_never_stale(connection, table, base, vae_codec: Codec) -> None:
    migration = migration_of(vae_codec)
    changed = Vector(base[500]).to_text()

    def write(_: int, total: int) -> None:  # the application, between two batches
        connection.execute("UPDATE docs SET embedding = %s WHERE id = 5", (changed,))
        connection.execute("INSERT INTO docs VALUES (900, %s) ON CONFLICT DO NOTHING", (changed,))
        connection.execute("DELETE FROM docs WHERE id = 250")

    migrate_column(connection, migration, batch_rows=100, advance=write)
    result = migrate_column(connection, migration)
    assert result.left == 0
    found = stored(connection, migration.target)
    assert set(found) == {*range(300), 900} - {250}
    expected = vae_codec.decode(vae_codec.encode(base[500:501]))[0]
    np.testing.assert_allclose(found[5], expected, atol=2e-2)
    np.testing.assert_allclose(found[900], expected, atol=2e-2)


def test_meanwhile_a_search_finds_filled_rows_and_the_others(connection, table, base, sample, vae_codec) -> None:
    migration = migration_of(vae_codec)

    with pytest.raises(KeyboardInterrupt, match="between two batches"):
        migrate_column(connection, migration, batch_rows=150, advance=interrupt)
    expected, _ = exact_search(base[:300], sample.queries[:30], 10, Metric.COSINE)
    found = [[hit.key for hit in search_both(connection, migration, query, 10)] for query in sample.queries[:30]]
    halves = [sum(key < 150 for key in keys) for keys in found]
    assert 60 < sum(halves) < 240
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(expected, found, strict=True)])
    whole, _ = exact_search(
        vae_codec.encode(base[:300]), vae_codec.encode_queries(sample.queries[:30]), 10, Metric.COSINE
    )
    latents = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(expected, whole, strict=True)])
    assert shared > latents - 0.05


def test_the_switch_exchanges_the_names_and_back(connection, table, sample, vae_codec: Codec) -> None:
    migration = migration_of(vae_codec)
    migrate_column(connection, migration)
    before = migration.target.search(connection, sample.queries[0], 5)
    switched = switch(connection, migration)
    switched.check(connection)
    assert switched.search(connection, sample.queries[0], 5) == before
    names = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'docs'"
    ).fetchall()
    assert {name for (name,) in names} >= {"id", "embedding", "embedding_uncompressed"}
    switch_back(connection, migration)
    migration.target.check(connection)
    assert connection.execute("SELECT vector_dims(embedding::vector) FROM docs LIMIT 1").fetchone() == (384,)


def test_no_switch_before_every_row_is_filled(connection, table, base, vae_codec: Codec) -> None:
    migration = migration_of(vae_codec)
    migrate_column(connection, migration)
    insert(connection, [999], base[:1])
    with pytest.raises(MigrationError, match="got 1 without; migrate again"):
        switch(connection, migration)
    assert migrate_column(connection, migration).filled == 1
    switch(connection, migration)


def test_no_way_back_once_rows_have_no_source(connection, table, base, vae_codec: Codec) -> None:
    migration = migration_of(vae_codec)
    migrate_column(connection, migration)
    column = switch(connection, migration)
    connection.execute("INSERT INTO docs (id, embedding) VALUES (999, %s)", (column.documents(base[:1])[0],))
    with pytest.raises(MigrationError, match="1 rows were written after the switch"):
        switch_back(connection, migration)


def test_a_bad_row_stops_or_is_skipped_and_named(connection, table, vae_codec: Codec) -> None:
    insert(connection, [700], np.zeros((1, 384), np.float32))
    with pytest.raises(MigrationError, match="the row with id 700"):
        migrate_column(connection, migration_of(vae_codec), batch_rows=1000)
    result = migrate_column(connection, migration_of(vae_codec), skip_bad_rows=True)
    assert (result.filled, result.left, result.bad_keys) == (300, 1, (700,))


def test_what_cannot_be_migrated_is_refused_before_the_table_changes(connection, table, vae_codec, other_codec) -> None:
    connection.execute("ALTER TABLE docs ADD COLUMN title text, ADD COLUMN code integer")
    target = CompressedColumn(vae_codec, "docs", "embedding_vae")
    for migration, message in (
        (ColumnMigration(target, "title"), r"docs\.title: expected a column of type vector\(384\).* got text"),
        (ColumnMigration(target, "missing"), "got no such column"),
        (ColumnMigration(target, "embedding", key="code"), "expected a column with a unique index"),
    ):
        with pytest.raises(MigrationError, match=message):
            migrate_column(connection, migration)
    names = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'docs'"
    ).fetchall()
    assert "embedding_vae" not in {name for (name,) in names}
    migrate_column(connection, migration_of(vae_codec))
    with pytest.raises(CodecMismatchError, match="open it with the codec that filled it"):
        migrate_column(connection, migration_of(other_codec))


def test_the_command_migrates_and_switches(server, schema, connection, table, vae_path, vae_codec, capsys) -> None:
    address = f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{schema},public"
    arguments = ["migrate-pg", "--url", address, "--table", "docs", "--column", "embedding", "--codec", str(vae_path)]
    main_command([*arguments, "--into", "small", "--storage", "halfvec", "--switch", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert (document["filled"], document["left"], document["bad_keys"]) == (300, 0, [])
    CompressedColumn(vae_codec, "docs", "embedding", storage="halfvec").check(connection)


@pytest.mark.parametrize("other", [False, True])
def test_the_command_keeps_codes_to_rerank_by(
    server, schema, connection, table, sample, vae_path, vae_codec, other_codec_path, other: bool
) -> None:
    address = f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{schema},public"
    arguments = ["migrate-pg", "--url", address, "--table", "docs", "--column", "embedding", "--codec", str(vae_path)]
    arguments += ["--into", "small", "--storage", "bit", "--originals", "codes", "--originals-bytes", "40"]
    main_command([*arguments, *(["--originals-codec", str(other_codec_path)] if other else [])])
    originals = OriginalsColumn("codes", Codec.load(other_codec_path) if other else vae_codec, 40)
    column = CompressedColumn(vae_codec, "docs", "small", storage="bit", originals=originals)
    assert connection.execute("SELECT DISTINCT octet_length(codes) FROM docs").fetchall() == [(40,)]
    rows = connection.execute("SELECT codes FROM docs ORDER BY id").fetchall()
    kept = originals.vectors([code for (code,) in rows], 384)
    expected, _ = exact_search(kept, sample.queries[:1], 5, Metric.COSINE)
    assert [hit.key for hit in column.search(connection, sample.queries[0], 5, rerank=60)] == expected[0].tolist()


def test_an_interrupted_migration_goes_on_with_the_same_originals_alone(
    server, schema, connection, table, vae_path, vae_codec, other_codec_path, capsys
) -> None:
    migration = migration_of(vae_codec, originals=OriginalsColumn("codes", vae_codec, 40))
    with pytest.raises(KeyboardInterrupt, match="between two batches"):
        migrate_column(connection, migration, batch_rows=100, advance=interrupt)
    statement = "SELECT id, embedding_vae::text, codes FROM docs ORDER BY id"
    before = connection.execute(statement).fetchall()
    address = f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{schema},public"
    asked = ["migrate-pg", "--url", address, "--table", "docs", "--column", "embedding", "--codec", str(vae_path)]
    asked += ["--into", "embedding_vae", "--originals", "codes"]
    for options in (
        [],
        ["--originals-bytes", "32"],
        ["--originals-bytes", "40", "--originals-codec", str(other_codec_path)],
    ):
        assert run_command([*asked, *options]) == 1
        assert "the column was filled with codes of 40 bytes by" in " ".join(capsys.readouterr().err.split())
        assert connection.execute(statement).fetchall() == before
    main_command([*asked, "--originals-bytes", "40", "--json"])
    assert json.loads(capsys.readouterr().out)["filled"] == 200
    assert connection.execute("SELECT DISTINCT octet_length(codes) FROM docs").fetchall() == [(40,)]


def test_a_changed_row_loses_its_original_after_a_run_without_originals_too(connection, table, base, vae_codec) -> None:
    migrate_column(connection, migration_of(vae_codec, originals=OriginalsColumn("original")), sample=0)
    migrate_column(connection, migration_of(vae_codec), sample=0)
    connection.execute("UPDATE docs SET embedding = %s WHERE id = 5", (Vector(base[500]).to_text(),))
    emptied = connection.execute("SELECT id FROM docs WHERE original IS NULL OR embedding_vae IS NULL").fetchall()
    assert emptied == [(5,)]
    assert connection.execute("SELECT original IS NULL, embedding_vae IS NULL FROM docs WHERE id = 5").fetchone() == (
        True,
        True,
    )
    # A column that was dropped does not stop what the application writes.
    connection.execute("ALTER TABLE docs DROP COLUMN original")
    migrate_column(connection, migration_of(vae_codec), sample=0)
    connection.execute("UPDATE docs SET embedding = %s WHERE id = 6", (Vector(base[500]).to_text(),))
    assert connection.execute("SELECT id FROM docs WHERE embedding_vae IS NULL").fetchall() == [(6,)]


def test_originals_are_not_added_to_values_of_unknown_form(connection, table, vae_codec) -> None:
    connection.execute("ALTER TABLE docs ADD COLUMN codes bytea")
    connection.execute("UPDATE docs SET codes = 'abc' WHERE id = 7")
    with pytest.raises(CodecMismatchError, match=r"docs\.codes: expected the codec's record"):
        migrate_column(connection, migration_of(vae_codec, originals=OriginalsColumn("codes")))
    assert column_names(connection) == {"id", "embedding", "codes"}
    connection.execute("UPDATE docs SET codes = NULL")
    assert migrate_column(connection, migration_of(vae_codec, originals=OriginalsColumn("codes"))).filled == 300


def test_the_command_refuses_codes_that_cannot_be_kept(
    server, schema, connection, table, base, vae_path, tmp_path, capsys
) -> None:
    address = f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{schema},public"
    bare, narrow = tmp_path / "bare.onnx", tmp_path / "narrow.onnx"
    export_linear(fit_linear(base, 16), bare, calibration=CodecCalibration())
    export_linear(fit_linear(np.ascontiguousarray(base[:, :200]), 64), narrow)
    asked = ["migrate-pg", "--url", address, "--table", "docs", "--column", "embedding", "--into", "small"]
    for options, message in (
        (["--codec", str(bare), "--originals", "codes", "--originals-bytes", "40"], "calibration"),
        (["--codec", str(vae_path), "--originals", "codes", "--originals-bytes", "1"], "bytes"),
        (["--codec", str(vae_path), "--originals-bytes", "40"], "--originals-bytes needs a column"),
        (["--codec", str(vae_path), "--originals", "a", "--originals-codec", str(bare)], "needs the size of its codes"),
        (
            ["--codec", str(vae_path), "--originals", "a", "--originals-codec", str(narrow), "--originals-bytes", "40"],
            "expected a codec for 384 dimensions",
        ),
    ):
        assert run_command([*asked, *options]) == 2
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert column_names(connection) == {"id", "embedding"}


def test_the_command_says_when_no_server_answers(vae_path, capsys) -> None:
    arguments = ["migrate-pg", "--url", "postgresql://127.0.0.1:1/none", "--table", "docs", "--column", "embedding"]
    assert run_command([*arguments, "--codec", str(vae_path), "--into", "small"]) == 1
    assert "the PostgreSQL server does not answer" in capsys.readouterr().err


def run_command(arguments: list[str]) -> int:
    with pytest.raises(SystemExit, match=r"\d") as ended:
        main(arguments)
    return int(ended.value.code or 0)


def main_command(arguments: list[str]) -> None:
    assert run_command(arguments) == 0
