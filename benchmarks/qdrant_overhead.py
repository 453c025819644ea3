"""Measure what the adapter adds to single calls of the client, in local mode."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models

from qdrant_data import Data, cpu_seconds, table
from vaecodec.interface import VectorCodec
from vaecodec_integrations.qdrant import CompressedQdrantClient

BATCH = 64


def _requests(data: Data, codec: VectorCodec) -> dict[str, Any]:
    """Return what is sent: batches of points and queries, of each kind of vector."""
    made: dict[str, Any] = {}
    for kind, documents, queries in (
        ("original", data.base, data.queries),
        ("latents", codec.encode(data.base), codec.encode_queries(data.queries)),
    ):
        points = [
            models.PointStruct(id=i, vector=vector, payload={"n": i}) for i, vector in enumerate(documents.tolist())
        ]
        batches = [points[start : start + BATCH] for start in range(0, len(points), BATCH)]
        made[f"upsert {kind}"], made[f"query {kind}"] = batches, queries.tolist()
    made["upsert adapter"], made["query adapter"] = made["upsert original"], made["query original"]
    return made


def overhead(data: Data, codec: VectorCodec, repeats: int = 9) -> None:
    """Measure what the adapter adds to encoding by hand: its calls against the codec's and the plain client's in one
    loop.

    The loop by hand encodes each batch from the lists of floats that a caller of Qdrant holds, drops the result, and
    sends points made of the same latents beforehand. Both are in one loop because encoding, which reads the
    batch's original vectors, leaves the client with cold caches whoever calls it; encoding alone is shown too.
    """
    made = _requests(data, codec)
    gc.collect()
    gc.freeze()  # the points of the benchmark itself are not what the collector should walk

    by_hand = ("encoding", "by hand")

    def upsert(client: QdrantClient, way: str) -> None:
        kind = "latents" if way in by_hand else way
        for raw, batch in zip(made["upsert original"], made[f"upsert {kind}"], strict=True):
            if way in by_hand:
                codec.encode(np.array([point.vector for point in raw], np.float32)).tolist()
            if way != "encoding":
                client.upsert("docs", batch)

    def query(client: QdrantClient, way: str) -> None:
        kind = "latents" if way in by_hand else way
        for raw, vector in zip(made["query original"], made[f"query {kind}"], strict=True):
            if way in by_hand:
                codec.encode_queries(np.array([raw], np.float32)).tolist()
            if way != "encoding":
                client.query_points("docs", vector)

    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        for way in ("original", "latents", "encoding", "by hand", "adapter"):
            plain = QdrantClient(":memory:")
            client = CompressedQdrantClient(plain, codec) if way == "adapter" else plain
            size = codec.dim if way in ("original", "adapter") else codec.code_dim
            client.create_collection("docs", models.VectorParams(size=size, distance=models.Distance.COSINE))
            for work, count in ((upsert, len(data.base)), (query, len(data.queries))):
                seconds = cpu_seconds(partial(work, client, way))
                times.setdefault(f"{work.__name__} {way}", []).append(seconds / count)
            plain.close()
    best = {name: min(values) * 1e6 for name, values in times.items()}
    table(
        [
            {
                "": operation,
                "original, plain client (us)": best[f"{operation} original"],
                "latents, plain client (us)": best[f"{operation} latents"],
                "encoding alone (us)": best[f"{operation} encoding"],
                "encoded by hand, plain client (us)": best[f"{operation} by hand"],
                "adapter (us)": best[f"{operation} adapter"],
                "beyond by hand, of latents": (best[f"{operation} adapter"] - best[f"{operation} by hand"])
                / best[f"{operation} latents"],
                "beyond encoding alone, of latents": (best[f"{operation} adapter"] - best[f"{operation} encoding"])
                / best[f"{operation} latents"]
                - 1,
                "against original": best[f"{operation} adapter"] / best[f"{operation} original"] - 1,
            }
            for operation in ("upsert", "query")
        ]
    )
