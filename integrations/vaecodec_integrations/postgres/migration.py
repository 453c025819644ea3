"""Fill a compressed column from an uncompressed one while the application goes on reading and writing.

1. :func:`migrate_column` adds the new column and a trigger that empties it whenever the source of a row changes, then
   fills it batch by batch in the order of the primary key. What is still empty is all that it needs to know: it can be
   interrupted at any moment and called again.
2. :func:`search_both` searches meanwhile: filled rows by their latents, the others by their source.
3. :func:`switch` gives the new column the old one's name. The source keeps its values under another name; nothing is
   ever dropped. :func:`switch_back` undoes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from vaecodec.calibration import scores_of
from vaecodec.errors import MigrationError, NotCalibratedError, UnsupportedRequestError
from vaecodec.evaluation import Interval, bootstrap, similarities
from vaecodec.interface import FloatArray, Metric
from vaecodec.vectors import as_row, as_vectors, faults
from vaecodec_integrations.postgres.column import CompressedColumn
from vaecodec_integrations.postgres.switching import give_name_back, take_name
from vaecodec_integrations.postgres.tables import check_key, column_type, count
from vaecodec_integrations.postgres.watching import watch
from vaecodec_integrations.reranking import Hit

if TYPE_CHECKING:
    from psycopg import Connection

_SOURCE_OPERATORS = {Metric.COSINE: "<=>", Metric.DOT: "<#>", Metric.L2: "<->"}
_KEPT = "_uncompressed"


@dataclass(frozen=True)
class ColumnMigration:
    """Name the columns of a migration.

    Args:
        target: the compressed column; it is added where it is missing.
        source: the name of the uncompressed ``vector`` or ``halfvec`` column of the same table; it is never changed.
        key: a column that is unique and not null, usually the primary key.
    """

    target: CompressedColumn
    source: str
    key: str = "id"

    def __post_init__(self) -> None:
        """Refuse a column that is its own source."""
        if self.target.column == self.source:
            raise MigrationError(f"target: expected another column than the source, got {self.source!r}")


@dataclass(frozen=True)
class MigrationResult:
    """Hold the result of :func:`migrate_column`.

    Attributes:
        filled: rows that this call encoded.
        left: rows that have a source and no latent: bad rows that were skipped, or rows written meanwhile.
        bad_keys: keys of rows that the codec refuses, the first thousand.
        recall: recall@10 of stored rows against the source among a sample of rows, with its 95 % interval.
        sampled: how many rows that sample has.
    """

    filled: int
    left: int
    bad_keys: tuple[Any, ...]
    recall: Interval | None
    sampled: int


def migrate_column(
    connection: Connection[Any],
    migration: ColumnMigration,
    *,
    batch_rows: int = 1000,
    skip_bad_rows: bool = False,
    sample: int = 500,
    advance: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> MigrationResult:
    """Add the compressed column and fill every row that has a source and no latent yet.

    Args:
        connection: in autocommit mode, so that every batch is a transaction of its own.
        migration: what is migrated.
        batch_rows: rows of one transaction. They are locked while they are encoded.
        skip_bad_rows: go on where the codec refuses a row, such as one of zero norm under cosine; else stop there.
        sample: how many rows are compared with their source at the end; 0 compares none.
        advance: called after each batch with the rows filled and the rows that there were to fill.

    Raises:
        MigrationError: the source is not a vector column of the codec's width, the key is not unique, the connection
            is not in autocommit mode, or a row is bad and ``skip_bad_rows`` is not set.
        CodecMismatchError: another codec filled the column.
    """
    if not connection.autocommit:
        raise MigrationError("expected a connection with autocommit=True, so that each batch is kept once it is done")
    _check_source(connection, migration)
    column = migration.target
    column.add_to(connection)
    column.check(connection)
    emptied = [column.column, *([column.originals.name] if column.originals else [])]
    watch(connection, column.table, migration.source, emptied)
    filled, last, total = 0, None, _left(connection, migration)
    bad: list[Any] = []
    while True:
        with connection.transaction():
            rows = _next_rows(connection, migration, last, batch_rows)
            done = _fill(connection, migration, rows, bad, skip_bad_rows)
        if not rows:
            break
        filled, last = filled + done, rows[-1][0]
        advance(filled, total)
    recall, sampled = _recall(connection, migration, sample)
    return MigrationResult(filled, _left(connection, migration), tuple(bad[:1000]), recall, sampled)


def migrate_at(
    address: str,
    migration: ColumnMigration,
    *,
    switch_names: bool = False,
    batch_rows: int = 1000,
    skip_bad_rows: bool = False,
    advance: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> MigrationResult:
    """Connect, call :func:`migrate_column` and, if wanted, :func:`switch`.

    Args:
        address: a libpq address, such as ``postgresql://user@host/database``.
        migration: what is migrated.
        switch_names: give the compressed column the source's name at the end, if no row is left.
        batch_rows: see :func:`migrate_column`, as the other arguments.

    Raises:
        UnsupportedRequestError: the address is none.
        MigrationError: the server does not answer or refuses, and what :func:`migrate_column` and :func:`switch` say.
    """
    check_address(address)
    try:
        with psycopg.connect(address, autocommit=True) as connection:
            result = migrate_column(
                connection, migration, batch_rows=batch_rows, skip_bad_rows=skip_bad_rows, advance=advance
            )
            if switch_names:
                switch(connection, migration)
    except psycopg.OperationalError as error:
        raise MigrationError(f"the PostgreSQL server does not answer, or refuses: {error}") from error
    return result


def check_address(address: str) -> None:
    """Raise ``UnsupportedRequestError`` unless libpq can read this as the address of a database."""
    try:
        conninfo_to_dict(address)
    except psycopg.ProgrammingError as error:
        raise UnsupportedRequestError(
            f"expected an address such as postgresql://USER@HOST/NAME, got another text ({str(error).strip()})"
        ) from None


def search_both(
    connection: Connection[Any], migration: ColumnMigration, vector: Any, k: int, *, rerank: int | None = None
) -> list[Hit]:
    """Search filled rows by their latents and the others by their source, and merge the two by distance.

    Distances of latents are brought to the scale of the source by the codec's calibration of scores, where its file
    holds one.

    Args:
        connection: a connection that ``CompressedColumn.check`` has seen.
        migration: as given to :func:`migrate_column`.
        vector: float (dim,), the query.
        k: how many rows.
        rerank: as in :meth:`CompressedColumn.search`.
    """
    column = migration.target
    compressed = column.search(connection, vector, k, key=migration.key, rerank=rerank)
    if rerank is None:
        compressed = _on_source_scale(column, compressed)
    statement = column.statement(
        "SELECT {key}, {source} " + _SOURCE_OPERATORS[column.codec.metric] + " %s AS distance FROM {table} "
        "WHERE {column} IS NULL AND {source} IS NOT NULL ORDER BY distance, {key} LIMIT %s",
        key=sql.Identifier(migration.key),
        source=sql.Identifier(migration.source),
    )
    query = Vector(
        as_vectors(as_row(vector), column.codec.dim, column.codec.metric, name="query")[0]
    ).to_text()  # a text is converted to the column's own type
    others = [Hit(key, float(distance)) for key, distance in connection.execute(statement, (query, k)).fetchall()]
    return sorted([*compressed, *others], key=lambda hit: hit.distance)[:k]


def switch(connection: Connection[Any], migration: ColumnMigration) -> CompressedColumn:
    """Give the compressed column the source's name; the source becomes ``NAME_uncompressed``.

    Returns:
        The compressed column under its new name.

    Raises:
        MigrationError: rows have a source and no latent; call :func:`migrate_column` again.
        CodecMismatchError: another codec filled the column.
    """
    column = migration.target
    column.check(connection)
    take_name(
        connection,
        column.table,
        migration.source,
        column.column,
        kept=migration.source + _KEPT,
        filled_from=migration.source,
        left=lambda: _left(connection, migration),
        again="migrate again",
    )
    return CompressedColumn(
        column.codec, column.table, migration.source, storage=column.storage, originals=column.originals
    )


def switch_back(connection: Connection[Any], migration: ColumnMigration) -> None:
    """Undo :func:`switch`: the source has its old name again, and so has the compressed column.

    Raises:
        MigrationError: the columns were not switched, or rows were written since that have no source.
    """
    column, kept = migration.target, migration.source + _KEPT
    give_name_back(connection, column.table, migration.source, column.column, kept=kept, lacking="uncompressed vector")


def _check_source(connection: Connection[Any], migration: ColumnMigration) -> None:
    table, codec = migration.target.table, migration.target.codec
    kind = column_type(connection, table, migration.source) or "no such column"
    if kind not in (f"vector({codec.dim})", f"halfvec({codec.dim})", "vector", "halfvec"):
        raise MigrationError(
            f"{table}.{migration.source}: expected a column of type vector({codec.dim}) or halfvec({codec.dim}), as "
            f"the codec takes, got {kind}"
        )
    check_key(connection, table, migration.key)


def _next_rows(connection: Connection[Any], migration: ColumnMigration, last: Any, rows: int) -> list[Any]:
    """Return the next rows without a latent, locked against changes until they are filled."""
    after = sql.SQL("") if last is None else migration.target.statement("AND {key} > {last}", **_key(migration, last))
    statement = migration.target.statement(
        "SELECT {key}, {source} FROM {table} WHERE {column} IS NULL AND {source} IS NOT NULL {after} "
        "ORDER BY {key} LIMIT {rows} FOR NO KEY UPDATE",
        key=sql.Identifier(migration.key),
        source=sql.Identifier(migration.source),
        after=after,
        rows=sql.Literal(rows),
    )
    return connection.execute(statement).fetchall()


def _key(migration: ColumnMigration, last: Any) -> dict[str, sql.Composable]:
    return {"key": sql.Identifier(migration.key), "last": sql.Literal(last)}


def _fill(
    connection: Connection[Any], migration: ColumnMigration, rows: list[Any], bad: list[Any], skip_bad_rows: bool
) -> int:
    column = migration.target
    keys, vectors = [row[0] for row in rows], _matrix([row[1] for row in rows], column.codec.dim)
    wrong = _bad_rows(vectors, column.codec.metric)
    if wrong.any() and not skip_bad_rows:
        raise MigrationError(
            f"{column.table}: the row with {migration.key} {keys[int(np.argmax(wrong))]} has a vector without "
            "direction, or one that is not finite; repair it, or skip bad rows"
        )
    bad += [key for key, is_bad in zip(keys, wrong, strict=True) if is_bad]
    good = [place for place in range(len(keys)) if not wrong[place]]
    if not good:
        return 0
    values: list[list[Any]] = [column.documents(vectors[good])]
    names = [column.column]
    if column.originals is not None:
        values.append(column.originals.values(vectors[good], column.codec.dim))
        names.append(column.originals.name)
    assignments = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in names)
    statement = column.statement(
        "UPDATE {table} SET {assignments} WHERE {key} = %s",
        assignments=assignments,
        key=sql.Identifier(migration.key),
    )
    with connection.cursor() as cursor:
        cursor.executemany(statement, list(zip(*values, [keys[place] for place in good], strict=True)))
    return len(good)


def _recall(connection: Connection[Any], migration: ColumnMigration, sample: int) -> tuple[Interval | None, int]:
    """Return the recall@10 of the stored latents among a sample of rows, against exact search in their sources, and how
    many rows those are.
    """
    column = migration.target
    statement = column.statement(
        "SELECT {column}, {source} FROM {table} WHERE {column} IS NOT NULL AND {source} IS NOT NULL "
        "ORDER BY random() LIMIT %s",
        source=sql.Identifier(migration.source),
    )
    rows = connection.execute(statement, (sample,)).fetchall()
    if len(rows) < 20:
        return None, len(rows)
    vectors = _matrix([row[1] for row in rows], column.codec.dim)
    stored = column.vectors([row[0] for row in rows])
    truth = _neighbours(vectors, column.codec.metric)
    found = _neighbours(stored, column.codec.metric)
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(truth, found, strict=True)]
    return bootstrap(np.asarray(shared)), len(rows)


def _neighbours(rows: FloatArray, metric: Metric) -> np.ndarray[Any, Any]:
    """Return the ten nearest other rows of each row."""
    scores = similarities(rows, rows, metric)
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :10]


def _on_source_scale(column: CompressedColumn, hits: list[Hit]) -> list[Hit]:
    codec = column.codec
    if codec.latent_metric is Metric.L2 or column.storage == "bit":
        return hits
    try:
        fitted = scores_of(codec)
    except NotCalibratedError:
        return hits
    latent_one = 1.0 if codec.latent_metric is Metric.COSINE else 0.0
    source_one = 1.0 if codec.metric is Metric.COSINE else 0.0
    scores = [latent_one - hit.distance for hit in hits]
    return [
        Hit(hit.key, source_one - (fitted.scale * score + fitted.offset))
        for hit, score in zip(hits, scores, strict=True)
    ]


def _left(connection: Connection[Any], migration: ColumnMigration) -> int:
    statement = "SELECT count(*) FROM {table} WHERE {column} IS NULL AND {source} IS NOT NULL"
    return count(connection, migration.target.statement(statement, source=sql.Identifier(migration.source)))


def _matrix(values: list[Any], dim: int) -> FloatArray:
    rows = [np.asarray(value.to_list(), np.float32) for value in values]
    return np.stack(rows) if rows else np.empty((0, dim), np.float32)


def _bad_rows(vectors: FloatArray, metric: Metric) -> np.ndarray[Any, np.dtype[np.bool_]]:
    non_finite, zero = faults(vectors)
    return non_finite | zero if metric is Metric.COSINE else non_finite
