"""Measure a report on Qdrant: its own segments and HNSW graph, in this process (qdrant-edge)."""

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

_POINTS_PER_UPSERT = 1_000
# Bits per dimension of Qdrant's TurboQuant, by our type of code.
_BITS = {CodeType.INT8: "Bits8", CodeType.INT4: "Bits4", CodeType.INT2: "Bits2", CodeType.BINARY: "Bits1"}
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own block size is


class QdrantEngine:
    """Use a Qdrant shard with its default graph and ef 128: vectors without payloads, one segment.

    Codes are TurboQuant's, in RAM; the floats lie on disk.

    Args:
        oversampling: so many times the wanted candidates are found by the codes and scored again by the floats. Without
            it none are, so that the report shows what the bits lose.
    """

    name = SearchEngineName.QDRANT
    dtypes = frozenset({CodeType.FLOAT32, CodeType.FLOAT16, *_BITS})

    def __init__(self, *, oversampling: float | None = None) -> None:
        self._edge = require("qdrant_edge", extra="edge")
        self._quantization = self._edge.QuantizationSearchParams(
            rescore=oversampling is not None, oversampling=oversampling
        )

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Return the library's version and the graph's settings."""
        return {"qdrant-edge-py": version("qdrant-edge-py"), "m": M, "ef_construct": EF_CONSTRUCTION, "hnsw_ef": EF}

    def build(self, vectors: FloatArray, metric: Metric, folder: Path, *, dtype: CodeType = CodeType.FLOAT32) -> Index:
        """Insert, build the graph to the end, flush."""
        edge = self._edge
        distance = {
            Metric.COSINE: edge.Distance.Cosine,
            Metric.DOT: edge.Distance.Dot,
            Metric.L2: edge.Distance.Euclid,
        }[metric]
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(
                size=vectors.shape[1],
                distance=distance,
                on_disk=dtype in _BITS,
                datatype=edge.VectorStorageDatatype.Float16 if dtype is CodeType.FLOAT16 else None,
                quantization_config=None
                if dtype not in _BITS
                else edge.TurboQuantQuantizationConfig(
                    bits=getattr(edge.TurboQuantBitSize, _BITS[dtype]), always_ram=True
                ),
                # The thresholds (KB) keep Qdrant from falling back to brute force on a small collection.
                hnsw_config=edge.HnswIndexConfig(m=M, ef_construct=EF_CONSTRUCTION, full_scan_threshold=1),
            ),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1),
            # Leave out the write-ahead log, whose fixed size would hide the size of the vectors.
            wal_enabled=False,
        )
        shard = edge.EdgeShard.create(str(folder), config)
        for start in range(0, len(vectors), _POINTS_PER_UPSERT):
            rows = vectors[start : start + _POINTS_PER_UPSERT].tolist()
            points = [edge.Point(start + row, vector, {}) for row, vector in enumerate(rows)]
            shard.update(edge.UpdateOperation.upsert_points(points))
        shard.optimize()
        shard.flush()
        return _QdrantIndex(edge, shard, folder, edge.SearchParams(hnsw_ef=EF, quantization=self._quantization))


class _QdrantIndex:
    def __init__(self, edge: Any, shard: Any, folder: Path, params: Any) -> None:
        self._edge = edge
        self._shard = shard
        self._params = params
        self.size_bytes = _allocated(folder)

    def search(self, queries: FloatArray, k: int) -> IdArray:
        edge = self._edge
        requests = [
            edge.QueryRequest(limit=k, query=edge.Query.Nearest(query), params=self._params)
            for query in queries.tolist()
        ]
        answers = self._shard.query_batch(edge.QueryBatchRequest(requests))
        ids = np.full((len(queries), k), -1, np.int64)
        for row, points in enumerate(answers):
            ids[row, : len(points)] = [point.id for point in points]
        return ids

    def close(self) -> None:
        self._shard.close()


def _allocated(folder: Path) -> int:
    """Return the bytes that files take on disk: Qdrant's are sparse, so their lengths say little."""
    states = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(state.st_blocks * _BLOCK_BYTES if hasattr(state, "st_blocks") else state.st_size for state in states)
