"""Which engines there are."""

from __future__ import annotations

from vaecodec_integrations.report.engine import Engine, EngineName
from vaecodec_integrations.report.engine_exact import ExactEngine
from vaecodec_integrations.report.engine_hnsw import HnswEngine
from vaecodec_integrations.report.engine_qdrant import QdrantEngine

_ENGINES: dict[EngineName, type[Engine]] = {
    EngineName.EXACT: ExactEngine,
    EngineName.HNSW: HnswEngine,
    EngineName.QDRANT: QdrantEngine,
}


def open_engine(name: EngineName) -> Engine:
    """The engine of that name; raises ``MissingExtraError`` when its library is not installed."""
    return _ENGINES[name]()
