"""Write uniform codes: the same number of bits for every latent dimension, as engines keep them.

``int8`` is a rounded multiple of one stored step. With 4 bits and fewer the latents are first rotated at random, which
makes every coordinate of a unit vector close to Gaussian (the idea of TurboQuant, arXiv 2504.19874, and RaBitQ,
arXiv 2405.12497), and each coordinate becomes the nearest level of Lloyd and Max's quantiser for that distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.codes.code import CodeType, checked_codes, unit_rows
from vaecodec.codes.parallel import over_rows
from vaecodec.codes.rotation import rotate, rotate_back
from vaecodec.codes.saturation import FARTHEST
from vaecodec.interface import FloatArray, Metric

_BLOCK_ROWS = 2048


def _symmetric(*positive: float) -> FloatArray:
    return np.array([*(-level for level in reversed(positive)), *positive], np.float32)


# Levels, in ascending order, of the optimal quantisers of a standard Gaussian (Max 1960, doi:10.1109/TIT.1960.1057548).
LEVELS = {
    CodeType.BINARY: _symmetric(0.797885),
    CodeType.INT2: _symmetric(0.452780, 1.510418),
    CodeType.INT4: _symmetric(0.128395, 0.388048, 0.656759, 0.942340, 1.256231, 1.618046, 2.069017, 2.732590),
}


@dataclass(frozen=True, eq=False)
class FloatCode:
    """Write latents as ``float32`` or ``float16``."""

    type: CodeType
    code_dim: int

    @property
    def name(self) -> str:
        """Return the name of the type."""
        return str(self.type)

    @property
    def bytes_per_vector(self) -> int:
        """Return the bytes of a code: 4 or 2 for each dimension."""
        return self.code_dim * np.dtype(self.name).itemsize

    @property
    def mean(self) -> FloatArray:
        """Return zeros: nothing is subtracted."""
        return np.zeros(self.code_dim, np.float32)

    @property
    def steps(self) -> int:
        """Return the width of the latents."""
        return self.code_dim

    def encode(self, latents: FloatArray, *, threads: int | None = None) -> NDArray[Any]:  # noqa: ARG002
        """Return codes: float32 or float16 (n, k); what float16 cannot hold becomes its largest value."""
        if self.type is CodeType.FLOAT32:
            return latents
        largest = np.finfo(np.float16).max
        return latents.clip(-largest, largest).astype(np.float16)

    def saturated(self, latents: FloatArray) -> NDArray[np.bool_]:
        """Tell which rows hold a value that float16 cannot hold; float32 holds all."""
        largest = np.finfo(np.dtype(self.name)).max
        return np.asarray((np.abs(latents) > largest).any(axis=1))

    def decode(self, codes: Any, *, threads: int | None = None) -> FloatArray:  # noqa: ARG002
        """Return latents: float32 (n, k)."""
        return checked_codes(codes, self.name, self.code_dim, self.name).astype(np.float32)

    def expand(self, codes: NDArray[Any], out: FloatArray) -> None:
        """See :class:`~vaecodec.codes.Code`."""
        out[:] = codes

    def query_steps(self, queries: FloatArray) -> FloatArray:
        """Return the queries as they are."""
        return queries


@dataclass(frozen=True, eq=False)
class Int8Code:
    """Write latents as int8 (n, k): ``round(latent / step)``, clipped to -127..127, half to even.

    One step for all dimensions, so that integer dot products and distances of codes rank as those of the latents.

    Attributes:
        code_dim: width of the latents.
        step: the stored step.
        metric: how the latents are compared.
    """

    code_dim: int
    step: np.float32
    metric: Metric

    @property
    def name(self) -> str:
        """Return the name of the type."""
        return str(CodeType.INT8)

    @property
    def bytes_per_vector(self) -> int:
        """Return the bytes of a code: one for each dimension."""
        return self.code_dim

    @property
    def mean(self) -> FloatArray:
        """Return zeros: nothing is subtracted."""
        return np.zeros(self.code_dim, np.float32)

    @property
    def steps(self) -> int:
        """Return the width of the latents."""
        return self.code_dim

    def encode(self, latents: FloatArray, *, threads: int | None = None) -> NDArray[np.int8]:  # noqa: ARG002
        """Return codes: int8 (n, k)."""
        return np.asarray(np.rint(latents / self.step).clip(-127, 127), np.int8)

    def saturated(self, latents: FloatArray) -> NDArray[np.bool_]:
        """Tell which rows hold a value beyond 127 steps."""
        return np.asarray((np.abs(latents) > np.float32(127.5) * self.step).any(axis=1))

    def decode(self, codes: Any, *, threads: int | None = None) -> FloatArray:  # noqa: ARG002
        """Return latents: float32 (n, k)."""
        codes = checked_codes(codes, np.int8, self.code_dim, self.name)
        latents = np.empty(codes.shape, np.float32)
        self.expand(codes, latents)
        return unit_rows(latents) if self.metric is Metric.COSINE else latents

    def expand(self, codes: NDArray[Any], out: FloatArray) -> None:
        """See :class:`~vaecodec.codes.Code`."""
        np.multiply(codes, self.step, out=out)

    def query_steps(self, queries: FloatArray) -> FloatArray:
        """Return the queries as they are."""
        return queries


@dataclass(frozen=True, eq=False)
class RotatedCode:
    """Write rotated latents as ``int4``, ``int2`` or ``binary``: uint8 (n, ceil(k * bits / 8)), first dimension
    highest.

    The mean is subtracted first: what all rows have in common needs no bits. Unless the metric is cosine two more bytes
    hold the norm of what remains as little-endian float16; under cosine one radius stands for all of them.

    Attributes:
        type: how many bits.
        levels: what coordinates of unit variance are rounded to, ascending: float32 (2^bits,).
        mean: float32 (k,).
        radius: root mean square of the norms around the mean, over the training documents.
        signs: float32 (4, k) of -1 and 1, what each round of the rotation multiplies by.
        metric: how the latents are compared.
    """

    type: CodeType
    levels: FloatArray
    mean: FloatArray
    radius: np.float32
    signs: FloatArray
    metric: Metric

    @property
    def name(self) -> str:
        """Return the name of the type."""
        return str(self.type)

    @property
    def bytes_per_vector(self) -> int:
        """Return the bytes of a code: all bits in whole bytes, and two for the norm unless the metric is cosine."""
        return self._packed_bytes + (0 if self.metric is Metric.COSINE else 2)

    @property
    def steps(self) -> int:
        """Return the width of the latents."""
        return len(self.mean)

    @property
    def _packed_bytes(self) -> int:
        return -(-len(self.mean) * self._bits // 8)

    @property
    def _bits(self) -> int:
        return len(self.levels).bit_length() - 1

    @cached_property
    def _by_byte(self) -> FloatArray:
        """Return the levels in each byte: float32 (256, 8 / bits)."""
        bits = self._bits
        shifts = np.arange(8 - bits, -1, -bits)
        return np.asarray(self.levels[(np.arange(256)[:, None] >> shifts) & ((1 << bits) - 1)])

    def encode(self, latents: FloatArray, *, threads: int | None = None) -> NDArray[np.uint8]:
        """Return codes: uint8 (n, bytes_per_vector)."""
        codes = np.empty((len(latents), self.bytes_per_vector), np.uint8)

        def work(start: int, stop: int) -> None:
            codes[start:stop] = self._encode_block(latents[start:stop])

        over_rows(work, len(latents), _BLOCK_ROWS, threads)
        return codes

    def saturated(self, latents: FloatArray) -> NDArray[np.bool_]:
        """Tell which rows have a rotated coordinate, or unless the metric is cosine a norm, that is out of range."""
        if self.metric is Metric.COSINE:
            return np.asarray((np.abs(self.coordinates(latents)) > FARTHEST).any(axis=1))
        return np.asarray(self._norms(latents - self.mean) > np.finfo(np.float16).max)

    def coordinates(self, latents: FloatArray) -> FloatArray:
        """Return what is rounded to levels, of about unit variance: float32 (n, k) of float32 (n, k) latents."""
        centred = latents - self.mean
        norms = self._norms(centred)
        scales = np.sqrt(np.float32(self.steps)) / np.where(norms > 0, norms, 1)
        return rotate(centred * scales[:, None], self.signs)

    def nearest(self, coordinates: FloatArray) -> NDArray[np.uint8]:
        """Return the number of the level nearest to each coordinate."""
        numbers = np.zeros(coordinates.shape, np.uint8)
        for edge in (self.levels[1:] + self.levels[:-1]) / 2:  # faster than a search for each value
            numbers += coordinates > edge
        return numbers

    def _norms(self, centred: FloatArray) -> FloatArray:
        if self.metric is Metric.COSINE:
            return np.full(len(centred), self.radius)
        return np.asarray(np.sqrt(np.einsum("ij,ij->i", centred, centred)))

    def _encode_block(self, latents: FloatArray) -> NDArray[np.uint8]:
        numbers = self.nearest(self.coordinates(latents))
        bits = self._bits
        numbers = np.pad(numbers, ((0, 0), (0, self._packed_bytes * 8 // bits - self.steps)))
        shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
        packed = np.bitwise_or.reduce(numbers.reshape(len(numbers), -1, 8 // bits) << shifts, axis=2)
        if self.metric is Metric.COSINE:
            return np.asarray(packed, np.uint8)
        norms = self._norms(latents - self.mean)
        stored = norms.clip(max=np.finfo(np.float16).max).astype("<f2")[:, None].view(np.uint8)
        return np.concatenate([packed, stored], axis=1)

    def decode(self, codes: Any, *, threads: int | None = None) -> FloatArray:
        """Return latents: float32 (n, k)."""
        codes = checked_codes(codes, np.uint8, self.bytes_per_vector, self.name)
        latents = np.empty((len(codes), self.steps), np.float32)

        def work(start: int, stop: int) -> None:
            block = np.empty((stop - start, self.steps), np.float32)
            self.expand(codes[start:stop], block)
            block = rotate_back(block, self.signs) + self.mean
            latents[start:stop] = unit_rows(block) if self.metric is Metric.COSINE else block

        over_rows(work, len(codes), _BLOCK_ROWS, threads)
        return latents

    def expand(self, codes: NDArray[Any], out: FloatArray) -> None:
        """See :class:`~vaecodec.codes.Code`; the coordinates are the rotated ones."""
        values = self._by_byte[codes[:, : self._packed_bytes]].reshape(len(codes), -1)[:, : self.steps]
        scale = 1 / np.sqrt(np.float32(self.steps))
        if self.metric is Metric.COSINE:
            np.multiply(values, self.radius * scale, out=out)
        else:
            norms = np.ascontiguousarray(codes[:, self._packed_bytes :]).view("<f2").astype(np.float32)
            np.multiply(values, norms * scale, out=out)

    def query_steps(self, queries: FloatArray) -> FloatArray:
        """Return the queries, rotated."""
        return rotate(queries, self.signs)
