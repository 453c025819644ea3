"""Draw a sample of texts that two embedding models embedded, and bring known pairs to the numbers of its rows."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import UnusableDataError
from vaecodec.interface import FloatArray
from vaecodec.sources import VectorSource
from vaecodec.steps import Steps
from vaecodec.two_models.merging import Embedded
from vaecodec_training.data.pairs import Pairs, numbered_pairs
from vaecodec_training.data.sample import evenly_spaced

BRIDGE_SAMPLE_ROWS = 20_000

_LOG = logging.getLogger(__name__)

Known = NDArray[Any] | Literal["aligned"]


def embedded_by_both(
    documents: tuple[VectorSource, VectorSource],
    queries: tuple[VectorSource, VectorSource] | None = None,
    pairs: Known | None = None,
    *,
    rows: int = BRIDGE_SAMPLE_ROWS,
) -> tuple[Embedded, Embedded | None, NDArray[Any] | None]:
    """Read a sample of texts embedded by both models, and the pairs both of whose rows are in it.

    Args:
        documents: by the old and by the new model, row for row.
        queries: the same.
        pairs: as :func:`~vaecodec_training.data.pairs.numbered_pairs` takes them.
        rows: the most documents and the most queries, evenly spaced. Where pairs are known, queries that have an
            answer come before others, and so do documents that answer one of them.

    Returns:
        The documents, the queries, and the pairs by the numbers of the sample's rows.

    Raises:
        UnusableDataError: the models' rows differ in number, or pairs do not fit them.
    """
    count = _common("sample", *documents)
    sampled = np.arange(count)
    if queries is None:
        sampled = evenly_spaced(sampled, rows)
        return Embedded(*(_read(source, sampled, count) for source in documents)), None, None
    asked = _common("queries", *queries)
    asking, known = np.arange(asked), None
    if pairs is not None:
        known = numbered_pairs(pairs, count, asked)
        asking = _preferred(known.rows[:, 0], asking, rows)
        known = known.within(asking, sampled)
        sampled = _preferred(known.rows[:, 1], sampled, rows)
        known = known.within(asking, sampled)
    asking, sampled = evenly_spaced(asking, rows), evenly_spaced(sampled, rows)
    return (
        Embedded(*(_read(source, sampled, count) for source in documents)),
        Embedded(*(_read(source, asking, asked) for source in queries)),
        None if known is None else _renumbered(known, asking, sampled),
    )


def _preferred(first: NDArray[np.int64], all_rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most so many rows in ascending order, of which those named first come before others."""
    chosen = evenly_spaced(np.unique(first), most)
    others = np.setdiff1d(all_rows, chosen, assume_unique=True)
    return np.union1d(chosen, evenly_spaced(others, most - len(chosen)))


def _renumbered(pairs: Pairs, queries: NDArray[np.int64], documents: NDArray[np.int64]) -> NDArray[Any]:
    columns = [np.searchsorted(queries, pairs.rows[:, 0]), np.searchsorted(documents, pairs.rows[:, 1])]
    return np.stack(columns if pairs.grades is None else [*columns, pairs.grades], axis=1)


def _common(name: str, old: VectorSource, new: VectorSource) -> int:
    counts = [
        sum(len(block) for block in source.blocks()) if source.rows is None else source.rows for source in (old, new)
    ]
    if counts[0] != counts[1]:
        raise UnusableDataError(
            f"{name}: expected the same texts by both models, got {counts[0]:,} and {counts[1]:,} rows"
        )
    return counts[0]


def _read(source: VectorSource, numbers: NDArray[np.int64], count: int) -> FloatArray:
    if len(numbers) < count:
        _LOG.info("%s: %s of %s rows are used", source.name, f"{len(numbers):,}", f"{count:,}")
    parts, first = [np.empty((0, source.dim), np.float32)], 0
    say = Steps(_LOG)
    for block in source.blocks():
        say("reading %s: %s rows", source.name, f"{first:,}")
        within = numbers[np.searchsorted(numbers, first) : np.searchsorted(numbers, first + len(block))] - first
        parts.append(np.asarray(block[within], np.float32))
        first += len(block)
    return np.concatenate(parts)
