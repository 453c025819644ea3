"""Draw shuffled batches of a collection with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import UnusableDataError
from vaecodec.interface import FloatArray
from vaecodec.sources import RandomAccessSource

WINDOW_BYTES = 256 << 20


# Neighbouring rows that are read together and so meet in the same window of every epoch.
BLOCK_ROWS = 1024


class ShuffledBatches:
    """Batches of training rows in an order that depends on the seed and the epoch's number alone.

    Rows that fit the window are held in memory and shuffled uniformly. Otherwise each epoch shuffles in two steps:
    the rows are cut into blocks of 1,024 neighbours, the blocks are put into random order, and the rows within
    each window of that order are shuffled. Each row comes once an epoch, except for a last incomplete batch,
    which is left out; rows far apart in the file meet as often as a window holds their blocks.

    Args:
        sources: one or more sources of equal length whose rows belong together, such as documents and their queries.
        rows: int64 (n,), increasing: the rows to train on.
        batch: rows per batch, at most n.
        seed: of the order.
        window: bytes of float32 held in memory, over all sources.
    """

    def __init__(
        self,
        sources: Sequence[RandomAccessSource],
        rows: NDArray[np.int64],
        batch: int,
        seed: int,
        *,
        window: int = WINDOW_BYTES,
    ) -> None:
        lengths = {source.name: source.rows for source in sources}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {length:,} rows" for name, length in lengths.items())
            raise UnusableDataError(f"rows that belong together must be as many in each source, but {listed}")
        self._sources = sources
        self._rows = rows
        self.batch = min(batch, len(rows))
        self._seed = seed
        row_bytes = sum(4 * source.dim for source in sources)
        self._window_blocks = max(1, window // (row_bytes * BLOCK_ROWS))
        self._fits = len(rows) * row_bytes <= window

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return len(self._rows) // self.batch if self.batch else 0

    def epoch(self, number: int, skip: int = 0) -> Iterator[tuple[FloatArray, ...]]:
        """The batches of an epoch after the first ``skip``, each a float32 (batch, dim) array per source.

        Skipping reads nothing, so a run resumes in the middle of an epoch at no cost.
        """
        order = self._order(number)
        if self._fits:
            for at in range(skip, self.per_epoch):
                positions = order[at * self.batch : (at + 1) * self.batch]
                yield tuple(held[positions] for held in self._held)
            return
        group = max(1, self._window_blocks * BLOCK_ROWS // self.batch)
        for start in range(skip, self.per_epoch, group):
            positions = order[start * self.batch : min(start + group, self.per_epoch) * self.batch]
            ascending = np.argsort(positions)
            back = np.argsort(ascending)
            window = [_take(source, self._rows[positions[ascending]]) for source in self._sources]
            for at in range(0, len(positions), self.batch):
                yield tuple(held[back[at : at + self.batch]] for held in window)
            del window  # before the next one is read, so that there is never room taken for two

    @cached_property
    def _held(self) -> list[FloatArray]:
        return [_take(source, self._rows) for source in self._sources]

    def _order(self, number: int) -> NDArray[np.int64]:
        """Positions within ``rows`` in the order of an epoch."""
        generator = np.random.default_rng([self._seed, number])
        if self._fits:
            return generator.permutation(len(self._rows))
        starts = generator.permutation(np.arange(0, len(self._rows), BLOCK_ROWS))
        order = np.concatenate([np.arange(at, min(at + BLOCK_ROWS, len(self._rows))) for at in starts])
        for at in range(0, len(order), self._window_blocks * BLOCK_ROWS):
            generator.shuffle(order[at : at + self._window_blocks * BLOCK_ROWS])
        return order


def _take(source: RandomAccessSource, rows: NDArray[np.int64]) -> FloatArray:
    return np.asarray(source.take(rows), np.float32)
