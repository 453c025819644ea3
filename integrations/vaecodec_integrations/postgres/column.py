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
from vaecodec_integrations.postgres.identity import check_record, with_record
from vaecodec_integrations.postgres.storage import Storage
from vaecodec_integrations.reranking import Hit, OriginalsColumn

require("psycopg", extra="postgres")

from pgvector.psycopg import register_vector  # noqa: E402
from psycopg import sql  # noqa: E402

if TYPE_CHECKING:
    from psycopg import Connection

_COMMENT = """
SELECT col_description(a.attrelid, a.attnum)
FROM pg_attribute a
WHERE a.attrelid = to_regclass(%s) AND a.attname = %s AND NOT a.attisdropped
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

        Raises:
            CodecMismatchError: the column exists and another codec filled it.
        """
        exists = self._exists(connection)
        if exists:
            self.check(connection)
        else:
            connection.execute(self.statement("ALTER TABLE {table} ADD COLUMN {column} " + self.sql_type))
        if self.originals is not None:
            name = sql.Identifier(self.originals.name)
            statement = "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} bytea"
            connection.execute(self.statement(statement, name=name))
        if not exists:
            self.record(connection)

    def record(self, connection: Connection[Any]) -> None:
        """Write the codec's record into the column's comment; what people wrote there stays.

        Raises:
            CodecMismatchError: the comment names another codec already.
        """
        comment = self._comment(connection)
        if comment is not None and "vaecodec: " in comment:
            check_record(self._where, comment, self.codec, self.storage)
            return
        text = sql.Literal(with_record(comment, self.codec, self.storage))
        connection.execute(self.statement("COMMENT ON COLUMN {table}.{column} IS {text}", text=text))

    def check(self, connection: Connection[Any]) -> None:
        """Check that this codec filled the column, and let the connection pass pgvector's types.

        Call it once for each new connection, before the first statement; :meth:`search` does so itself.

        Raises:
            CodecMismatchError: another codec filled the column, or none is recorded.
            MissingColumnError: the table has no such column.
        """
        register_vector(connection)
        if not self._exists(connection):
            raise MissingColumnError(f"{self._where}: expected a column of type {self.sql_type}, got no such column")
        check_record(self._where, self._comment(connection), self.codec, self.storage)
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
            CodecMismatchError: another codec filled the column, none is recorded, or values of another codec or type
                are registered with this connection.
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
            CodecMismatchError: another codec filled the column, or none is recorded.
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

    def _exists(self, connection: Connection[Any]) -> bool:
        return connection.execute(_COMMENT, (self.table, self.column)).fetchone() is not None

    def _comment(self, connection: Connection[Any]) -> str | None:
        row = connection.execute(_COMMENT, (self.table, self.column)).fetchone()
        return None if row is None else row[0]

    @property
    def _where(self) -> str:
        return f"{self.table}.{self.column}"

    def statement(self, statement: str, **parts: sql.Composable) -> sql.Composed:
        """Compose SQL in which ``{table}`` and ``{column}`` stand for this column, and the names of ``parts`` for
        these.
        """
        table = sql.Identifier(*self.table.split("."))
        return sql.SQL(statement).format(table=table, column=sql.Identifier(self.column), **parts)
