"""Fit the statistics of latents that codes need; they are fitted on training data and kept in the codec file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vaecodec.codes.code import Code, CodeType
from vaecodec.codes.decoder_fit import fit_decoder
from vaecodec.codes.importance import importance_of
from vaecodec.codes.residual import Residual
from vaecodec.codes.residual_fit import fit_residual
from vaecodec.codes.rotation import ROTATION_ROUNDS, random_signs
from vaecodec.codes.stored import check_moments, from_text, to_text
from vaecodec.codes.trellis import MEMORIES, TrellisCode, TrellisTables, check_budget, compiled_kernels
from vaecodec.codes.uniform import LEVELS, FloatCode, Int8Code, RotatedCode
from vaecodec.errors import InvalidBudgetError, InvalidDimensionError, InvalidVectorsError
from vaecodec.interface import FloatArray, Metric
from vaecodec.vectors import as_vectors

# int8 may clip a coordinate of one row in a thousand. Otherwise a single outlier would make all steps coarser.
_PEAK_QUANTILE = 0.999
_PEAK_ROWS = 8192
_TINY = np.float32(1e-30)
# Fewest bytes of a code that is a trellis alone. Smaller ones find too few neighbours to be useful.
_FEWEST_BYTES = 8

_STAGES = 4
# Fewest rows to place 256 centroids (see docs/codes.md), and fewest dimensions that leave the trellis a choice.
_STAGED_ROWS = 10_000
_STAGED_DIM = 16
# The decoder is fitted for these sizes, on _DECODER_ROWS rows. Fitting on all of 40,000 rows gave the same recall@10.
_BUDGETS = (8, 12, 16, 24, 32, 48, 64)
# Larger codes use the fitted decoder in part, see Residual.decoder.
_FULL = 32
_DECODER_ROWS = 16_384
_FITTED_ROWS = 50_000
_FARTHEST = 1e6


@dataclass(frozen=True, eq=False)
class Calibration:
    """Hold the statistics of the latents of a codec, and the tables of its codes.

    Attributes:
        metric: how the latents are compared.
        mean: float32 (k,), mean of each dimension over the training documents.
        spread: float32 (k,), standard deviation of each dimension.
        importance: float32 (k,), what a squared error of one spread costs in each dimension when bits are handed out.
        peak: float32 (k,), for each width w the largest absolute value that int8 must hold among the first w
            dimensions, when these are a codec of their own.
        signs: float32 (4, k) of -1 and 1, for the rotation before 4 bits and fewer.
        levels: for each of these codes what a rotated coordinate is rounded to, ascending: float32 (2^bits,).
        trellis: the trellis and its levels.
        residual: the stages before the trellis; None where codes are a trellis alone.
    """

    metric: Metric
    mean: FloatArray
    spread: FloatArray
    importance: FloatArray
    peak: FloatArray
    signs: FloatArray
    levels: Mapping[CodeType, FloatArray]
    trellis: TrellisTables
    residual: Residual | None = None

    @classmethod
    def fit(
        cls,
        latents: Any,
        metric: Metric,
        *,
        importance: FloatArray | None = None,
        memory: int = 10,
        seed: int = 0,
    ) -> Calibration:
        """Measure the latents of training documents.

        Args:
            latents: float (n, k) as the codec's ``encode`` returns them, all dimensions; n >= 2.
            metric: how they are compared.
            importance: float32 (k,); by default :func:`importance_of` the spread.
            memory: bits of the trellis's state, 8, 10 or 12: less error against encoding time.
            seed: for the rotation.

        Raises:
            InvalidVectorsError: fewer than two rows, or a bad one.
            InvalidBudgetError: there is no trellis of that memory.
        """
        width = np.shape(latents)[1] if np.ndim(latents) == 2 else 0
        rows = as_vectors(latents, width, metric, name="latents")
        if len(rows) < 2:
            raise InvalidVectorsError(f"latents: expected at least two rows to calibrate codes, got {len(rows)}")
        spread = rows.std(axis=0, dtype=np.float64).astype(np.float32)
        return cls(
            metric=metric,
            mean=rows.mean(axis=0, dtype=np.float64).astype(np.float32),
            spread=spread,
            importance=importance_of(spread) if importance is None else np.asarray(importance, np.float32),
            peak=_peaks(rows, metric),
            signs=random_signs(width, seed),
            levels=LEVELS,
            trellis=TrellisTables.standard(memory),
        )

    def with_residual(self, latents: Any, queries: Any = None, *, seed: int = 0) -> Calibration:
        """Add stages of k-means before the trellis, and fit what codes stand for to the scores of queries.

        It takes about a minute. Fewer than 10,000 rows or 16 latents are too little to learn centroids from, and
        without numba there are no such codes: then the calibration is returned as it is.

        Args:
            latents: float (n, k) of training documents, those that the calibration was fitted on; of more than 50,000
                some are taken.
            queries: float (m, k), latents of training queries; without them documents serve as queries.
            seed: for the rows that centroids are learned from, and the order of the rows.

        Raises:
            InvalidVectorsError: one of its subclasses, naming the first bad row.
        """
        rows = as_vectors(latents, self.code_dim, self.metric, name="latents")
        asked = None if queries is None else as_vectors(queries, self.code_dim, self.metric, name="queries")
        if len(rows) < _STAGED_ROWS or self.code_dim < _STAGED_DIM or compiled_kernels() is None:
            return self
        rows = rows[np.random.default_rng(seed).permutation(len(rows))[:_FITTED_ROWS]]
        residual = fit_residual(rows, stages=_STAGES, tables=self.trellis, seed=seed)
        largest, whole = residual.largest(self.trellis), residual.whole
        decoders = []
        for least, most, full in ((whole, whole, whole), (whole + 1, largest, min(_FULL, largest))):
            codes = [
                residual.code(budget, self.mean, self.spread, self.trellis, self.metric)
                for budget in _BUDGETS
                if least <= budget <= most
            ]
            if codes:
                found = fit_decoder(codes, rows[:_DECODER_ROWS], asked, self.metric, seed)
                decoders.append(replace(found, least=least, most=most, full=full))
        return replace(self, residual=replace(residual, decoders=decoders))

    @property
    def code_dim(self) -> int:
        """Return the width of the latents."""
        return len(self.mean)

    def prefix(self, code_dim: int) -> Calibration:
        """Return the calibration of a nested codec: the first ``code_dim`` dimensions, normalised again under cosine.

        It has no stages before the trellis, as theirs are of all dimensions. The mean squares of unit vectors add up
        to one, so what the prefix is divided by is known from its moments.

        Raises:
            InvalidDimensionError: the codec has fewer dimensions.
        """
        if not 1 <= code_dim <= self.code_dim:
            raise InvalidDimensionError(f"expected a latent width from 1 to {self.code_dim}, got {code_dim}")
        if code_dim == self.code_dim:
            return self
        mean, spread = self.mean[:code_dim], self.spread[:code_dim]
        norm = np.float32(1)
        if self.metric is Metric.COSINE:
            norm = np.float32(np.sqrt(np.sum(mean.astype(np.float64) ** 2 + spread.astype(np.float64) ** 2)))
        return Calibration(
            self.metric,
            mean / norm,
            spread / norm,
            self.importance[:code_dim],
            self.peak[:code_dim],
            self.signs[:, :code_dim],
            self.levels,
            self.trellis,
        )

    def code(self, *, dtype: str | None = None, bytes: int | None = None) -> Code:  # noqa: A002
        """Return one code of these latents.

        Args:
            dtype: a uniform code: ``float32``, ``float16``, ``int8``, ``int4``, ``int2`` or ``binary``.
            bytes: or a code of so many bytes per vector, from 4 up: some stages of k-means and a trellis on the rest,
                or where the calibration has no stages a trellis alone, from 8 up.

        Raises:
            InvalidBudgetError: neither or both are given, or there is no such code.
        """
        if (dtype is None) == (bytes is None):
            named = None if dtype is None else str(dtype)
            raise InvalidBudgetError(f"expected either dtype or bytes, got dtype={named!r} and bytes={bytes!r}")
        if bytes is not None:
            if self.residual is not None:
                return self.residual.code(bytes, self.mean, self.spread, self.trellis, self.metric)
            check_budget(bytes, _FEWEST_BYTES, self.trellis.largest(self.code_dim), self.code_dim)
            return TrellisCode(bytes, self.mean, self.spread, self.importance, self.trellis, self.metric)
        if dtype not in list(CodeType):
            raise InvalidBudgetError(f"dtype: expected one of {', '.join(CodeType)}, got {dtype!r}")
        type_ = CodeType(dtype)
        if type_ in (CodeType.FLOAT32, CodeType.FLOAT16):
            return FloatCode(type_, self.code_dim)
        if type_ is CodeType.INT8:
            return Int8Code(self.code_dim, np.maximum(self.peak[-1], _TINY) / np.float32(127), self.metric)
        radius = np.float32(np.sqrt(np.sum(self.spread.astype(np.float64) ** 2)))
        return RotatedCode(type_, self.levels[type_], self.mean, radius, self.signs, self.metric)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; docs/codes.md specifies it."""
        return {
            "metric": str(self.metric),
            "mean": to_text(self.mean),
            "spread": to_text(self.spread),
            "importance": to_text(self.importance),
            "peak": to_text(self.peak),
            "signs": to_text(np.packbits(self.signs > 0, axis=1)),
            "levels": {str(name): to_text(levels) for name, levels in self.levels.items()},
            "trellis": {
                "memory": self.trellis.memory,
                "levels": to_text(self.trellis.levels),
                "distortion": to_text(self.trellis.distortion),
            },
            **({"residual": self.residual.to_json()} if self.residual is not None else {}),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Calibration:
        """Read what :meth:`to_json` wrote; raises ``KeyError``, ``TypeError`` or ``ValueError`` when it did not."""
        mean, spread, importance, peak = (
            from_text(stored[name], "<f4") for name in ("mean", "spread", "importance", "peak")
        )
        if not len(mean) == len(spread) == len(importance) == len(peak):
            raise ValueError(f"expected arrays of {len(mean)} latents")
        check_moments(mean, spread, peak, importance=importance)
        bits = from_text(stored["signs"], "u1").reshape(ROTATION_ROUNDS, -(-len(mean) // 8))
        signs = np.unpackbits(bits, axis=1, count=len(mean))
        levels = {name: from_text(stored["levels"][name], "<f4") for name in LEVELS} if "levels" in stored else LEVELS
        for name, standard in LEVELS.items():
            if len(levels[name]) != len(standard) or not (np.diff(levels[name]) > 0).all() or _far(levels[name]):
                raise ValueError(f"expected {len(standard)} ascending levels of {name}")
        trellis, memory = stored["trellis"], stored["trellis"]["memory"]
        if memory not in MEMORIES:
            raise ValueError(f"expected a trellis memory of {MEMORIES} bits, got {memory!r}")
        states, distortion = from_text(trellis["levels"], "<f2"), from_text(trellis["distortion"], "<f4")
        if (distortion < 0).any():
            raise ValueError("a distortion is negative")
        return cls(
            metric=Metric(stored["metric"]),
            mean=mean,
            spread=spread,
            importance=importance,
            peak=peak,
            signs=2 * signs.astype(np.float32) - 1,
            levels=levels,
            trellis=TrellisTables(memory, states.reshape(len(distortion), 1 << memory), distortion),
            residual=Residual.from_json(stored["residual"], len(mean)) if "residual" in stored else None,
        )


def _far(levels: FloatArray) -> bool:
    """Tell whether levels, in units of the spread of a coordinate, are beyond any coordinate."""
    return bool(np.abs(levels).max() > _FARTHEST)


def _peaks(rows: FloatArray, metric: Metric) -> FloatArray:
    rows = rows[:: -(-len(rows) // _PEAK_ROWS)]
    peaks = np.maximum.accumulate(np.abs(rows), axis=1)
    if metric is Metric.COSINE:
        norms = np.sqrt(np.cumsum(rows**2, axis=1, dtype=np.float64))
        peaks = peaks / np.maximum(norms, np.finfo(np.float32).tiny)
    return np.asarray(np.quantile(peaks, _PEAK_QUANTILE, axis=0), np.float32)
