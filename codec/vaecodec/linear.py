"""Fit linear reductions: the baselines that every learned codec is compared with, and codecs in their own right.

Which linear map is right matters more than it looks: centring both sides, as PCA is usually applied, loses recall
under cosine on real embeddings against the uncentred SVD. All of them are here so that a report can show it.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.calibration import CalibrationRows
from vaecodec.drift import FEWEST_REFERENCE, MOST_REFERENCE
from vaecodec.errors import InvalidDimensionError, InvalidVectorsError
from vaecodec.interface import FloatArray, Metric
from vaecodec.sources import ArraySource, VectorSource
from vaecodec.steps import Steps
from vaecodec.vectors import SMALLEST_NORM, as_array, as_compared, as_vectors, blocks, check_latents

_LOG = logging.getLogger(__name__)

Moment = NDArray[np.float64]

# Hold one row in this many out of the fit, if these are enough to detect drift with.
_HOLD_OUT = 20
# Keep at most this many rows to calibrate on: enough for the centroids of codes. 77 MB at 384 dimensions.
_KEPT_ROWS = 50_000
# Bits of a float64.
_MANTISSA = 53


class LinearKind(StrEnum):
    """Name the linear reduction."""

    SVD = "svd"
    """Uncentred: the top right singular vectors of the data."""
    SVD_DOT = "svd-dot"
    """The same, with latents compared by dot product: what the projection drops then counts as zero."""
    PCA = "pca"
    """Documents and queries both centred."""
    PCA_DOCUMENTS = "pca-documents"
    """Documents centred, queries not; latents are compared by dot product, which keeps the ranking."""
    TRUNCATION = "truncation"
    """The first coordinates: what Matryoshka models are cut to."""
    TRUNCATION_DOT = "truncation-dot"
    """The same, with latents compared by dot product."""


def linear_kinds(metric: Metric) -> tuple[LinearKind, ...]:
    """Return the kinds that differ under a metric: the baselines that a learned codec has to beat, all of them."""
    if metric is Metric.COSINE:
        return tuple(LinearKind)
    if metric is Metric.DOT:
        return LinearKind.SVD, LinearKind.PCA, LinearKind.PCA_DOCUMENTS, LinearKind.TRUNCATION
    return LinearKind.SVD, LinearKind.PCA, LinearKind.TRUNCATION


_BY_DOT = (LinearKind.SVD_DOT, LinearKind.PCA_DOCUMENTS, LinearKind.TRUNCATION_DOT)


@dataclass(frozen=True, eq=False)
class FittedOn:
    """Hold what a linear codec was fitted on, with enough rows to calibrate the codec.

    Attributes:
        rows: number of rows, held out or not.
        held_out_rows: number of rows that the codec was not fitted on.
        kept: at most 8,192 rows that it was fitted on, and 4,096 that it was not, evenly spaced.
    """

    rows: int
    held_out_rows: int
    kept: CalibrationRows


@dataclass(frozen=True, eq=False)
class LinearCodec:
    """Reduce vectors by orthonormal rows, in numpy; a :class:`~vaecodec.interface.VectorCodec`.

    Under cosine the input is normalised first and the latents last; ``decode`` then returns unit vectors.

    Attributes:
        kind: which reduction this is.
        components: float32 (code_dim, dim), orthonormal rows, ordered by the spread they carry.
        mean: float32 (dim,), subtracted from documents; zero for all kinds but the two of PCA.
        metric: how the embeddings are compared.
        embedder: the embedding model's name, or an empty string.
        fitted_on: what :func:`fit_linear` fitted it on; an exported file has codes and scores only with it.
    """

    kind: LinearKind
    components: FloatArray
    mean: FloatArray
    metric: Metric = Metric.COSINE
    embedder: str = ""
    fitted_on: FittedOn | None = field(default=None, repr=False)

    @property
    def dim(self) -> int:
        """Return the width of the embeddings."""
        return int(self.components.shape[1])

    @property
    def code_dim(self) -> int:
        """Return the width of the latents."""
        return int(self.components.shape[0])

    @property
    def latent_metric(self) -> Metric:
        """Return how the latents are compared: as the embeddings are, or by dot product where the kind says so."""
        return Metric.DOT if self.kind in _BY_DOT and self.metric is not Metric.L2 else self.metric

    @cached_property
    def codec_id(self) -> str:
        """Return the sha256 over kind, metric and weights."""
        digest = hashlib.sha256(f"{self.kind}/{self.metric}/{self.embedder}/{self.components.shape}".encode())
        digest.update(np.ascontiguousarray(self.components, "<f4").tobytes())
        digest.update(np.ascontiguousarray(self.mean, "<f4").tobytes())
        return digest.hexdigest()

    @cached_property
    def _factor(self) -> Factor:
        return Factor(self.components)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle takes: not what is made of it again."""
        return {name: value for name, value in self.__dict__.items() if name != "_factor"}

    @property
    def query_mean(self) -> FloatArray:
        """Return what is subtracted from queries: float32 (dim,); see :attr:`LinearKind.PCA_DOCUMENTS`."""
        # Squared distances need the same shift on both sides. Dot products only lose a constant per query.
        centred = self.kind is LinearKind.PCA or self.metric is Metric.L2
        return self.mean if centred else np.zeros_like(self.mean)

    def truncated(self, code_dim: int) -> LinearCodec:
        """Return the same codec with only its first ``code_dim`` latents."""
        refuse_width(code_dim, self.code_dim)
        return replace(self, components=self.components[:code_dim])

    def rotated(self, rotation: FloatArray) -> LinearCodec:
        """Return the same codec with its latents multiplied by an orthonormal map, float32 (code_dim, code_dim)."""
        return replace(self, components=rotation.T @ self.components)

    def encode(self, vectors: Any) -> FloatArray:
        """Encode documents, float (n, dim), to latents, float32 (n, code_dim); raises ``InvalidVectorsError``."""
        return self._project(vectors, self.mean, "vectors")

    def encode_queries(self, vectors: Any) -> FloatArray:
        """Encode queries, float (n, dim), to latents, float32 (n, code_dim); raises ``InvalidVectorsError``."""
        return self._project(vectors, self.query_mean, "queries")

    def decode(self, codes: Any) -> FloatArray:
        """Decode latents, float (n, code_dim), to reconstructions, float32 (n, dim), of unit norm under cosine."""
        # Normalised latents have lost their length, so the mean would be added with a wrong weight.
        mean = self.mean if self.latent_metric is not Metric.COSINE else np.zeros_like(self.mean)
        latents = as_vectors(codes, self.code_dim, self.latent_metric, name="codes")
        restored = product(latents, self.components.T) + mean
        return as_compared(restored, self.metric)

    def _project(self, vectors: Any, mean: FloatArray, name: str) -> FloatArray:
        vectors = as_array(vectors, name=name)
        latents = np.empty((len(vectors) if vectors.ndim else 0, self.code_dim), np.float32)
        offset = self.components @ mean
        for start, block in blocks(vectors, self.dim, self.metric, name=name):
            rows = as_compared(block, self.metric)
            projected = product(rows, self._factor) - offset
            if self.latent_metric is Metric.COSINE:
                projected /= np.maximum(np.linalg.norm(projected, axis=1), SMALLEST_NORM)[:, None]
                check_latents(projected, self.latent_metric, name, start)
            latents[start : start + len(block)] = projected
        return latents


