"""Re-rank in the application: keep originals as bytes beside the latents, and score candidates exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaecodec.codec import Codec
from vaecodec.errors import OriginalsError
from vaecodec.evaluation import similarities
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.vectors import as_row, as_rows, as_vectors
from vaecodec_integrations.row_encoding import Float16Rows, PackedRows, RowEncoding

# Convert similarities, of which larger is nearer, to the databases' distances.
_DISTANCES: dict[Metric, Callable[[FloatArray], FloatArray]] = {
    Metric.COSINE: lambda scores: 1 - scores,
    Metric.DOT: lambda scores: -scores,
    Metric.L2: lambda scores: np.sqrt(np.maximum(-scores, 0)),
}


@dataclass(frozen=True)
class OriginalsColumn:
    """Describe a column of bytes for exact re-ranking: float16 originals or trellis codes of a codec.

    Args:
        name: the column's name.
        codec: the codec whose codes are stored; None for float16 originals.
        code_bytes: bytes of each code; the extra ``packed`` encodes them.
    """

    name: str
    codec: Codec | None = None
    code_bytes: int | None = None

    def values(self, vectors: Any, dim: int) -> list[bytes]:
        """Encode float (n, dim) vectors to n values of the column."""
        rows = as_vectors(as_rows(vectors), dim, Metric.DOT)
        return [row.tobytes() for row in self._encoding(dim).pack(rows)]

    def record(self) -> dict[str, Any]:
        """Return what is stored of the form of the bytes, to be compared when they are read again."""
        if self.codec is None:
            return {"codec_id": None, "code_bytes": None}
        return {"codec_id": self.codec.codec_id, "code_bytes": self.code_bytes, "code_dim": self.codec.code_dim}

    def vectors(self, values: Sequence[bytes], dim: int) -> FloatArray:
        """Restore float32 (n, dim) vectors from the column's values."""
        return self._encoding(dim).unpack(np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1))

    def check_fits(self, codec: VectorCodec) -> None:
        """Check that this can keep the originals of what a column's codec compresses.

        Raises:
            CodecMismatchError: the codes are of a codec for other embeddings.
            InvalidBudgetError: there is no code of so many bytes.
            NotCalibratedError: the file of the codes' codec holds no calibration for codes.
            OriginalsError: a codec is given, and no number of bytes.
        """
        encoding = self._encoding(codec.dim)
        if isinstance(encoding, PackedRows):
            encoding.check_fits(codec)

    def _encoding(self, dim: int) -> RowEncoding:
        if self.codec is None:
            return Float16Rows(dim)
        if self.code_bytes is None:
            raise OriginalsError(f"originals {self.name!r}: expected code_bytes beside a codec, got none")
        return PackedRows(self.codec, bytes=self.code_bytes)


@dataclass(frozen=True)
class Hit:
    """Hold one result of a search: the row's key and its distance, smaller is nearer.

    The distance is the database's between the latents or, after re-ranking, that between the uncompressed vectors.
    """

    key: Any
    distance: float


@dataclass(frozen=True)
class Candidate:
    """Hold a row to score again.

    Attributes:
        key: names the row.
        reconstruction: float32 (dim,), what its latent decodes to.
        original: the bytes of its original, or None.
    """

    key: Any
    reconstruction: FloatArray
    original: Any


def rerank_by_originals(
    codec: VectorCodec, originals: OriginalsColumn, vector: Any, candidates: Sequence[Candidate]
) -> list[Hit]:
    """Order candidates by their distance to a query among the uncompressed vectors.

    A candidate without an original is scored by its reconstruction.

    Args:
        codec: says how vectors are compared.
        originals: reads the bytes.
        vector: float (dim,), the query.
        candidates: in any order; equal distances keep it.
    """
    if not candidates:
        return []
    rows = np.stack([candidate.reconstruction for candidate in candidates])
    known = [place for place, candidate in enumerate(candidates) if candidate.original is not None]
    if known:
        rows[known] = originals.vectors([bytes(candidates[place].original) for place in known], codec.dim)
    scores = similarities(as_vectors(as_row(vector), codec.dim, codec.metric, name="query"), rows, codec.metric)[0]
    distances = _DISTANCES[codec.metric](scores)
    return [Hit(candidates[place].key, float(distances[place])) for place in np.argsort(distances, kind="stable")]
