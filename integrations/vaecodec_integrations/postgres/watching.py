"""Watch the source of a column that is being filled, so that no stale value is ever kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vaecodec.extras import require
from vaecodec_integrations.postgres.tables import column_type, identifier

require("psycopg", extra="postgres")

from psycopg import sql  # noqa: E402

if TYPE_CHECKING:
    from psycopg import Connection


def watch(connection: Connection[Any], table: str, source: str, emptied: Sequence[str]) -> None:
    """Empty columns of a row whenever its source changes, unless the statement writes the first of them, too.

    The columns that an earlier call for the same first one named are still emptied: their values are of that source,
    too.

    Args:
        connection: of the database.
        table: the table's name, with its schema where needed.
        source: the column that is watched.
        emptied: the columns to set to null; the first one names the trigger.
    """
    names = _names(table, emptied[0])
    columns = list(dict.fromkeys([*emptied, *_emptied_before(connection, table, emptied[0])]))
    assignments = sql.SQL(" ").join(sql.SQL("NEW.{} := NULL;").format(sql.Identifier(name)) for name in columns)
    body = sql.SQL(
        "BEGIN IF NEW.{source} IS DISTINCT FROM OLD.{source} AND NEW.{target} IS NOT DISTINCT FROM OLD.{target} "
        "THEN {assignments} END IF; RETURN NEW; END"
    ).format(source=sql.Identifier(source), target=sql.Identifier(emptied[0]), assignments=assignments)
    with connection.transaction():
        connection.execute(
            sql.SQL("CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {body}").format(
                function=names["function"], body=sql.Literal(body.as_string(connection))
            )
        )
        connection.execute(
            sql.SQL(
                "CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION "
                "{function}({columns})"
            ).format(**names, columns=sql.SQL(", ").join(map(sql.Literal, columns)))
        )


def unwatch(connection: Connection[Any], table: str, target: str) -> None:
    """Undo :func:`watch` for the column that names the trigger."""
    names = _names(table, target)
    connection.execute(sql.SQL("DROP TRIGGER IF EXISTS {trigger} ON {table}").format(**names))
    connection.execute(sql.SQL("DROP FUNCTION IF EXISTS {function}()").format(**names))


def _emptied_before(connection: Connection[Any], table: str, target: str) -> list[str]:
    """Return the columns that the trigger empties already, of those that are still there: they are its arguments."""
    statement = "SELECT tgargs FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND tgname = %s"
    name = identifier(table).as_string(connection)
    row = connection.execute(statement, (name, _trigger(table, target))).fetchone()
    names = [] if row is None else [name.decode() for name in bytes(row[0]).split(b"\0") if name]
    return [name for name in names if column_type(connection, table, name) is not None]


def _trigger(table: str, target: str) -> str:
    return f"vaecodec_{table.split('.')[-1]}_{target}"[:63]


def _names(table: str, target: str) -> dict[str, sql.Identifier]:
    *schema, last = table.split(".")
    name = _trigger(table, target)
    return {
        "trigger": sql.Identifier(name),
        "function": sql.Identifier(*schema, name),
        "table": sql.Identifier(*schema, last),
    }