def fit_linear(
    vectors: Any,
    dim: int,
    *,
    kind: LinearKind = LinearKind.SVD,
    metric: Metric = Metric.COSINE,
    embedder: str = "",
    hold_out: int | None = None,
) -> LinearCodec:
    """Fit a linear reduction in one pass over blocks of bounded memory.

    The codec keeps some of the rows, so that ``vaecodec_exporters.linear.export_linear`` can calibrate its codes and
    scores on them.

    Args:
        vectors: float (n, d), an array, a memory map or a :class:`~vaecodec.sources.VectorSource`; under cosine its
            rows are normalised first.
        dim: width of the latents, 1 to d.
        kind: which reduction.
        metric: how the embeddings are compared.
        embedder: the embedding model's name, kept with the codec.
        hold_out: leave rows 0, ``hold_out``, 2 ``hold_out`` and so on out, at least 2; by default none. Drift can be
            found later only where 64 rows were held out.

    Raises:
        InvalidVectorsError: the array is empty or has a bad row.
        InvalidDimensionError: ``dim`` is out of range.

    Examples:
        >>> import numpy as np
        >>> from vaecodec import fit_linear
        >>> codec = fit_linear(np.load("embeddings.npy"), 32)
        >>> codec.encode(np.load("queries.npy")).shape
        (1000, 32)
    """
    return LinearMoments.of(vectors, metric=metric, hold_out=hold_out).codec(dim, kind, embedder=embedder)


