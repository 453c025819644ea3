"""Exchange the names of two columns once the new one is filled, and undo it. Nothing is ever dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vaecodec.errors import MigrationError
from vaecodec.extras import require
from vaecodec_integrations.postgres.tables import column_type, count, identifier, rename_column
from vaecodec_integrations.postgres.watching import unwatch

require("psycopg", extra="postgres")

from psycopg import sql  # noqa: E402

if TYPE_CHECKING:
    from psycopg import Connection


def take_name(
    connection: Connection[Any],
    table: str,
    old: str,
    new: str,
    *,
    kept: str,
    filled_from: str,
    left: Callable[[], int],
    again: str,
) -> None:
    """Give the new column the old one's name, in one transaction that nobody writes beside.

    Args:
        connection: of the database.
        table: the table's name, with its schema where needed.
        old: the column that gives its name.
        new: the column that takes it; what :func:`~vaecodec_integrations.postgres.watching.watch` did for it ends.
        kept: what the old column is called from then on.
        filled_from: the column that the new one is filled from.
        left: counts the rows that are not filled.
        again: says what to do about them.

    Raises:
        MigrationError: rows are left.
    """
    with connection.transaction():
        _lock(connection, table)
        rows = left()
        if rows:
            raise MigrationError(
                f"{table}: expected every row with {filled_from} to have {new}, got {rows:,} without; {again} before "
                "the switch"
            )
        unwatch(connection, table, new)
        rename_column(connection, table, old, kept)
        rename_column(connection, table, new, old)


def give_name_back(connection: Connection[Any], table: str, old: str, new: str, *, kept: str, lacking: str) -> None:
    """Undo :func:`take_name`.

    Args:
        connection: of the database.
        table: as before, like ``old``, ``new`` and ``kept``.
        lacking: says what a row lacks that was written since and has no value in the old column.

    Raises:
        MigrationError: the names were not exchanged, or there are such rows.
    """
    if column_type(connection, table, kept) is None:
        raise MigrationError(f"{table}: expected a column {kept}, got none; nothing was switched")
    with connection.transaction():
        _lock(connection, table)
        statement = sql.SQL("SELECT count(*) FROM {} WHERE {} IS NULL AND {} IS NOT NULL")
        names = identifier(table), sql.Identifier(kept), sql.Identifier(old)
        lost = count(connection, statement.format(*names))
        if lost:
            raise MigrationError(
                f"{table}: {lost:,} rows were written after the switch and have no {lacking}; fill {kept} for them "
                "before switching back"
            )
        rename_column(connection, table, old, new)
        rename_column(connection, table, kept, old)


def _lock(connection: Connection[Any], table: str) -> None:
    statement = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE")
    connection.execute(statement.format(identifier(table)))
