"""Test two columns of two embedding models, searched as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg import sql

from vaecodec import Codec
from vaecodec.errors import MigrationError
from vaecodec.two_models.merging import Embedded, Merger
from vaecodec_integrations.postgres.column import CompressedColumn
from vaecodec_integrations.postgres.two_models import TwoModelColumns

DONE = 240


@pytest.fixture
def documents(base: np.ndarray) -> Embedded:
    """Return two models of the same texts: the sample's, and a rotated part of it."""
    return Embedded(np.ascontiguousarray(base[:, 100:300]), np.roll(base, 50, axis=1))


@pytest.fixture(params=["vector", "latents"])
def half(
    request: pytest.FixtureRequest, connection: psycopg.Connection, documents: Embedded, svd_path: Path
) -> tuple[TwoModelColumns, Merger, Embedded]:
    """Make a table of which the first rows have the new model's column."""
    codec = Codec.load(svd_path) if request.param == "latents" else None
    register_vector(connection)
    connection.execute("CREATE TABLE docs (id integer PRIMARY KEY, part integer, old vector(200))")
    column: CompressedColumn | str = "new"
    if codec is None:
        connection.execute("ALTER TABLE docs ADD COLUMN new vector(384)")
        values: list[Any] = [Vector(row) for row in documents.new[:DONE]]
        compared = documents
    else:
        column = CompressedColumn(codec, "docs", "new", storage="vector")
        column.add_to(connection)
        column.check(connection)
        values = column.documents(documents.new[:DONE])
        compared = Embedded(documents.old, codec.encode(documents.new))
    values += [None] * (len(documents.old) - DONE)
    rows = [(i, i % 3, Vector(documents.old[i]), value) for i, value in enumerate(values)]
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO docs VALUES (%s, %s, %s, %s)", rows)
    merger = Merger.fit(compared)
    return TwoModelColumns("docs", "old", column, merger), merger, compared


def test_merged_results_are_those_of_exact_search(
    half: tuple[TwoModelColumns, Merger, Embedded], connection: psycopg.Connection, documents: Embedded
) -> None:
    search, merger, compared = half
    asked = np.arange(0, 600, 40)
    expected = merger.search(compared, compared.rows(asked), np.arange(600) < DONE, 10)
    for place, row in enumerate(asked):
        found = search.search(connection, documents.old[row], documents.new[row], 10)
        assert [hit.key for hit in found] == expected[place].tolist()
        assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    whole = [hit.key for hit in search.search(connection, documents.old[7], documents.new[7], 600)]
    assert sorted(whole) == list(range(600))
    third = search.search(connection, documents.old[7], documents.new[7], 15, where=sql.SQL("part = 1"))
    assert [hit.key for hit in third] == [key for key in whole if key % 3 == 1][:15]


def test_a_row_that_is_filled_during_a_search_is_found_once(
    half: tuple[TwoModelColumns, Merger, Embedded],
    connection: psycopg.Connection,
    documents: Embedded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search, row, execute = half[0], DONE + 7, psycopg.Connection.execute
    filled: list[int] = []
    old, new = documents.old[row], documents.new[row]
    assert search.search(connection, old, new, 1)[0].key == row

    def fills_after(connection: psycopg.Connection, *arguments: Any) -> Any:
        answer = execute(connection, *arguments)
        if not filled:
            filled.append(row)
            execute(connection, "UPDATE docs SET new = (SELECT new FROM docs WHERE id = 3) WHERE id = %s", (row,))
        return answer

    monkeypatch.setattr(psycopg.Connection, "execute", fills_after)
    keys = [hit.key for hit in search.search(connection, old, documents.new[3], 600)]
    assert filled
    assert sorted(keys) == list(range(600))


def test_columns_that_do_not_fit_are_refused(svd_path: Path, documents: Embedded) -> None:
    codec, merger = Codec.load(svd_path), Merger.fit(documents)
    with pytest.raises(MigrationError, match="expected two columns, got 'old' twice"):
        TwoModelColumns("docs", "old", "old", merger)
    with pytest.raises(MigrationError, match=r"expected a column of docs, .* got one of others, stored as vector"):
        TwoModelColumns("docs", "old", CompressedColumn(codec, "others", "new"), merger)
    with pytest.raises(MigrationError, match="got one of docs, stored as bit"):
        TwoModelColumns("docs", "old", CompressedColumn(codec, "docs", "new", storage="bit"), merger)
