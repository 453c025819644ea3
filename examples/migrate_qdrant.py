"""Compress a live Qdrant collection, look at what its searches find, and go back.

    vaecodec linear examples/debian-sample/train.npy --dim 64 --out svd64.onnx     # or train a codec
    python examples/migrate_qdrant.py --codec svd64.onnx --folder qdrant-data/

Everything happens in a folder of Qdrant's local mode, with the bundled sample as the collection. With a server, give
the commands `--url` instead of `--path`: nothing else changes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from qdrant_client import QdrantClient, models

from vaecodec import Codec
from vaecodec_integrations.qdrant import CompressedQdrantClient

SAMPLE = Path(__file__).parent / "debian-sample"
ALIAS = "live"  # what the application searches, whichever collection is behind it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, required=True, help="a codec file for the sample's embeddings")
    parser.add_argument("--folder", type=Path, required=True, help="where Qdrant's local mode keeps its data")
    options = parser.parse_args()
    codec = Codec.load(options.codec)
    queries = np.load(SAMPLE / "queries.npy").astype(np.float32)[:200]

    fill(options.folder)
    before = searched(QdrantClient(path=str(options.folder)), queries)

    where = ["--path", str(options.folder), "--collection", "docs", "--into", "docs_small"]
    state = ["--state", str(options.folder / "migration.json")]
    command("migrate", *where, "--codec", str(options.codec), *state, "--dry-run")
    command("migrate", *where, "--codec", str(options.codec), *state, "--switch-alias", ALIAS)
    # The one line that changes in the application: its client is wrapped.
    after = searched(CompressedQdrantClient(QdrantClient(path=str(options.folder)), codec), queries)
    print(f"recall@10 through {ALIAS!r}: {overlap(after, before):.3f} of what the uncompressed collection finds\n")

    command("rollback", *where)
    back = searched(QdrantClient(path=str(options.folder)), queries)
    print(f"recall@10 through {ALIAS!r}, rolled back: {overlap(back, before):.3f}")


def fill(folder: Path) -> None:
    """Fill a collection as an application might have it: vectors, payloads, an alias."""
    client = QdrantClient(path=str(folder))
    vectors = np.load(SAMPLE / "base.npy").astype(np.float32)[:1_000]
    client.create_collection("docs", vectors_config=models.VectorParams(size=384, distance=models.Distance.COSINE))
    client.upload_collection(
        "docs", vectors, ids=range(len(vectors)), payload=[{"row": row} for row in range(len(vectors))]
    )
    pointing = models.CreateAlias(collection_name="docs", alias_name=ALIAS)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=pointing)])
    client.close()


def searched(client: QdrantClient, queries: np.ndarray) -> list[set[int]]:
    """Search as the application does, unchanged by the migration: return the ids of the ten nearest of each query."""
    found = [{point.id for point in client.query_points(ALIAS, query, limit=10).points} for query in queries]
    client.close()
    return found


def overlap(found: list[set[int]], wanted: list[set[int]]) -> float:
    """Share of the ids wanted that were found, mean over the queries."""
    return float(np.mean([len(a & b) / len(b) for a, b in zip(found, wanted, strict=True)]))


def command(*arguments: str) -> None:
    """Run a command of vaecodec as one would type it."""
    print("$ vaecodec", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "vaecodec_cli", *arguments], check=True)
    print(flush=True)


if __name__ == "__main__":
    main()
