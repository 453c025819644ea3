"""Fill the column of a new embedding model from the texts of a table, while the application goes on.

1. :func:`reembed_column` adds the column and a trigger that empties it whenever a row's text changes, then fills it
   batch by batch in the order of the primary key. What is still empty is all that it needs to know: it can be
   interrupted at any moment and called again.
2. :class:`~vaecodec_integrations.postgres.two_models.TwoModelColumns` searches both models' columns meanwhile.
3. :func:`switch_models` gives the new column the old one's name, :func:`switch_models_back` undoes it. Nothing is ever
   dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg import sql

from vaecodec.errors import MigrationError
from vaecodec.interface import FloatArray, Metric
from vaecodec.vectors import as_vectors
from vaecodec_integrations.pace import Pace
from vaecodec_integrations.postgres.column import CompressedColumn
from vaecodec_integrations.postgres.storage import Storage
from vaecodec_integrations.postgres.switching import give_name_back, take_name
from vaecodec_integrations.postgres.tables import check_key, column_type, count, identifier
from vaecodec_integrations.postgres.watching import watch
from vaecodec_integrations.same_model import COMPARED_ROWS, agreement

if TYPE_CHECKING:
    from psycopg import Connection

_KEPT = "_old_model"
_TEXT_TYPES = ("text", "character", "citext")


@dataclass(frozen=True, kw_only=True)
class ColumnReembedding:
    """Describe a change of the embedding model in one table.

    Attributes:
        table: the table's name, with its schema where that is not on the search path.
        new: the column of the new model: compressed, or the name of one of pgvector's type ``vector``. It is added
            where it is missing.
        embed: the new model: a function from a list of n texts to float (n, d), such as an
            :class:`~vaecodec_integrations.embedder.OnnxEmbedder`.
        text: the column of texts.
        key: a column that is unique and not null, usually the primary key.
        first_keys: rows to embed first, such as those that are found most often.
        batch_rows: texts that are embedded and written at a time.
        texts_per_second: at most so many are embedded, as a paid service allows; None for as many as possible.
    """

    table: str
    new: CompressedColumn | str
    embed: Callable[[list[str]], Any]
    text: str = "text"
    key: str = "id"
    first_keys: Sequence[Any] = ()
    batch_rows: int = 64
    texts_per_second: float | None = None

    def __post_init__(self) -> None:
        """Refuse a column of another table, and one that a merged search cannot read."""
        if not isinstance(self.new, str) and (self.new.table != self.table or self.new.storage is Storage.BIT):
            raise MigrationError(
                f"new: expected a column of {self.table}, stored as vector or halfvec, got one of {self.new.table}, "
                f"stored as {self.new.storage}"
            )
        if self.texts_per_second is not None and self.texts_per_second <= 0:
            raise MigrationError(f"texts_per_second: expected a positive number, got {self.texts_per_second}")

    @property
    def column(self) -> str:
        """Return the new column's name."""
        return self.new if isinstance(self.new, str) else self.new.column

    def embedded(self, texts: list[str]) -> FloatArray:
        """Embed texts, and check what comes back: float32 (n, d), finite; raise ``MigrationError`` if it is not so."""
        vectors = np.asarray(self.embed(texts), np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise MigrationError(
                f"embed: expected one vector for each of {len(texts)} texts, got an array of shape {vectors.shape}"
            )
        if isinstance(self.new, str):
            return as_vectors(vectors, vectors.shape[1], Metric.COSINE, name="embedded texts")
        return as_vectors(vectors, self.new.codec.dim, self.new.codec.metric, name="embedded texts")

    def statement(self, statement: str, **parts: sql.Composable) -> sql.Composed:
        """Compose SQL in which ``{table}``, ``{new}``, ``{text}`` and ``{key}`` stand for these names."""
        names = {"new": self.column, "text": self.text, "key": self.key}
        identifiers = {name: sql.Identifier(value) for name, value in names.items()}
        return sql.SQL(statement).format(table=identifier(self.table), **identifiers, **parts)


@dataclass(frozen=True)
class ReembeddedColumn:
    """Hold the result of :func:`reembed_column`.

    Attributes:
        filled: rows that this call embedded.
        left: rows that have a text and no new vector: those that were written meanwhile.
        without_text: rows without a text, or with an empty one; their new column stays null.
        agreement: mean cosine between a sample of stored vectors and the same texts embedded again; None without rows.
    """

    filled: int
    left: int
    without_text: int
    agreement: float | None


def reembed_column(
    connection: Connection[Any],
    job: ColumnReembedding,
    *,
    advance: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> ReembeddedColumn:
    """Add the new model's column, and fill every row that has a text and no new vector yet.

    No row is locked while texts are embedded. A text that changes meanwhile keeps its row empty for the next call.

    Args:
        connection: in autocommit mode, so that every batch is kept once it is done.
        job: what is embedded again.
        advance: called after each batch with the rows filled and the rows that there were to fill.

    Raises:
        MigrationError: there is no such column of texts, the connection is not in autocommit mode, the model returns
            something other than one vector for each text, or it is not the one that filled the column so far.
        CodecMismatchError: another codec filled the column.
        InvalidVectorsError: the model returns NaN, zeros or another width.
    """
    if not connection.autocommit:
        raise MigrationError("expected a connection with autocommit=True, so that each batch is kept once it is done")
    check_texts(connection, job)
    check_key(connection, job.table, job.key)
    _prepare(connection, job)
    pace = Pace(job.texts_per_second)
    _agreement(connection, job, pace)
    total, filled = _left(connection, job), 0
    keys = list(job.first_keys)
    for first in range(0, len(keys), job.batch_rows):
        among = sql.SQL("AND {} = ANY({})").format(sql.Identifier(job.key), keys[first : first + job.batch_rows])
        rows = _next_rows(connection, job, among)
        filled += _fill(connection, job, rows, pace)
        advance(filled, total)
    after = sql.Composed([])
    while rows := _next_rows(connection, job, after):
        filled += _fill(connection, job, rows, pace)
        after = sql.SQL("AND {} > {}").format(sql.Identifier(job.key), sql.Literal(rows[-1][0]))
        advance(filled, total)
    empty = count(connection, job.statement("SELECT count(*) FROM {table} WHERE {text} IS NULL OR {text} !~ '\\S'"))
    return ReembeddedColumn(filled, _left(connection, job), empty, _agreement(connection, job, pace))


def check_texts(connection: Connection[Any], job: ColumnReembedding) -> None:
    """Raise ``MigrationError`` unless the job's table has its column of texts."""
    kind = column_type(connection, job.table, job.text) or "no such column"
    if not kind.startswith(_TEXT_TYPES):
        raise MigrationError(f"{job.table}.{job.text}: expected a column of texts, got {kind}")


def switch_models(connection: Connection[Any], job: ColumnReembedding, old: str) -> CompressedColumn | str:
    """Give the new model's column the old one's name; the old one becomes ``NAME_old_model``.

    Args:
        connection: of the database.
        job: as given to :func:`reembed_column`.
        old: the name of the old model's column.

    Returns:
        The new column under its new name.

    Raises:
        MigrationError: rows have a text and no new vector; call :func:`reembed_column` again.
    """
    take_name(
        connection,
        job.table,
        old,
        job.column,
        kept=old + _KEPT,
        filled_from=job.text,
        left=lambda: _left(connection, job),
        again="embed again",
    )
    if isinstance(job.new, str):
        return old
    return CompressedColumn(job.new.codec, job.table, old, storage=job.new.storage, originals=job.new.originals)


def switch_models_back(connection: Connection[Any], job: ColumnReembedding, old: str) -> None:
    """Undo :func:`switch_models`: both columns have their old names again.

    Raises:
        MigrationError: the columns were not switched, or rows were written since that have no vector of the old model.
    """
    give_name_back(connection, job.table, old, job.column, kept=old + _KEPT, lacking="vector of the old model")


def _prepare(connection: Connection[Any], job: ColumnReembedding) -> None:
    """Add the column where it is missing, and watch the texts."""
    register_vector(connection)
    emptied = [job.column]
    if isinstance(job.new, str):
        if column_type(connection, job.table, job.new) is None:
            width = job.embedded(["width"]).shape[1]
            connection.execute(
                job.statement("ALTER TABLE {table} ADD COLUMN {new} {type}", type=sql.SQL(f"vector({width:d})"))
            )
    else:
        job.new.add_to(connection)
        job.new.check(connection)
        emptied += [job.new.originals.name] if job.new.originals else []
    watch(connection, job.table, job.text, emptied)


def _next_rows(connection: Connection[Any], job: ColumnReembedding, condition: sql.Composable) -> list[Any]:
    statement = (
        "SELECT {key}, {text} FROM {table} WHERE {new} IS NULL AND {text} ~ '\\S' {condition} ORDER BY {key} "
        "LIMIT {rows}"
    )
    rows = sql.Literal(job.batch_rows)
    return connection.execute(job.statement(statement, condition=condition, rows=rows)).fetchall()


def _fill(connection: Connection[Any], job: ColumnReembedding, rows: list[Any], pace: Pace) -> int:
    """Embed the texts of rows, and write the vectors of those whose text is still the same."""
    if not rows:
        return 0
    pace.wait(len(rows))
    vectors = job.embedded([text for _, text in rows])
    names, values = [job.column], [_values(job, vectors)]
    if not isinstance(job.new, str) and job.new.originals is not None:
        names.append(job.new.originals.name)
        values.append(job.new.originals.values(vectors, job.new.codec.dim))
    assignments = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in names)
    statement = job.statement(
        "UPDATE {table} SET {assignments} WHERE {key} = %s AND {text} = %s", assignments=assignments
    )
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(statement, [(*each, *row) for *each, row in zip(*values, rows, strict=True)])
        return cursor.rowcount


def _values(job: ColumnReembedding, vectors: FloatArray) -> list[Any]:
    return [Vector(row) for row in vectors] if isinstance(job.new, str) else job.new.documents(vectors)


def _agreement(connection: Connection[Any], job: ColumnReembedding, pace: Pace) -> float | None:
    """Return the mean cosine between some stored vectors and their texts embedded again; refuse another model's."""
    statement = (
        "SELECT {new}, {text} FROM {table} WHERE {new} IS NOT NULL AND {text} ~ '\\S' ORDER BY random() LIMIT %s"
    )
    rows = connection.execute(job.statement(statement), (COMPARED_ROWS,)).fetchall()
    if not rows:
        return None
    pace.wait(len(rows))
    again = job.embedded([text for _, text in rows])
    again = again if isinstance(job.new, str) else job.new.codec.encode(again)
    stored = [np.asarray(value.to_list(), np.float32) for value, _ in rows]
    return agreement(stored, again, f"{job.table}.{job.column}")


def _left(connection: Connection[Any], job: ColumnReembedding) -> int:
    return count(connection, job.statement("SELECT count(*) FROM {table} WHERE {new} IS NULL AND {text} ~ '\\S'"))
