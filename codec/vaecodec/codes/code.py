"""Define what every code offers: latents to bytes and back, and the form that float queries are compared with."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import InvalidVectorsError
from vaecodec.interface import FloatArray


class CodeType(StrEnum):
    """Name the uniform codes, which spend the same number of bits on every latent dimension."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    INT4 = "int4"
    INT2 = "int2"
    BINARY = "binary"


class Code(Protocol):
    """Define one way to write latents as bytes, with everything it needs fixed beforehand.

    A row's code depends on that row alone. Some codes drop dimensions or rotate them; scores are cheaper in those
    coordinates, so a code can also be expanded to them: the dot product of ``query_steps(q)`` with ``expand(codes)``,
    plus that of q with ``mean``, is that of q with the latents, before these are normalised.
    """

    @property
    def name(self) -> str:
        """Return the name: a type such as ``int4``, or a size such as ``48 bytes``."""
        ...

    @property
    def bytes_per_vector(self) -> int:
        """Return the bytes of one code, with everything that it stores."""
        ...

    @property
    def mean(self) -> FloatArray:
        """Return the part of latents that :meth:`expand` leaves out: float32 (k,)."""
        ...

    @property
    def steps(self) -> int:
        """Return the width of the rows that :meth:`expand` gives."""
        ...

    def encode(self, latents: FloatArray, *, threads: int | None = None) -> NDArray[Any]:
        """Return codes, (n, width) of the code's dtype, of float32 (n, k) latents; what is out of range is clipped."""
        ...

    def saturated(self, latents: FloatArray) -> NDArray[np.bool_]:
        """Tell which rows of float32 (n, k) latents lie outside the range of the code and are clipped: bool (n,)."""
        ...

    def decode(self, codes: Any, *, threads: int | None = None) -> FloatArray:
        """Return latents, float32 (n, k), of unit norm under cosine; raises ``InvalidVectorsError``."""
        ...

    def expand(self, codes: NDArray[Any], out: FloatArray) -> None:
        """Write the codes' values into ``out``, float32 (n, steps), on the calling thread; nothing is checked."""
        ...

    def query_steps(self, queries: FloatArray) -> FloatArray:
        """Return queries, float32 (n, k), in the coordinates of :meth:`expand`: float32 (n, steps)."""
        ...


def checked_codes(codes: Any, dtype: Any, width: int, name: str) -> NDArray[Any]:
    """Return the array, C-contiguous, if it has two dimensions, this dtype and this width.

    Raises:
        InvalidVectorsError: it has not.
    """
    array = np.asarray(codes)
    if array.ndim != 2 or array.shape[1] != width or array.dtype != dtype:
        raise InvalidVectorsError(
            f"codes: expected {np.dtype(dtype)} (n, {width}) for {name}, got {array.dtype} {array.shape}; "
            "decode with the same codec, dtype and bytes that they were encoded with"
        )
    return np.ascontiguousarray(array)


def unit_rows(latents: FloatArray) -> FloatArray:
    """Return rows scaled to unit norm in place, zero rows left alone.

    Norms are summed up in float64, so that they round to the same float32 in every order of the sum: other processors
    and the decoders in other languages get the same bits.
    """
    wide = latents.astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide)).astype(np.float32)
    latents /= np.where(norms > 0, norms, 1)[:, None]
    return latents
