"""Offer ``PackedIndex`` as an algorithm of ann-benchmarks."""

from __future__ import annotations

import os

import numpy as np
from ann_benchmarks.algorithms.base.module import BaseANN

from vaecodec import Codec
from vaecodec.packed_index import PackedIndex


class Packed(BaseANN):
    """Index codes of some bytes for each vector; the codec was fitted on other vectors than those that are indexed."""

    def __init__(self, metric: str, size: int) -> None:
        if metric != "angular":
            raise NotImplementedError(f"this codec is for cosines, not for {metric}")
        self._size = size
        self._effort = "full"

    def fit(self, X: np.ndarray) -> None:
        """Encode and add all vectors, and make what single queries need."""
        self._index = PackedIndex(Codec.load(os.environ["VAECODEC_CODEC"], threads=1), bytes=self._size)
        self._index.add(X)
        self._index.prepare(threads=1)

    def set_query_arguments(self, effort: str) -> None:
        """See ``effort`` of :meth:`vaecodec.packed_index.PackedIndex.search`."""
        self._effort = effort

    def query(self, q: np.ndarray, n: int) -> np.ndarray:
        """Return the numbers of the nearest vectors."""
        return self._index.search(q[None], n, effort=self._effort, threads=1)[0][0]

    def __str__(self) -> str:
        """Return the name for tables."""
        return f"vaecodec({self._size} bytes, {self._effort})"
