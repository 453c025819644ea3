"""Test two columns of two embedding models, searched as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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


def columns(key: int) -> dict[str, Any]:
    """Return what a row holds beside its vectors: of the first column few values, of the second many and none in some
    rows, and of the third many among the rows of the new model and two among the others.
    """
    pair = None if key % 11 == 0 else f"pair '{key // 2}'"
    return {"part": key % 3, "pair": pair, "side": f"new {key}" if key < DONE else f"old {key % 7 == 0}"}


@pytest.fixture(params=["vector", "latents"])
def half(
    request: pytest.FixtureRequest, connection: psycopg.Connection, documents: Embedded, svd_path: Path
) -> tuple[TwoModelColumns, Merger, Embedded]:
    """Make a table of which the first rows have the new model's column."""
    codec = Codec.load(svd_path) if request.param == "latents" else None
    register_vector(connection)
    connection.execute(
        "CREATE TABLE docs (id integer PRIMARY KEY, part integer, pair text, side text, old vector(200))"
    )
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
    rows = [(i, *columns(i).values(), Vector(documents.old[i]), value) for i, value in enumerate(values)]
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO docs VALUES (%s, %s, %s, %s, %s, %s)", rows)
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
    assert [hit.key for hit in search.search(connection, documents.old[7], documents.new[7], 9, offset=595)] == whole[
        595:
    ]
    third = search.search(connection, documents.old[7], documents.new[7], 15, where=sql.SQL("part = 1"))
    assert [hit.key for hit in third] == [key for key in whole if key % 3 == 1][:15]


@given(
    asked=st.integers(0, 599),
    k=st.integers(1, 40),
    group_size=st.integers(1, 8),
    by=st.sampled_from(["part", "pair", "side"]),
    part=st.sampled_from([None, 0, 2]),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_filters_and_groups_are_those_of_one_collection(
    half: tuple[TwoModelColumns, Merger, Embedded],
    connection: psycopg.Connection,
    documents: Embedded,
    asked: int,
    k: int,
    group_size: int,
    by: str,
    part: int | None,
) -> None:
    search, merger, compared = half
    row = np.array([asked])
    ranked = merger.search(compared, compared.rows(row), np.arange(600) < DONE, 600)[0].tolist()
    ranked = [key for key in ranked if part is None or key % 3 == part]
    options: dict[str, Any] = {} if part is None else {"where": sql.SQL("part = {}").format(part)}
    queries = documents.old[asked], documents.new[asked]
    pages = [search.search(connection, *queries, k, offset=page * k, **options) for page in range(4)]
    assert [hit.key for page in pages for hit in page] == ranked[: 4 * k]
    groups: dict[Any, list[int]] = {}
    for key in ranked:
        if (value := columns(key)[by]) is not None:
            groups.setdefault(value, []).append(key)
    found = search.search_groups(connection, *queries, by, k, group_size=group_size, **options)
    assert [(group.value, [hit.key for hit in group.rows]) for group in found] == [
        (value, keys[:group_size]) for value, keys in list(groups.items())[:k]
    ]
    scores = {hit.key: hit.score for hit in search.search(connection, *queries, 600)}
    assert all(hit.score == pytest.approx(scores[hit.key]) for group in found for hit in group.rows)


def test_a_group_that_one_model_finds_late_is_before_what_the_other_finds_later(
    half: tuple[TwoModelColumns, Merger, Embedded], connection: psycopg.Connection, documents: Embedded
) -> None:
    search, merger, compared = half
    asked = np.arange(0, 600, 5)
    ranked = merger.search(compared, compared.rows(asked), np.arange(600) < DONE, 600)
    few = sql.SQL("id >= {}").format(DONE - 10)  # the new model has only so many
    for row, keys in zip(asked, ranked.tolist(), strict=True):
        queries = documents.old[row], documents.new[row]
        found = search.search_groups(connection, *queries, "side", 2, group_size=1, where=few)
        expected = dict.fromkeys(columns(key)["side"] for key in keys if key >= DONE - 10)
        assert [group.value for group in found] == list(expected)[:2]


@pytest.mark.parametrize(("k", "offset"), [(-1, 0), (5, -3)])
def test_negative_pages_and_groups_are_refused(
    half: tuple[TwoModelColumns, Merger, Embedded],
    connection: psycopg.Connection,
    documents: Embedded,
    k: int,
    offset: int,
) -> None:
    search, old, new = half[0], documents.old[0], documents.new[0]
    with pytest.raises(ValueError, match=f"expected numbers from 0 on, got {k} and {offset}"):
        search.search(connection, old, new, k, offset=offset)
    with pytest.raises(ValueError, match=f"expected numbers from 0 on, got {k} and {offset}"):
        search.search_groups(connection, old, new, "part", k, group_size=offset)


def test_groups_of_a_table_without_values_are_none(
    half: tuple[TwoModelColumns, Merger, Embedded], connection: psycopg.Connection, documents: Embedded
) -> None:
    connection.execute("UPDATE docs SET pair = NULL")
    assert half[0].search_groups(connection, documents.old[7], documents.new[7], "pair", 5) == []


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
