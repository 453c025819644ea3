"""Keep the best rows found so far for each query."""

from __future__ import annotations

import numpy as np

from vaecodec.evaluation import IdArray
from vaecodec.interface import FloatArray


class Best:
    """Keep the k best rows of each query; at equal scores the row that was added first comes first.

    Attributes:
        rows: int64 (queries, up to k), best first.
        scores: float32 of the same shape.
    """

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self.rows: IdArray = np.empty((queries, 0), np.int64)
        self.scores: FloatArray = np.empty((queries, 0), np.float32)

    @property
    def least(self) -> np.float32:
        """Return the least score that would change the result of a single query."""
        return np.float32(self.scores[0, -1] if self.scores.shape[1] == self._k else -np.inf)

    def update(self, rows: IdArray, scores: FloatArray) -> None:
        """Add rows, int64 (n,), in any order, with their scores, float32 (queries, n)."""
        if self.scores.shape[1] < self._k:
            scores = np.where(
                np.isnan(scores), np.float32(-np.inf), scores
            )  # products that overflow are NaN: rank them last
            kept = min(scores.shape[1], self._k)
            passing = scores >= np.partition(scores, -kept, axis=1)[:, -kept, None]
        else:
            passing = scores >= self.scores[:, -1:]
        queries, columns = np.nonzero(passing)
        if len(queries):
            self._merge(queries, rows[columns], scores[queries, columns])

    def _merge(self, queries: IdArray, rows: IdArray, scores: FloatArray) -> None:
        total = len(self.scores)
        queries = np.concatenate([np.repeat(np.arange(total), self.rows.shape[1]), queries])
        rows = np.concatenate([self.rows.ravel(), rows])
        scores = np.concatenate([self.scores.ravel(), scores])
        order = np.lexsort((rows, -scores, queries))
        counts = np.bincount(queries, minlength=total)
        starts = np.cumsum(counts) - counts
        kept = order[starts[:, None] + np.arange(min(self._k, int(counts.min())))]
        self.rows, self.scores = rows[kept], scores[kept]
