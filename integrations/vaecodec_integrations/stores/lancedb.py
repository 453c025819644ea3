"""Keep latents in LanceDB."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec_integrations.reranking import OriginalsColumn
from vaecodec_integrations.stores.base import CompressedStore, Near, check_codec_record, codec_record

_METRICS = {Metric.COSINE: "cosine", Metric.DOT: "dot", Metric.L2: "l2"}
_RECORD = b"vaecodec"


class LanceDbStore(CompressedStore):
    """Keep latents in a LanceDB table with columns ``id``, ``latent`` and, with originals, ``original``.

    ``table`` is LanceDB's own table: make its quantised indexes on the column ``latent``
    (``store.table.create_index(metric="cosine", vector_column_name="latent")``).

    Args:
        database: what ``lancedb.connect`` gave.
        codec: compresses the vectors.
        name: the table's name; it is created where it is missing.
        originals: see :class:`CompressedStore`.

    Raises:
        CodecMismatchError: the table was filled by another codec, or by no compressed store.
    """

    def __init__(
        self, database: Any, codec: VectorCodec, name: str = "docs", *, originals: OriginalsColumn | None = None
    ) -> None:
        super().__init__(codec, originals)
        pa = require("pyarrow", extra="lancedb")
        require("lancedb", extra="lancedb")
        wanted = codec_record(codec, originals)
        fields = [pa.field("id", pa.int64()), pa.field("latent", pa.list_(pa.float32(), codec.code_dim))]
        if originals is not None:
            fields.append(pa.field("original", pa.binary()))
        self._schema = pa.schema(fields, metadata={_RECORD: json.dumps(wanted).encode()})
        self.table = self._opened(database, name)
        stored = (self.table.schema.metadata or {}).get(_RECORD)
        check_codec_record(name, stored, wanted)

    def _opened(self, database: Any, name: str) -> Any:
        try:
            return database.open_table(name)
        except ValueError:  # LanceDB raises this when there is no such table
            return database.create_table(name, schema=self._schema)

    def __len__(self) -> int:
        return int(self.table.count_rows())

    def close(self) -> None:
        """Leave the database to its owner; LanceDB keeps no file open."""

    def _write(self, ids: Sequence[int], latents: FloatArray, originals: Sequence[bytes] | None) -> None:
        pa = require("pyarrow", extra="lancedb")
        flat = pa.array(latents.ravel(), pa.float32())
        columns = [pa.array(ids, pa.int64()), pa.FixedSizeListArray.from_arrays(flat, self.codec.code_dim)]
        if originals is not None:
            columns.append(pa.array(originals, pa.binary()))
        rows = pa.table(columns, schema=self._schema)
        self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def _remove(self, ids: Sequence[int]) -> None:
        if ids:
            self.table.delete(f"id IN ({', '.join(map(str, ids))})")

    def _nearest(self, latent: FloatArray, k: int) -> list[Near]:
        metric = _METRICS[self.codec.latent_metric]
        search = self.table.search(latent, vector_column_name="latent").distance_type(metric).limit(k)
        # A quantised index has distances of its own kind: twice the cosine's, say. These are of the latents themselves.
        rows = search.refine_factor(1).to_list()
        return [
            Near(row["id"], float(row["_distance"]), np.asarray(row["latent"], np.float32), row.get("original"))
            for row in rows
        ]

    def _read(self, ids: Sequence[int]) -> dict[int, FloatArray]:
        if not ids:
            return {}
        chosen = f"id IN ({', '.join(map(str, ids))})"
        rows = self.table.search().where(chosen).select(["id", "latent"]).limit(len(ids)).to_list()
        return {row["id"]: np.asarray(row["latent"], np.float32) for row in rows}
