"""Engines to measure on: anything that indexes vectors, and exact search as the one without a graph."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from vaecodec.evaluation import IdArray, exact_search
from vaecodec.interface import FloatArray, Metric


class EngineName(StrEnum):
    """What can be asked for."""

    EXACT = "exact"
    HNSW = "hnsw"
    QDRANT = "qdrant"


class Index(Protocol):
    """Vectors that have been indexed."""

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        ...

    def search(self, queries: FloatArray, k: int) -> IdArray:
        """Row numbers of the k nearest vectors, int64 (n, k), nearest first; -1 where fewer are found."""
        ...

    def close(self) -> None:
        """Release what the index holds."""
        ...


class Engine(Protocol):
    """Builds indexes, all with the same parameters."""

    @property
    def name(self) -> EngineName:
        """Which engine this is."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What to know to build the same index again: library, version, settings; JSON values only."""
        ...

    def build(self, vectors: FloatArray, metric: Metric, folder: Path) -> Index:
        """Index vectors, float32 (n, d); their ids are their row numbers. ``folder`` is empty and the index's own."""
        ...


def open_engine(name: EngineName) -> Engine:
    """The engine of that name; raises ``MissingExtraError`` when its library is not installed."""
    match name:
        case EngineName.HNSW:
            from vaecodec_integrations.report.engine_hnsw import HnswEngine

            return HnswEngine()
        case EngineName.QDRANT:
            from vaecodec_integrations.report.engine_qdrant import QdrantEngine

            return QdrantEngine()
        case EngineName.EXACT:
            return ExactEngine()


class ExactEngine:
    """Brute force in numpy; its size is that of the vectors."""

    name = EngineName.EXACT

    @property
    def parameters(self) -> Mapping[str, Any]:
        """None: there is nothing to choose."""
        return {}

    def build(self, vectors: FloatArray, metric: Metric, folder: Path) -> Index:  # noqa: ARG002
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
        """Nothing is held."""
