"""Keep latents in Chroma."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec_integrations.reranking import OriginalsColumn
from vaecodec_integrations.stores.base import CompressedStore, Near, check_codec_record, codec_record

_SPACES = {Metric.COSINE: "cosine", Metric.DOT: "ip", Metric.L2: "l2"}
_RECORD = "vaecodec"
_ORIGINAL = "vaecodec_original"


class ChromaStore(CompressedStore):
    """Keep latents in a Chroma collection. Its ids are the integers as text; originals are base64 in the metadata.

    ``collection`` is Chroma's own collection, for documents, metadata and filters.

    Args:
        client: a client of Chroma, such as ``chromadb.PersistentClient(path)``.
        codec: compresses the vectors.
        name: the collection's name; it is created where it is missing.
        originals: see :class:`CompressedStore`.

    Raises:
        CodecMismatchError: the collection was filled by another codec, or by no compressed store.
    """

    def __init__(
        self, client: Any, codec: VectorCodec, name: str = "docs", *, originals: OriginalsColumn | None = None
    ) -> None:
        super().__init__(codec, originals)
        require("chromadb", extra="chroma")
        wanted = codec_record(codec, originals)
        self.collection = client.get_or_create_collection(
            name,
            metadata={_RECORD: json.dumps(wanted)},
            configuration={"hnsw": {"space": _SPACES[codec.latent_metric]}},
            embedding_function=None,
        )
        stored = (self.collection.metadata or {}).get(_RECORD)
        check_codec_record(name, stored, wanted)

    def __len__(self) -> int:
        return int(self.collection.count())

    def close(self) -> None:
        """Leave the client to its owner."""

    def _write(self, ids: Sequence[int], latents: FloatArray, originals: Sequence[bytes] | None) -> None:
        if not ids:
            return
        kept = None
        if originals is not None:
            kept = [{_ORIGINAL: base64.b64encode(original).decode()} for original in originals]
        self.collection.upsert(ids=[str(key) for key in ids], embeddings=latents, metadatas=kept)

    def _remove(self, ids: Sequence[int]) -> None:
        if ids:
            self.collection.delete(ids=[str(key) for key in ids])

    def _nearest(self, latent: FloatArray, k: int) -> list[Near]:
        results = min(k, len(self))
        if not results:  # Chroma refuses to look for none
            return []
        found = self.collection.query(
            query_embeddings=latent[None],
            n_results=results,
            include=["distances", "embeddings", "metadatas"],
        )
        columns = (found[name][0] for name in ("ids", "distances", "embeddings", "metadatas"))
        return [
            Near(int(key), float(distance), np.asarray(row, np.float32), _original(metadata))
            for key, distance, row, metadata in zip(*columns, strict=True)
        ]

    def _read(self, ids: Sequence[int]) -> dict[int, FloatArray]:
        if not ids:
            return {}
        found = self.collection.get(ids=[str(key) for key in ids], include=["embeddings"])
        return {
            int(key): np.asarray(row, np.float32) for key, row in zip(found["ids"], found["embeddings"], strict=True)
        }


def _original(metadata: Any) -> bytes | None:
    text = (metadata or {}).get(_ORIGINAL)
    return None if text is None else base64.b64decode(text)
