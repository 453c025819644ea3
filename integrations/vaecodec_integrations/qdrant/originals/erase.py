"""Remove the originals of points that are gone."""

from __future__ import annotations

from itertools import islice

from qdrant_client import QdrantClient

from vaecodec_integrations.qdrant.originals.file import OriginalsFile, point_key

_PAGE = 1000


def erase_deleted(client: QdrantClient, collection: str, file: OriginalsFile) -> int:
    """Remove the vectors of all points that the collection no longer has, and give their room back.

    The client does this by itself for what it deletes, but not for what others delete, and not for deletions that it
    does not wait for (``wait=False``). Run it while nothing is written.

    Args:
        client: a client of any kind.
        collection: the file's owner.
        file: its originals.

    Returns:
        How many points were removed from the file.
    """
    removed = 0
    ids = file.ids()
    while page := list(islice(ids, _PAGE)):
        there = {point_key(r.id) for r in client.retrieve(collection, page, with_payload=False, with_vectors=False)}
        gone = [point_id for point_id in page if point_key(point_id) not in there]
        file.remove(gone)
        removed += len(gone)
    file.compact()
    return removed
