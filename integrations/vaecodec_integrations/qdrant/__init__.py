"""Compress vectors in Qdrant behind Qdrant's own client interface."""

from vaecodec.extras import require

require("qdrant_client", extra="qdrant")

from vaecodec_integrations.qdrant.async_client import AsyncCompressedQdrantClient  # noqa: E402
from vaecodec_integrations.qdrant.client import CompressedQdrantClient  # noqa: E402
from vaecodec_integrations.qdrant.config import recommended_config, recommended_search_params  # noqa: E402
from vaecodec_integrations.qdrant.originals import OriginalsFile, erase_deleted  # noqa: E402
from vaecodec_integrations.row_encoding import PackedRows  # noqa: E402

__all__ = [
    "AsyncCompressedQdrantClient",
    "CompressedQdrantClient",
    "OriginalsFile",
    "PackedRows",
    "erase_deleted",
    "recommended_config",
    "recommended_search_params",
]
