"""Measure what migrating a collection takes, against copying it by hand."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from qdrant_client import QdrantClient, models

from qdrant_data import Data, table
from vaecodec.interface import VectorCodec
from vaecodec_integrations.qdrant.migration import Migration, migrate

MAIN = Path(__file__).with_name("qdrant.py")


@contextmanager
def peak_rss() -> Iterator[list[int]]:
    """Measure the largest resident size while the block runs, sampled every 20 ms."""
    process, seen, stop = psutil.Process(), [psutil.Process().memory_info().rss], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            seen[0] = max(seen[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


def migration(points: int, folder: Path, same: list[str]) -> None:
    """Migrate a folder of local mode, and copy it by hand, each in a process of its own.

    Local mode keeps the copy in memory; copying by hand shows how much of the growth is that.
    """
    rows = []
    for way in ("by hand", "migrate"):
        program = [sys.executable, str(MAIN), "--copying", str(folder / way), "--points", str(points), *same]
        rows.append(json.loads(subprocess.run(program, capture_output=True, text=True, check=True).stdout))
        shutil.rmtree(folder)
    table(rows)


def copying(data: Data, codec: VectorCodec, points: int, folder: Path) -> None:
    """Print, in a process of its own, what copying a collection took, in the way that the folder names."""
    shutil.rmtree(folder, ignore_errors=True)
    client = QdrantClient(path=str(folder))
    client.create_collection("docs", models.VectorParams(size=codec.dim, distance=models.Distance.COSINE))
    for ids, rows in data.repeated(points):
        client.upload_collection("docs", rows, ids=ids, payload=({"row": i, "group": i % 7} for i in ids))
    gc.collect()
    before, begin = psutil.Process().memory_info().rss, time.perf_counter()
    with peak_rss() as peak:
        if folder.name == "migrate":
            migrate(Migration(client, "docs", codec, folder / "state.json", into="small"), sample=20)
        else:
            size = models.VectorParams(size=codec.code_dim, distance=models.Distance.COSINE)
            client.create_collection("small", size)
            for records in pages(client, "docs", with_vectors=True):
                latents = codec.encode(np.array([record.vector for record in records], np.float32)).tolist()
                client.upsert(
                    "small",
                    [
                        models.PointStruct(id=record.id, vector=latent, payload=record.payload)
                        for record, latent in zip(records, latents, strict=True)
                    ],
                )
    seconds = time.perf_counter() - begin

    def contents(collection: str) -> Iterator[tuple[Any, Any]]:
        for records in pages(client, collection):
            yield from ((record.id, record.payload) for record in records)

    same = all(a == b for a, b in zip(contents("docs"), contents("small"), strict=True))
    print(
        json.dumps(
            {
                "copied": folder.name,
                "points": points,
                "seconds": seconds,
                "points/s": round(points / seconds),
                "RSS before (MB)": round(before / 1e6),
                "peak gained (MB)": round((peak[0] - before) / 1e6),
                "ids and payloads identical": str(same),
            }
        )
    )
    client.close()


def pages(client: QdrantClient, collection: str, **selection: Any) -> Iterator[list[models.Record]]:
    """Yield all points of a collection, a thousand at a time."""
    offset = None
    while True:
        records, offset = client.scroll(collection, limit=1000, offset=offset, **selection)
        yield records
        if offset is None:
            return
