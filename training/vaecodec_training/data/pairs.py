"""Read pairs of queries and documents, and check them."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import UnusableDataError
from vaecodec.sources import RandomAccessSource
from vaecodec.sources.bad_rows import GoodRows
from vaecodec_training.data.sample import Sample


class DroppedPairsWarning(UserWarning):
    """Pairs were left out because the sample that a source is read by lacks one of their rows."""


def read_pairs(text: str) -> NDArray[Any] | Literal["aligned"]:
    """What ``pairs`` of :meth:`Collection.open` may be, from the command line: ``aligned``, or the path of a .npy file.

    Raises:
        UnusableDataError: the file cannot be read.
    """
    if text == "aligned":
        return "aligned"
    try:
        pairs: NDArray[Any] = np.load(text, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UnusableDataError(
            f"pairs: expected 'aligned' or a .npy file of integers (p, 2), got {text}: {error}"
        ) from None
    return pairs


def checked_pairs(
    pairs: NDArray[Any] | Literal["aligned"], documents: RandomAccessSource, queries: RandomAccessSource
) -> NDArray[np.int64]:
    """The pairs as row numbers of what is trained on, which may be samples."""
    asked, searched = (
        each.drawn_from if isinstance(each, Sample | GoodRows) else each.rows for each in (queries, documents)
    )
    if isinstance(pairs, str):
        if searched != asked:
            raise UnusableDataError(
                f"pairs: aligned queries and documents must be as many, got {asked:,} queries and {searched:,} "
                "documents"
            )
        rows = np.repeat(np.arange(searched)[:, None], 2, axis=1)
    else:
        rows = np.asarray(pairs)
    if rows.ndim != 2 or rows.shape[1] != 2 or not np.issubdtype(rows.dtype, np.integer) or not len(rows):
        raise UnusableDataError(
            f"pairs: expected integers (p, 2), row numbers of queries and documents, got {rows.dtype} {rows.shape}"
        )
    outside = np.flatnonzero((rows < 0).any(1) | (rows >= [asked, searched]).any(1))
    if len(outside):
        raise UnusableDataError(
            f"pairs: row {outside[0]} is {rows[outside[0]].tolist()}, but there are {asked:,} queries and "
            f"{searched:,} documents"
        )
    return _drawn(rows.astype(np.int64), queries, documents)


def _drawn(rows: NDArray[np.int64], *sources: RandomAccessSource) -> NDArray[np.int64]:
    """Pairs by the row numbers of the samples, without those that one of the samples lacks a row of."""
    kept = rows
    for column, source in enumerate(sources):
        if isinstance(source, Sample | GoodRows):
            kept = kept[np.isin(kept[:, column], source.numbers)]
            kept[:, column] = np.searchsorted(source.numbers, kept[:, column])
    if not len(kept):
        raise UnusableDataError(
            f"pairs: expected pairs whose rows are in the samples that are drawn of sources without random access, got "
            f"none of {len(rows):,}; save the vectors as .npy, which is read without a sample"
        )
    if len(kept) < len(rows):
        warnings.warn(
            DroppedPairsWarning(
                f"pairs: {len(rows) - len(kept):,} of {len(rows):,} left out, because a sample is drawn of sources "
                "without random access and lacks one of their rows; save the vectors as .npy to train on all pairs"
            ),
            stacklevel=2,
        )
    return kept


def pairs_within(
    pairs: NDArray[np.int64], queries: NDArray[np.int64], documents: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The pairs both of whose rows are in the given parts."""
    return pairs[np.isin(pairs[:, 0], queries) & np.isin(pairs[:, 1], documents)]
