"""Test a compressed column through psycopg, on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector import Vector

from vaecodec import Codec, LinearKind, fit_linear
from vaecodec.errors import BadRowsError, CodecMismatchError, InvalidVectorsError, MissingColumnError
from vaecodec.evaluation import exact_search
from vaecodec.interface import Metric
from vaecodec_exporters.linear import export_linear
from vaecodec_integrations.postgres.adapters import Document, Query
from vaecodec_integrations.postgres.column import CompressedColumn
from vaecodec_integrations.postgres.migration import ColumnMigration, migrate_column
from vaecodec_integrations.postgres.source import PostgresSource
from vaecodec_integrations.reranking import OriginalsColumn


def filled(connection: Any, column: CompressedColumn, base: np.ndarray) -> CompressedColumn:
    """Make a new table with the column and a row for each vector; ids are row numbers."""
    connection.execute("CREATE TABLE docs (id integer PRIMARY KEY)")
    column.add_to(connection)
    column.check(connection)
    values = [column.documents(base)]
    names = [column.column]
    if column.originals is not None:
        values.append(column.originals.values(base, base.shape[1]))
        names.append(column.originals.name)
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO docs (id, {', '.join(names)}) VALUES (%s{', %s' * len(names)})",
            [(row, *each) for row, each in enumerate(zip(*values, strict=True))],
        )
    return column


def test_a_table_whose_name_needs_quotes_is_not_another_one(
    connection: Any, vae_codec: Codec, base: np.ndarray
) -> None:
    connection.execute('CREATE SCHEMA "App"; CREATE TABLE "App"."My docs" (id integer PRIMARY KEY, old vector(384))')
    connection.execute("CREATE TABLE docs (id integer PRIMARY KEY)")
    connection.execute('CREATE TABLE "Docs" (id integer PRIMARY KEY)')
    for table in ("App.My docs", "docs", "Docs"):
        column = CompressedColumn(vae_codec, table, "embedding")
        with pytest.raises(MissingColumnError):
            column.check(connection)
        column.add_to(connection)
        column.add_to(connection)
        column.check(connection)
    name = '"App"."My docs"'
    connection.execute(f"INSERT INTO {name} (id, old) VALUES (1, %s)", (Vector(base[0]).to_text(),))
    migration = ColumnMigration(CompressedColumn(vae_codec, "App.My docs", "embedding"), "old")
    assert migrate_column(connection, migration, sample=0).filled == 1
    connection.execute(f"UPDATE {name} SET old = %s", (Vector(base[1]).to_text(),))
    assert migrate_column(connection, migration, sample=0).filled == 1  # the trigger emptied it
    source = PostgresSource(connection.info.dsn, "App.My docs", "old")
    assert (source.key, [rows.shape for rows in source.blocks()]) == ("id", [(1, 384)])
    connection.execute('DROP SCHEMA "App" CASCADE; DROP TABLE "Docs"')


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
def test_a_search_finds_what_an_exact_search_of_the_latents_finds(
    connection, base, sample, vae_codec: Codec, storage: str
) -> None:
    column = filled(connection, CompressedColumn(vae_codec, "docs", "embedding", storage=storage), base)
    queries = sample.queries[:20]
    expected, scores = exact_search(vae_codec.encode(base), vae_codec.encode_queries(queries), 10, Metric.COSINE)
    found = [column.search(connection, query, 10) for query in queries]
    shared = np.mean([len({hit.key for hit in hits} & set(row)) for hits, row in zip(found, expected, strict=True)])
    assert shared >= 9.9
    assert found[0][0].distance == pytest.approx(1 - scores[0, 0], abs=1e-3)
    assert connection.execute("SELECT pg_typeof(embedding)::text FROM docs LIMIT 1").fetchone() == (storage,)


def test_bits_are_searched_by_the_distance_of_the_binary_code(connection, base, sample, vae_codec: Codec) -> None:
    column = filled(connection, CompressedColumn(vae_codec, "docs", "embedding", storage="bit"), base)
    code = vae_codec.code(dtype="binary")
    bits = np.unpackbits(vae_codec.encode(base, dtype="binary"), axis=1)
    query = np.unpackbits(code.encode(vae_codec.encode_queries(sample.queries[:1])), axis=1)
    distances = (bits != query).sum(axis=1)
    hits = column.search(connection, sample.queries[0], 5)
    assert [hit.distance for hit in hits] == sorted(distances)[:5]
    assert [distances[hit.key] for hit in hits] == [hit.distance for hit in hits]


def test_stored_values_decode_to_the_codecs_reconstruction(connection, base, vae_codec: Codec) -> None:
    column = filled(connection, CompressedColumn(vae_codec, "docs", "embedding"), base[:50])
    values = [row[0] for row in connection.execute("SELECT embedding FROM docs ORDER BY id").fetchall()]
    expected = vae_codec.decode(vae_codec.encode(base[:50]))
    np.testing.assert_allclose(column.vectors(values), expected, atol=1e-5)


def test_reranking_with_float16_originals_gives_the_uncompressed_order(
    connection, base, sample, vae_codec: Codec
) -> None:
    column = CompressedColumn(vae_codec, "docs", "embedding", originals=OriginalsColumn("original"))
    filled(connection, column, base * 300.0)  # originals of any norm are kept
    queries = sample.queries[:20]
    expected, scores = exact_search(base, queries, 5, Metric.COSINE)
    found = [column.search(connection, query, 5, rerank=20) for query in queries]
    shared = np.mean([len({hit.key for hit in hits} & set(row)) for hits, row in zip(found, expected, strict=True)])
    assert shared >= 4.8
    assert found[0][0].distance == pytest.approx(1 - scores[0, 0], abs=1e-3)


def test_reranking_with_codes_takes_the_order_of_what_they_decode_to(connection, base, sample, vae_codec) -> None:
    originals = OriginalsColumn("code", codec=vae_codec, code_bytes=32)
    column = CompressedColumn(vae_codec, "docs", "embedding", storage="bit", originals=originals)
    filled(connection, column, base)
    decoded = vae_codec.decode(vae_codec.encode(base, bytes=32), bytes=32)
    expected, _ = exact_search(decoded, sample.queries[:1], 3, Metric.COSINE)
    hits = column.search(connection, sample.queries[0], 3, rerank=200)
    assert [hit.key for hit in hits] == list(expected[0])


def test_a_row_without_an_original_is_scored_by_its_latent(connection, base, sample, vae_codec: Codec) -> None:
    column = CompressedColumn(vae_codec, "docs", "embedding", originals=OriginalsColumn("original"))
    filled(connection, column, base)
    before = column.search(connection, sample.queries[0], 5, rerank=10)
    connection.execute("UPDATE docs SET original = NULL WHERE id = %s", (before[0].key,))
    after = {hit.key: hit.distance for hit in column.search(connection, sample.queries[0], 50, rerank=10)}
    decoded = vae_codec.decode(vae_codec.encode(base[before[0].key][None]))[0]
    expected = 1 - float(decoded @ sample.queries[0]) / float(np.linalg.norm(decoded))
    assert after[before[0].key] == pytest.approx(expected, abs=1e-3)


def test_reranking_without_originals_is_refused(connection, base, vae_codec: Codec) -> None:
    column = filled(connection, CompressedColumn(vae_codec, "docs", "embedding"), base[:5])
    with pytest.raises(ValueError, match="expected a column of originals, got none; give one with originals="):
        column.search(connection, base[0], 3, rerank=4)


def test_another_codec_is_refused_before_anything_is_read(connection, base, vae_codec: Codec, other_codec) -> None:
    filled(connection, CompressedColumn(vae_codec, "docs", "embedding"), base[:5])
    with pytest.raises(CodecMismatchError, match="open it with the codec that filled it"):
        CompressedColumn(other_codec, "docs", "embedding").check(connection)
    with pytest.raises(CodecMismatchError, match="open it with the codec that filled it"):
        CompressedColumn(other_codec, "docs", "embedding").record(connection)
    with pytest.raises(CodecMismatchError, match="open it with the codec that filled it"):
        CompressedColumn(other_codec, "docs", "embedding").search(connection, base[0], 3)


def test_a_column_without_a_record_is_refused_and_can_be_recorded(connection, base, vae_codec: Codec) -> None:
    connection.execute("CREATE TABLE docs (id integer PRIMARY KEY, embedding vector(64))")
    connection.execute("COMMENT ON COLUMN docs.embedding IS 'of the summaries'")
    column = CompressedColumn(vae_codec, "docs", "embedding")
    with pytest.raises(CodecMismatchError, match="write the record with"):
        column.check(connection)
    column.record(connection)
    column.check(connection)
    (comment,) = connection.execute("SELECT col_description('docs'::regclass, 2)").fetchone()
    assert comment.startswith("of the summaries\n")


def test_a_missing_column_is_named(connection, vae_codec: Codec) -> None:
    connection.execute("CREATE TABLE docs (id integer PRIMARY KEY)")
    with pytest.raises(MissingColumnError, match=r"docs\.embedding: expected a column of type vector\(64\)"):
        CompressedColumn(vae_codec, "docs", "embedding").check(connection)


def test_latents_are_taken_as_they_are(connection, base, svd_path: Path) -> None:
    codec = Codec.load(svd_path)
    column = filled(
        connection, CompressedColumn(codec, "docs", "embedding", originals=OriginalsColumn("original")), base[:20]
    )
    latents = codec.encode(base[:3])
    assert [value.to_list() for value in column.documents(latents)] == latents.tolist()
    query = codec.encode_queries(base[5:6])[0]
    assert column.search(connection, query, 4) == column.search(connection, base[5], 4)
    with pytest.raises(ValueError, match="rerank: expected a query of width 384, got latents"):
        column.search(connection, query, 4, rerank=2)


def test_a_bad_row_is_refused_whole(base, vae_codec: Codec) -> None:
    column = CompressedColumn(vae_codec, "docs", "embedding")
    bad = base[:4].copy()
    bad[2, 5] = np.nan
    with pytest.raises(BadRowsError, match="row 2"):
        column.documents(bad)
    with pytest.raises(InvalidVectorsError, match="384"):
        column.query(base[0, :100])


def test_an_hnsw_index_with_the_operator_class_is_used(connection, base, sample, vae_codec: Codec) -> None:
    column = filled(connection, CompressedColumn(vae_codec, "docs", "embedding", storage="halfvec"), base)
    connection.execute(f"CREATE INDEX ON docs USING hnsw (embedding {column.operator_class})")
    connection.execute("SET enable_seqscan = off")
    plan = connection.execute(
        f"EXPLAIN SELECT id FROM docs ORDER BY embedding {column.operator} %s LIMIT 5", (column.query(base[0]),)
    ).fetchall()
    assert "Index Scan" in str(plan)


def test_originals_can_be_kept_of_a_column_that_exists(connection: Any, base: np.ndarray, vae_codec: Codec) -> None:
    connection.execute("CREATE TABLE docs (id integer PRIMARY KEY)")
    CompressedColumn(vae_codec, "docs", "embedding").add_to(connection)
    column = CompressedColumn(vae_codec, "docs", "embedding", originals=OriginalsColumn("original"))
    column.add_to(connection)
    column.check(connection)
    values = [*column.documents(base[:1]), *OriginalsColumn("original").values(base[:1], 384)]
    connection.execute("INSERT INTO docs (id, embedding, original) VALUES (1, %s, %s)", values)
    assert column.search(connection, base[0], 1, rerank=2)[0].distance == pytest.approx(0, abs=1e-3)


def test_plain_statements_encode_documents_and_queries(
    server: str, schema: str, connection: Any, base: np.ndarray, vae_codec: Codec
) -> None:
    for storage in ("vector", "halfvec", "bit"):
        connection.execute("DROP TABLE IF EXISTS docs")
        connection.execute("CREATE TABLE docs (id integer PRIMARY KEY)")
        column = CompressedColumn(vae_codec, "docs", "embedding", storage=storage)
        column.add_to(connection)
        with psycopg.connect(server, autocommit=True, options=f"-c search_path={schema},public") as plain:
            column.register(plain)
            column.register(plain)  # as a pool may do
            with plain.cursor() as cursor:
                rows = [(row, Document(base[row])) for row in range(30)]
                cursor.executemany("INSERT INTO docs (id, embedding) VALUES (%s, %s)", rows)
            found = plain.execute(
                f"SELECT id, embedding, embedding {column.operator} %(query)s FROM docs "
                f"ORDER BY embedding {column.operator} %(query)s, id LIMIT 5",
                {"query": Query(base[7])},
            ).fetchall()
        assert [(row, distance) for row, _, distance in found] == [
            (hit.key, hit.distance) for hit in column.search(connection, base[7], 5)
        ]
        codes: dict[str, Any] = {"dtype": "binary"} if storage == "bit" else {}
        expected = vae_codec.decode(vae_codec.encode(base[[row for row, *_ in found]], **codes), **codes)
        np.testing.assert_allclose(column.vectors([value for _, value, _ in found]), expected, atol=2e-2)


def test_queries_go_through_the_codecs_entry_point_for_queries(connection: Any, base, tmp_path: Path) -> None:
    export_linear(fit_linear(base, 32, kind=LinearKind.PCA_DOCUMENTS), tmp_path / "codec.onnx")
    codec = Codec.load(tmp_path / "codec.onnx")
    column = filled(connection, CompressedColumn(codec, "docs", "embedding"), base[:20])
    column.register(connection)
    sent = [
        connection.execute("SELECT %s::vector", (each,)).fetchone()[0] for each in (Document(base[3]), Query(base[3]))
    ]
    expected = codec.encode(base[3:4])[0], codec.encode_queries(base[3:4])[0]
    assert not np.allclose(*expected, atol=1e-2)
    for value, latent in zip(sent, expected, strict=True):
        np.testing.assert_allclose(value.to_list(), latent, atol=1e-6)


def test_a_connection_encodes_by_one_codec(connection: Any, base, vae_codec: Codec, other_codec: Codec) -> None:
    filled(connection, CompressedColumn(vae_codec, "docs", "embedding"), base[:5]).register(connection)
    with pytest.raises(BadRowsError, match="row 0"):
        connection.execute("INSERT INTO docs VALUES (9, %s)", (Document(np.full(384, np.nan)),))
    connection.execute("CREATE TABLE others (id integer PRIMARY KEY)")
    other = CompressedColumn(other_codec, "others", "embedding")
    other.add_to(connection)
    with pytest.raises(CodecMismatchError, match=r"use CompressedColumn\.documents and CompressedColumn\.query"):
        other.register(connection)
    with pytest.raises(CodecMismatchError, match="open it with the codec that filled it"):
        CompressedColumn(other_codec, "docs", "embedding").register(connection)
    assert connection.execute("SELECT count(*) FROM docs").fetchone() == (5,)
