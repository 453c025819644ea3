"""Search over codes, kept packed in memory or in a memory-mapped file."""

from vaecodec.packed_index.index import PackedIndex
from vaecodec.packed_index.search import Effort

__all__ = ["Effort", "PackedIndex"]
