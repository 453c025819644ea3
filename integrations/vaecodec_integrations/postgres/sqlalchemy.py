"""Compress what a SQLAlchemy column binds, and decode what it selects."""

from __future__ import annotations

import weakref
from typing import Any, Literal

from vaecodec.codec import Codec
from vaecodec.errors import CodecMismatchError
from vaecodec.extras import require
from vaecodec.interface import FloatArray
from vaecodec.vectors import as_row
from vaecodec_integrations.postgres.candidates import originals_for, reranked
from vaecodec_integrations.postgres.identity import check_record, latents_record, originals_record, with_record
from vaecodec_integrations.postgres.storage import Storage
from vaecodec_integrations.reranking import OriginalsColumn

require("sqlalchemy", extra="postgres")

from pgvector import Bit  # noqa: E402
from pgvector.sqlalchemy import BIT, HALFVEC, VECTOR  # noqa: E402
from sqlalchemy import (  # noqa: E402
    Column,
    Connection,
    Delete,
    Engine,
    Float,
    Insert,
    LargeBinary,
    Row,
    Select,
    Update,
    bindparam,
    event,
    text,
    type_coerce,
)
from sqlalchemy.orm import Session  # noqa: E402
from sqlalchemy.sql import visitors  # noqa: E402
from sqlalchemy.sql.base import SchemaEventTarget  # noqa: E402
from sqlalchemy.sql.elements import ClauseElement, ColumnElement  # noqa: E402
from sqlalchemy.sql.selectable import FromClause  # noqa: E402
from sqlalchemy.types import TypeDecorator  # noqa: E402

_TYPES = {Storage.VECTOR: VECTOR, Storage.HALFVEC: HALFVEC, Storage.BIT: BIT}
_NAMES = {"<=>": "cosine_distance", "<#>": "max_inner_product", "<->": "l2_distance", "<~>": "hamming_distance"}

# Columns of these types in all tables, and the columns that were checked with each engine.
_columns: weakref.WeakSet[Column[Any]] = weakref.WeakSet()
_checked: weakref.WeakKeyDictionary[Engine, weakref.WeakSet[Column[Any]]] = weakref.WeakKeyDictionary()


def _sent(value: Any) -> Any:
    """Return a value in a form that the drivers accept: they do not know bits."""
    return value.to_text() if isinstance(value, Bit) else value


class _Recorded(TypeDecorator[Any]):
    """Keep in the column's comment how the column is filled, and let the first statement that uses it check that."""

    def record(self) -> dict[str, Any]:
        """Return what the comment holds."""
        raise NotImplementedError

    def _set_parent(self, parent: SchemaEventTarget, outer: bool = False, **kw: Any) -> None:
        super()._set_parent(parent, outer, **kw)
        assert isinstance(parent, Column)
        parent.comment = with_record(parent.comment, self.record())
        _columns.add(parent)


class _Compressed(_Recorded):
    """Bind documents as latents in one of pgvector's types."""

    impl = VECTOR
    cache_ok = True

    def __init__(self, codec: Codec, *, storage: Storage | str = Storage.VECTOR) -> None:
        super().__init__()
        self.codec = codec
        self.storage = Storage(storage)
        self.impl = self.impl_instance = _TYPES[self.storage](codec.code_dim)

    @property
    def _static_cache_key(self) -> tuple[Any, ...]:
        return (type(self), self.codec.codec_id, self.codec.code_dim, str(self.storage))

    def copy(self, **_: Any) -> _Compressed:
        return type(self)(self.codec, storage=self.storage)

    def record(self) -> dict[str, Any]:
        """Return what the comment holds."""
        return latents_record(self.codec, self.storage)

    def process_bind_param(self, value: Any, dialect: Any) -> Any:  # noqa: ARG002
        """Encode a document, float (dim,)."""
        return None if value is None else _sent(self.storage.documents(self.codec, as_row(value))[0])

    def process_result_value(self, value: Any, dialect: Any) -> Any:  # noqa: ARG002
        """Decode a stored value to float32 (dim,)."""
        return None if value is None else self.storage.vectors(self.codec, [value])[0]


class _Query(_Compressed):
    """Bind the other side of a distance as a query."""

    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:  # noqa: ARG002
        """Encode a query, float (dim,), through the codec's query entry point."""
        return None if value is None else _sent(self.storage.queries(self.codec, as_row(value))[0])


