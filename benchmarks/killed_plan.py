"""Kill a plan twenty times, and compare what it says afterwards with one that was left alone.

    python benchmarks/killed_plan.py --kills 20

Each run is a process of its own, forked from this one, which has the libraries loaded. A plan keeps nothing between
runs: what must hold is that a killed one changes no file of the data's folder, and that the next one says the same to
the last digit. Prints JSON; the test suite runs it with few kills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from embeddings import SAMPLE
from killed_fit import ended
from vaecodec.sources import open_source
from vaecodec_integrations.plan.goal import Goal
from vaecodec_integrations.plan.planner import plan
from vaecodec_integrations.plan.stores import StoreName
from vaecodec_integrations.plan.text import to_json

ROWS, DIM = 600, 16


def started(folder: Path, answer: Path) -> int:
    """Begin a plan in a process of its own, which writes its answer to a file; return the process's id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        warnings.simplefilter("ignore")
        goal = Goal(recall=0.8, vectors=ROWS, stores=(StoreName.PACKED,))
        found = plan(open_source(folder / "base.npy"), goal, queries=open_source(folder / "queries.npy"))
        answer.write_text(json.dumps(to_json(found), default=str))
        status = 0
    finally:
        os._exit(status)


def content(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        folder, answer = Path(place) / "data", Path(place) / "answer.json"
        folder.mkdir()
        # Temporary files of the killed go here, too.
        tempfile.tempdir = place
        for name in ("base", "queries"):
            np.save(folder / f"{name}.npy", np.load(SAMPLE / f"{name}.npy")[:ROWS, :DIM].astype(np.float32))
        before, begun = content(folder), time.monotonic()
        assert ended(started(folder, answer), 3600) == 0
        seconds, expected = time.monotonic() - begun, _said(answer)
        kills, same = 0, True
        while kills < options.kills:
            if ended(started(folder, answer), chosen.uniform(0.01, 0.9 * seconds)) is None:
                kills += 1
            same = same and content(folder) == before
        assert ended(started(folder, answer), 3600) == 0
        same = same and content(folder) == before and _said(answer) == expected
    print(json.dumps({"seconds": round(seconds, 1), "kills": kills, "identical": same}))


def _said(answer: Path) -> str:
    """Return an answer but for the rates of its trials, which a clock measures."""
    document = json.loads(answer.read_text())
    for one in document["answers"]:
        one["trial"] = one["trial"] and one["trial"]["recall"]
    return json.dumps(document)


if __name__ == "__main__":
    main()
