"""Convert scores between latents to scores between embeddings, by an affine map fitted on training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import InvalidVectorsError, NotCalibratedError
from vaecodec.evaluation import IdArray, exact_search
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.vectors import ROUNDING, as_vectors, normalised

_LARGEST = 1e15


@dataclass(frozen=True)
class ScoreCalibration:
    """Compute original score = ``scale`` x score of the latents + ``offset``, for cosine and dot.

    Attributes:
        scale: positive.
        offset: in units of the original score.
        code_dim: width of the latents it holds for.
        residual: standard deviation of what the map leaves unexplained, in units of the original score.
    """

    scale: float
    offset: float
    code_dim: int
    residual: float

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for the codec file's calibration."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ScoreCalibration:
        """Read what :meth:`to_json` wrote; raises ``KeyError``, ``TypeError`` or ``ValueError`` when it did not."""
        scale, offset, residual = (float(stored[name]) for name in ("scale", "offset", "residual"))
        if not (0 < scale < _LARGEST and abs(offset) < _LARGEST and 0 <= residual < _LARGEST):
            raise ValueError(f"expected a map of scores, got {scale:g}, {offset:g} and {residual:g}")
        return cls(scale, offset, int(stored["code_dim"]), residual)


def fit_score_calibration(
    codec: VectorCodec, documents: Any, queries: Any, *, neighbours: int = 100
) -> ScoreCalibration:
    """Fit the map on the pairs that a search returns, by least squares.

    Far pairs would dominate a fit over all pairs, and their scores are never shown.

    Args:
        codec: of metric cosine or dot.
        documents: float (n, dim), n >= 2; training rows, never the user's index.
        queries: float (m, dim), m >= 1; documents may serve where there are no queries.
        neighbours: nearest documents of each query that take part.

    Raises:
        InvalidVectorsError: a bad row, too few rows, or scores that do not vary together.
        NotCalibratedError: the metric is L2, whose distances have no such map.
    """
    if codec.metric is Metric.L2:
        raise NotCalibratedError("expected a codec of metric cosine or dot, got l2: distances are not calibrated")
    base = as_vectors(documents, codec.dim, codec.metric, name="documents")
    asked = as_vectors(queries, codec.dim, codec.metric, name="queries")
    latents, query_latents = codec.encode(base), codec.encode_queries(asked)
    if codec.metric is Metric.COSINE:
        base, asked = normalised(base), normalised(asked)
    return calibrate_scores(base, asked, latents, query_latents, codec.latent_metric, neighbours=neighbours)


def calibrate_scores(
    documents: FloatArray,
    queries: FloatArray,
    latents: FloatArray,
    query_latents: FloatArray,
    latent_metric: Metric,
    *,
    neighbours: int = 100,
) -> ScoreCalibration:
    """Fit the line, for whoever has encoded already.

    Args:
        documents, queries: float32 (n, dim) and (m, dim), checked; of unit norm under cosine.
        latents, query_latents: float32 (n, code_dim) and (m, code_dim).
        latent_metric: cosine or dot.
        neighbours: as for :func:`fit_score_calibration`.

    Raises:
        InvalidVectorsError: scores do not vary together.
    """
    ids, scores = exact_search(latents, query_latents, neighbours, latent_metric)
    return fit_line(scores, original_scores(documents, queries, ids), latents.shape[1])


def original_scores(documents: FloatArray, queries: FloatArray, ids: IdArray) -> FloatArray:
    """Return the scores between the embeddings of found pairs.

    Args:
        documents, queries: float32 (n, dim) and (m, dim); of unit norm under cosine.
        ids: int64 (m, k), rows of ``documents`` for each query.

    Returns:
        float32 (m, k).
    """
    scores = np.empty(ids.shape, np.float32)
    for row, query in enumerate(queries):
        scores[row] = documents[ids[row]] @ query
    return scores


def fit_line(scores: FloatArray, originals: FloatArray, code_dim: int) -> ScoreCalibration:
    """Return the least-squares line through pairs of scores, between latents and between embeddings: float32 (m, k)
    each.

    Raises:
        InvalidVectorsError: they do not vary together.
    """
    original = originals.astype(np.float64).ravel()
    compressed = scores.astype(np.float64).ravel()
    varies = compressed.size > 0 and _varies(compressed) and _varies(original)
    spread = float(compressed.var()) if varies else 0.0
    shared = float((compressed - compressed.mean()) @ (original - original.mean())) / len(original) if varies else 0.0
    if not shared > 0:
        raise InvalidVectorsError(
            "documents, queries: expected pairs whose original and compressed scores vary together, got "
            f"{len(original)} pairs that do not; give more rows of the kind that the codec was trained on"
        )
    scale = shared / spread
    offset = float(original.mean() - scale * compressed.mean())
    residual = float((original - scale * compressed - offset).std())
    return ScoreCalibration(scale, offset, code_dim, residual)


def _varies(scores: NDArray[np.float64]) -> bool:
    """Tell whether scores differ by more than the rounding of a matrix product, which no two processors do alike."""
    return bool(scores.std() > ROUNDING * np.sqrt(np.mean(scores**2)))
