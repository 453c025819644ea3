"""Which engines there are."""

from __future__ import annotations

from vaecodec_integrations.report.engines.base import SearchEngine, SearchEngineName
from vaecodec_integrations.report.engines.exact import ExactEngine
from vaecodec_integrations.report.engines.hnsw import HnswEngine
from vaecodec_integrations.report.engines.qdrant import QdrantEngine

_ENGINES: dict[SearchEngineName, type[SearchEngine]] = {
    SearchEngineName.EXACT: ExactEngine,
    SearchEngineName.HNSW: HnswEngine,
    SearchEngineName.QDRANT: QdrantEngine,
}


def open_engine(name: SearchEngineName) -> SearchEngine:
    """The engine of that name; raises ``MissingExtraError`` when its library is not installed."""
    return _ENGINES[name]()
