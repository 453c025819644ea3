"""Check pairs of queries and documents."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import UnusableDataError
from vaecodec.sources import RandomAccessSource
from vaecodec.sources.bad_rows import GoodRows
from vaecodec_training.data.sample import Sample


class DroppedPairsWarning(UserWarning):
    """Pairs were left out because the sample that a source is read by lacks one of their rows."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Say which documents answer which queries.

    Attributes:
        rows: int64 (p, 2), row numbers of queries and documents.
        grades: float64 (p,), how well each answers, above 0; None where all answer equally.
    """

    rows: NDArray[np.int64]
    grades: NDArray[np.float64] | None = None

    def within(self, queries: NDArray[np.int64], documents: NDArray[np.int64]) -> Pairs:
        """Return the pairs both of whose rows are in the given parts."""
        return self._at(np.isin(self.rows[:, 0], queries) & np.isin(self.rows[:, 1], documents))

    def by_query(
        self, queries: NDArray[np.int64], documents: NDArray[np.int64]
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float64]] | None]:
        """Return for each query the positions of its documents within ``documents``, and their grades.

        Args:
            queries: increasing row numbers; every pair's query is among them.
            documents: the same of documents.
        """
        ordered = self._at(np.argsort(self.rows[:, 0], kind="stable"))
        bounds = np.searchsorted(ordered.rows[:, 0], queries)[1:]
        answers = np.split(np.searchsorted(documents, ordered.rows[:, 1]), bounds)
        return answers, None if ordered.grades is None else np.split(ordered.grades, bounds)

    def _at(self, chosen: NDArray[Any]) -> Pairs:
        return Pairs(self.rows[chosen], None if self.grades is None else self.grades[chosen])


def checked_pairs(
    pairs: NDArray[Any] | Literal["aligned"], documents: RandomAccessSource, queries: RandomAccessSource
) -> Pairs:
    """Return the pairs as row numbers of what is trained on, which may be samples."""
    asked, searched = (
        each.drawn_from if isinstance(each, Sample | GoodRows) else each.rows for each in (queries, documents)
    )
    return _drawn(numbered_pairs(pairs, searched, asked), queries, documents)


def numbered_pairs(pairs: NDArray[Any] | Literal["aligned"], documents: int, queries: int) -> Pairs:
    """Return pairs of so many queries and documents; those of the grade 0 are left out.

    Args:
        pairs: as :meth:`Collection.open` takes them.
        documents, queries: how many there are.

    Raises:
        UnusableDataError: they are none, name rows that do not exist or the same two rows twice, or a grade is below
            0.
    """
    if isinstance(pairs, str):
        if documents != queries:
            raise UnusableDataError(
                f"pairs: aligned queries and documents must be as many, got {queries:,} queries and {documents:,} "
                "documents"
            )
        return Pairs(np.repeat(np.arange(documents)[:, None], 2, axis=1))
    rows, grades = _columns(np.asarray(pairs))
    outside = np.flatnonzero((rows < 0).any(1) | (rows >= [queries, documents]).any(1))
    if len(outside):
        raise UnusableDataError(
            f"pairs: row {outside[0]} is {rows[outside[0]].tolist()}, but there are {queries:,} queries and "
            f"{documents:,} documents"
        )
    _, first = np.unique(rows[:, 0] * documents + rows[:, 1], return_index=True)
    if len(first) < len(rows):
        again = rows[np.setdiff1d(np.arange(len(rows)), first)[0]]
        raise UnusableDataError(
            f"pairs: expected each pair once, got query row {again[0]} with document row {again[1]} again; leave "
            "repetitions out, or count them as the pair's grade"
        )
    if grades is None:
        return Pairs(rows)
    return Pairs(rows[grades > 0], grades[grades > 0])


def _columns(pairs: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """Return row numbers and grades from an array of two or three columns."""
    numeric = np.issubdtype(pairs.dtype, np.integer) or np.issubdtype(pairs.dtype, np.floating)
    if pairs.ndim != 2 or pairs.shape[1] not in (2, 3) or not len(pairs) or not numeric:
        raise _not_pairs(pairs)
    rows = pairs[:, :2].astype(np.int64)
    if not np.array_equal(rows, pairs[:, :2]):
        raise _not_pairs(pairs)
    if pairs.shape[1] == 2:
        return rows, None
    grades = pairs[:, 2].astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(grades) & (grades >= 0)))
    if len(bad):
        raise UnusableDataError(f"pairs: expected grades of at least 0, got {grades[bad[0]]} in row {bad[0]}")
    if not grades.any():
        raise UnusableDataError("pairs: expected a grade above 0, got only zeros; leave the grades out")
    return rows, grades


def _not_pairs(pairs: NDArray[Any]) -> UnusableDataError:
    return UnusableDataError(
        "pairs: expected integers (p, 2), row numbers of queries and documents, or with grades (p, 3), got "
        f"{pairs.dtype} {pairs.shape}"
    )


def _drawn(pairs: Pairs, *sources: RandomAccessSource) -> Pairs:
    """Return pairs by the row numbers of the samples, without those whose rows are not in the samples."""
    kept = pairs
    for column, source in enumerate(sources):
        if isinstance(source, Sample | GoodRows):
            kept = kept._at(np.isin(kept.rows[:, column], source.numbers))
            kept.rows[:, column] = np.searchsorted(source.numbers, kept.rows[:, column])
    if not len(kept.rows):
        raise UnusableDataError(
            f"pairs: expected pairs whose rows are in the samples that are drawn of sources without random access, got "
            f"none of {len(pairs.rows):,}; save the vectors as .npy, which is read without a sample"
        )
    if len(kept.rows) < len(pairs.rows):
        warnings.warn(
            DroppedPairsWarning(
                f"pairs: {len(pairs.rows) - len(kept.rows):,} of {len(pairs.rows):,} left out, because a sample is "
                "drawn of sources without random access and lacks one of their rows; save the vectors as .npy to train "
                "on all pairs"
            ),
            stacklevel=2,
        )
    return kept
