"""Run by test_migrate.py as a program: migrates a folder with ten kill -9, and another one without.

Children are forked from a process that has everything imported and no thread, so that a kill can hit any moment of
the work itself.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from qdrant_client import QdrantClient, models

from vaecodec import LinearCodec, fit_linear
from vaecodec_integrations.qdrant.migrate import Migration, migrate

KILLS = 10


def run(folder: Path, codec: LinearCodec) -> None:
    client = QdrantClient(path=str(folder / "qdrant"))
    migrate(Migration(client, "docs", codec, folder / "state.json", into="small", batch_size=40), sample=5)
    client.close()


def contents(folder: Path) -> dict[object, object]:
    client = QdrantClient(path=str(folder / "qdrant"))
    records, _ = client.scroll("small", limit=10_000, with_vectors=True)
    client.close()
    return {record.id: (record.payload, record.vector) for record in records}


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    base = np.load(folder / "base.npy")
    codec = fit_linear(np.load(folder / "train.npy"), 64)
    whole, killed = folder / "whole", folder / "killed"
    client = QdrantClient(path=str(whole / "qdrant"))
    client.create_collection("docs", models.VectorParams(size=384, distance=models.Distance.COSINE))
    client.upload_collection("docs", base, ids=range(len(base)), payload=({"row": i} for i in range(len(base))))
    client.close()
    shutil.copytree(whole, killed)

    started = time.perf_counter()
    run(whole, codec)
    duration = time.perf_counter() - started

    chance = random.Random(0)
    kills = 0
    while kills < KILLS:
        child = os.fork()
        if child == 0:
            run(killed, codec)
            os._exit(0)
        # Early enough that every kill hits a migration at work, the last ones too.
        time.sleep(chance.uniform(0.2, 1.2) * duration / KILLS)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        kills += 1
    run(killed, codec)
    print(kills, "identical" if contents(whole) == contents(killed) else "different")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
