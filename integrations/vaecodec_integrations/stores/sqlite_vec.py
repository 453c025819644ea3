"""Keep latents in SQLite with sqlite-vec."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaecodec.errors import UnsupportedRequestError
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec_integrations.reranking import OriginalsColumn
from vaecodec_integrations.stores.base import CompressedStore, Near, check_codec_record, codec_record

_METRICS = {Metric.COSINE: "cosine", Metric.L2: "l2"}
_RECORDS = "vaecodec_codecs"


class SqliteVecStore(CompressedStore):
    """Keep latents in a ``vec0`` table.

    Args:
        connection: a DB-API connection to SQLite into which the sqlite-vec extension is loaded, of ``sqlite3``,
            ``pysqlite3`` or another module with its interface. It stays open when the store is closed.
        codec: compresses the vectors; its latents are compared by cosine or L2.
        name: the table's name; it is created where it is missing.
        originals: see :class:`CompressedStore`.

    Raises:
        CodecMismatchError: the table was filled by another codec, or by no compressed store.
        UnsupportedRequestError: the codec's latents are compared by dot product, which sqlite-vec does not have.
    """

    def __init__(
        self, connection: Any, codec: VectorCodec, name: str = "docs", *, originals: OriginalsColumn | None = None
    ) -> None:
        super().__init__(codec, originals)
        if codec.latent_metric not in _METRICS:
            raise UnsupportedRequestError(
                f"sqlite-vec compares by cosine or l2, but this codec's latents are compared by {codec.latent_metric}; "
                "use a codec whose latents are compared by cosine, or another store"
            )
        self._connection = connection
        self._name = name
        self._table = '"' + name.replace('"', '""') + '"'
        wanted = codec_record(codec, originals)
        with connection:
            connection.execute(f"CREATE TABLE IF NOT EXISTS {_RECORDS} (name TEXT PRIMARY KEY, record TEXT NOT NULL)")
            if self._one("SELECT 1 FROM sqlite_master WHERE name = ?", name) is None:
                metric = _METRICS[codec.latent_metric]
                kept = ", +original blob" if originals else ""
                connection.execute(
                    f"CREATE VIRTUAL TABLE {self._table} USING vec0("
                    f"id integer primary key, latent float[{codec.code_dim}] distance_metric={metric}{kept})"
                )
                connection.execute(f"INSERT INTO {_RECORDS} VALUES (?, ?)", (name, json.dumps(wanted)))
                return
        row = self._one(f"SELECT record FROM {_RECORDS} WHERE name = ?", name)
        check_codec_record(name, None if row is None else row[0], wanted)

    def __len__(self) -> int:
        row = self._one(f"SELECT count(*) FROM {self._table}")
        return 0 if row is None else int(row[0])

    def close(self) -> None:
        """Leave the connection to its owner."""

    def _write(self, ids: Sequence[int], latents: FloatArray, originals: Sequence[bytes] | None) -> None:
        columns = [ids, [row.tobytes() for row in latents], *([] if originals is None else [originals])]
        marks = ", ".join("?" * len(columns))
        with self._connection:  # vec0 tables have no upsert
            self._connection.executemany(f"DELETE FROM {self._table} WHERE id = ?", [(key,) for key in ids])
            self._connection.executemany(f"INSERT INTO {self._table} VALUES ({marks})", zip(*columns, strict=True))

    def _remove(self, ids: Sequence[int]) -> None:
        with self._connection:
            self._connection.executemany(f"DELETE FROM {self._table} WHERE id = ?", [(key,) for key in ids])

    def _nearest(self, latent: FloatArray, k: int) -> list[Near]:
        original = "original" if self.originals else "NULL"
        rows = self._connection.execute(
            f"SELECT id, distance, latent, {original} FROM {self._table} WHERE latent MATCH ? AND k = ? "
            "ORDER BY distance",
            (latent.tobytes(), k),
        ).fetchall()
        return [Near(row[0], float(row[1]), np.frombuffer(row[2], np.float32), row[3]) for row in rows]

    def _read(self, ids: Sequence[int]) -> dict[int, FloatArray]:
        found = {}
        for key in ids:
            row = self._one(f"SELECT latent FROM {self._table} WHERE id = ?", key)
            if row is not None:
                found[key] = np.frombuffer(row[0], np.float32)
        return found

    def _one(self, statement: str, *parameters: Any) -> Any:
        return self._connection.execute(statement, parameters).fetchone()
