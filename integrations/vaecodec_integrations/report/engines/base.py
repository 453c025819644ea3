"""Define the engine that a report measures on: anything that indexes vectors."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from vaecodec.codes import CodeType
from vaecodec.evaluation import IdArray
from vaecodec.interface import FloatArray, Metric

# Graph settings of every engine: links per element, candidates looked at when building and when searching.
M, EF_CONSTRUCTION, EF = 16, 200, 128


class SearchEngineName(StrEnum):
    """Name a search engine."""

    EXACT = "exact"
    """Brute force."""
    HNSW = "hnsw"
    """A graph in memory: hnswlib where it is installed, otherwise usearch."""
    QDRANT = "qdrant"
    """Qdrant's own engine in this process."""


class Index(Protocol):
    """Search vectors that have been indexed."""

    @property
    def size_bytes(self) -> int:
        """Return the bytes on disk."""
        ...

    def search(self, queries: FloatArray, k: int) -> IdArray:
        """Return row numbers of the k nearest vectors, int64 (n, k), nearest first; -1 where fewer are found."""
        ...

    def close(self) -> None:
        """Release what the index holds."""
        ...


class SearchEngine(Protocol):
    """Build indexes, all with the same parameters."""

    @property
    def name(self) -> SearchEngineName:
        """Return which engine this is."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Return what is needed to build the same index again: library, version, settings; JSON values only."""
        ...

    @property
    def dtypes(self) -> frozenset[CodeType]:
        """Return the types in which the engine can store vectors."""
        ...

    def build(self, vectors: FloatArray, metric: Metric, folder: Path, *, dtype: CodeType = CodeType.FLOAT32) -> Index:
        """Index vectors, float32 (n, d); their ids are their row numbers.

        Args:
            vectors: what is indexed.
            metric: how they are compared.
            folder: empty, and the index's own.
            dtype: one of :attr:`dtypes`; the engine quantises by its own means.
        """
        ...
