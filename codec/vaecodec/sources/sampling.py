"""Draw rows from a source at random."""

from __future__ import annotations

import logging

import numpy as np

from vaecodec.interface import FloatArray
from vaecodec.sources.base import RandomAccessSource, VectorSource
from vaecodec.steps import Steps

_LOG = logging.getLogger(__name__)


def sample_rows(source: VectorSource, rows: int, seed: int) -> FloatArray:
    """Return rows drawn uniformly without replacement, in the source's order; all rows when there are fewer.

    For a source of known length the row numbers depend on length, ``rows`` and ``seed`` alone, so equally long
    sources give aligned samples. For one of unknown length it is a reservoir (Vitter's algorithm R), whose
    choice does not depend on the block size.

    Args:
        source: what is drawn from; read whole unless it has random access.
        rows: how many are wanted.
        seed: of the draw.

    Returns:
        float32 (min(rows, n), dim), as stored: neither checked nor normalised.
    """
    generator = np.random.default_rng(seed)
    if source.rows is None:
        return _reservoir(source, rows, generator)
    if source.rows <= rows:
        chosen = np.arange(source.rows)
    else:
        chosen = np.sort(generator.choice(source.rows, rows, replace=False, shuffle=False))
    if isinstance(source, RandomAccessSource):
        return np.asarray(source.take(chosen), np.float32)
    sample = np.empty((len(chosen), source.dim), np.float32)
    start, say = 0, Steps(_LOG)
    for block in source.blocks():
        say("drawing a sample of %s: %s of %s rows", source.name, f"{start:,}", f"{source.rows:,}")
        first, last = np.searchsorted(chosen, [start, start + len(block)])
        sample[first:last] = block[chosen[first:last] - start]
        start += len(block)
    return sample


def _reservoir(source: VectorSource, rows: int, generator: np.random.Generator) -> FloatArray:
    kept = np.empty((rows, source.dim), np.float32)
    numbers = np.full(rows, -1, np.int64)
    start, say = 0, Steps(_LOG)
    for block in source.blocks():
        say("drawing a sample of %s: %s rows", source.name, f"{start:,}")
        arriving = np.arange(start, start + len(block))
        # Row t takes slot t while there is room, then a random one of t + 1 slots, which may lie outside. Of rows that
        # take the same slot the last one stays, which is what assigning them one after another does.
        slots = np.where(arriving < rows, arriving, (generator.random(len(block)) * (arriving + 1)).astype(np.int64))
        taken = np.flatnonzero(slots < rows)
        numbers[slots[taken]] = arriving[taken]
        kept[slots[taken]] = block[taken]
        start += len(block)
    filled = np.flatnonzero(numbers >= 0)
    return kept[filled[np.argsort(numbers[filled])]]
