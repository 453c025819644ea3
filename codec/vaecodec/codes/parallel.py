"""Spread the rows of a batch over threads, for loops that release the interpreter's lock (numba kernels, BLAS)."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def available_threads() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def over_rows(work: Callable[[int, int], None], rows: int, block: int, threads: int | None) -> None:
    """Call ``work(start, stop)`` for consecutive blocks of at most ``block`` rows, in any order.

    Args:
        work: must touch nothing but its own rows.
        rows: how many there are; with one block the caller's own thread does it.
        block: rows per call.
        threads: at most so many at once; by default one per core.
    """
    starts = range(0, rows, block)
    workers = min(threads or available_threads(), len(starts))
    if workers <= 1:
        for start in starts:
            work(start, min(start + block, rows))
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda start: work(start, min(start + block, rows)), starts):
            pass
