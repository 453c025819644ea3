"""Share what all embedded stores do: vectors in and out, the codec's identity, and re-ranking."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from vaecodec.errors import CodecMismatchError, IndexArgumentError, StoreError, UnsupportedRequestError
from vaecodec.files.stored_json import parse_object
from vaecodec.interface import FloatArray, VectorCodec
from vaecodec.vectors import as_rows
from vaecodec_integrations.latents import are_latents, as_latents
from vaecodec_integrations.reranking import Candidate, Hit, OriginalsColumn, rerank_by_originals


class Near(NamedTuple):
    """Hold a row that was found: id, the engine's distance, float32 (code_dim,) latent, bytes of the original."""

    id: int
    distance: float
    latent: FloatArray
    original: bytes | None


class CompressedStore(ABC):
    """Keep a collection of latents in an embedded database; vectors of the original width go in and come out.

    Opening creates the collection where it is missing and records the codec's id with it; where it exists the record
    is compared. All methods take ids as integers from 0 to 2**63 - 1.

    Args:
        codec: compresses the vectors.
        originals: bytes to keep beside each latent for re-ranking; by default none.
    """

    def __init__(self, codec: VectorCodec, originals: OriginalsColumn | None) -> None:
        self.codec = codec
        self.originals = originals

    def upsert(self, ids: Any, vectors: Any) -> None:
        """Write vectors, over those of the same id; of equal ids in one call the last counts.

        Args:
            ids: integers (n,).
            vectors: float (n, dim), or latents, float (n, code_dim), which are stored as they are.

        Raises:
            InvalidVectorsError: a row is not such as the codec takes; nothing is written.
            IndexArgumentError: the ids are not n integers of that range; nothing is written.
            UnsupportedRequestError: the store keeps originals, and these are latents; nothing is written.
        """
        vectors = as_rows(vectors)
        if self.originals is not None and are_latents(self.codec, vectors):
            raise UnsupportedRequestError(
                f"vectors: expected {self.codec.dim} floats each, because the store keeps originals to re-rank by, got "
                f"latents of width {self.codec.code_dim}; pass the embeddings"
            )
        latents = as_latents(self.codec, vectors, self.codec.encode)
        keys = _checked_ids(ids, len(latents))
        last = {key: row for row, key in enumerate(keys)}
        rows = list(last.values())
        kept = None if self.originals is None else self.originals.values(vectors[rows], self.codec.dim)
        self._write([keys[row] for row in rows], latents[rows], kept)

    def delete(self, ids: Any) -> None:
        """Delete rows; ids that are not there are passed over."""
        self._remove(_checked_ids(ids, None))

    def search(self, vectors: Any, k: int, *, rerank: int | None = None) -> list[list[Hit]]:
        """Find the k nearest rows of each query.

        Args:
            vectors: float (n, dim), the queries, or their latents, float (n, code_dim).
            k: how many rows.
            rerank: score ``rerank * k`` candidates again with the originals.

        Returns:
            For each query at most k hits, the nearest first.

        Raises:
            InvalidVectorsError: a query is not a vector that the codec takes.
            ValueError: ``rerank`` is given, but the store keeps no originals, or the queries are latents.
        """
        if rerank is not None and self.originals is None:
            raise ValueError("rerank: expected a store with originals, got one without; open it with originals=")
        vectors = as_rows(vectors, name="queries")
        if rerank is not None and are_latents(self.codec, vectors):
            raise ValueError(f"rerank: expected queries of width {self.codec.dim}, got latents; pass the embeddings")
        latents = as_latents(self.codec, vectors, self.codec.encode_queries, name="queries")
        return [self._found(query, latent, k, rerank) for query, latent in zip(vectors, latents, strict=True)]

    def get(self, ids: Any) -> FloatArray:
        """Decode stored rows to float32 (n, dim), in the order of ``ids``.

        Raises:
            StoreError: an id is not there.
        """
        keys = _checked_ids(ids, None)
        found = self._read(keys)
        missing = [key for key in keys if key not in found]
        if missing:
            raise StoreError(f"expected ids that are stored, got {missing[0]} and {len(missing) - 1} others")
        rows = [found[key] for key in keys]
        return self.codec.decode(np.stack(rows) if rows else np.empty((0, self.codec.code_dim), np.float32))

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def close(self) -> None:
        """End the use of the database."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _write(self, ids: Sequence[int], latents: FloatArray, originals: Sequence[bytes] | None) -> None: ...

    @abstractmethod
    def _remove(self, ids: Sequence[int]) -> None: ...

    @abstractmethod
    def _nearest(self, latent: FloatArray, k: int) -> list[Near]: ...

    @abstractmethod
    def _read(self, ids: Sequence[int]) -> dict[int, FloatArray]: ...

    def _found(self, query: Any, latent: FloatArray, k: int, rerank: int | None) -> list[Hit]:
        near = self._nearest(latent, k * (rerank or 1))
        if rerank is None or self.originals is None or not near:
            return [Hit(each.id, each.distance) for each in near]
        decoded = self.codec.decode(np.stack([each.latent for each in near]))
        candidates = [Candidate(each.id, row, each.original) for each, row in zip(near, decoded, strict=True)]
        return rerank_by_originals(self.codec, self.originals, query, candidates)[:k]


def codec_record(codec: VectorCodec, originals: OriginalsColumn | None) -> dict[str, Any]:
    """Return what is stored of the codec beside a collection."""
    return {
        "codec_id": codec.codec_id,
        "code_dim": codec.code_dim,
        "originals": None if originals is None else originals.record(),
    }


def check_codec_record(name: str, stored: str | bytes | None, wanted: Mapping[str, Any]) -> None:
    """Compare a stored record, which is JSON, with that of the codec at hand.

    Raises:
        CodecMismatchError: there is none, it is damaged, or it names another codec, width or kind of originals.
    """
    if stored is None:
        raise CodecMismatchError(
            f"{name}: expected a collection that a compressed store made, got one without a codec's record; give "
            "another name"
        )
    try:
        found = parse_object(stored)
    except ValueError as error:
        raise CodecMismatchError(f"{name}: the codec's record is damaged: {error}; fill another collection") from None
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        told = ", ".join(f"{key} {str(found.get(key))[:12]} instead of {str(wanted[key])[:12]}" for key in differing)
        raise CodecMismatchError(f"{name}: the collection was filled with {told}; open it as it was filled")


def check_codec_id(name: str, wanted: str, codec: VectorCodec) -> None:
    """Compare a codec with the id that was kept with a collection.

    Raises:
        CodecMismatchError: it is another one.
    """
    if codec.codec_id != wanted:
        raise CodecMismatchError(
            f"{name}: expected the codec {wanted[:12]}, which the collection was filled with, got "
            f"{codec.codec_id[:12]}; give the file that it was filled with"
        )


def _checked_ids(ids: Any, rows: int | None) -> list[int]:
    array = np.asarray(ids)
    if array.ndim != 1 or (rows is not None and len(array) != rows):
        wanted = "a list of integers" if rows is None else f"{rows} integers, one for each vector"
        raise IndexArgumentError(f"ids: expected {wanted}, got shape {array.shape}")
    if len(array) and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= 2**63):
        raise IndexArgumentError(f"ids: expected integers from 0 to 2**63 - 1, got {array.dtype} {array[0]}")
    return [int(key) for key in array]
