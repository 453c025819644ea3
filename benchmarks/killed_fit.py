"""Kill a fit twenty times, repeat it each time, and compare the result with one that ran through.

    python benchmarks/killed_fit.py --kills 20

Each run is a process of its own, forked from this one, which has the libraries loaded. The moments are drawn at random
over the whole work: while a trial is trained, while its files are written, and while the codec is exported. A fit that
ends before it is killed is checked, and begun anew in another folder. At the end the figures of every step, the gate's
decision and the codec must be those of the fit that ran through. Prints JSON; the test suite runs it with few kills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embeddings import SAMPLE
from vaecodec import Codec
from vaecodec.charts import chart
from vaecodec.sources import ArraySource
from vaecodec_exporters.pipeline import fit
from vaecodec_training import budget
from vaecodec_training.data.collection import Collection
from vaecodec_training.recipe import Recipe

ROWS, DIM = 1_200, 24


def work(out: Path) -> None:
    """Fit a codec on a part of the sample."""
    documents, queries = (np.load(SAMPLE / f"{name}.npy")[:ROWS, :DIM] for name in ("train", "train_queries"))
    collection = Collection.open(
        ArraySource(documents.astype(np.float32)), ArraySource(queries.astype(np.float32)), confirmation=0.1
    )
    budget._LONGEST = 1.0  # so that no run is longer where the machine is faster just then
    recipe = Recipe(hidden=0, batch=256, checkpoints=2, epochs=2)
    fit(collection, out, dims=(4, 8), budget=600.0, recipe=recipe)


def started(out: Path) -> int:
    """Begin or continue a fit in a process of its own; return its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        work(out)
        status = 0
    finally:
        os._exit(status)


def ended(process: int, seconds: float) -> int | None:
    """Wait so many seconds for a process; return its exit code, or None where it was killed then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def content(out: Path) -> tuple[Any, ...]:
    """Return what must be the same: the steps but for their times, the gate and what the codec computes."""
    steps = json.loads((out / "run.json").read_text())["steps"]
    figures = {name: step.get("validation", step.get("decision")) for name, step in steps.items() if name != "pace"}
    codec = Codec.load(out / "codec.onnx", threads=1)
    rows = np.load(SAMPLE / "base.npy")[:50, :DIM].astype(np.float32)
    return figures, steps["gate"], codec.metadata.kind, codec.encode(rows).tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with chart(1, 1):  # loads matplotlib here once, and not in every forked process
        pass
    chosen = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        begun = time.monotonic()
        assert ended(started(whole), 3600) == 0
        seconds, expected = time.monotonic() - begun, content(whole)
        kills, folders = 0, 0
        found: list[bool] = []
        while kills < options.kills or not found:
            out = Path(folder) / f"killed {folders}"
            last = kills >= options.kills
            code = ended(started(out), 3600 if last else chosen.uniform(0.01, 0.3 * seconds))
            if code is None:
                kills += 1
                continue
            assert code == 0, f"a repeated fit ended with {code}"
            found.append(content(out) == expected)
            folders += 1
    print(json.dumps({"seconds": round(seconds, 1), "kills": kills, "fits": folders, "identical": all(found)}))


if __name__ == "__main__":
    main()