def render_item(kind: str, item: Any, context: Any) -> str | Literal[False]:
    """Write pgvector's own type, or bytes, in an Alembic migration, which then needs no codec file.

    Pass it to Alembic in ``env.py``: ``context.configure(..., render_item=render_item)``.

    Args:
        kind: what Alembic asks for, such as ``type``.
        item: the type.
        context: Alembic's, which gathers the imports of the migration.

    Returns:
        The type in Python; False for other types, which Alembic writes itself.
    """
    if kind == "type" and isinstance(item, OriginalVector):
        context.imports.add("import sqlalchemy as sa")
        return "sa.LargeBinary()"
    if kind != "type" or not isinstance(item, _Compressed):
        return False
    context.imports.add("import pgvector.sqlalchemy")
    return f"pgvector.sqlalchemy.{item.impl!r}"


class CompressedVector(_Compressed):
    """Store compressed vectors in a column: vectors of the original width go in and come out.

    Documents are encoded when they are bound, the queries of the distance methods go through the codec's query entry
    point, and selected values are decoded. The codec's id is kept in the column's comment, which ``create_all`` and
    Alembic write; the first statement of an engine that uses the column checks it.

    Args:
        codec: compresses the vectors.
        storage: the column's type: ``vector``, ``halfvec`` or ``bit``.

    Raises:
        CodecMismatchError: by the first statement on the column, when another codec filled it.
        InvalidVectorsError: by a statement whose vectors are not such as the codec takes.

    Examples:
        >>> import numpy as np
        >>> from sqlalchemy import Column, Integer, MetaData, Table, select
        >>> from vaecodec import Codec
        >>> from vaecodec_integrations.postgres.sqlalchemy import CompressedVector
        >>> vector = CompressedVector(Codec.load("codec.onnx"), storage="halfvec")
        >>> docs = Table("docs", MetaData(), Column("id", Integer, primary_key=True), Column("embedding", vector))
        >>> query = np.load("queries.npy")[0]
        >>> nearest = select(docs.c.id).order_by(docs.c.embedding.distance(query)).limit(10)
        >>> "<=>" in str(nearest)
        True
    """

    cache_ok = True

    class Comparator(TypeDecorator.Comparator[Any]):
        """Offer distances to a query; :meth:`distance` takes the operator that fits the codec."""

        type: CompressedVector

        def distance(self, query: Any) -> ColumnElement[float]:
            """Return the distance by which the codec's latents must be compared; smaller is nearer."""
            return self._by(self.type.storage.operator(self.type.codec), query)

        def cosine_distance(self, query: Any) -> ColumnElement[float]:
            """Return 1 - cosine of the latents, for codecs whose latents are compared by cosine."""
            return self._by("<=>", query)

        def max_inner_product(self, query: Any) -> ColumnElement[float]:
            """Return minus the inner product of the latents, for codecs whose latents are compared by dot product."""
            return self._by("<#>", query)

        def l2_distance(self, query: Any) -> ColumnElement[float]:
            """Return the Euclidean distance of the latents, for codecs whose latents are compared by it."""
            return self._by("<->", query)

        def hamming_distance(self, query: Any) -> ColumnElement[float]:
            """Return the number of bits that differ, for columns of bits."""
            return self._by("<~>", query)

        def _by(self, operator: str, query: Any) -> ColumnElement[float]:
            kind = self.type
            fitting = kind.storage.operator(kind.codec)
            if operator != fitting:
                raise CodecMismatchError(
                    f"{_NAMES[operator]}: the latents of this codec in a column of type {kind.storage} are compared by "
                    f"{_NAMES[fitting]}; call that, or distance()"
                )
            if not isinstance(query, ClauseElement):
                query = bindparam(None, query, type_=_Query(kind.codec, storage=kind.storage), unique=True)
            return self.expr.op(operator, return_type=Float())(query)

    comparator_factory = Comparator


class OriginalVector(_Recorded):
    """Keep vectors beside a :class:`CompressedVector`, to re-rank by: float16, or trellis codes.

    Bind the same vector as in the compressed column. What is selected is float32 (dim,). The column's comment keeps the
    form, and of codes the codec and the size; it is written and checked as that of :class:`CompressedVector`.

    Args:
        codec: that of the compressed column; of codes, the one whose codes are stored.
        code_bytes: bytes of each code, which the extra ``packed`` encodes; None for float16 originals.

    Raises:
        CodecMismatchError: by the first statement on the column, when another codec filled it, or in another form.
        InvalidBudgetError: there is no code of so many bytes.
        NotCalibratedError: the codec file holds no calibration for codes.
        InvalidVectorsError: by a statement whose vectors are not such as the codec takes.
    """

    impl = LargeBinary
    cache_ok = True

    def __init__(self, codec: Codec, *, code_bytes: int | None = None) -> None:
        super().__init__()
        self.codec = codec
        self.code_bytes = code_bytes
        self.originals = OriginalsColumn("original", None if code_bytes is None else codec, code_bytes)
        self.originals.check_fits(codec)

    def record(self) -> dict[str, Any]:
        """Return what the comment holds."""
        return originals_record(self.codec, self.originals)

    def process_bind_param(self, value: Any, dialect: Any) -> bytes | None:  # noqa: ARG002
        """Encode a vector, float (dim,)."""
        return None if value is None else self.originals.values(as_row(value), self.codec.dim)[0]

    def process_result_value(self, value: Any, dialect: Any) -> FloatArray | None:  # noqa: ARG002
        """Restore float32 (dim,)."""
        return None if value is None else self.originals.vectors([value], self.codec.dim)[0]


