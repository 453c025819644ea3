"""Share between the benchmarks of Qdrant the rows, tables, and a clock of CPU time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vaecodec.interface import FloatArray


class Data:
    """Hold float32 rows of unit norm."""

    def __init__(self, folder: Path, rows: int | None, queries: int) -> None:
        self.train = np.load(folder / "train.npy", mmap_mode="r")
        self.base = np.array(np.load(folder / "base.npy", mmap_mode="r")[:rows], np.float32)
        self.queries = np.array(np.load(folder / "queries.npy", mmap_mode="r")[:queries], np.float32)

    def repeated(self, points: int) -> Iterator[tuple[range, FloatArray]]:
        """Yield so many rows with their ids, in blocks: the base, then the base again and again with a little noise."""
        noise = np.random.default_rng(0)
        for start in range(0, points, 1000):
            ids = range(start, min(start + 1000, points))
            rows = self.base[np.array(ids) % len(self.base)]
            again = np.array(ids) >= len(self.base)
            rows[again] += noise.normal(scale=0.002, size=rows[again].shape).astype(np.float32)
            yield ids, rows


def table(rows: list[dict[str, Any]]) -> None:
    """Format a Markdown table; floats get the digits that they are worth."""
    print("| " + " | ".join(rows[0]) + " |\n|" + " --- |" * len(rows[0]))
    for row in rows:
        print(
            "| "
            + " | ".join(
                f"{v:,.3f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else str(v)
                for v in row.values()
            )
            + " |"
        )


def cpu_seconds(work: Callable[[], None]) -> float:
    """Return the CPU time of the process: on one thread it is the wall time of an idle machine."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start
