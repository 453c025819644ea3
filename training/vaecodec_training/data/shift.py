"""Measure how far queries lie from documents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vaecodec.interface import FloatArray


@dataclass(frozen=True)
class Shift:
    """Say how far queries lie from documents.

    Attributes:
        mean_gap: distance of the two means over the root mean squared norm of the documents.
        angles: principal angles in degrees between the subspaces of the leading axes (as many as :data:`_AXES`),
            ascending.
    """

    mean_gap: float
    angles: tuple[float, ...]

    def __str__(self) -> str:
        median = float(np.median(self.angles))
        return f"query/document shift: mean gap {self.mean_gap:.2f}, median principal angle {median:.0f} degrees"


_AXES = 16


def measure_shift(documents: FloatArray, queries: FloatArray) -> Shift:
    """Compare the means and the leading principal axes of both, float32 (n, d) and (m, d)."""
    axes = min(_AXES, documents.shape[1], len(documents) - 1, len(queries) - 1)
    bases = []
    for rows in (documents, queries):
        _, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
        bases.append(vectors[:, ::-1][:, :axes])
    cosines = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).clip(-1, 1)
    scale = np.sqrt(np.square(documents).sum(1).mean())
    gap = float(np.linalg.norm(documents.mean(0) - queries.mean(0)) / scale)
    return Shift(gap, tuple(float(angle) for angle in np.degrees(np.arccos(cosines))))
