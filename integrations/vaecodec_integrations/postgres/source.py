"""Read the vectors of a pgvector column, in the order of the table's key.

Addresses for :func:`vaecodec.sources.open_source` are those of libpq with the table,
``postgresql://localhost/app?table=docs``; the column may follow, ``#embedding``. Keep a password in ``~/.pgpass`` or
``PGPASSWORD`` rather than in an address.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import numpy as np

from vaecodec.errors import MalformedSourceError, SourceNotFoundError, StoreError, UnknownSourceError
from vaecodec.extras import require
from vaecodec.sources import Rows
from vaecodec.sources.base import choose_column, rows_per_block
from vaecodec.sources.ids import choose_id_column
from vaecodec_integrations.postgres.tables import identifier

require("psycopg", extra="postgres")

import psycopg  # noqa: E402
from psycopg import sql  # noqa: E402

_COLUMNS = """
SELECT a.attname, t.typname, a.atttypmod
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""
_KEY = """
SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = to_regclass(%s) AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attnotnull
ORDER BY i.indisprimary DESC, a.attname LIMIT 1
"""
# Binary form of a value of pgvector: its width and 2 unused bytes, then the numbers.
_HEADER = 4
_NUMBERS = {"vector": ">f4", "halfvec": ">f2"}


class TableAddress(NamedTuple):
    """Say where a table is.

    Attributes:
        server: the libpq address.
        table: the table's name, with its schema where needed.
    """

    server: str
    table: str

    @classmethod
    def parse(cls, address: str) -> TableAddress:
        """Read ``postgresql://host/database?table=docs``; raises ``UnknownSourceError`` when no table is named."""
        parts = urlsplit(address)
        asked = parse_qsl(parts.query)
        table = dict(asked).get("table", "")
        if not table:
            raise UnknownSourceError(
                f"expected the table in the address, {parts.scheme}://HOST/DATABASE?table=docs, got none"
            )
        others = urlencode([(name, value) for name, value in asked if name != "table"])
        return cls(urlunsplit(parts._replace(query=others, fragment="")), table)


class PostgresSource:
    """Read the vectors of one ``vector`` or ``halfvec`` column; rows without a value are passed over.

    The length is unknown on purpose: rows may come and go while it is read.

    Args:
        server: the libpq address.
        table: the table's name, with its schema where that is not on the search path.
        column: the column's name; by default the table's only one of such a type.

    Attributes:
        column: the column's name.
        key: a column that is unique and not null, the primary key where it is a single column; or None.

    Raises:
        SourceNotFoundError: there is no such table, or no vector in it.
        MissingColumnError, AmbiguousColumnError: the column's name does not settle one.
        MalformedSourceError: the column is of another type.
        StoreError: the server does not answer, or refuses.
    """

    rows = None

    def __init__(self, server: str, table: str, column: str | None = None) -> None:
        self.name = f"table {table!r}"
        self._server, self._table = server, identifier(table)
        with _connected(server) as connection:
            name = self._table.as_string(connection)
            found = {name: (kind, width) for name, kind, width in connection.execute(_COLUMNS, (name,)).fetchall()}
            if not found:
                raise SourceNotFoundError(f"the database has no table {table!r} that this user may see")
            vectors = [name for name, (kind, _) in found.items() if kind in _NUMBERS]
            self.column = choose_column(self.name, "column", list(found), vectors, column)
            kind, width = found[self.column]
            if kind not in _NUMBERS:
                raise MalformedSourceError(
                    f"{self.name}: expected the column {self.column!r} to be a vector or halfvec, got {kind}"
                )
            row = connection.execute(_KEY, (name,)).fetchone()
            self.key: str | None = None if row is None else row[0]
            self._columns, self._type = list(found), kind
            self.dim = width if width > 0 else self._first_width(connection)

    def blocks(self, rows: int | None = None) -> Iterator[Rows]:
        """Yield the vectors as float32, or float16 of a ``halfvec``, (m, dim) arrays of at most ``rows`` rows."""
        order = sql.Identifier(self.key) if self.key else sql.SQL("ctid")
        statement = sql.SQL("SELECT {send}({column}) FROM {table} WHERE {column} IS NOT NULL ORDER BY {order}")
        step = rows or rows_per_block(self.dim)
        with (
            _connected(self._server) as connection,
            connection.cursor("vaecodec", binary=True) as cursor,  # a server-side cursor
        ):
            cursor.execute(statement.format(**self._names, order=order))
            while found := cursor.fetchmany(step):
                yield self._block([bytes(row[0]) for row in found])

    def ids(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield the id of every row that has a vector; see :class:`vaecodec.sources.ids.IdentifiedSource`.

        Where the table has none of these columns, its key is taken.
        """
        name = self.key
        if name is None or any(column in self._columns for column in columns):
            name = choose_id_column(self.name, "column", self._columns, columns)
        order = sql.Identifier(self.key) if self.key else sql.SQL("ctid")
        statement = sql.SQL("SELECT {id} FROM {table} WHERE {column} IS NOT NULL ORDER BY {order}")
        with _connected(self._server) as connection, connection.cursor("vaecodec_ids") as cursor:
            cursor.execute(statement.format(**self._names, id=sql.Identifier(name), order=order))
            for row in cursor:
                yield row[0]

    def _block(self, values: list[bytes]) -> Rows:
        numbers = np.dtype(_NUMBERS[self._type])
        expected = _HEADER + numbers.itemsize * self.dim
        wrong = next((value for value in values if len(value) != expected), None)
        if wrong is not None:
            width = (len(wrong) - _HEADER) // numbers.itemsize
            raise MalformedSourceError(
                f"{self.name}, column {self.column!r}: expected vectors of width {self.dim} in every row, got {width}"
            )
        raw = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)[:, _HEADER:]
        return np.ascontiguousarray(raw).view(numbers).astype(numbers.newbyteorder("="))

    def _first_width(self, connection: psycopg.Connection[Any]) -> int:
        statement = sql.SQL("SELECT vector_dims({column}) FROM {table} WHERE {column} IS NOT NULL LIMIT 1")
        row = connection.execute(statement.format(**self._names)).fetchone()
        if row is None:
            raise SourceNotFoundError(f"{self.name}: no row has a vector in {self.column!r}")
        return int(row[0])

    @property
    def _names(self) -> dict[str, sql.Composable]:
        return {
            "send": sql.Identifier(f"{self._type}_send"),
            "column": sql.Identifier(self.column),
            "table": self._table,
        }


def open_address(address: str, *, column: str | None = None) -> PostgresSource:
    """Open the column at an address (see the module)."""
    return PostgresSource(*TableAddress.parse(address), column=column)


@contextmanager
def _connected(server: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        with psycopg.connect(server) as connection:
            yield connection
    except psycopg.Error as error:
        raise StoreError(f"the PostgreSQL server does not answer, or refuses: {error}") from error
