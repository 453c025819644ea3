"""Bind vectors in plain SQL: psycopg encodes what is marked as a document or as a query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vaecodec.codec import Codec
from vaecodec.errors import CodecMismatchError
from vaecodec.extras import require
from vaecodec.vectors import as_row
from vaecodec_integrations.postgres.storage import Storage

require("psycopg", extra="postgres")

from psycopg import ProgrammingError  # noqa: E402
from psycopg.adapt import Dumper, PyFormat  # noqa: E402

if TYPE_CHECKING:
    from psycopg import Connection


@dataclass(frozen=True, eq=False)
class Document:
    """Mark a vector to store: a parameter of statements, once :meth:`CompressedColumn.register` was called.

    Attributes:
        vector: float (dim,), or its latent, float (code_dim,).
    """

    vector: Any


@dataclass(frozen=True, eq=False)
class Query:
    """Mark a vector to search with: a parameter of statements, once :meth:`CompressedColumn.register` was called.

    Attributes:
        vector: float (dim,), or its latent, float (code_dim,).
    """

    vector: Any


class _Dumper(Dumper):
    codec: Codec
    storage: Storage
    encode: Callable[[Codec, Any], list[Any]]

    def dump(self, obj: Document | Query) -> bytes:
        (value,) = self.encode(self.codec, as_row(obj.vector, name=type(obj).__name__.lower()))
        return str(value.to_text()).encode()


def register_dumpers(connection: Connection[Any], codec: Codec, storage: Storage) -> None:
    """Let a connection that knows pgvector's types encode documents and queries by this codec.

    Raises:
        CodecMismatchError: it encodes them by another codec, or as another type.
    """
    adapters = connection.adapters
    try:
        known: Any = adapters.get_dumper(Document, PyFormat.TEXT)
    except ProgrammingError:
        pass  # nothing is registered yet
    else:
        if (known.codec.codec_id, known.codec.code_dim, known.storage) != (codec.codec_id, codec.code_dim, storage):
            raise CodecMismatchError(
                f"expected one codec and type for the documents and queries of a connection, got codec "
                f"{codec.codec_id[:12]} as {storage} after {known.codec.codec_id[:12]} as {known.storage}; for this "
                "column use CompressedColumn.documents and CompressedColumn.query"
            )
    settings = {"codec": codec, "storage": storage, "oid": adapters.types[str(storage)].oid}
    for kind, encode in ((Document, storage.documents), (Query, storage.queries)):
        adapters.register_dumper(kind, type(f"{kind.__name__}Dumper", (_Dumper,), {**settings, "encode": encode}))
