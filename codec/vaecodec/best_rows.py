"""Keep the best rows found so far for each query, while scores arrive block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.interface import FloatArray

_Keys = NDArray[np.uint64]

_ROW_WIDTH = np.uint64(32)
_ROW_BITS = np.uint64(2**32 - 1)
# A free place comes after every row, also after one whose score overflowed to minus infinity.
_FREE = np.uint64(2**64 - 1)


class BestRows:
    """Keep the k best rows of each query; of equal scores the lower row comes first.

    A score and its row are one number, since numbers are sorted many times as fast as pairs of them. Rows are below
    2**32.
    """

    def __init__(self, queries: int, k: int) -> None:
        self._keys = np.full((queries, k), _FREE)
        self._known = 0  # how many places are taken, of each query

    @property
    def rows(self) -> NDArray[np.int64]:
        """Return int64 (queries, up to k), best first."""
        return (self._keys[:, : self._known] & _ROW_BITS).astype(np.int64)

    @property
    def scores(self) -> FloatArray:
        """Return float32 (queries, up to k), of these."""
        return _scores_of(self._keys[:, : self._known])

    @property
    def least(self) -> np.float32:
        """Return the least score that would change the result of a single query."""
        return np.float32(self.scores[0, -1] if self._known == self._keys.shape[1] else -np.inf)

    def update(self, rows: NDArray[Any], scores: FloatArray) -> None:
        """Add rows, integers (n,), in any order, with their scores, float32 (queries, n)."""
        # To select from all takes longer than to compute them, so only scores that can be among the best are looked at.
        queries, k = self._keys.shape
        if self._known < k:
            scores = np.fmax(scores, np.float32(-np.inf))  # NaN, from an overflow, would count as the largest
            place = max(scores.shape[1] - k, 0)
            passing = scores >= np.partition(scores, place, axis=1)[:, place, None]
        else:
            passing = scores >= _scores_of(self._keys[:, -1:])
        self._known = min(k, self._known + scores.shape[1])
        asking, columns = np.divmod(np.flatnonzero(passing), scores.shape[1])
        counts = np.bincount(asking, minlength=queries)
        places = k + np.arange(len(asking)) - np.repeat(np.cumsum(counts) - counts, counts)
        every = np.full((queries, k + counts.max(initial=0)), _FREE)
        every[:, :k] = self._keys
        every[asking, places] = _keys(scores[asking, columns], rows[columns])
        every.partition(k - 1, axis=1)
        self._keys = np.sort(every[:, :k], axis=1)


def _keys(scores: FloatArray, rows: NDArray[Any]) -> _Keys:
    """Return numbers that ascend as scores descend and, at equal scores, as rows ascend.

    The upper half holds the bits of the score. Those of a positive float ascend with it, those of a negative one with
    its size, so the former are complemented below the sign.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 + 0 is 0.0
    return _flipped(bits).astype(np.uint64) << _ROW_WIDTH | rows.astype(np.uint64)


def _scores_of(keys: _Keys) -> FloatArray:
    return _flipped((keys >> _ROW_WIDTH).astype(np.uint32)).view(np.float32)


def _flipped(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    below_sign = np.uint32(0x7FFFFFFF)
    return np.where(bits > below_sign, bits, bits ^ below_sign)
