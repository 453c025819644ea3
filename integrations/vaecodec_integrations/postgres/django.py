"""Compress what a Django model field saves, and decode what it loads."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from vaecodec.codec import Codec
from vaecodec.extras import require
from vaecodec.interface import FloatArray
from vaecodec.vectors import as_row
from vaecodec_integrations.postgres.candidates import originals_for, reranked
from vaecodec_integrations.postgres.identity import check_record, latents_record, originals_record, with_record
from vaecodec_integrations.postgres.storage import Storage
from vaecodec_integrations.reranking import OriginalsColumn

require("django", extra="django")

from django.core.exceptions import ValidationError  # noqa: E402
from django.db import connections  # noqa: E402
from django.db.models import (  # noqa: E402
    BinaryField,
    ExpressionWrapper,
    F,
    Field,
    FloatField,
    Func,
    QuerySet,
    TextField,
    Value,
)

_COMMENT = """
SELECT col_description(a.attrelid, a.attnum) FROM pg_attribute a
WHERE a.attrelid = to_regclass(%s) AND a.attname = %s
"""

# Names that a statement gives to what it selects beside the model.
_DISTANCE, _LATENT, _ORIGINAL = "vaecodec_distance", "vaecodec_latent", "vaecodec_original"


class _Recorded(Field):  # type: ignore[misc]
    """Keep in the column's comment how the column is filled, and compare that before the first statement."""

    # Django asks whether a value is one of these, which an array cannot answer. None has a check of its own.
    empty_values = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._checked: set[str] = set()
        kwargs["db_comment"] = with_record(kwargs.get("db_comment"), self.record())
        super().__init__(*args, **kwargs)

    def record(self) -> dict[str, Any]:
        """Return what the comment holds."""
        raise NotImplementedError

    def contribute_to_class(self, cls: Any, name: str, private_only: bool = False) -> None:
        """Belong to a model; of an abstract one's field each model has a copy, which is compared by itself."""
        super().contribute_to_class(cls, name, private_only)
        self._checked = set()

    def value_to_string(self, obj: Any) -> str:
        """Write the vector of a model as JSON numbers, for ``dumpdata``."""
        return json.dumps(np.asarray(self.value_from_object(obj), np.float32).tolist())

    def to_python(self, value: Any) -> Any:
        """Read what :meth:`value_to_string` wrote: float32 (dim,)."""
        if not isinstance(value, str):
            return value
        try:
            return np.asarray(json.loads(value), np.float32)
        except (ValueError, TypeError) as error:
            raise ValidationError(f"expected a list of numbers, got {value[:40]!r}") from error

    def check_identity(self, connection: Any) -> None:
        """Compare the column's comment with the codec, once for each database."""
        if connection.alias in self._checked:
            return
        name = self.model._meta.db_table
        with connection.cursor() as cursor:
            cursor.execute(_COMMENT, [connection.ops.quote_name(name), self.column])
            row = cursor.fetchone()
        check_record(f"{name}.{self.column}", None if row is None else row[0], self.record())
        self._checked.add(connection.alias)


class CompressedVectorField(_Recorded):
    """Store compressed vectors in a column: vectors of the original width go in and come out.

    The codec's id is kept in the column's comment, which Django's migrations write. The first statement on each
    database that uses the field compares it.

    Args:
        codec: path of a codec file. Migrations name it, so give one that holds wherever they run.
        storage: the column's type: ``vector``, ``halfvec`` or ``bit``.

    Raises:
        CodecMismatchError: by the first statement, when another codec filled the column.
        InvalidVectorsError: when a value is not a vector that the codec takes.

    """

    description = "Compressed vector"

    def __init__(
        self, *args: Any, codec: str | os.PathLike[str], storage: Storage | str = Storage.VECTOR, **kwargs: Any
    ) -> None:
        self.codec_path = os.fspath(codec)
        self.codec = Codec.load(codec)
        self.storage = Storage(storage)
        super().__init__(*args, **kwargs)

    def record(self) -> dict[str, Any]:
        """Return what the comment holds."""
        return latents_record(self.codec, self.storage)

    def deconstruct(self) -> tuple[str, str, list[Any], dict[str, Any]]:
        """Describe the field for a migration."""
        name, path, args, kwargs = super().deconstruct()
        kwargs |= {"codec": self.codec_path, "storage": str(self.storage)}
        return name, path, args, kwargs

    def db_type(self, connection: Any) -> str:  # noqa: ARG002
        """Return the column's type in SQL."""
        return self.storage.sql_type(self.codec)

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:  # noqa: ARG002
        """Encode a document, float (dim,)."""
        self.check_identity(connection)
        return None if value is None else self.storage.documents(self.codec, as_row(value))[0].to_text()

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> FloatArray | None:  # noqa: ARG002
        """Decode a stored value to float32 (dim,)."""
        self.check_identity(connection)
        if value is None:
            return None
        row: FloatArray = self.storage.vectors(self.codec, [_read(value)])[0]
        return row


