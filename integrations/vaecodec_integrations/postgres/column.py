"""Use a compressed column in plain SQL with psycopg: its type, values, identity and searches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from vaecodec.codec import Codec
from vaecodec.errors import MissingColumnError
from vaecodec.extras import require
from vaecodec.interface import FloatArray
from vaecodec.vectors import as_row
from vaecodec_integrations.postgres.adapters import register_dumpers
from vaecodec_integrations.postgres.candidates import originals_for, reranked
from vaecodec_integrations.postgres.identity import (
    check_record,
    has_record,
    latents_record,
    originals_record,
    with_record,
)
from vaecodec_integrations.postgres.storage import Storage
from vaecodec_integrations.postgres.tables import identifier
from vaecodec_integrations.reranking import Hit, OriginalsColumn

require("psycopg", extra="postgres")

from pgvector.psycopg import register_vector  # noqa: E402
from psycopg import sql  # noqa: E402

if TYPE_CHECKING:
    from psycopg import Connection

_COMMENTS = """
SELECT a.attname, col_description(a.attrelid, a.attnum)
FROM pg_attribute a
WHERE a.attrelid = to_regclass(%s) AND a.attname = ANY(%s) AND NOT a.attisdropped
"""


class CompressedColumn:
    """Describe a column of latents in PostgreSQL with pgvector.

    Args:
        codec: compresses the vectors.
        table: the table's name, with its schema where that is not on the search path: ``app.docs``.
        column: the column's name.
        storage: the column's type: ``vector``, ``halfvec`` or ``bit``.
        originals: an optional column for re-ranking.

    Raises:
        CodecMismatchError, InvalidBudgetError, NotCalibratedError, OriginalsError: the column of originals cannot keep
            these; see :meth:`OriginalsColumn.check_fits <vaecodec_integrations.reranking.OriginalsColumn.check_fits>`.

    Examples:
        >>> from vaecodec import Codec
        >>> from vaecodec_integrations.postgres.column import CompressedColumn
        >>> column = CompressedColumn(Codec.load("codec.onnx"), "docs", "embedding", storage="halfvec")
        >>> column.sql_type, column.operator
        ('halfvec(64)', '<=>')
    """

    def __init__(
        self,
        codec: Codec,
        table: str,
        column: str,
        *,
        storage: Storage | str = Storage.VECTOR,
        originals: OriginalsColumn | None = None,
    ) -> None:
        self.codec = codec
        self.table = table
        self.column = column
        self.storage = Storage(storage)
        if originals is not None:
            originals.check_fits(codec)
        self.originals = originals
        self._checked: WeakSet[Connection[Any]] = WeakSet()

    @property
    def sql_type(self) -> str:
        """Return the column's type in SQL."""
        return self.storage.sql_type(self.codec)

    @property
    def operator(self) -> str:
        """Return the distance operator that compares its values."""
        return self.storage.operator(self.codec)

    @property
    def operator_class(self) -> str:
        """Return the operator class of an HNSW or IVFFlat index on it."""
        return self.storage.operator_class(self.codec)

    def add_to(self, connection: Connection[Any]) -> None:
        """Add the column and that of the originals where they are missing, and record the codec; check what exists.

        A column of originals that exists without a record is recorded if it holds no value yet.

        Raises:
            CodecMismatchError: a column exists and was filled by another codec or in another form, or has values and
                no record. Nothing has changed then.
        """
        comments, records = self._comments(connection), self._records()
        new = [name for name in records if name not in comments or self._is_fresh(connection, name, comments[name])]
        for name, wanted in records.items():
            if name not in new:
                check_record(self._where(name), comments[name], wanted)
        with connection.transaction():
            for name in new:
                if name not in comments:
                    statement = "ALTER TABLE {table} ADD COLUMN {name} " + self._type(name)
                    connection.execute(self.statement(statement, name=sql.Identifier(name)))
                self._write_record(connection, name, comments.get(name))

    def record(self, connection: Connection[Any]) -> None:
        """Write into the comments of the column and of that of the originals how they are filled.

        Call it where the columns were added by other means. What people wrote in the comments stays.

        Raises:
            CodecMismatchError: a comment names another codec or form already. Nothing has changed then.
            MissingColumnError: the table has no such column.
        """
        comments, records = self._existing(connection), self._records()
        new = [name for name in records if not has_record(comments[name])]
        for name, wanted in records.items():
            if name not in new:
                check_record(self._where(name), comments[name], wanted)
        for name in new:
            self._write_record(connection, name, comments[name])

    def check(self, connection: Connection[Any]) -> None:
        """Check that this codec filled the column and how that of the originals was filled, and let the connection pass
        pgvector's types.

        Call it once for each new connection, before the first statement; :meth:`search` does so itself.

        Raises:
            CodecMismatchError: another codec filled the column, the originals are of another codec or form, or a column
                has no record.
            MissingColumnError: the table has no such column.
        """
        register_vector(connection)
        comments = self._existing(connection)
        for name, wanted in self._records().items():
            check_record(self._where(name), comments[name], wanted)
        self._checked.add(connection)

    def check_once(self, connection: Connection[Any]) -> None:
        """Check as :meth:`check` does, unless it has seen this connection."""
        if connection not in self._checked:
            self.check(connection)

    def register(self, connection: Connection[Any]) -> None:
        """Let statements of this connection take :class:`Document` and :class:`Query` as parameters.

        A document goes through the codec's entry point for documents, a query through the one for queries. Selected
        values are decoded by :meth:`vectors`.

        Raises:
            CodecMismatchError: as :meth:`check` says, or values of another codec or type are registered with this
                connection.
            MissingColumnError: the table has no such column.
        """
        self.check_once(connection)
        register_dumpers(connection, self.codec, self.storage)

    def documents(self, vectors: Any) -> list[Any]:
        """Encode documents, float (n, dim), to n values for INSERT and UPDATE; see :meth:`Storage.documents`."""
        return self.storage.documents(self.codec, vectors)

    def query(self, vector: Any) -> Any:
        """Encode one query, float (dim,), to a value for the distance operator."""
        return self.storage.queries(self.codec, as_row(vector, name="query"))[0]

    def vectors(self, values: list[Any]) -> FloatArray:
        """Reconstruct float32 (n, dim) vectors from values that were selected."""
        return self.storage.vectors(self.codec, values)

    def search(
        self, connection: Connection[Any], vector: Any, k: int, *, key: str = "id", rerank: int | None = None
    ) -> list[Hit]:
        """Find the k nearest rows, in one SQL statement.

        Args:
            connection: to the database; it is checked as :meth:`check` does when it is used first.
            vector: float (dim,), the query, or its latent, float (code_dim,).
            k: how many rows.
            key: the column that names a row.
            rerank: score ``rerank * k`` candidates again with the vectors of the originals' column.

        Returns:
            At most k hits, the nearest first.

        Raises:
            CodecMismatchError: as :meth:`check` says.
            MissingColumnError: the table has no such column.
            InvalidVectorsError: the query is not a vector that the codec takes.
            ValueError: ``rerank`` is given, but the column has no originals, or the query is a latent.
        """
        originals = None if rerank is None else originals_for(self.codec, self.originals, vector)
        self.check_once(connection)
        extra: sql.Composable = sql.SQL("")
        if originals is not None:
            extra = self.statement(", {column}, {name}", name=sql.Identifier(originals.name))
        statement = self.statement(
            "SELECT {key}, {column} " + self.operator + " %s AS distance{extra} FROM {table} "
            "WHERE {column} IS NOT NULL ORDER BY distance, {key} LIMIT %s",
            key=sql.Identifier(key),
            extra=extra,
        )
        rows = connection.execute(statement, (self.query(vector), k * (rerank or 1))).fetchall()
        if originals is None:
            return [Hit(row[0], float(row[1])) for row in rows]
        candidates = [(key, latent, original) for key, _, latent, original in rows]
        return reranked(self.codec, self.storage, originals, vector, candidates)[:k]

    def _type(self, name: str) -> str:
        return self.sql_type if name == self.column else "bytea"

    def _records(self) -> dict[str, dict[str, Any]]:
        """Return the record of each column by its name."""
        records = {self.column: latents_record(self.codec, self.storage)}
        if self.originals is not None:
            records[self.originals.name] = originals_record(self.codec, self.originals)
        return records

    def _comments(self, connection: Connection[Any]) -> dict[str, str | None]:
        """Return the comment of each column that exists by its name."""
        name = identifier(self.table).as_string(connection)
        return dict(connection.execute(_COMMENTS, (name, list(self._records()))).fetchall())

    def _existing(self, connection: Connection[Any]) -> dict[str, str | None]:
        """Return the comments, or raise ``MissingColumnError``."""
        comments = self._comments(connection)
        for name in self._records():
            if name not in comments:
                kind = self._type(name)
                raise MissingColumnError(f"{self._where(name)}: expected a column of type {kind}, got no such column")
        return comments

    def _is_fresh(self, connection: Connection[Any], name: str, comment: str | None) -> bool:
        """Return whether a column is one of originals without a record and without a value."""
        if name == self.column or has_record(comment):
            return False
        filled = self.statement("SELECT FROM {table} WHERE {name} IS NOT NULL LIMIT 1", name=sql.Identifier(name))
        return connection.execute(filled).fetchone() is None

    def _write_record(self, connection: Connection[Any], name: str, comment: str | None) -> None:
        text = sql.Literal(with_record(comment, self._records()[name]))
        statement = "COMMENT ON COLUMN {table}.{name} IS {text}"
        connection.execute(self.statement(statement, name=sql.Identifier(name), text=text))

    def _where(self, name: str) -> str:
        return f"{self.table}.{name}"

    def statement(self, statement: str, **parts: sql.Composable) -> sql.Composed:
        """Compose SQL in which ``{table}`` and ``{column}`` stand for this column, and the names of ``parts`` for
        these.
        """
        return sql.SQL(statement).format(table=identifier(self.table), column=sql.Identifier(self.column), **parts)
