"""Ingest embeddings: files that arrive in a folder go into a compressed Qdrant collection.

    python examples/ingest.py inbox/ --codec vae128.onnx --qdrant qdrant-data/
    python examples/ingest.py inbox/ --codec vae128.onnx --qdrant http://localhost:6333 --watch 5

The first stops when the inbox is empty, the second goes on. The inbox holds Parquet files with the columns `id`
(integers or UUIDs), `text` and `embedding`. Whoever embeds writes a file under another suffix and renames it to
`.parquet` when it is complete.

A file goes in whole or not at all. When it is in, it moves to `inbox/done`; when it cannot be used, to `inbox/refused`,
with the reason beside it. There is no other state: after a crash or `kill -9` the files that are still in the inbox are
done, the interrupted one again, which changes nothing, because a point is overwritten by itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from qdrant_client import QdrantClient

from vaecodec import Codec
from vaecodec.drift.monitor import MonitoredCodec
from vaecodec.errors import InvalidVectorsError, SourceError
from vaecodec.sources import open_source
from vaecodec_integrations.qdrant import CompressedQdrantClient


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inbox", type=Path)
    parser.add_argument("--codec", type=Path, required=True, help="the codec file, trained for these embeddings")
    parser.add_argument("--qdrant", default="http://localhost:6333", help="an address, or a folder for local mode")
    parser.add_argument("--collection", default="docs")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="look again so often instead of stopping")
    parser.add_argument("--drift", action="store_true", help="say when what arrives is no longer what was trained on")
    options = parser.parse_args()

    codec = Codec.load(options.codec)
    if options.drift:
        codec = MonitoredCodec.of(codec)
    address = {"url": options.qdrant} if "://" in options.qdrant else {"path": options.qdrant}
    client = CompressedQdrantClient(QdrantClient(**address), codec)
    if not client.collection_exists(options.collection):
        client.create_collection(options.collection)  # size and distance come from the codec

    refused = 0
    while True:
        for file in sorted(options.inbox.glob("*.parquet")):
            try:
                points = ingest(file, client, options.collection)
            except (InvalidVectorsError, SourceError) as error:
                refused += 1
                moved = move(file, "refused")
                moved.with_suffix(".reason.txt").write_text(f"{error}\n")
                print(f"{file.name}: refused: {error}", flush=True)
                continue
            move(file, "done")
            print(f"{file.name}: {points} points", flush=True)
            if options.drift and (report := codec.check()).drifted:
                print(report, flush=True)
        if options.watch is None:
            break
        time.sleep(options.watch)
    client.close()
    return 1 if refused else 0


def ingest(file: Path, client: CompressedQdrantClient, collection: str) -> int:
    """Upsert one file's rows; every vector is checked before the first is sent."""
    vectors = np.concatenate([*open_source(file, column="embedding").blocks()])
    rows = parquet.read_table(file, columns=["id", "text"]).to_pydict()
    payload = [{"text": text, "file": file.name} for text in rows["text"]]
    client.upload_collection(collection, vectors, ids=rows["id"], payload=payload, wait=True)
    return len(vectors)


def move(file: Path, folder: str) -> Path:
    """Move a file into a folder beside it, in one step."""
    target = file.parent / folder / file.name
    target.parent.mkdir(exist_ok=True)
    return file.replace(target)


if __name__ == "__main__":
    sys.exit(main())