class OriginalVectorField(_Recorded, BinaryField):  # type: ignore[misc]
    """Keep vectors beside a :class:`CompressedVectorField`, to re-rank by: float16, or trellis codes.

    Give it the same vector as the compressed field. What is loaded is float32 (dim,). The column's comment keeps the
    form, and of codes the codec and the size; it is written and compared as that of the compressed field.

    Args:
        codec: path of the compressed field's codec file; of codes, of the one whose codes are stored. Migrations name
            it, so give one that holds wherever they run.
        code_bytes: bytes of each code, which the extra ``packed`` encodes; None for float16 originals.

    Raises:
        CodecMismatchError: by the first statement, when the column was filled by another codec or in another form.
        InvalidBudgetError: there is no code of so many bytes.
        NotCalibratedError: the codec file holds no calibration for codes.
        InvalidVectorsError: when a value is not a vector that the codec takes.

    """

    description = "Original of a compressed vector"

    def __init__(self, *args: Any, codec: str | os.PathLike[str], code_bytes: int | None = None, **kwargs: Any) -> None:
        self.codec_path = os.fspath(codec)
        self.codec = Codec.load(codec)
        self.code_bytes = code_bytes
        self.originals = OriginalsColumn("original", None if code_bytes is None else self.codec, code_bytes)
        self.originals.check_fits(self.codec)
        super().__init__(*args, **kwargs)

    def record(self) -> dict[str, Any]:
        """Return what the comment holds."""
        return originals_record(self.codec, self.originals)

    def deconstruct(self) -> tuple[str, str, list[Any], dict[str, Any]]:
        """Describe the field for a migration."""
        name, path, args, kwargs = super().deconstruct()
        kwargs |= {"codec": self.codec_path, "code_bytes": self.code_bytes}
        return name, path, args, kwargs

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        """Encode a vector, float (dim,)."""
        self.check_identity(connection)
        if value is not None:
            (value,) = self.originals.values(as_row(value), self.codec.dim)
        return super().get_db_prep_value(value, connection, prepared)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> FloatArray | None:  # noqa: ARG002
        """Restore float32 (dim,)."""
        self.check_identity(connection)
        return None if value is None else self.originals.vectors([bytes(value)], self.codec.dim)[0]


class LatentDistance(Func):  # type: ignore[misc]
    """Compute the distance of a compressed field to a query with the codec's operator; smaller is nearer.

    Args:
        field: the field's name.
        query: float (dim,); it goes through the codec's query entry point.

    """

    output_field = FloatField()

    def __init__(self, field: Any, query: Any, **extra: Any) -> None:
        super().__init__(field, Value(None, TextField()), **extra)
        self._query = query

    def as_sql(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, list[Any]]:  # noqa: ARG002
        """Return ``column operator query``."""
        column = self.source_expressions[0]
        field = column.output_field
        field.check_identity(connection)
        sql, parameters = compiler.compile(column)
        value = field.storage.queries(field.codec, as_row(self._query))[0].to_text()
        operator, kind = field.storage.operator(field.codec), field.storage.sql_type(field.codec)
        return f"({sql} {operator} %s::{kind})", [*parameters, value]


def nearest(
    queryset: QuerySet[Any],
    field: str,
    query: Any,
    k: int,
    *,
    originals: str | None = None,
    rerank: int | None = None,
) -> list[tuple[Any, float]]:
    """Find the k nearest models of a queryset, in one SQL statement.

    Args:
        queryset: of models, with any filters. Its order is replaced.
        field: the name of the :class:`CompressedVectorField`.
        query: float (dim,), or its latent, float (code_dim,).
        k: how many models.
        originals: the name of the :class:`OriginalVectorField`, for ``rerank``.
        rerank: score ``rerank * k`` candidates again with the originals, and those without one by their latent.

    Returns:
        At most k models, each with its distance, the nearest first.

    Raises:
        CodecMismatchError: another codec filled the field, or the originals are of other embeddings.
        InvalidVectorsError: the query is not a vector that the codec takes.
        TypeError: the queryset is one of ``values`` or ``values_list``, or is sliced.
        ValueError: ``rerank`` is given, but no field of originals, or the query is a latent.
    """
    if queryset._fields is not None:
        raise TypeError("queryset: expected one of models, got one of values; take the values from the models")
    latents, kept = queryset.model._meta.get_field(field), None
    added: dict[str, Any] = {_DISTANCE: LatentDistance(field, query)}
    if rerank is not None:
        vectors: Any = None if originals is None else queryset.model._meta.get_field(originals)
        kept = originals_for(latents.codec, getattr(vectors, "originals", None), query)
        kept.check_fits(latents.codec)
        vectors.check_identity(connections[queryset.db])
        added[_LATENT] = ExpressionWrapper(F(field), output_field=TextField())
        added[_ORIGINAL] = ExpressionWrapper(F(originals), output_field=BinaryField())
    found = queryset.filter(**{f"{field}__isnull": False}).annotate(**added).order_by(_DISTANCE, "pk")
    rows = [(model, *(vars(model).pop(name) for name in added)) for model in found[: k * (rerank or 1)]]
    if kept is None:
        return [(model, float(distance)) for model, distance in rows]
    candidates = [(model, _read(latent), original) for model, _, latent, original in rows]
    hits = reranked(latents.codec, latents.storage, kept, query, candidates)
    return [(hit.key, hit.distance) for hit in hits[:k]]


def _read(value: Any) -> Any:
    """Return the numbers of a value that the driver left as text; bits stay text."""
    return np.fromstring(value[1:-1], sep=",") if isinstance(value, str) and value[:1] == "[" else value
