"""Watch the source of a column that is being filled, so that no stale value is ever kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vaecodec.extras import require

require("psycopg", extra="postgres")

from psycopg import sql  # noqa: E402

if TYPE_CHECKING:
    from psycopg import Connection


def watch(connection: Connection[Any], table: str, source: str, emptied: Sequence[str]) -> None:
    """Empty columns of a row whenever its source changes, unless the statement writes the first of them, too.

    Args:
        connection: of the database.
        table: the table's name, with its schema where needed.
        source: the column that is watched.
        emptied: the columns to set to null; the first one names the trigger.
    """
    assignments = sql.SQL(" ").join(sql.SQL("NEW.{} := NULL;").format(sql.Identifier(name)) for name in emptied)
    body = sql.SQL(
        "BEGIN IF NEW.{source} IS DISTINCT FROM OLD.{source} AND NEW.{target} IS NOT DISTINCT FROM OLD.{target} "
        "THEN {assignments} END IF; RETURN NEW; END"
    ).format(source=sql.Identifier(source), target=sql.Identifier(emptied[0]), assignments=assignments)
    names = _names(table, emptied[0])
    with connection.transaction():
        connection.execute(
            sql.SQL("CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {body}").format(
                function=names["function"], body=sql.Literal(body.as_string(connection))
            )
        )
        connection.execute(
            sql.SQL(
                "CREATE OR REPLACE TRIGGER {trigger} BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION "
                "{function}()"
            ).format(**names)
        )


def unwatch(connection: Connection[Any], table: str, target: str) -> None:
    """Undo :func:`watch` for the column that names the trigger."""
    names = _names(table, target)
    connection.execute(sql.SQL("DROP TRIGGER IF EXISTS {trigger} ON {table}").format(**names))
    connection.execute(sql.SQL("DROP FUNCTION IF EXISTS {function}()").format(**names))


def _names(table: str, target: str) -> dict[str, sql.Identifier]:
    *schema, last = table.split(".")
    name = f"vaecodec_{last}_{target}"[:63]
    return {
        "trigger": sql.Identifier(name),
        "function": sql.Identifier(*schema, name),
        "table": sql.Identifier(*schema, last),
    }