@dataclass(frozen=True, eq=False)
class LinearMoments:
    """Hold the sums that every linear reduction of a collection is fitted from; :meth:`of` takes them in one pass.

    Attributes:
        total: float64 (d,), their sum.
        second: float64 (d, d), the sum of their outer products.
        metric: how the embeddings are compared; under cosine the rows were normalised first.
        fitted_on: how many rows these are, and some of them.
    """

    total: Moment
    second: Moment
    metric: Metric
    fitted_on: FittedOn

    @property
    def count(self) -> int:
        """Return the number of rows that the codecs are fitted on."""
        return self.fitted_on.rows - self.fitted_on.held_out_rows

    @classmethod
    def of(cls, vectors: Any, *, metric: Metric = Metric.COSINE, hold_out: int | None = None) -> LinearMoments:
        """Take the moments of vectors; the arguments and errors are those of :func:`fit_linear`."""
        source = vectors if isinstance(vectors, VectorSource) else ArraySource(as_array(vectors))
        width = source.dim
        second = np.zeros((width, width))
        total = np.zeros(width)
        fitted, unseen = _EvenlySpaced(_KEPT_ROWS, width), _EvenlySpaced(MOST_REFERENCE, width)
        seen, say = 0, Steps(_LOG)
        for chunk in source.blocks():
            say("reading %s: %s rows", source.name, f"{seen:,}")
            for start, block in blocks(chunk, width, metric, first_row=seen):
                rows = as_compared(block, metric)
                if hold_out is not None:
                    held_out = np.arange(seen + start, seen + start + len(rows)) % hold_out == 0
                    unseen.add(rows[held_out])
                    rows = rows[~held_out]
                fitted.add(rows)
                wide = rows.astype(np.float64)
                second += wide.T @ wide
                total += wide.sum(axis=0)
            seen += len(chunk)
        if not fitted.offered:
            raise InvalidVectorsError("vectors: expected at least one row to fit on, got none")
        kept = CalibrationRows.of_documents(fitted.rows, unseen.rows)
        return cls(total, second, metric, FittedOn(seen, unseen.offered, kept))

    def codec(self, dim: int, kind: LinearKind, *, embedder: str = "") -> LinearCodec:
        """Fit a linear codec of this width, 1 to d; raises ``InvalidDimensionError``."""
        width = len(self.total)
        refuse_width(dim, width)
        mean = np.zeros(width)
        if kind in (LinearKind.TRUNCATION, LinearKind.TRUNCATION_DOT):
            components = np.eye(dim, width)
        elif kind in (LinearKind.PCA, LinearKind.PCA_DOCUMENTS):
            mean = self.total / self.count
            components = self._centred_axes[:dim]
        else:
            components = self._axes[:dim]
        weights = components.astype(np.float32), mean.astype(np.float32)
        return LinearCodec(kind, *weights, self.metric, embedder, self.fitted_on)

    @cached_property
    def _axes(self) -> Moment:
        return _oriented(np.linalg.eigh(self.second)[1].T[::-1])

    @cached_property
    def _centred_axes(self) -> Moment:
        mean = self.total / self.count
        return _oriented(np.linalg.eigh(self.second - self.count * np.outer(mean, mean))[1].T[::-1])


