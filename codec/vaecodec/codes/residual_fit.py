"""Fit residual codes: k-means for each stage, the axes of the rest, and a decoder that keeps the scores of queries."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.codes.importance import importance_of
from vaecodec.codes.residual import CENTROIDS, Residual
from vaecodec.codes.trellis import FEWEST_BYTES, TrellisTables
from vaecodec.interface import FloatArray, Metric

_LOG = logging.getLogger(__name__)

# k-means runs at this many growing widths, with _ITERATIONS iterations at each.
_WIDTHS = 16
_ITERATIONS = 8
_ROWS_PER_CENTROID = 128
# Hold at most one row in this many out of k-means, to choose among the results.
_HELD_SHARE = 8
_HELD_ROWS = 4096
# Rows per block: their scores stay in the processor's second-level cache.
_NEAREST_ROWS = 1024


def fit_books(rows: FloatArray, stages: int, random: np.random.Generator) -> FloatArray:
    """Return centroids stage by stage, each fitted on the error of the stages before: float32 (stages, 256, k).

    They are rounded to float16, as the codec file holds them.
    """
    left = rows.copy()
    books = np.empty((stages, CENTROIDS, rows.shape[1]), np.float32)
    for stage, book in enumerate(books, 1):
        _LOG.debug("fitting the codes: stage %d of %d", stage, stages)
        book[:] = _k_means(left, random)
        left -= book[_nearest(left, book)]
    return books


def _k_means(rows: FloatArray, random: np.random.Generator) -> FloatArray:
    """Run Lloyd's iterations from random rows, first in few principal axes, then in more and more.

    Started in all of them at once, many centroids would settle on a few odd rows. A centroid that lost all its rows
    takes the place of a far row.
    """
    centred = rows - rows.mean(axis=0)
    turned = centred @ np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    nearest: NDArray[np.int64] | None = None
    for width in np.unique(np.geomspace(1, rows.shape[1], _WIDTHS + 1).astype(int)[1:]):
        seen = np.ascontiguousarray(turned[:, :width])
        if nearest is None:
            nearest = _nearest(seen, seen[random.choice(len(seen), CENTROIDS, replace=len(seen) < CENTROIDS)])
        for _ in range(_ITERATIONS):
            nearest = _nearest(seen, _means(seen, nearest))
    assert nearest is not None
    return _means(rows, nearest).astype(np.float16).astype(np.float32)


def _means(rows: FloatArray, nearest: NDArray[np.int64]) -> FloatArray:
    counts = np.bincount(nearest, minlength=CENTROIDS)
    centroids = group_sums(rows, nearest) / np.maximum(counts, 1).astype(np.float32)[:, None]
    lost = np.flatnonzero(counts == 0)
    if len(lost):
        errors = ((rows - centroids[nearest]) ** 2).sum(axis=1)
        far = np.argsort(-errors, kind="stable")[: len(lost)]
        centroids[lost[: len(far)]] = rows[far]
    return centroids


def _nearest(rows: FloatArray, centroids: FloatArray) -> NDArray[np.int64]:
    half, columns = np.einsum("ij,ij->i", centroids, centroids) / 2, np.ascontiguousarray(centroids.T)
    nearest = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _NEAREST_ROWS):
        scores = rows[start : start + _NEAREST_ROWS] @ columns
        scores -= half
        nearest[start : start + _NEAREST_ROWS] = scores.argmax(axis=1)
    return nearest


def group_sums(rows: FloatArray, groups: NDArray[Any]) -> FloatArray:
    """Return the sum of the rows of each of 256 groups: float32 (256, k)."""
    from vaecodec.codes import residual_kernels

    sums = np.zeros((CENTROIDS, rows.shape[1]), np.float32)
    residual_kernels.add_rows(np.ascontiguousarray(rows), groups.astype(np.int64), sums)
    return sums


def fit_residual(latents: FloatArray, *, stages: int, tables: TrellisTables, seed: int) -> Residual:
    """Fit the stages and the axes of the rest on latents of training documents, float32 (n, k).

    There are as many stages as the smallest trellis behind ``stages`` of them would take bytes in all. Whether that
    budget is spent on stages alone, or on a trellis too, is decided by the squared error of rows that no centroid was
    learned from.

    Args:
        latents: the rows.
        stages: how many stages go before a trellis.
        tables: the trellis.
        seed: for the rows that centroids are learned from.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(latents))
    learned = min(CENTROIDS * _ROWS_PER_CENTROID, len(latents) - len(latents) // _HELD_SHARE)
    whole = stages + FEWEST_BYTES
    books = fit_books(latents[order[:learned]], whole, random)
    width = latents.shape[1]
    zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
    start = Residual(stages, books, np.eye(width, dtype=np.float32), zeros, ones, ones, whole)
    left = latents - _coded(start, stages, latents, tables)
    centred = left - left.mean(axis=0, dtype=np.float64)
    axes = np.linalg.eigh(centred.T @ centred)[1].T[::-1].astype(np.float16).astype(np.float32)
    turned = left @ axes.T
    spread = turned.std(axis=0, dtype=np.float64).astype(np.float32)
    mean = turned.mean(axis=0, dtype=np.float64).astype(np.float32)
    alone = Residual(stages, books, axes, mean, spread, importance_of(spread), whole)
    mixed = replace(alone, books=books[:-1], whole=whole - 1)
    held = latents[order[learned : learned + _HELD_ROWS]]
    errors = [((held - _coded(way, whole, held, tables)) ** 2).sum() for way in (alone, mixed)]
    return alone if errors[0] < errors[1] else mixed


def _coded(residual: Residual, budget: int, latents: FloatArray, tables: TrellisTables) -> FloatArray:
    """Return the decoded codes of a size."""
    code = residual.code(budget, residual.mean, residual.spread, tables, Metric.DOT)
    return code.decode(code.encode(latents))
