"""Define the pgvector types that a compressed column can have, and how latents become their values."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np

from vaecodec.codec import Codec
from vaecodec.extras import require
from vaecodec.interface import FloatArray, Metric
from vaecodec.vectors import as_rows
from vaecodec_integrations.latents import as_latents

require("pgvector", extra="postgres")

from pgvector import Bit, HalfVector, Vector  # noqa: E402

_OPERATORS = {Metric.COSINE: "<=>", Metric.DOT: "<#>", Metric.L2: "<->"}
_OPERATOR_CLASSES = {Metric.COSINE: "cosine", Metric.DOT: "ip", Metric.L2: "l2"}


class Storage(StrEnum):
    """Name the type of the column: 4 bytes, 2 bytes or 1 bit for each latent dimension."""

    VECTOR = "vector"
    HALFVEC = "halfvec"
    BIT = "bit"

    def sql_type(self, codec: Codec) -> str:
        """Return the column's type in SQL, such as ``halfvec(128)``."""
        return f"{self}({codec.code_dim})"

    def operator(self, codec: Codec) -> str:
        """Return the distance operator of pgvector that compares this codec's latents."""
        return "<~>" if self is Storage.BIT else _OPERATORS[codec.latent_metric]

    def operator_class(self, codec: Codec) -> str:
        """Return the operator class for ``CREATE INDEX ... USING hnsw (column operator_class)``."""
        return "bit_hamming_ops" if self is Storage.BIT else f"{self}_{_OPERATOR_CLASSES[codec.latent_metric]}_ops"

    def documents(self, codec: Codec, vectors: Any) -> list[Any]:
        """Encode documents, float (n, dim), to n values of this type; latents, float (n, code_dim), stay as they are.

        Raises:
            InvalidVectorsError: a row is not a vector that the codec takes; the row is named.
            NotCalibratedError: the storage is ``bit`` and the codec file holds no calibration for codes.
        """
        return self._values(codec, as_latents(codec, as_rows(vectors), codec.encode))

    def queries(self, codec: Codec, vectors: Any) -> list[Any]:
        """Encode queries, float (n, dim), through the codec's query entry point; raises as :meth:`documents`."""
        return self._values(codec, as_latents(codec, as_rows(vectors), codec.encode_queries))

    def vectors(self, codec: Codec, values: Sequence[Any]) -> FloatArray:
        """Reconstruct float32 (n, dim) vectors from stored values."""
        if self is Storage.BIT:
            packed = np.stack([_packed(value) for value in values]) if values else np.empty((0, 0), np.uint8)
            return codec.decode(packed, dtype="binary") if values else np.empty((0, codec.dim), np.float32)
        rows = [_floats(value) for value in values]
        return codec.decode(np.stack(rows) if rows else np.empty((0, codec.code_dim), np.float32))

    def _values(self, codec: Codec, latents: FloatArray) -> list[Any]:
        if self is Storage.VECTOR:
            return [Vector(row) for row in latents]
        if self is Storage.HALFVEC:
            return [HalfVector(row) for row in latents]
        codes = codec.code(dtype="binary").encode(latents)
        bits = np.unpackbits(codes, axis=1)[:, : codec.code_dim].astype(bool)
        return [Bit(row) for row in bits]


def _floats(value: Any) -> FloatArray:
    numbers = value.to_list() if hasattr(value, "to_list") else value
    return np.asarray(numbers, np.float32)


def _packed(value: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    text = value.to_text() if hasattr(value, "to_text") else str(value)
    return np.packbits(np.frombuffer(text.encode(), np.uint8) == ord("1"))
