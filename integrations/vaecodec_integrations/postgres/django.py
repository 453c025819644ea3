"""Compress what a Django model field saves, and decode what it loads."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from vaecodec.codec import Codec
from vaecodec.extras import require
from vaecodec.interface import FloatArray
from vaecodec.vectors import as_row
from vaecodec_integrations.postgres.identity import check_record, with_record
from vaecodec_integrations.postgres.storage import Storage

require("django", extra="django")

from django.db.models import Field, FloatField, Func, TextField, Value  # noqa: E402

_COMMENT = """
SELECT col_description(a.attrelid, a.attnum) FROM pg_attribute a
WHERE a.attrelid = to_regclass(%s) AND a.attname = %s
"""


class CompressedVectorField(Field):  # type: ignore[misc]
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
        self._checked: set[str] = set()
        kwargs["db_comment"] = with_record(kwargs.get("db_comment"), self.codec, self.storage)
        super().__init__(*args, **kwargs)

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
        numbers = np.fromstring(value[1:-1], sep=",") if isinstance(value, str) and value[:1] == "[" else value
        row: FloatArray = self.storage.vectors(self.codec, [numbers])[0]
        return row

    def check_identity(self, connection: Any) -> None:
        """Compare the column's comment with the codec, once for each database."""
        if connection.alias in self._checked:
            return
        table = connection.ops.quote_name(self.model._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(_COMMENT, [table, self.column])
            row = cursor.fetchone()
        where = f"{self.model._meta.db_table}.{self.column}"
        check_record(where, None if row is None else row[0], self.codec, self.storage)
        self._checked.add(connection.alias)


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
