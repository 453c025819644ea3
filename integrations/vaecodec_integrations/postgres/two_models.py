"""Search two columns at once, while the texts of an old embedding model are embedded again by a new one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vaecodec.errors import MigrationError
from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric
from vaecodec.two_models.merging import Embedded, Merger
from vaecodec_integrations.postgres.column import CompressedColumn
from vaecodec_integrations.postgres.storage import Storage
from vaecodec_integrations.postgres.tables import identifier

require("psycopg", extra="postgres")

from pgvector import Vector  # noqa: E402
from psycopg import sql  # noqa: E402

if TYPE_CHECKING:
    from psycopg import Connection

# The rows of a group are often near each other: first ask for this many times as many as could do.
_SPARE = 2
_OPERATORS = {Metric.COSINE: "<=>", Metric.DOT: "<#>", Metric.L2: "<->"}


class Scored(NamedTuple):
    """Hold a row that was found.

    Attributes:
        key: names the row.
        score: on the merger's scale, larger is nearer.
    """

    key: Any
    score: float


class Group(NamedTuple):
    """Hold the rows that were found of one value of a column.

    Attributes:
        value: of the column.
        rows: the best first.
    """

    value: Any
    rows: list[Scored]


class TwoModelColumns:
    """Search rows by the new model's column where it is filled, and otherwise by the old model's.

    Args:
        table: the table's name, with its schema where that is not on the search path.
        old: the old model's column: the name of one of pgvector's type ``vector`` or ``halfvec``, or a compressed one.
        new: the new model's, null where the text was not embedded again.
        merger: brings the scores of both to one scale; fit on latents where a column holds these.
        key: the column that names a row.

    Raises:
        MigrationError: both are the same column, a compressed one is of another table or holds bits, or is compared in
            another way than the merger says.
    """

    def __init__(
        self, table: str, old: CompressedColumn | str, new: CompressedColumn | str, merger: Merger, *, key: str = "id"
    ) -> None:
        if _name(old) == _name(new):
            raise MigrationError(f"old, new: expected two columns, got {_name(old)!r} twice")
        for side, column, metric in (("old", old, merger.metrics[0]), ("new", new, merger.metrics[1])):
            if isinstance(column, str):
                continue
            if column.table != table or column.storage is Storage.BIT:
                raise MigrationError(
                    f"{side}: expected a column of {table}, stored as vector or halfvec, got one of {column.table}, "
                    f"stored as {column.storage}"
                )
            if column.codec.latent_metric is not metric:
                raise MigrationError(
                    f"{side}: expected latents compared by {metric}, as the merger was fitted, got "
                    f"{column.codec.latent_metric}; fit the merger on latents"
                )
        self._table, self._key, self._merger = table, key, merger
        self._old, self._new = old, new

    def search(
        self,
        connection: Connection[Any],
        old_query: Any,
        new_query: Any,
        k: int,
        *,
        offset: int = 0,
        where: sql.Composable | None = None,
    ) -> list[Scored]:
        """Search by both queries, and merge what they find.

        Args:
            connection: to the database; compressed columns are checked when it is used first.
            old_query: float (d,), the query embedded by the old model.
            new_query: float (e,), by the new one.
            k: how many rows.
            offset: how many of the best are passed over, as for the pages after the first.
            where: a condition on the rows, such as ``psycopg.sql.SQL("lang = 'en'")``.

        Returns:
            At most k rows, the best first. Pages hold no row twice, and none is missing between them, as long as the
            table stays as it is and each column is searched exactly.

        Raises:
            CodecMismatchError: another codec filled a compressed column, or none is recorded.
            ValueError: ``k`` or ``offset`` is negative.
        """
        if k < 0 or offset < 0:
            raise ValueError(f"k, offset: expected numbers from 0 on, got {k} and {offset}")
        queries, wanted = self._asked(connection, old_query, new_query), offset + k
        nearest = (
            "SELECT {key}, {distance} AS distance, NULL FROM {table} WHERE {condition} "
            "ORDER BY distance, {key} LIMIT {limit}"
        )
        found = self._merged(connection, queries, nearest, where, limit=sql.Literal(wanted))
        return [row for row, _ in found[offset:wanted]]

    def search_groups(
        self,
        connection: Connection[Any],
        old_query: Any,
        new_query: Any,
        by: str,
        limit: int,
        *,
        group_size: int = 3,
        where: sql.Composable | None = None,
    ) -> list[Group]:
        """Search by both queries, and group what they find by a column.

        Args:
            connection: as :meth:`search` takes it.
            old_query: as :meth:`search` takes it.
            new_query: as :meth:`search` takes it.
            by: the column's name; rows in which it is null are left out.
            limit: how many groups are returned, that with the best row first.
            group_size: rows in a group at most.
            where: as :meth:`search` takes it.

        Raises:
            CodecMismatchError: another codec filled a compressed column, or none is recorded.
            ValueError: ``limit`` or ``group_size`` is negative.
        """
        if limit < 0 or group_size < 0:
            raise ValueError(f"limit, group_size: expected numbers from 0 on, got {limit} and {group_size}")
        queries, column = self._asked(connection, old_query, new_query), sql.Identifier(by)
        nearest = (
            "SELECT {key}, {distance} AS distance, {by} FROM {table} WHERE {condition} AND {by} IS NOT NULL{others} "
            "ORDER BY distance, {key} LIMIT {limit}"
        )
        values: dict[Any, None] = {}
        asked = _SPARE * limit * group_size
        while len(values) < limit:  # each round finds a new value, or there is none
            others: sql.Composable = sql.SQL("")
            if values:
                others = sql.SQL(" AND {} NOT IN ({})").format(column, _literals(values))
            rows = sql.Literal(asked)
            found = self._merged(connection, queries, nearest, where, by=column, others=others, limit=rows)
            if not found:
                break
            # Below so many rows either column may have better ones.
            values |= dict.fromkeys(value for _, value in found[:asked])
        if not values:
            return []
        chosen = list(values)[:limit]
        best = (
            "SELECT key, distance, value FROM (SELECT {key} AS key, {distance} AS distance, {by} AS value, "
            "row_number() OVER (PARTITION BY {by} ORDER BY {distance}, {key}) AS place "
            "FROM {table} WHERE {condition} AND {by} IN ({values})) AS placed "
            "WHERE place <= {rows} ORDER BY distance, key"
        )
        rows = sql.Literal(group_size)
        found = self._merged(connection, queries, best, where, by=column, values=_literals(chosen), rows=rows)
        groups: dict[Any, list[Scored]] = {}
        for row, value in found:
            groups.setdefault(value, []).append(row)
        return [Group(value, rows[:group_size]) for value, rows in groups.items()]

    def _asked(self, connection: Connection[Any], old_query: Any, new_query: Any) -> Embedded:
        """Check the columns, and return both queries in the form that these compare: float32 (1, w)."""
        for column in (self._old, self._new):
            if isinstance(column, CompressedColumn):
                column.check_once(connection)
        return Embedded(compared(self._old, [old_query]), compared(self._new, [new_query]))

    def _merged(
        self,
        connection: Connection[Any],
        queries: Embedded,
        statement: str,
        where: sql.Composable | None,
        **parts: sql.Composable,
    ) -> list[tuple[Scored, Any]]:
        """Ask both columns for keys, distances and values, and merge the rows: the best first, with their values."""
        found = []
        for side, (column, query, metric) in enumerate(
            zip((self._old, self._new), queries, self._merger.metrics, strict=True)
        ):
            names = {"column": sql.Identifier(_name(column)), "new": sql.Identifier(_name(self._new))}
            held = "{column} IS NOT NULL AND {new} IS NULL" if side == 0 else "{column} IS NOT NULL"
            condition = sql.SQL(held).format(**names)
            if where is not None:
                condition = sql.SQL("{} AND ({})").format(condition, where)
            # The query is sent as text, which is converted to the column's own type.
            distance = sql.SQL("{column} " + _OPERATORS[metric] + " {query}").format(
                **names, query=sql.Literal(Vector(query[0]).to_text())
            )
            composed = sql.SQL(statement).format(
                key=sql.Identifier(self._key),
                table=identifier(self._table),
                condition=condition,
                distance=distance,
                **parts,
            )
            rows = connection.execute(composed).fetchall()
            found.append([(key, _score(distance, metric), value) for key, distance, value in rows])
        # A row that was filled between both statements is found by both.
        twice = {key for key, *_ in found[1]}
        found[0] = [row for row in found[0] if row[0] not in twice]
        scores = Embedded(*(np.array([[score for _, score, _ in rows]], np.float32) for rows in found))
        order, common = self._merger.rank(queries, scores)
        both = [*found[0], *found[1]]
        ranked = zip(order[0].tolist(), common[0].tolist(), strict=True)
        return [(Scored(both[place][0], score), both[place][2]) for place, score in ranked]


def _name(column: CompressedColumn | str) -> str:
    return column if isinstance(column, str) else column.column


def compared(column: CompressedColumn | str, queries: Any) -> FloatArray:
    """Return queries, float (n, d), in the form that the column compares: float32 (n, w)."""
    vectors = np.asarray(queries, np.float32)
    return vectors if isinstance(column, str) else column.codec.encode_queries(vectors)


def _score(distance: float, metric: Metric) -> float:
    """Return pgvector's distance as a score for the merger."""
    return {Metric.COSINE: 1 - distance, Metric.DOT: -distance, Metric.L2: -(distance**2)}[metric]


def _literals(values: Iterable[Any]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Literal, values))
