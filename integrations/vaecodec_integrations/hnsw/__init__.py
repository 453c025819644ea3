"""Keep latents in an hnswlib index: one model's, or those of two while the new model replaces the old."""

from vaecodec_integrations.hnsw.index import CompressedIndex
from vaecodec_integrations.hnsw.two_models import TwoModelIndex

__all__ = ["CompressedIndex", "TwoModelIndex"]
