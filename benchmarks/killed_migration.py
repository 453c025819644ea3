"""Kill a migration ten times, or as often as asked, resume it each time, and compare it with one that ran through.

    python benchmarks/killed_migration.py --points 200000 --data DIR

Both migrate the same folder of Qdrant's local mode, a process for each run. The moments are drawn at random over
the whole work, copying and comparing. At the end ids, payloads and vectors of source and target must be the same to the
last bit. The rows are those of DIR/base.npy, repeated with a little noise; the codec is an SVD of DIR/train.npy. Prints
JSON; the test suite runs it with few points.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models

from embeddings import SAMPLE
from vaecodec import LinearCodec, fit_linear
from vaecodec_integrations.qdrant import OriginalsFile
from vaecodec_integrations.qdrant.layout import Originals
from vaecodec_integrations.qdrant.migration import Migration, migrate

PAGE = 10_000  # local mode sorts all ids for each page


def fill(folder: Path, base: np.ndarray[Any, Any], points: int) -> None:
    """Fill the source with points that each have their own payload and vector."""
    noise = np.random.default_rng(0)
    client = QdrantClient(path=str(folder))
    client.create_collection("docs", models.VectorParams(size=base.shape[1], distance=models.Distance.COSINE))
    for start in range(0, points, 2000):
        ids = range(start, min(start + 2000, points))
        rows = base[np.array(ids) % len(base)].astype(np.float32)
        rows += noise.normal(scale=0.002, size=rows.shape)
        client.upload_collection("docs", rows, ids=ids, payload=({"row": i, "group": i % 7} for i in ids))
    client.close()


def run(folder: Path, codec: LinearCodec, batch: int, progress: Callable[[int, int], Any] = lambda *_: None) -> None:
    client = QdrantClient(path=str(folder))
    kept: dict[str, Any] = {"originals": Originals.FILE, "originals_path": folder.with_suffix(".f16")}
    migration = Migration(client, "docs", codec, state_file(folder), into="small", batch_size=batch, **kept)
    migrate(migration, progress=progress, sample=5)
    migration.close()
    client.close()


def state_file(folder: Path) -> Path:
    return folder.with_suffix(".json")


def copied(folder: Path) -> int:
    """Return the number of points that the state file counts."""
    state = state_file(folder)
    return int(json.loads(state.read_text())["copied"]) if state.exists() else 0


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Return for both collections in the folder the number of points and a digest of all ids, payloads and vectors."""
    client = QdrantClient(path=str(folder))
    found = {}
    for name in ("small", "docs"):
        count, digest, offset = 0, hashlib.sha256(), None
        while True:
            records, offset = client.scroll(name, limit=PAGE, offset=offset, with_vectors=True)
            for record in records:
                digest.update(json.dumps([record.id, record.payload], sort_keys=True).encode())
                digest.update(np.array(record.vector, np.float64).tobytes())
            count += len(records)
            if offset is None:
                break
        found[name] = (count, digest.hexdigest())
    client.close()
    with OriginalsFile(folder.with_suffix(".f16"), len(np.array(record.vector))) as file:
        assert not file.undecided(range(count)), "originals of which only the engine knows whether they count"
        found["originals"] = (len(file), hashlib.sha256(file.get(range(count)).tobytes()).hexdigest())
    return found


def in_a_child(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a process, forked from one without threads, so that a signal can hit any moment of the work."""
    child = get_context("fork").Process(target=work, args=arguments)
    child.start()
    return child


def to_its_end(work: Callable[..., None], *arguments: Any) -> None:
    child = in_a_child(work, *arguments)
    child.join()
    if child.exitcode:
        raise SystemExit(f"{work.__name__} failed")


def run_and_die(folder: Path, codec: LinearCodec, batch: int, batches: float) -> None:
    """Work as :func:`run`, but let the kernel kill the process after so many batches.

    Nothing handles the timer's signal, so that it ends the process at once, wherever it is and cleaning up nothing, as
    SIGKILL does. The timer and the length of a batch are in time of this process, whatever else the machine does.
    """
    whole, last = int(batches) + 1, 0.0  # a run begins by reporting what is copied already

    def progress(_done: int, _total: int) -> None:
        nonlocal whole, last
        now = time.process_time()
        last, took = now, now - last if last else 0.0
        whole -= 1
        if whole == 0:
            signal.setitimer(signal.ITIMER_PROF, max(batches % 1 * took, 1e-6))

    run(folder, codec, batch, progress)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--data", type=Path, default=SAMPLE)
    scratch = Path(tempfile.gettempdir()) / "vaecodec-killed"
    parser.add_argument("--folder", type=Path, default=scratch, help="removed afterwards")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    base, points = np.load(arguments.data / "base.npy", mmap_mode="r"), arguments.points
    codec = fit_linear(np.load(arguments.data / "train.npy", mmap_mode="r"), 64)
    batch = min(1000, points // 30)
    batches = -(-points // batch)
    whole, killed = arguments.folder / "whole", arguments.folder / "killed"
    arguments.folder.mkdir()
    to_its_end(fill, whole, base, points)
    shutil.copytree(whole, killed)

    started = time.perf_counter()
    to_its_end(run, whole, codec, batch)
    seconds = time.perf_counter() - started

    # In batches: all are copied, then compared.
    chance = random.Random(0)
    moments = sorted(chance.random() * 2 * batches for _ in range(arguments.kills))
    kills, copied_at_each = 0, []
    for moment in moments:
        child = in_a_child(run_and_die, killed, codec, batch, moment - copied(killed) / batch)
        child.join()
        if child.exitcode != -signal.SIGPROF:
            break
        kills += 1
        copied_at_each.append(copied(killed))
    to_its_end(run, killed, codec, batch)
    same = contents(whole) == contents(killed)
    shutil.rmtree(arguments.folder)
    print(
        json.dumps(
            {
                "points": points,
                "kills": kills,
                "batches done of both": f"{batches} copied, {batches} compared",
                "killed after so many batches": [round(moment, 1) for moment in moments],
                "copied at each": copied_at_each,
                "seconds uninterrupted": round(seconds, 1),
                "seconds in all": round(time.perf_counter() - started, 1),
                "identical": same,
            }
        )
    )


if __name__ == "__main__":
    main()
