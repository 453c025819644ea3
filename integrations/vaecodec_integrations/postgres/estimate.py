"""Estimate the cost and the gain of a change of the embedding model in a table, before it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pgvector.psycopg import register_vector
from psycopg import sql

from vaecodec.errors import MigrationError
from vaecodec.interface import Metric
from vaecodec.two_models.cost import SAMPLE, Cost, JudgedQueries, answered, check_price, cost_of, with_gain
from vaecodec.two_models.merging import Embedded
from vaecodec_integrations.pace import Pace
from vaecodec_integrations.postgres.column import CompressedColumn
from vaecodec_integrations.postgres.reembedding import ColumnReembedding, check_texts
from vaecodec_integrations.postgres.tables import count
from vaecodec_integrations.postgres.two_models import compared

if TYPE_CHECKING:
    from psycopg import Connection


def estimate(
    connection: Connection[Any],
    job: ColumnReembedding,
    *,
    count_tokens: Callable[[Sequence[str]], int] | None = None,
    price_per_million: float | None = None,
    old: CompressedColumn | str | None = None,
    queries: JudgedQueries | None = None,
    embed_queries: Callable[[list[str]], Any] | None = None,
    sample: int = SAMPLE,
) -> Cost:
    """Embed a random sample of the texts, and tell what all of them will cost; nothing is written.

    It is embedded in the batches and at the rate of the job.

    Args:
        connection: to the database.
        job: what would be embedded.
        count_tokens: counts the tokens of texts, as
            :meth:`~vaecodec_integrations.embedder.OnnxEmbedder.count_tokens` does.
        price_per_million: of tokens, in any currency.
        old: the old model's column, compressed or the name of one compared by cosine; to tell the gain.
        queries: to tell the gain; ``relevant`` holds keys of rows.
        embed_queries: the new model for queries, where it embeds them in another way.
        sample: how many rows are drawn.

    Raises:
        MigrationError: there is no such column of texts, or no text; a price is given and nothing counts tokens; only
            one of ``old`` and ``queries`` is given; or no row with a text and an old vector answers a query.
        CodecMismatchError: another codec filled the old column.
    """
    check_price(price_per_million, count_tokens)
    if (old is None) != (queries is None):
        raise MigrationError("old, queries: expected both, to tell the gain, or none, got one of them")
    check_texts(connection, job)
    register_vector(connection)
    if isinstance(old, CompressedColumn):
        old.check_once(connection)
    rows = _drawn(connection, job, old, queries, sample)
    if not rows:
        raise MigrationError(f"{job.table}.{job.text}: expected texts, got none; name the column that holds them")
    texts = {key: text for key, text, _ in rows}
    held = {key: value.to_list() for key, _, value in rows if value is not None}
    if queries is not None:
        queries = answered(queries, held, f"rows of {job.table}")
    pace = Pace(job.texts_per_second)
    cost, vectors = cost_of(
        list(texts.values()),
        count(connection, job.statement("SELECT count(*) FROM {table} WHERE {text} ~ '\\S'")),
        lambda asked: pace.embedded(job.embedded, asked, job.batch_rows),
        texts_per_second=job.texts_per_second,
        count_tokens=count_tokens,
        price_per_million=price_per_million,
    )
    if queries is None or old is None:
        return cost
    asked = pace.embedded(embed_queries or job.embedded, queries.texts, job.batch_rows)
    new = vectors
    if isinstance(job.new, CompressedColumn):
        asked, new = job.new.codec.encode_queries(asked), job.new.codec.encode(vectors)
    both = Embedded(compared(old, queries.old), asked)
    metrics = _metric(old), _metric(job.new)
    return with_gain(cost, held, dict(zip(texts, new, strict=True)), both, queries.relevant, metrics)


def _drawn(
    connection: Connection[Any],
    job: ColumnReembedding,
    old: CompressedColumn | str | None,
    queries: JudgedQueries | None,
    sample: int,
) -> list[Any]:
    """Return keys, texts and old vectors of random rows, and of all rows that answer a query."""
    name = old.column if isinstance(old, CompressedColumn) else old
    statement = "SELECT {key}, {text}, {old} FROM {table} WHERE {text} ~ '\\S' {condition}"
    held = sql.SQL("NULL") if name is None else sql.Identifier(name)
    random = sql.SQL("ORDER BY random() LIMIT {}").format(sample)
    rows = connection.execute(job.statement(statement, old=held, condition=random)).fetchall()
    if queries is not None:
        answers = list(dict.fromkeys(key for keys in queries.relevant for key in keys))
        among = sql.SQL("AND {} = ANY({})").format(sql.Identifier(job.key), answers)
        rows += connection.execute(job.statement(statement, old=held, condition=among)).fetchall()
    return list({row[0]: row for row in rows}.values())


def _metric(column: CompressedColumn | str) -> Metric:
    return Metric.COSINE if isinstance(column, str) else column.codec.latent_metric
