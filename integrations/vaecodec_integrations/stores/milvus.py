"""Keep latents in Milvus, or in the embedded milvus-lite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec_integrations.reranking import OriginalsColumn
from vaecodec_integrations.stores.base import CompressedStore, Near, check_codec_record, codec_record

_METRICS = {Metric.COSINE: "COSINE", Metric.DOT: "IP", Metric.L2: "L2"}
_RECORD = "vaecodec"


class MilvusStore(CompressedStore):
    """Keep latents in a Milvus collection with fields ``id``, ``latent`` and, with originals, ``original``.

    The codec's record is in the collection's properties.

    Args:
        client: a ``pymilvus.MilvusClient``; a file name gives it the embedded milvus-lite.
        codec: compresses the vectors.
        name: the collection's name; it is created where it is missing.
        originals: see :class:`CompressedStore`. Milvus keeps them as text of at most 65,535 characters.

    Raises:
        CodecMismatchError: the collection was filled by another codec, or by no compressed store.
    """

    def __init__(
        self, client: Any, codec: VectorCodec, name: str = "docs", *, originals: OriginalsColumn | None = None
    ) -> None:
        super().__init__(codec, originals)
        require("pymilvus", extra="milvus")
        self._client = client
        self._name = name
        wanted = codec_record(codec, originals)
        if not client.has_collection(name):
            self._create(wanted)
        stored = client.describe_collection(name).get("properties", {}).get(_RECORD)
        check_codec_record(name, stored, wanted)
        client.load_collection(name)

    def __len__(self) -> int:
        rows = self._client.query(self._name, filter="", output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def close(self) -> None:
        """Leave the client to its owner."""

    def _create(self, wanted: dict[str, Any]) -> None:
        pymilvus = require("pymilvus", extra="milvus")
        kinds = pymilvus.DataType
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("latent", kinds.FLOAT_VECTOR, dim=self.codec.code_dim)
        if self.originals is not None:
            schema.add_field("original", kinds.VARCHAR, max_length=65_535)
        index = self._client.prepare_index_params()
        index.add_index("latent", index_type="AUTOINDEX", metric_type=_METRICS[self.codec.latent_metric])
        record = {_RECORD: json.dumps(wanted)}
        self._client.create_collection(self._name, schema=schema, index_params=index, properties=record)

    def _write(self, ids: Sequence[int], latents: FloatArray, originals: Sequence[bytes] | None) -> None:
        rows: list[dict[str, Any]] = [
            {"id": key, "latent": row.tolist()} for key, row in zip(ids, latents, strict=True)
        ]
        for row, original in zip(rows, originals or [], strict=False):
            row["original"] = original.hex()
        if rows:
            self._client.upsert(self._name, rows)

    def _remove(self, ids: Sequence[int]) -> None:
        if ids:
            self._client.delete(self._name, ids=list(ids))

    def _nearest(self, latent: FloatArray, k: int) -> list[Near]:
        fields = ["latent", "original"] if self.originals else ["latent"]
        (hits,) = self._client.search(self._name, data=[latent.tolist()], limit=k, output_fields=fields)
        return [
            Near(hit["id"], self._distance(hit["distance"]), _latent(hit["entity"]), _original(hit["entity"]))
            for hit in hits
        ]

    def _read(self, ids: Sequence[int]) -> dict[int, FloatArray]:
        rows = self._client.get(self._name, ids=list(ids), output_fields=["id", "latent"]) if ids else []
        return {row["id"]: _latent(row) for row in rows}

    def _distance(self, score: float) -> float:
        """Return Milvus's score as a distance: it gives similarities for cosine and dot, and smaller is nearer here."""
        metric = self.codec.latent_metric
        return 1 - score if metric is Metric.COSINE else -score if metric is Metric.DOT else score


def _latent(entity: Any) -> FloatArray:
    return np.asarray(entity["latent"], np.float32)


def _original(entity: Any) -> bytes | None:
    text = entity.get("original")
    return None if text is None else bytes.fromhex(text)
