"""Measure a report on usearch: a graph like hnswlib's that installs from a wheel."""

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
from vaecodec_integrations.report.engines.base import EF, EF_CONSTRUCTION, Index, M, SearchEngineName
from vaecodec_integrations.usearch.index import METRICS


class UsearchEngine:
    """Use usearch with the graph settings of the other engines, on all cores.

    Args:
        ef: candidates looked at by a query.
    """

    name = SearchEngineName.HNSW
    dtypes = frozenset({CodeType.FLOAT32})

    def __init__(self, *, ef: int = EF) -> None:
        self._usearch = require("usearch.index", extra="usearch")
        self._ef = ef

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Return the library's version and the graph's settings."""
        settings = {"connectivity": M, "expansion_add": EF_CONSTRUCTION, "expansion_search": self._ef}
        return {"usearch": version("usearch"), **settings}

    def build(
        self,
        vectors: FloatArray,
        metric: Metric,
        folder: Path,
        *,
        dtype: CodeType = CodeType.FLOAT32,  # noqa: ARG002
    ) -> Index:
        """Build the graph and save it, to know its size."""
        index = self._usearch.Index(
            ndim=vectors.shape[1],
            metric=METRICS[metric],
            dtype="f32",
            connectivity=M,
            expansion_add=EF_CONSTRUCTION,
            expansion_search=self._ef,
        )
        index.add(np.arange(len(vectors)), vectors)
        index.save(str(folder / "index.usearch"))
        return _UsearchIndex(index, (folder / "index.usearch").stat().st_size)


class _UsearchIndex:
    def __init__(self, index: Any, size_bytes: int) -> None:
        self._index = index
        self.size_bytes = size_bytes

    def search(self, queries: FloatArray, k: int) -> IdArray:
        ids = np.full((len(queries), k), -1, np.int64)
        if len(queries) == 1:  # usearch returns one axis less for a single query
            found = self._index.search(queries[0], k).keys
            ids[0, : len(found)] = found
            return ids
        matches = self._index.search(queries, k)
        there = np.arange(k) < np.asarray(matches.counts)[:, None]
        ids[there] = np.asarray(matches.keys)[there]
        return ids

    def close(self) -> None:
        self._index.reset()
