"""Search two columns at once, while the texts of an old embedding model are embedded again by a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vaecodec.errors import MigrationError
from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric
from vaecodec.two_models.merging import Embedded, Merger
from vaecodec_integrations.postgres.column import CompressedColumn
from vaecodec_integrations.postgres.storage import Storage

require("psycopg", extra="postgres")

from pgvector import Vector  # noqa: E402
from psycopg import sql  # noqa: E402

if TYPE_CHECKING:
    from psycopg import Connection

_OPERATORS = {Metric.COSINE: "<=>", Metric.DOT: "<#>", Metric.L2: "<->"}


class Scored(NamedTuple):
    """Hold a row that was found.

    Attributes:
        key: names the row.
        score: on the merger's scale, larger is nearer.
    """

    key: Any
    score: float


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
        where: sql.Composable | None = None,
    ) -> list[Scored]:
        """Search by both queries, and merge what they find.

        Args:
            connection: to the database; compressed columns are checked when it is used first.
            old_query: float (d,), the query embedded by the old model.
            new_query: float (e,), by the new one.
            k: how many rows.
            where: a condition on the rows, such as ``psycopg.sql.SQL("lang = 'en'")``.

        Returns:
            At most k rows, the best first.

        Raises:
            CodecMismatchError: another codec filled a compressed column, or none is recorded.
        """
        for column in (self._old, self._new):
            if isinstance(column, CompressedColumn):
                column.check_once(connection)
        lacking = sql.SQL("{} IS NULL").format(sql.Identifier(_name(self._new)))
        conditions = [lacking, sql.SQL("TRUE")]
        found, compared = [], []
        for column, query, metric, condition in zip(
            (self._old, self._new), (old_query, new_query), self._merger.metrics, conditions, strict=True
        ):
            vector = _compared(column, query)
            compared.append(vector)
            held = condition if where is None else sql.SQL("{} AND ({})").format(condition, where)
            rows = connection.execute(
                self._statement(column, metric, held), (Vector(vector[0]).to_text(), k)
            ).fetchall()
            found.append([(key, _score(distance, metric)) for key, distance in rows])
        # A row that was filled between both statements is found by both.
        twice = {key for key, _ in found[1]}
        found[0] = [row for row in found[0] if row[0] not in twice]
        scores = Embedded(*(np.array([[score for _, score in rows]], np.float32) for rows in found))
        order, common = self._merger.rank(Embedded(*compared), scores)
        keys = [key for rows in found for key, _ in rows]
        ranked = zip(order[0, :k].tolist(), common[0, :k].tolist(), strict=True)
        return [Scored(keys[place], score) for place, score in ranked]

    def _statement(self, column: CompressedColumn | str, metric: Metric, condition: sql.Composable) -> sql.Composed:
        # Send the query as text, which is converted to the column's own type.
        text = "SELECT {key}, {column} " + _OPERATORS[metric] + " %s AS distance FROM {table} "
        text += "WHERE {column} IS NOT NULL AND {condition} ORDER BY distance, {key} LIMIT %s"
        return sql.SQL(text).format(
            key=sql.Identifier(self._key),
            column=sql.Identifier(_name(column)),
            table=sql.Identifier(*self._table.split(".")),
            condition=condition,
        )


def _name(column: CompressedColumn | str) -> str:
    return column if isinstance(column, str) else column.column


def _compared(column: CompressedColumn | str, query: Any) -> FloatArray:
    """Return the query in the form that the column compares: float32 (1, w)."""
    vector = np.asarray(query, np.float32)[None]
    return vector if isinstance(column, str) else column.codec.encode_queries(vector)


def _score(distance: float, metric: Metric) -> float:
    """Return pgvector's distance as a score for the merger."""
    return {Metric.COSINE: 1 - distance, Metric.DOT: -distance, Metric.L2: -(distance**2)}[metric]
