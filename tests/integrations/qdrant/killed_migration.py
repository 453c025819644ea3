"""Run by test_migrate.py as a program: migrates the rows of a folder with ten kill -9, and once without.

    python tests/integrations/qdrant/killed_migration.py FOLDER    # with base.npy and train.npy, of any number of rows

Children are forked from a process that has everything imported and no thread, so that a kill can hit any moment of
the work itself. Each reports every batch, copied or compared; a random number of these and a random part of the time
that one takes decide when it is killed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from qdrant_client import QdrantClient, models

from vaecodec import LinearCodec, fit_linear
from vaecodec_integrations.qdrant.migrate import Migration, migrate

KILLS = 10


def run(folder: Path, codec: LinearCodec, batch: int, advance: Callable[[int], None] = lambda _: None) -> None:
    client = QdrantClient(path=str(folder / "qdrant"))
    migration = Migration(client, "docs", codec, folder / "state.json", into="small", batch_size=batch)
    migrate(migration, advance=advance, sample=5)
    client.close()


def run_and_kill(folder: Path, codec: LinearCodec, batch: int, batches: int, seconds: float) -> bool:
    """Whether the migration was killed, after so many batches and seconds, before it was done."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        run(folder, codec, batch, lambda _: os.write(writing, b".") and None)
        os._exit(0)
    os.close(writing)
    while batches and os.read(reading, 1):
        batches -= 1
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.close(reading)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def contents(folder: Path) -> dict[object, object]:
    """Both collections as they lie in the folder: ids, payloads and vectors to the last bit."""
    client = QdrantClient(path=str(folder / "qdrant"))
    found = {
        (name, record.id): (record.payload, record.vector)
        for name in ("docs", "small")
        for record in client.scroll(name, limit=client.count(name).count, with_vectors=True)[0]
    }
    client.close()
    return found


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    base = np.load(folder / "base.npy")
    batch = max(20, len(base) // 100)
    batches = 2 * len(base) / batch  # each is copied and compared
    codec = fit_linear(np.load(folder / "train.npy"), 64)
    whole, killed = folder / "whole", folder / "killed"
    client = QdrantClient(path=str(whole / "qdrant"))
    client.create_collection("docs", models.VectorParams(size=384, distance=models.Distance.COSINE))
    client.upload_collection("docs", base, ids=range(len(base)), payload=({"row": i} for i in range(len(base))))
    client.close()
    shutil.copytree(whole, killed)

    started = time.perf_counter()
    run(whole, codec, batch)
    seconds_per_batch = (time.perf_counter() - started) / batches
    # That a child may finish: ten on average two thirds of all, so that the last kills hit the comparison.
    most = round(batches / KILLS * 4 / 3)

    chance = random.Random(0)
    kills, copied = 0, []
    while kills < KILLS:
        if not run_and_kill(killed, codec, batch, chance.randint(0, most), chance.random() * seconds_per_batch):
            break
        kills += 1
        state = killed / "state.json"
        copied.append(json.loads(state.read_text())["copied"] if state.exists() else 0)
    run(killed, codec, batch)
    same = contents(whole) == contents(killed)
    print(json.dumps({"kills": kills, "copied at each": copied, "identical": same}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
