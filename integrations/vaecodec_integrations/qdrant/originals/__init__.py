"""Keep uncompressed vectors beside a Qdrant collection, in a file of the application."""

from vaecodec_integrations.qdrant.originals.erase import erase_deleted
from vaecodec_integrations.qdrant.originals.file import OriginalsFile, Staged
from vaecodec_integrations.qdrant.originals.owner import Owner

__all__ = ["OriginalsFile", "Owner", "Staged", "erase_deleted"]
