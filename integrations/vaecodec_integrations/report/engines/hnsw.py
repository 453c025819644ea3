"""Measure a report on hnswlib."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vaecodec.codes import CodeType
from vaecodec.evaluation import IdArray
from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric
from vaecodec_integrations.hnsw.index import SPACES
from vaecodec_integrations.report.engines.base import EF, EF_CONSTRUCTION, Index, M, SearchEngineName


class HnswEngine:
    """Use hnswlib with its default graph, on all cores.

    Args:
        ef: candidates looked at by a query.
    """

    name = SearchEngineName.HNSW
    dtypes = frozenset({CodeType.FLOAT32})

    def __init__(self, *, ef: int = EF) -> None:
        self._hnswlib = require("hnswlib", extra="hnsw")
        self._ef = ef

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Return the library's version and the graph's settings."""
        return {"hnswlib": version("hnswlib"), "M": M, "ef_construction": EF_CONSTRUCTION, "ef": self._ef}

    def build(
        self,
        vectors: FloatArray,
        metric: Metric,
        folder: Path,
        *,
        dtype: CodeType = CodeType.FLOAT32,  # noqa: ARG002
    ) -> Index:
        """Build the graph and save it, to know its size."""
        index = self._hnswlib.Index(SPACES[metric], vectors.shape[1])
        index.init_index(len(vectors), M=M, ef_construction=EF_CONSTRUCTION)
        index.add_items(vectors)
        index.set_ef(self._ef)
        index.save_index(str(folder / "index.hnsw"))
        return _HnswIndex(index, (folder / "index.hnsw").stat().st_size)


class _HnswIndex:
    def __init__(self, index: Any, size_bytes: int) -> None:
        self._index = index
        self.size_bytes = size_bytes

    def search(self, queries: FloatArray, k: int) -> IdArray:
        try:
            return np.asarray(self._index.knn_query(queries, k)[0], np.int64)
        except RuntimeError:  # for some query the graph finds fewer than k: search each query on its own
            return np.concatenate([self._search_one(query, k) for query in queries])

    def _search_one(self, query: FloatArray, k: int) -> IdArray:
        ids = np.full((1, k), -1, np.int64)
        for found in range(k, 0, -1):
            try:
                ids[:, :found] = self._index.knn_query(query, found)[0]
                break
            except RuntimeError:
                continue
        return ids

    def close(self) -> None:
        """Do nothing: hnswlib frees its memory with the object."""
