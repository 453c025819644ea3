"""Write files safely: atomic replacement, locks, the rule of overwriting, and JSON that holds its own checksum."""

from vaecodec.files.writing import locked, replacing, scratch_beside, sha256, sync_folder, write_atomically

__all__ = ["locked", "replacing", "scratch_beside", "sha256", "sync_folder", "write_atomically"]