def nearest(
    connection: Connection | Session,
    statement: Select[Any],
    column: Any,
    query: Any,
    k: int,
    *,
    originals: Any = None,
    rerank: int | None = None,
) -> list[tuple[Row[Any], float]]:
    """Find the k nearest rows among those that a statement selects, in one SQL statement.

    Args:
        connection: or an ORM session.
        statement: selects what is wanted, with any conditions and joins. Its order and limit are replaced.
        column: of type :class:`CompressedVector`, such as ``Doc.embedding`` or ``docs.c.embedding``.
        query: float (dim,), or its latent, float (code_dim,).
        k: how many rows.
        originals: the column of type :class:`OriginalVector`, for ``rerank``.
        rerank: score ``rerank * k`` candidates again with the originals, and those without one by their latent.

    Returns:
        At most k rows as the statement selects them, each with its distance, the nearest first.

    Raises:
        CodecMismatchError: another codec filled the column, or the originals are of other embeddings.
        sqlalchemy.exc.StatementError: of an InvalidVectorsError: the query is not a vector that the codec takes.
        ValueError: ``rerank`` is given, but no column of originals, or the query is a latent.
    """
    kind, kept, extra = column.type, None, []
    if rerank is not None:
        kept = originals_for(kind.codec, None if originals is None else originals.type.originals, query)
        kept.check_fits(kind.codec)
        extra = [type_coerce(column, kind.impl).label(None), type_coerce(originals, LargeBinary()).label(None)]
    distance = column.distance(query).label(None)
    result = connection.execute(
        statement.add_columns(distance, *extra)
        .where(column.is_not(None))
        .order_by(None)
        .order_by(distance, *column.expression.table.primary_key)
        .limit(k * (rerank or 1))
        .offset(None)
    )
    found = result.freeze()
    whole = found().all()
    if not whole:
        return []
    # The keys of a result are not as many as its columns where an alias of a model is selected: count those of a row.
    wanted = len(whole[0]) - len(extra) - 1
    rows = found().columns(*range(wanted)).all()
    added = [tuple(row)[wanted:] for row in whole]
    if kept is None:
        return [(row, float(near)) for row, (near,) in zip(rows, added, strict=True)]
    candidates = [(row, latent, original) for row, (_, latent, original) in zip(rows, added, strict=True)]
    hits = reranked(kind.codec, kind.storage, kept, query, candidates)
    return [(hit.key, hit.distance) for hit in hits[:k]]


@event.listens_for(Engine, "before_execute")
def _check_columns(
    connection: Connection,
    statement: Any,
    multiparams: Any,  # noqa: ARG001
    params: Any,  # noqa: ARG001
    execution_options: Any,  # noqa: ARG001
) -> None:
    """Check each column of latents or originals once for each engine, before the first statement that uses it."""
    checked = _checked.setdefault(connection.engine, weakref.WeakSet())
    if len(checked) == len(_columns) or not isinstance(statement, Insert | Update | Select | Delete):
        return
    for column in _recorded_columns(statement) - set(checked):
        _check_column(connection, column)
        checked.add(column)


def _recorded_columns(statement: Any) -> set[Column[Any]]:
    tables = {element for element in visitors.iterate(statement) if isinstance(element, FromClause)}
    tables |= {statement.table} if hasattr(statement, "table") else set()
    return {column for table in tables for column in table.columns if column in _columns}


def _check_column(connection: Connection, column: Column[Any]) -> None:
    kind, table = column.type, column.table
    assert isinstance(kind, _Recorded)
    where = ".".join(filter(None, (table.schema, table.name, column.name)))
    comment = connection.execute(
        text(
            "SELECT col_description(a.attrelid, a.attnum) FROM pg_attribute a "
            "WHERE a.attrelid = to_regclass(:table) AND a.attname = :column"
        ),
        {"table": connection.dialect.identifier_preparer.format_table(table), "column": column.name},
    ).scalar()
    check_record(where, comment, kind.record())
