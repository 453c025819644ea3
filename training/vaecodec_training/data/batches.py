"""Draw shuffled batches of a collection with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vaecodec.errors import UnusableDataError
from vaecodec.interface import FloatArray, Metric
from vaecodec.sources import ArraySource, RandomAccessSource
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.negatives import hard_negatives
from vaecodec_training.recipe import Recipe

WINDOW_BYTES = 256 << 20


# Rows of a block are read together, so in every epoch they are in the same window.
BLOCK_ROWS = 1024


class ShuffledBatches:
    """Draw batches of training rows in an order that depends only on the seed and the number of the epoch.

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
        """Return the number of batches of an epoch."""
        return len(self._rows) // self.batch if self.batch else 0

    def epoch(self, number: int, skip: int = 0) -> Iterator[tuple[FloatArray, ...]]:
        """Yield the batches of an epoch after the first ``skip``, each a float32 (batch, dim) array per source.

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
            del window  # free it before the next one is read, so that memory holds one window

    @cached_property
    def _held(self) -> list[FloatArray]:
        return [_take(source, self._rows) for source in self._sources]

    def _order(self, number: int) -> NDArray[np.int64]:
        """Return the positions within ``rows`` in the order of an epoch."""
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


@dataclass(frozen=True)
class Batch:
    """Hold this process's share of a batch.

    Attributes:
        documents: (n, d); the first of them are the companions of ``queries``, row for row, the last hard negatives.
        queries: (m, d), or None.
        noise: (n, k) standard normal, for the posterior.
        perturbation: (n, d) standard normal, for InfoNCE without pairs and for noise on the inputs; otherwise empty.
        query_perturbation: (m, d), for noise on the inputs; otherwise empty.
        weights: (m,) grades of the pairs, over their mean; None where all count alike.
    """

    documents: Tensor
    queries: Tensor | None
    noise: Tensor
    perturbation: Tensor
    query_perturbation: Tensor
    weights: Tensor | None = None

    def blurred(self, size: float) -> tuple[Tensor, Tensor | None]:
        """Return documents and queries with noise of this norm relative to theirs."""
        if not size:
            return self.documents, self.queries

        def with_noise(rows: Tensor, noise: Tensor) -> Tensor:
            norms: Tensor = rows.norm(dim=1, keepdim=True)
            scale: float = size / float(rows.shape[1]) ** 0.5
            blurred: Tensor = rows + scale * norms * noise
            return blurred

        queries = None if self.queries is None else with_noise(self.queries, self.query_perturbation)
        return with_noise(self.documents, self.perturbation), queries


class Batches:
    """Return any batch of the run by its number: it depends only on the seed and that number."""

    def __init__(self, collection: Collection, recipe: Recipe, processes: int) -> None:
        self.recipe = recipe
        self.dim = collection.dim
        self.cosine = collection.metric is Metric.COSINE
        self.processes = processes
        rows = collection.document_rows
        # Each process takes equally many documents, and every second one of them is a query of the distillation.
        unit = 4 * processes
        size = max(unit, min(recipe.batch, len(rows)) // unit * unit)
        self.per_epoch = max(1, len(rows) // size)
        self.weighs = collection.pairs is not None and collection.grades is not None
        self.pairs, alone = None, size
        companions = collection.companions
        if companions is not None and collection.queries is not None:
            # Put each query's own document into its batch: it is the most important neighbour.
            alone = size // 2
            sources: list[RandomAccessSource] = [
                _Chosen(collection.queries, companions[:, 0]),
                _Chosen(collection.documents, companions[:, 1]),
            ]
            if recipe.hard_negatives:
                near = hard_negatives(collection, recipe.hard_negatives, recipe.seed)
                sources += [_Chosen(collection.documents, column) for column in near.T]
            if self.weighs:
                assert collection.grades is not None
                sources.append(ArraySource((collection.grades / collection.grades.mean())[:, None]))
            count = min(size // 2, len(companions)) // (2 * processes) * 2 * processes
            self.pairs = _Numbered(ShuffledBatches(sources, np.arange(len(companions)), count, recipe.seed + 1))
        self.blurs = recipe.input_noise > 0
        self.perturbs = self.blurs or (recipe.contrastive > 0 and collection.pairs is None)
        self.documents = _Numbered(ShuffledBatches([collection.documents], rows, alone, recipe.seed))

    def at(self, number: int, rank: int, device: torch.device) -> Batch:
        """Return a process's share of a batch. All shares in the order of their processes are the batch of one
        process."""
        (documents,) = self.documents[number]
        generator = torch.Generator().manual_seed((self.recipe.seed << 32) + number)
        parts, queries, weights = [documents], None, None
        if self.pairs is not None:
            queries, paired, *others = self.pairs[number]
            weights = torch.from_numpy(others.pop()[:, 0]) if self.weighs else None
            parts = [paired, documents, *others]
        shares, noises, perturbations = [], [], []
        for part in parts:
            shares.append(self._share(torch.from_numpy(part), rank))
            noises.append(self._share(torch.randn(len(part), self.recipe.dim, generator=generator), rank))
            if self.perturbs:
                perturbations.append(self._share(torch.randn(part.shape, generator=generator), rank))
        asking = torch.empty(0, self.dim)
        if queries is not None and self.blurs:
            asking = self._share(torch.randn(queries.shape, generator=generator), rank)
        return Batch(
            self._compared(torch.cat(shares)).to(device),
            None if queries is None else self._compared(self._share(torch.from_numpy(queries), rank)).to(device),
            torch.cat(noises).to(device),
            torch.cat([*perturbations, torch.empty(0, self.dim)]).to(device),
            asking.to(device),
            None if weights is None else self._share(weights, rank).to(device),
        )

    def _share(self, rows: Tensor, rank: int) -> Tensor:
        size = len(rows) // self.processes
        return rows[rank * size : (rank + 1) * size]

    def _compared(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=1) if self.cosine else rows


class _Numbered:
    """Number the batches of all epochs; reading on is cheap, jumping restarts the epoch's reader."""

    def __init__(self, batches: ShuffledBatches) -> None:
        self._batches = batches
        self._next = -1
        self._reader: Iterator[tuple[FloatArray, ...]] = iter(())

    def __getitem__(self, number: int) -> tuple[FloatArray, ...]:
        epoch, within = divmod(number, self._batches.per_epoch)
        if number != self._next or within == 0:
            self._reader = self._batches.epoch(epoch, within)
        self._next = number + 1
        return next(self._reader)


class _Chosen:
    """Read rows of a source in any order and with repetitions, as a source."""

    def __init__(self, source: RandomAccessSource, chosen: NDArray[np.int64]) -> None:
        self.name = source.name
        self.dim = source.dim
        self.rows = len(chosen)
        self._source = source
        self._chosen = chosen

    def blocks(self, rows: int | None = None) -> Iterator[NDArray[np.floating[Any]]]:
        step = rows or BLOCK_ROWS
        for start in range(0, self.rows, step):
            yield self.take(np.arange(start, min(start + step, self.rows)))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        distinct, back = np.unique(self._chosen[rows], return_inverse=True)
        taken: NDArray[np.floating[Any]] = self._source.take(distinct)[back]
        return taken
