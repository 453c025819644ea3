"""Order the rows that a statement found by their originals, whichever library sent it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vaecodec.codec import Codec
from vaecodec.vectors import as_row
from vaecodec_integrations.latents import are_latents
from vaecodec_integrations.postgres.storage import Storage
from vaecodec_integrations.reranking import Candidate, Hit, OriginalsColumn, rerank_by_originals


def originals_for(codec: Codec, originals: OriginalsColumn | None, query: Any) -> OriginalsColumn:
    """Return the column of originals that a query is to be re-ranked by.

    Raises:
        ValueError: there is none, or the query is a latent.
    """
    if originals is None:
        raise ValueError("rerank: expected a column of originals, got none; give one with originals=")
    if are_latents(codec, as_row(query, name="query")):
        raise ValueError(f"rerank: expected a query of width {codec.dim}, got latents; pass the embedding")
    return originals


def reranked(
    codec: Codec, storage: Storage, originals: OriginalsColumn, query: Any, rows: Sequence[tuple[Any, Any, Any]]
) -> list[Hit]:
    """Order rows by their originals, and those without one by their latent.

    Args:
        codec: of the compressed column.
        storage: the column's type.
        originals: reads the bytes.
        query: float (dim,).
        rows: for each what names it, the value of the compressed column, and the bytes of the original or None.
    """
    decoded = storage.vectors(codec, [latent for _, latent, _ in rows])
    candidates = [Candidate(row, near, original) for (row, _, original), near in zip(rows, decoded, strict=True)]
    return rerank_by_originals(codec, originals, query, candidates)
