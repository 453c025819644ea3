"""Look at tables and rename their columns, for what moves vectors from one column to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaecodec.errors import MigrationError
from vaecodec.extras import require

require("psycopg", extra="postgres")

from psycopg import sql  # noqa: E402

if TYPE_CHECKING:
    from psycopg import Connection

_COLUMN = """
SELECT format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a WHERE a.attrelid = to_regclass(%s) AND a.attname = %s AND NOT a.attisdropped
"""
_UNIQUE = """
SELECT 1 FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = to_regclass(%s) AND a.attname = %s AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL
  AND a.attnotnull
"""


def identifier(table: str) -> sql.Identifier:
    """Return a table's name, with its schema where it names one, as SQL writes it."""
    return sql.Identifier(*table.split("."))


def column_type(connection: Connection[Any], table: str, column: str) -> str | None:
    """Return the type of a column in SQL, such as ``vector(384)``; None where there is none."""
    row = connection.execute(_COLUMN, (identifier(table).as_string(connection), column)).fetchone()
    return None if row is None else str(row[0])


def check_key(connection: Connection[Any], table: str, key: str) -> None:
    """Raise ``MigrationError`` unless this column is unique and not null."""
    if connection.execute(_UNIQUE, (identifier(table).as_string(connection), key)).fetchone() is None:
        raise MigrationError(f"{table}.{key}: expected a column with a unique index and NOT NULL, got another")


def count(connection: Connection[Any], statement: sql.Composed) -> int:
    """Return what a statement counts."""
    (rows,) = connection.execute(statement).fetchone() or (0,)
    return int(rows)


def rename_column(connection: Connection[Any], table: str, before: str, after: str) -> None:
    """Give a column another name."""
    statement = sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}")
    names = identifier(table), sql.Identifier(before), sql.Identifier(after)
    connection.execute(statement.format(*names))
