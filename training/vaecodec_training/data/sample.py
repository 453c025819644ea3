"""Draw samples and choose rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vaecodec.interface import FloatArray, Metric
from vaecodec.sources import ArraySource, RandomAccessSource, VectorSource, sample_rows
from vaecodec.sources.bad_rows import GoodRows
from vaecodec.vectors import as_compared

_LOG = logging.getLogger(__name__)

# Vectors held in memory at once, in bytes of float32: enough for 350,000 rows of 384 values.
SAMPLE_BYTES = 512 << 20


# float32 holds every integer below this one.
_EXACT = 1 << 24


class Sample(ArraySource):
    """Hold a uniform sample of a source, and the numbers of its rows there.

    Attributes:
        numbers: int64 (rows,), increasing: the sample's row i is row ``numbers[i]`` of the source.
        drawn_from: how many rows the source had, bad ones that are left out included.
        sampled_from: among how many rows it was drawn; None where it holds all of them.
    """

    def __init__(self, source: VectorSource, rows: int, seed: int) -> None:
        numbered = _WithNumbers(source)
        drawn = sample_rows(numbered, rows, seed)
        super().__init__(drawn[:, : source.dim], name=source.name)
        numbers = numbered.numbers_of(drawn)
        self.numbers, self.drawn_from = numbers, numbered.seen
        self.sampled_from = None if len(drawn) == numbered.seen else numbered.seen
        if self.sampled_from is not None:
            _LOG.info(
                "%s: a uniform sample of %s of %s rows is used, as they cannot be read in any order; save the vectors "
                "as .npy to use all",
                source.name,
                f"{len(drawn):,}",
                f"{self.sampled_from:,}",
            )
        if isinstance(source, GoodRows):  # its numbers are those of the file
            self.numbers, self.drawn_from = source.numbers[numbers], source.drawn_from


class _WithNumbers:
    """Append to each row of a source its number, in two values that float32 holds exactly."""

    def __init__(self, source: VectorSource) -> None:
        self.name, self.rows, self.dim = source.name, source.rows, source.dim + 2
        self.seen = 0
        self._source = source

    def blocks(self, rows: int | None = None) -> Iterator[FloatArray]:
        self.seen = 0
        for block in self._source.blocks(rows):
            numbers = np.divmod(np.arange(self.seen, self.seen + len(block)), _EXACT)
            self.seen += len(block)
            yield np.column_stack([part.astype(np.float32) for part in (block, *numbers)])

    def numbers_of(self, rows: FloatArray) -> NDArray[np.int64]:
        high, low = rows[:, -2], rows[:, -1]
        return high.astype(np.int64) * _EXACT + low.astype(np.int64)


def with_random_access(source: VectorSource, *, seed: int = 0, budget: int = SAMPLE_BYTES) -> RandomAccessSource:
    """Return the source itself, or, when it can only be read from first to last, a sample of it held in memory.

    Args:
        source: Parquet files and collections have no random access.
        seed: of :func:`~vaecodec.sources.sample_rows`.
        budget: bytes of float32 that the sample may take.

    Returns:
        The source, or a :class:`Sample`; of all rows, in their order, when the budget suffices.
    """
    if isinstance(source, RandomAccessSource):
        return source
    return Sample(source, max(1, budget // (4 * source.dim)), seed)


def evenly_spaced(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most so many of the rows, evenly spaced."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, max(most, 0)).astype(np.int64)]


def vectors_at(source: RandomAccessSource, rows: NDArray[np.int64], metric: Metric) -> FloatArray:
    vectors = np.asarray(source.take(rows), np.float32)
    return as_compared(vectors, metric)
