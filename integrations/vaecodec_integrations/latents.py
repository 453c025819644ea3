"""Accept latents where embeddings are encoded: an embedding model with the codec inside returns them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vaecodec.interface import FloatArray, VectorCodec
from vaecodec.vectors import as_vectors


def are_latents(codec: VectorCodec, rows: np.ndarray[Any, Any]) -> bool:
    """Return whether rows have the latents' width, and this is not the embeddings' width."""
    return rows.ndim == 2 and rows.shape[1] == codec.code_dim != codec.dim


def as_latents(
    codec: VectorCodec, rows: np.ndarray[Any, Any], encode: Callable[[Any], FloatArray], *, name: str = "vectors"
) -> FloatArray:
    """Return latents, float32 (n, code_dim): of embeddings, float (n, dim), or the rows themselves if they are latents.

    Args:
        codec: the codec of the collection or column.
        rows: float (n, dim) or (n, code_dim).
        encode: the codec's entry point for embeddings.
        name: names the rows in errors.

    Raises:
        InvalidVectorsError: a row is not such as the codec takes or returns.
    """
    if are_latents(codec, rows):
        return as_vectors(rows, codec.code_dim, codec.latent_metric, name=name)
    return encode(rows)
