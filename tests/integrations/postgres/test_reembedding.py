"""Test a change of the embedding model in a table, on a real server, with writers beside it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pgvector import Vector
from pgvector.psycopg import register_vector

from vaecodec import Codec
from vaecodec.errors import MigrationError
from vaecodec.two_models.cost import JudgedQueries
from vaecodec.two_models.merging import Embedded, Merger
from vaecodec_integrations.postgres.column import CompressedColumn
from vaecodec_integrations.postgres.estimate import estimate
from vaecodec_integrations.postgres.reembedding import (
    ColumnReembedding,
    reembed_column,
    switch_models,
    switch_models_back,
)
from vaecodec_integrations.postgres.tables import column_type
from vaecodec_integrations.postgres.two_models import TwoModelColumns
from vaecodec_integrations.reranking import OriginalsColumn

ROWS = 150
Make = Callable[..., ColumnReembedding]


@pytest.fixture
def model(base: np.ndarray) -> Any:
    """Return a model of texts such as "text 17", which keeps all that it is asked."""
    asked: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return base[[int(text.split()[-1]) if text[-1].isdigit() else 0 for text in texts]]

    embed.asked = asked  # type: ignore[attr-defined]
    return embed


@pytest.fixture
def table(connection: Any, base: np.ndarray) -> str:
    """Make a table of texts with vectors of an old model, and two rows without a text."""
    register_vector(connection)
    connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, text text, embedding vector(200))")
    with connection.cursor() as cursor:
        rows = [(row, f"text {row}", Vector(base[row, 100:300])) for row in range(ROWS)]
        cursor.executemany("INSERT INTO docs VALUES (%s, %s, %s)", [*rows, (900, None, None), (901, " ", None)])
    return "docs"


@pytest.fixture(params=["plain", "compressed"])
def make(request: pytest.FixtureRequest, table: str, model: Any, vae_codec: Codec) -> Make:
    """Return a function that describes the change, to a plain or to a compressed column."""
    new: CompressedColumn | str = "new"
    if request.param == "compressed":
        new = CompressedColumn(vae_codec, table, "new", storage="halfvec", originals=OriginalsColumn("original"))

    def made(**options: Any) -> ColumnReembedding:
        return ColumnReembedding(**{"table": table, "new": new, "embed": model, "batch_rows": 40, **options})

    return made


def stored(connection: Any) -> dict[int, np.ndarray]:
    rows = connection.execute("SELECT id, new FROM docs WHERE new IS NOT NULL ORDER BY id").fetchall()
    return {key: np.array(value.to_list(), np.float32) for key, value in rows}


def expected(job: ColumnReembedding, vectors: np.ndarray) -> np.ndarray:
    return vectors if isinstance(job.new, str) else job.new.codec.encode(vectors)


def test_every_text_is_embedded_and_the_old_column_is_as_it_was(connection: Any, make: Make, base, model: Any) -> None:
    before = connection.execute("SELECT id, text, embedding::text FROM docs ORDER BY id").fetchall()
    job, seen = make(first_keys=[140, 7]), list[tuple[int, int]]()
    result = reembed_column(connection, job, advance=lambda *each: seen.append(each))
    assert (result.filled, result.left, result.without_text) == (ROWS, 0, 2)
    assert seen == [(done, ROWS) for done in (2, 42, 82, 122, ROWS)]
    embedded = [text for text in model.asked if text != "width"]
    assert embedded[:3] == ["text 7", "text 140", "text 0"]
    assert result.agreement == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(np.stack(list(stored(connection).values())), expected(job, base[:ROWS]), atol=2e-3)
    assert connection.execute("SELECT id, text, embedding::text FROM docs ORDER BY id").fetchall() == before


def test_it_goes_on_where_it_stopped_and_embeds_what_changed(connection: Any, make: Make, base, model: Any) -> None:
    def interrupt(_: int, total: int) -> None:
        raise KeyboardInterrupt("between two batches")

    with pytest.raises(KeyboardInterrupt, match="between two batches"):
        reembed_column(connection, make(), advance=interrupt)
    assert sorted(stored(connection)) == list(range(40))

    def write(texts: list[str]) -> np.ndarray:  # the application, while texts are embedded
        connection.execute("UPDATE docs SET text = 'text 333' WHERE id IN (5, 100)")
        connection.execute("INSERT INTO docs VALUES (600, 'text 444') ON CONFLICT DO NOTHING")
        return np.asarray(model(texts))

    job = make(embed=write)
    result = reembed_column(connection, job)
    # Row 100 changed after its text was read, or it was read anew: nothing stale is kept either way.
    assert result.filled + result.left == ROWS - 40 + 2
    assert reembed_column(connection, make()).left == 0
    found = stored(connection)
    assert sorted(found) == [*range(ROWS), 600]
    np.testing.assert_allclose([found[5], found[100], found[600]], expected(job, base[[333, 333, 444]]), atol=2e-3)


def test_meanwhile_both_models_are_searched(connection: Any, make: Make, base) -> None:
    def interrupt(_: int, total: int) -> None:
        raise KeyboardInterrupt("between two batches")

    job = make()
    with pytest.raises(KeyboardInterrupt, match="between two batches"):
        reembed_column(connection, job, advance=interrupt)
    merger = Merger.fit(Embedded(np.ascontiguousarray(base[:, 100:300]), expected(job, base)))
    both = TwoModelColumns("docs", "embedding", job.new, merger)
    for row in (10, 120):
        assert both.search(connection, base[row, 100:300], base[row], 1)[0].key == row


def test_the_columns_exchange_their_names_and_back(connection: Any, make: Make) -> None:
    job = make()
    reembed_column(connection, job)
    connection.execute("UPDATE docs SET text = 'text 9' WHERE id = 3")
    with pytest.raises(MigrationError, match="every row with text to have new, got 1 without; embed again"):
        switch_models(connection, job, "embedding")
    reembed_column(connection, job)
    before = stored(connection)
    new = switch_models(connection, job, "embedding")
    if isinstance(new, CompressedColumn):
        new.check(connection)
    connection.execute("UPDATE docs SET text = 'text 8' WHERE id = 4")  # no trigger is left
    connection.execute("INSERT INTO docs (id, text, embedding) SELECT 800, 'text 1', embedding FROM docs WHERE id = 1")
    with pytest.raises(MigrationError, match="1 rows were written after the switch and have no vector of the old"):
        switch_models_back(connection, job, "embedding")
    connection.execute("DELETE FROM docs WHERE id = 800")
    switch_models_back(connection, job, "embedding")
    np.testing.assert_array_equal(np.stack(list(stored(connection).values())), np.stack(list(before.values())))
    assert connection.execute("SELECT vector_dims(embedding) FROM docs WHERE id = 1").fetchone() == (200,)
    with pytest.raises(MigrationError, match="expected a column embedding_old_model, got none; nothing was switched"):
        switch_models_back(connection, job, "embedding")


def test_cost_and_gain_come_before_the_work(connection: Any, make: Make, base, model: Any) -> None:
    asked = list(range(0, ROWS, 7))
    judged = JudgedQueries([f"text {i}" for i in asked], base[asked, 100:300], [[i] for i in asked])
    job = make()
    cost = estimate(
        connection,
        job,
        count_tokens=lambda texts: 3 * len(texts),
        price_per_million=20.0,
        old="embedding",
        queries=judged,
        sample=40,
    )
    assert (cost.texts, cost.tokens, cost.money) == (ROWS, 3 * ROWS, pytest.approx(3 * ROWS * 20e-6))
    assert 40 <= cost.sampled <= 40 + len(asked)
    assert cost.hours > 0
    assert (cost.old.mean, cost.new.mean) == (1, 1)  # what asks is the text itself, in both spaces
    turned = estimate(
        connection, job, old="embedding", queries=judged, embed_queries=lambda texts: -np.asarray(model(texts))
    )
    assert turned.new.mean < 0.2
    assert turned.gain.mean == pytest.approx(turned.new.mean - 1)
    assert turned.gain.low <= turned.gain.mean <= turned.gain.high < -0.5
    assert column_type(connection, "docs", job.column) is None
    slow = make(texts_per_second=0.1, batch_rows=ROWS)
    assert estimate(connection, slow).hours == pytest.approx(ROWS / 0.1 / 3600)


def test_an_estimate_keeps_to_the_batches_and_the_rate(connection: Any, make: Make, base, model: Any) -> None:
    sizes: list[int] = []

    def embed(texts: list[str]) -> Any:
        sizes.append(len(texts))
        return model(texts)

    judged = JudgedQueries([f"text {i}" for i in range(50)], base[:50, 100:300], [[i] for i in range(50)])
    started = time.monotonic()
    estimate(connection, make(embed=embed, texts_per_second=2000), old="embedding", queries=judged)
    assert time.monotonic() - started >= (ROWS + 40) / 2000
    assert sizes == [40, 40, 40, 30, 40, 10]


def test_the_gain_over_latents_of_the_old_model(connection: Any, make: Make, base, svd_path: Path) -> None:
    codec = Codec.load(svd_path)
    old = CompressedColumn(codec, "docs", "small")
    old.add_to(connection)
    old.check(connection)
    with connection.cursor() as cursor:
        values = old.documents(base[:ROWS])
        cursor.executemany("UPDATE docs SET small = %s WHERE id = %s", list(zip(values, range(ROWS), strict=True)))
    connection.execute("UPDATE docs SET small = NULL WHERE id = 3")
    judged = JudgedQueries(["text 3", "text 8"], base[[3, 8]], [[3], [8]])
    cost = estimate(connection, make(), old=old, queries=judged, sample=ROWS)
    assert (cost.judged, cost.old.mean, cost.new.mean) == (1, 1, 1)  # row 3 has no old vector, so its query is left out


def test_what_cannot_be_told_is_refused(connection: Any, make: Make) -> None:
    wrong: list[tuple[ColumnReembedding, dict[str, Any], str]] = [
        (make(), {"price_per_million": 1.0}, "expected count_tokens beside it"),
        (make(), {"old": "embedding"}, "old, queries: expected both, to tell the gain, or none, got one of them"),
        (make(text="body"), {}, "docs.body: expected a column of texts, got no such column"),
        (make(text="empty"), {}, "docs.empty: expected texts, got none; name the column that holds them"),
    ]
    connection.execute("ALTER TABLE docs ADD COLUMN empty text")
    for job, options, message in wrong:
        with pytest.raises(MigrationError, match=re.escape(message)):
            estimate(connection, job, **options)


def test_another_model_is_refused_before_it_writes(connection: Any, make: Make, base, model: Any) -> None:
    job = make()
    reembed_column(connection, job)
    connection.execute("UPDATE docs SET new = NULL WHERE id > 100")
    with pytest.raises(MigrationError, match="expected the vectors of this model, got others"):
        reembed_column(connection, make(embed=lambda texts: np.roll(model(texts), 5, axis=1)))
    assert len(stored(connection)) == 101


def test_what_cannot_be_done_is_refused_at_once(connection: Any, make: Make, vae_codec: Codec) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"text": "body"}, "docs.body: expected a column of texts, got no such column"),
        ({"text": "embedding"}, r"docs.embedding: expected a column of texts, got vector\(200\)"),
        ({"key": "text"}, "docs.text: expected a column with a unique index and NOT NULL"),
        ({"embed": lambda texts: np.ones((1, 384)), "new": "other", "batch_rows": 3}, "one vector for each of 3 texts"),
        ({"texts_per_second": 0}, "texts_per_second: expected a positive number, got 0"),
        (
            {"new": CompressedColumn(vae_codec, "docs", "bits", storage="bit")},
            "stored as vector or halfvec, got one of",
        ),
    ]
    for options, message in wrong:
        with pytest.raises(MigrationError, match=message):
            reembed_column(connection, make(**options))
    connection.autocommit = False
    with pytest.raises(MigrationError, match="expected a connection with autocommit=True"):
        reembed_column(connection, make())
