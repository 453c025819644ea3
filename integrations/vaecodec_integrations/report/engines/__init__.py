"""Open an engine by its name."""

from __future__ import annotations

from importlib.util import find_spec

from vaecodec_integrations.report.engines.base import EF, SearchEngine, SearchEngineName
from vaecodec_integrations.report.engines.exact import ExactEngine
from vaecodec_integrations.report.engines.hnsw import HnswEngine
from vaecodec_integrations.report.engines.qdrant import QdrantEngine
from vaecodec_integrations.report.engines.usearch import UsearchEngine


def open_engine(name: SearchEngineName) -> SearchEngine:
    """Open the engine of that name; raises ``MissingExtraError`` when its library is not installed."""
    match name:
        case SearchEngineName.EXACT:
            return ExactEngine()
        case SearchEngineName.HNSW:
            return open_graph()
        case SearchEngineName.QDRANT:
            return QdrantEngine()


def open_graph(*, ef: int = EF) -> SearchEngine:
    """Open hnswlib where it is installed, otherwise usearch; raises ``MissingExtraError``.

    Args:
        ef: candidates looked at by a query.
    """
    # usearch comes as a wheel, while hnswlib has to be compiled.
    return HnswEngine(ef=ef) if find_spec("hnswlib") else UsearchEngine(ef=ef)
