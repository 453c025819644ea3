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
        pairs: row numbers (p, 2) of queries and documents, with grades as a third column where there are some; or
            ``aligned``.
        rows: the most documents and the most queries, evenly spaced. Where pairs are known, documents that answer a
            query of the sample come before others.

    Returns:
        The documents, the queries, and the pairs by the numbers of the sample's rows.

    Raises:
        UnusableDataError: the models' rows differ in number, or pairs do not fit them.
    """
    count = _common("sample", *documents)
    asked = None if queries is None else _common("queries", *queries)
    known = None if pairs is None or asked is None else row_numbers(pairs, asked, count)
    of_queries = None if asked is None else _spaced(np.arange(asked), rows)
    of_documents = _spaced(np.arange(count), rows)
    if known is not None and of_queries is not None:
        known = known[np.isin(known[:, 0], of_queries)]
        answers = _spaced(np.unique(known[:, 1].astype(np.int64)), rows)
        others = np.setdiff1d(np.arange(count), answers, assume_unique=True)
        of_documents = np.union1d(answers, _spaced(others, rows - len(answers)))
        known = known[np.isin(known[:, 1], of_documents)]
        known[:, 0] = np.searchsorted(of_queries, known[:, 0])
        known[:, 1] = np.searchsorted(of_documents, known[:, 1])
    sampled = Embedded(*(_read(source, of_documents, count) for source in documents))
    if queries is None or of_queries is None or asked is None:
        return sampled, None, None
    return sampled, Embedded(*(_read(source, of_queries, asked) for source in queries)), known


def row_numbers(pairs: Known, queries: int, documents: int) -> NDArray[Any]:
    """Return pairs as row numbers (p, 2), or (p, 3) with grades.

    Raises:
        UnusableDataError: they are of another form, or there are no such rows.
    """
    if isinstance(pairs, str):
        if queries > documents:
            raise UnusableDataError(f"pairs: expected a document for each of {queries:,} queries, got {documents:,}")
        return np.repeat(np.arange(queries)[:, None], 2, axis=1)
    rows = np.array(pairs)
    if rows.ndim != 2 or rows.shape[1] not in (2, 3):
        raise UnusableDataError(f"pairs: expected an array (p, 2), (query, document), got one of shape {rows.shape}")
    for column, limit, name in ((0, queries, "queries"), (1, documents, "documents")):
        if len(rows) and not 0 <= rows[:, column].min() <= rows[:, column].max() < limit:
            raise UnusableDataError(f"pairs: expected row numbers of {limit:,} {name}, got others")
    return rows


def _common(name: str, old: VectorSource, new: VectorSource) -> int:
    counts = [
        sum(len(block) for block in source.blocks()) if source.rows is None else source.rows for source in (old, new)
    ]
    if counts[0] != counts[1]:
        raise UnusableDataError(
            f"{name}: expected the same texts by both models, got {counts[0]:,} and {counts[1]:,} rows"
        )
    return counts[0]


def _spaced(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    step = max(1, -(-len(numbers) // max(1, most)))
    return numbers[::step][: max(0, most)]


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
