"""Store one vector as one row of bytes: float16 of any norm, or the code of a codec."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vaecodec.codec import Codec
from vaecodec.errors import CodecMismatchError
from vaecodec.interface import FloatArray, VectorCodec

# Scale each row so that its largest value is in the highest octave of float16, but not above its largest number.
_LARGEST = float(np.finfo(np.float16).max)
_TOP_EXPONENT = 16
# The smallest float32 is 2**-149. A row of zeros gets this exponent.
_LOWEST_EXPONENT = -149


class RowEncoding(Protocol):
    """Turn one vector into the bytes of one row."""

    @property
    def name(self) -> str:
        """Return the name of this encoding in a file's header."""
        ...

    @property
    def row_bytes(self) -> int:
        """Return the number of bytes per row."""
        ...

    def pack(self, vectors: FloatArray) -> NDArray[np.uint8]:
        """Turn float32 (n, dim) into uint8 (n, row_bytes)."""
        ...

    def unpack(self, rows: NDArray[np.uint8]) -> FloatArray:
        """Turn uint8 (n, row_bytes) into float32 (n, dim)."""
        ...


class Float16Rows:
    """Store half precision with an exponent for each row, little-endian: two bytes per dimension, and two.

    The exponent is a power of two by which the row's values are multiplied. Vectors of any norm that float32 holds keep
    11 bits of their largest value, and float16 values come back as they were.

    Args:
        dim: width of the vectors.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim

    @property
    def name(self) -> str:
        """Return the name in the header."""
        return "float16"

    @property
    def row_bytes(self) -> int:
        """Return the number of bytes per row."""
        return 2 * self._dim + 2

    def pack(self, vectors: FloatArray) -> NDArray[np.uint8]:
        """Turn float32 (n, dim) into uint8 (n, row_bytes)."""
        rows = np.empty((len(vectors), self._dim + 1), "<i2")
        fractions, exponents = np.frexp(np.abs(vectors).max(axis=1, initial=0))
        top = np.where(np.ldexp(fractions, _TOP_EXPONENT) > _LARGEST, _TOP_EXPONENT - 1, _TOP_EXPONENT)
        shifts = np.where(fractions > 0, exponents - top, _LOWEST_EXPONENT)
        rows[:, 0] = shifts
        rows[:, 1:] = np.ldexp(vectors, -shifts[:, None]).astype("<f2").view("<i2")
        return rows.view(np.uint8)

    def unpack(self, rows: NDArray[np.uint8]) -> FloatArray:
        """Turn uint8 (n, row_bytes) into float32 (n, dim)."""
        values = np.ascontiguousarray(rows).view("<i2")
        halves = np.ascontiguousarray(values[:, 1:]).view("<f2").astype(np.float32)
        return np.asarray(np.ldexp(halves, values[:, :1].astype(np.int32)), np.float32)


class PackedRows:
    """Store codes of a codec file instead of floats, e.g. 96 bytes instead of 768; rows are read back as
    reconstructions.

    The codec may be another one than that of the index: one with more latents and a byte budget of its own.

    Args:
        codec: a loaded codec file that holds a calibration for codes.
        bytes: bytes per row; see :meth:`vaecodec.Codec.code`. Packing takes the extra ``packed``.
    """

    def __init__(self, codec: Codec, *, bytes: int) -> None:  # noqa: A002 - as in Codec.encode
        self._codec = codec
        self._bytes = bytes

    def check_fits(self, codec: VectorCodec) -> None:
        """Check that this can keep the originals of what a collection's codec compresses.

        Raises:
            CodecMismatchError: the two codecs are for different embeddings.
            InvalidBudgetError: there is no code of so many bytes.
            NotCalibratedError: the codec file holds no calibration for codes.
        """
        if (self._codec.dim, self._codec.metric) != (codec.dim, codec.metric):
            raise CodecMismatchError(
                f"expected a codec for {codec.dim} dimensions compared by {codec.metric}, as the collection's is, "
                f"got one for {self._codec.dim} compared by {self._codec.metric}"
            )
        self._codec.code(bytes=self._bytes)

    @property
    def name(self) -> str:
        """Return the code and the codec it belongs to."""
        return f"{self._codec.code(bytes=self._bytes).name} of codec {self._codec.codec_id}"

    @property
    def row_bytes(self) -> int:
        """Return the number of bytes per row."""
        return self._codec.code(bytes=self._bytes).bytes_per_vector

    def pack(self, vectors: FloatArray) -> NDArray[np.uint8]:
        """Turn float32 (n, dim) into uint8 (n, row_bytes); raise ``InvalidVectorsError`` as the codec does."""
        return self._codec.encode(vectors, bytes=self._bytes)

    def unpack(self, rows: NDArray[np.uint8]) -> FloatArray:
        """Turn uint8 (n, row_bytes) into reconstructions, float32 (n, dim), of unit norm under cosine."""
        return self._codec.decode(rows, bytes=self._bytes)
