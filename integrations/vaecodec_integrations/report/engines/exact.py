"""Search exactly, without a graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaecodec.codes import CodeType
from vaecodec.evaluation import IdArray, exact_search
from vaecodec.interface import FloatArray, Metric
from vaecodec_integrations.report.engines.base import Index, SearchEngineName


class ExactEngine:
    """Search by brute force in numpy; the size is that of the vectors."""

    name = SearchEngineName.EXACT
    dtypes = frozenset({CodeType.FLOAT32})

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Return no parameters: there is nothing to choose."""
        return {}

    def build(
        self,
        vectors: FloatArray,
        metric: Metric,
        folder: Path,  # noqa: ARG002
        *,
        dtype: CodeType = CodeType.FLOAT32,  # noqa: ARG002
    ) -> Index:
        """Keep the vectors as they are."""
        return _ExactIndex(vectors, metric)


class _ExactIndex:
    def __init__(self, vectors: FloatArray, metric: Metric) -> None:
        self._vectors = vectors
        self._metric = metric
        self.size_bytes = vectors.nbytes

    def search(self, queries: FloatArray, k: int) -> IdArray:
        return exact_search(self._vectors, queries, k, self._metric)[0]

    def close(self) -> None:
        """Do nothing: nothing is held."""
