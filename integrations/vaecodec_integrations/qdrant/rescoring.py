"""Return scores in the original space: exact ones from a file of originals, approximate ones by an affine map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vaecodec.interface import FloatArray, Metric
from vaecodec.scores import ScoreCalibration
from vaecodec.vectors import as_row, as_vectors, normalised
from vaecodec_integrations.qdrant.messages import copy_with
from vaecodec_integrations.qdrant.originals import OriginalsFile
from vaecodec_integrations.qdrant.originals.file import Decided
from vaecodec_integrations.qdrant.queries import is_dense


def to_compressed(calibration: ScoreCalibration | None, threshold: float | None) -> float | None:
    """Return a threshold on original scores as one on compressed scores."""
    if calibration is None or threshold is None:
        return threshold
    return (threshold - calibration.offset) / calibration.scale


def calibrated(calibration: ScoreCalibration | None, points: Sequence[Any]) -> Sequence[Any]:
    """Return scored points with estimates of their original scores."""
    if calibration is None:
        return points
    return [copy_with(p, score=calibration.scale * p.score + calibration.offset) for p in points]


def by_file(
    file: OriginalsFile,
    metric: Metric,
    query: Any,
    points: Sequence[Any],
    decided: Decided,
    *,
    limit: int,
    offset: int,
    score_threshold: float | None,
) -> list[Any]:
    """Return candidates in the order of their exact scores, with these scores.

    Args:
        query: float (dim,), or the id of a point whose original is the query.
        points: scored points, more than are wanted.
        decided: which rows count of points whose last write was not finished.
        limit: how many are wanted after the first ``offset``.
        score_threshold: on exact scores, in Qdrant's sense: at least this similarity, at most this distance.

    Raises:
        MissingOriginalsError: a candidate, or the query's point, has no row in the file.
    """
    if not points:
        return []
    vector = as_row(query) if is_dense(query) else file.get([query], decided)
    scores = exact_scores(
        as_vectors(vector, file.dim, metric, name="query"), file.get([p.id for p in points], decided), metric
    )
    sign = 1.0 if metric is Metric.L2 else -1.0
    order = np.argsort(sign * scores, kind="stable")
    if score_threshold is not None:
        order = order[sign * scores[order] <= sign * score_threshold]
    return [copy_with(points[i], score=float(scores[i])) for i in order[offset : offset + limit]]


def exact_scores(query: FloatArray, rows: FloatArray, metric: Metric) -> FloatArray:
    """Return Qdrant's score of one query, float32 (1, d), and each row, float32 (n, d): float32 (n,).

    Cosine and dot are similarities; L2 is the distance, not squared, as in Qdrant.
    """
    if metric is Metric.COSINE:
        return np.asarray(normalised(rows) @ normalised(query)[0])
    if metric is Metric.DOT:
        return np.asarray(rows @ query[0])
    return np.asarray(np.sqrt(((rows - query) ** 2).sum(axis=1)))
