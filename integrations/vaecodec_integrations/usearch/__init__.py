"""Keep latents in a usearch index."""

from vaecodec_integrations.usearch.index import CompressedUsearchIndex

__all__ = ["CompressedUsearchIndex"]
