"""Search two hnswlib indexes at once, while the documents of an old embedding model are embedded again by a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vaecodec.errors import IndexArgumentError, VectorIndexError
from vaecodec.interface import FloatArray, Metric
from vaecodec.two_models.merging import Embedded, Merger
from vaecodec_integrations.index.latent import Labels

# Old results that the new index also has are dropped. Therefore first ask for this many times as many.
_SPARE = 2
_NO_LABEL = np.iinfo(np.uint64).max


class TwoModelIndex:
    """Search documents in the new index if they are in it, and otherwise in the old one.

    A document has the same label in both. The old index stays as it is; delete a document in both.

    Args:
        old: a ``CompressedIndex`` or ``hnswlib.Index`` of the old model's vectors.
        new: one of the new model's vectors.
        merger: brings the scores of both to one scale; fit on latents where an index holds these.

    Raises:
        IndexArgumentError: an index does not compare as the merger does.
    """

    def __init__(self, old: Any, new: Any, merger: Merger) -> None:
        for name, index, metric in (("old", old, merger.metrics[0]), ("new", new, merger.metrics[1])):
            space = _latent_space(index)
            if space != _SPACES[metric]:
                raise IndexArgumentError(
                    f"{name}: expected an index that compares by {_SPACES[metric]!r}, as the merger was fitted, got "
                    f"one by {space!r}; fit the merger on what the index holds"
                )
        self._old, self._new, self._merger = old, new, merger

    def knn_query(
        self,
        old_queries: Any,
        new_queries: Any,
        k: int = 1,
        *,
        filter: Callable[[int], bool] | None = None,  # noqa: A002 (hnswlib's name)
        offset: int = 0,
    ) -> tuple[Labels, FloatArray]:
        """Search by both queries, and merge what they find.

        Pages with the same queries and filter fit together, as long as ``ef`` of both indexes is at least twice
        ``k + offset``: no document is on two of them, and none is missing.

        Args:
            old_queries: float (n, d) or (d,), embedded by the old model.
            new_queries: float (n, e) or (e,), the same by the new one.
            k: documents wanted; at most as many as there are.
            filter: keeps the labels for which it is true, as in hnswlib; it is Python, and takes time.
            offset: how many documents are passed over, as for the pages after the first.

        Returns:
            Labels, uint64 (n, k), and scores on the merger's scale, float32 (n, k), the best first; fewer than k where
            fewer are left.

        Raises:
            IndexArgumentError: ``k`` is below 1, or ``offset`` below 0.
        """
        for name, value, least in (("k", k, 1), ("offset", offset, 0)):
            if not isinstance(value, (int, np.integer)) or value < least:
                raise IndexArgumentError(f"{name}: expected an integer of at least {least}, got {value!r}")
        wanted = k + offset
        asked = Embedded(*(np.atleast_2d(np.asarray(rows, np.float32)) for rows in (old_queries, new_queries)))
        # The new index is asked last: a document that is added meanwhile is then found twice, and not missed.
        old_labels, old_scores = self._old_ones(asked.old, wanted, filter)
        new_labels, new_scores = _search(self._new, asked.new, wanted, filter)
        twice = (old_labels[:, :, None] == new_labels[:, None, :]).any(axis=2)
        old_scores = np.where(twice, -np.inf, old_scores).astype(np.float32)
        compared = Embedded(_compared(self._old, asked.old), _compared(self._new, asked.new))
        order, scores = self._merger.rank(compared, Embedded(old_scores, new_scores))
        labels = np.take_along_axis(np.concatenate([old_labels, new_labels], axis=1), order, axis=1)
        found = min(wanted, int(np.isfinite(scores).sum(axis=1).min(initial=wanted)))
        return labels[:, offset:found], scores[:, offset:found]

    def _old_ones(self, queries: FloatArray, k: int, keep: Callable[[int], bool] | None) -> tuple[Labels, FloatArray]:
        """Return the best documents that are not in the new index: labels, and scores, minus infinity where there is
        none.
        """
        done = np.asarray(self._new.get_ids_list(), np.uint64)
        wanted = k * _SPARE
        while True:
            labels, scores = _search(self._old, queries, wanted, keep)
            left = ~np.isin(labels, done)
            if labels.shape[1] < wanted or left.sum(axis=1).min(initial=k) >= k:
                break
            wanted *= 2
        scores = np.where(left, scores, -np.inf).astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(labels, order, axis=1), np.take_along_axis(scores, order, axis=1)


_SPACES = {Metric.L2: "l2", Metric.DOT: "ip", Metric.COSINE: "cosine"}


def _latent_space(index: Any) -> str:
    codec = getattr(index, "codec", None)
    return str(index.space) if codec is None else _SPACES[codec.latent_metric]


def _compared(index: Any, queries: FloatArray) -> FloatArray:
    """Return the queries in the form that the index compares."""
    codec = getattr(index, "codec", None)
    encoded: FloatArray = queries if codec is None else codec.encode_queries(queries)
    return encoded


def _search(index: Any, queries: FloatArray, k: int, keep: Callable[[int], bool] | None) -> tuple[Labels, FloatArray]:
    """Return the nearest elements, at most as many as there are, with scores where larger is nearer."""
    fewest, most = 0, min(k, index.get_current_count())
    found = np.full((len(queries), 0), _NO_LABEL), np.empty((len(queries), 0), np.float32)
    asked = most
    # A filter is Python, which only one thread runs at a time.
    threads = -1 if keep is None else 1
    while fewest < most:  # hnswlib does not tell how many elements are deleted or kept, and fails if one is missing
        try:
            found = index.knn_query(queries, k=asked, num_threads=threads, filter=keep)
            fewest = asked
        except RuntimeError as error:
            if not isinstance(error, VectorIndexError) and "contiguous 2D array" not in str(error):
                raise  # an error of the filter
            most = asked - 1
        asked = (fewest + most + 1) // 2
    labels, distances = found
    return labels, -distances if _latent_space(index) == "l2" else 1 - distances
