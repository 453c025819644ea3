"""Keep latents in DuckDB: exact search by its array functions, or by an HNSW index of its extension vss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec_integrations.reranking import OriginalsColumn
from vaecodec_integrations.stores.base import CompressedStore, Near, check_codec_record, codec_record

if TYPE_CHECKING:
    import duckdb

_DISTANCES = {
    Metric.COSINE: "array_cosine_distance",
    Metric.DOT: "array_negative_inner_product",
    Metric.L2: "array_distance",
}
_RECORDS = "vaecodec_codecs"
_WRITTEN = "vaecodec_written"


class DuckDbStore(CompressedStore):
    """Keep latents in a DuckDB table with columns ``id``, ``latent`` and, with originals, ``original``.

    An HNSW index of DuckDB's extension vss is used where there is one:
    ``CREATE INDEX docs_hnsw ON docs USING HNSW (latent) WITH (metric = 'cosine')``.

    Args:
        connection: a connection of ``duckdb.connect``. It stays open when the store is closed.
        codec: compresses the vectors.
        name: the table's name; it is created where it is missing.
        originals: see :class:`CompressedStore`.

    Raises:
        CodecMismatchError: the table was filled by another codec, or by no compressed store.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        codec: VectorCodec,
        name: str = "docs",
        *,
        originals: OriginalsColumn | None = None,
    ) -> None:
        require("duckdb", extra="duckdb")
        super().__init__(codec, originals)
        self._connection = connection
        self._table = '"' + name.replace('"', '""') + '"'
        self._type = f"FLOAT[{codec.code_dim}]"
        wanted = codec_record(codec, originals)
        connection.execute(f"CREATE TABLE IF NOT EXISTS {_RECORDS} (name TEXT PRIMARY KEY, record TEXT NOT NULL)")
        exists = connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = ?", [name]).fetchone()
        if exists is None:
            kept = ", original BLOB" if originals else ""
            connection.execute("BEGIN")
            connection.execute(f"CREATE TABLE {self._table} (id BIGINT PRIMARY KEY, latent {self._type}{kept})")
            connection.execute(f"INSERT OR REPLACE INTO {_RECORDS} VALUES (?, ?)", [name, json.dumps(wanted)])
            connection.execute("COMMIT")
            return
        row = connection.execute(f"SELECT record FROM {_RECORDS} WHERE name = ?", [name]).fetchone()
        check_codec_record(name, None if row is None else row[0], wanted)

    def __len__(self) -> int:
        row = self._connection.execute(f"SELECT count(*) FROM {self._table}").fetchone()
        return 0 if row is None else int(row[0])

    def close(self) -> None:
        """Leave the connection to its owner."""

    def _write(self, ids: Sequence[int], latents: FloatArray, originals: Sequence[bytes] | None) -> None:
        if not ids:
            return
        # DuckDB reads columns of NumPy many times faster than Python's numbers.
        names = [f"axis{axis}" for axis in range(latents.shape[1])]
        columns: dict[str, Any] = {"id": np.array(ids, np.int64), **dict(zip(names, latents.T.copy(), strict=True))}
        kept = ""
        if originals is not None:
            columns["original"] = np.array(originals, object)
            kept = ", original"
        self._connection.register(_WRITTEN, columns)
        try:
            self._connection.execute(
                f"INSERT OR REPLACE INTO {self._table} "
                f"SELECT id, array_value({', '.join(names)})::{self._type}{kept} FROM {_WRITTEN}"
            )
        finally:
            self._connection.unregister(_WRITTEN)

    def _remove(self, ids: Sequence[int]) -> None:
        self._connection.execute(f"DELETE FROM {self._table} WHERE id IN (SELECT unnest(?::BIGINT[]))", [list(ids)])

    def _nearest(self, latent: FloatArray, k: int) -> list[Near]:
        rows = self._ordered(latent, k, "distance")
        # A graph finds deleted and replaced rows, too, which DuckDB then leaves out; the sum is searched without it.
        if len(rows) < k and len(rows) < len(self):
            rows = self._ordered(latent, k, "distance + 0")
        return [Near(row[0], float(row[1]), np.asarray(row[2], np.float32), row[3]) for row in rows]

    def _ordered(self, latent: FloatArray, k: int, order: str) -> list[Any]:
        original = "original" if self.originals else "NULL"
        distance = _DISTANCES[self.codec.latent_metric]
        return self._connection.execute(
            f"SELECT id, {distance}(latent, ?::{self._type}) AS distance, latent, {original} FROM {self._table} "
            f"ORDER BY {order} LIMIT {k:d}",
            [latent.tolist()],
        ).fetchall()

    def _read(self, ids: Sequence[int]) -> dict[int, FloatArray]:
        rows = self._connection.execute(
            f"SELECT id, latent FROM {self._table} WHERE id IN (SELECT unnest(?::BIGINT[]))", [list(ids)]
        ).fetchall()
        return {key: np.asarray(latent, np.float32) for key, latent in rows}