def hold_out_for(rows: int) -> int | None:
    """Choose ``hold_out`` of :func:`fit_linear`: enough rows to find drift by, or None where there are too few."""
    if rows < _HOLD_OUT * FEWEST_REFERENCE:
        return None
    return max(_HOLD_OUT, rows // MOST_REFERENCE)


class _EvenlySpaced:
    """Keep at most ``most`` rows of a stream of unknown length, evenly spaced, whatever the blocks they come in."""

    def __init__(self, most: int, width: int) -> None:
        self.offered = 0
        self._most, self._step = most, 1
        self._kept = [np.empty((0, width), np.float32)]
        self._count = 0

    @property
    def rows(self) -> FloatArray:
        """Return the rows kept so far: float32 (m, width)."""
        return np.concatenate(self._kept)

    def add(self, rows: FloatArray) -> None:
        """Offer more rows: float32 (n, width)."""
        chosen = rows[-self.offered % self._step :: self._step].copy()
        self.offered += len(rows)
        self._kept.append(chosen)
        self._count += len(chosen)
        while self._count > self._most:
            self._kept = [self.rows[::2].copy()]
            self._count = len(self._kept[0])
            self._step *= 2


def refuse_width(dim: int, most: int) -> None:
    """Raise ``InvalidDimensionError`` unless this is a width of latents from 1 to ``most``."""
    if not 1 <= dim <= most:
        raise InvalidDimensionError(f"expected a latent width from 1 to {most}, got {dim}")


def _oriented(components: Moment) -> Moment:
    """Return each row with the sign that makes its largest entry positive, since the sign of an eigenvector is free."""
    largest = np.abs(components).argmax(axis=1)
    return np.asarray(components * np.sign(components[np.arange(len(components)), largest])[:, None])


class Factor:
    """Prepare a matrix once for many products.

    Args:
        matrix: float32 (k, d).
    """

    def __init__(self, matrix: FloatArray) -> None:
        high, low = _halves(matrix)
        self.high = high
        self.crossed = np.hstack([low, high])


def product(rows: FloatArray, matrix: FloatArray | Factor) -> FloatArray:
    """Multiply rows by the rows of a matrix, so that each sum has the same bits in any batch and on any processor.

    A library for matrix products adds in an order that depends on the number of rows, on their places and on the
    processor. Here every sum that it takes is exact in float64, whatever the order: both factors are split into halves
    of so few bits (Ozaki et al. 2012, doi:10.1007/s11075-011-9478-1). The product of the lower halves is left out: it
    is smaller than what float32 vectors tell.

    Args:
        rows: float32 (n, d).
        matrix: float32 (k, d).

    Returns:
        float32 (n, k).
    """
    factor = matrix if isinstance(matrix, Factor) else Factor(matrix)
    high, low = _halves(rows)
    sums = high @ factor.high.T
    sums += np.hstack([high, low]) @ factor.crossed.T
    return sums.astype(np.float32)


def _halves(rows: FloatArray) -> tuple[Moment, Moment]:
    """Split rows into multiples of a unit and of a smaller one, so that their products add up without rounding."""
    wide = rows.astype(np.float64)
    bits = (_MANTISSA - (2 * rows.shape[1]).bit_length()) // 2
    unit = np.ldexp(1.0, np.frexp(np.abs(wide).max(axis=1, initial=0.0))[1] - bits)[:, None]
    high = np.rint(wide / unit) * unit
    smaller = np.ldexp(unit, -bits)
    return high, np.rint((wide - high) / smaller) * smaller
