"""Define what every codec offers, so that an index, a report or a benchmark can hold any of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class Metric(StrEnum):
    """Name how two vectors are compared.

    ``COSINE`` and ``DOT`` are similarities (larger is nearer), ``L2`` is the squared Euclidean distance.
    """

    COSINE = "cosine"
    DOT = "dot"
    L2 = "l2"


@runtime_checkable
class VectorCodec(Protocol):
    """Define a map from embeddings of width ``dim`` to latents of width ``code_dim``, and back.

    Implemented by :class:`vaecodec.Codec` (an ONNX file) and :class:`vaecodec.LinearCodec` (numpy).
    """

    @property
    def dim(self) -> int:
        """Return the width of the embeddings."""
        ...

    @property
    def code_dim(self) -> int:
        """Return the width of the latents."""
        ...

    @property
    def metric(self) -> Metric:
        """Return how the embeddings are compared."""
        ...

    @property
    def latent_metric(self) -> Metric:
        """Return how an index must compare the latents."""
        ...

    @property
    def codec_id(self) -> str:
        """Return 64 hexadecimal digits that identify this codec's weights and metadata."""
        ...

    @property
    def embedder(self) -> str:
        """Return the embedding model's name as the user gave it, or an empty string."""
        ...

    def encode(self, vectors: Any) -> FloatArray:
        """Encode documents, float (n, dim), to latents, float32 (n, code_dim)."""
        ...

    def encode_queries(self, vectors: Any) -> FloatArray:
        """Encode queries, float (n, dim), to latents, float32 (n, code_dim)."""
        ...

    def decode(self, codes: Any) -> FloatArray:
        """Decode latents, float (n, code_dim), to reconstructions, float32 (n, dim)."""
        ...
