"""Fit the decoder of residual codes to the scores of queries, while the codes themselves stay the same.

The centroids and axes that are best for finding codes are not the best to score them by. Those that make the ranking
of a query's documents like the ranking by the float latents are found by gradient steps: a query's scores of a batch
of documents, as probabilities, should have little cross-entropy with those of the latents (distillation, as in JPQ,
Zhan et al. 2021, arXiv 2108.00644).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vaecodec.codes.residual import Decoder, ResidualCode, encode_in_sizes
from vaecodec.codes.residual_fit import group_sums
from vaecodec.interface import FloatArray, Metric
from vaecodec.steps import Steps

_LOG = logging.getLogger(__name__)

_TEMPERATURE = 0.05
_BATCH = 1024
EPOCHS = 12
# Learning rates of Adam, relative to the size of the fitted values.
_BOOKS_RATE, _AXES_RATE = 5e-3, 2e-2
# After this share of the steps the rate falls linearly to zero.
_CONSTANT = 0.3
_DECAYS = (0.9, 0.999)


def fit_decoder(
    codes: Sequence[ResidualCode], latents: FloatArray, queries: FloatArray | None, metric: Metric, seed: int
) -> Decoder:
    """Fit one decoder for codes of several sizes with the same number of stages, which take turns.

    Args:
        codes: at least one; their decoder is where the fit starts.
        latents: float32 (n, k) of training documents, of unit norm under cosine.
        queries: float32 (m, k) of training queries, taking turns with documents; None for those alone.
        metric: how latents are compared.
        seed: for the batches.
    """
    random = np.random.default_rng(seed)
    start = codes[0].decoder
    books, axes = start.books.copy(), start.axes.copy()
    rates = _BOOKS_RATE * books[0].std(), _AXES_RATE * np.abs(axes).sum() / max(1, axes.size)
    optimiser = _Adam((books, axes))
    encoded = encode_in_sizes(codes, latents)
    batch = min(_BATCH, len(latents))
    steps = int(EPOCHS * len(latents) / batch)
    scale = 1 / (_TEMPERATURE * np.float32(np.mean(np.einsum("ij,ij->i", latents, latents))))
    say = Steps(_LOG)
    for step in range(steps):
        say("fitting the codes: step %d of %d of the decoder for %s", step + 1, steps, codes[0].name)
        code, rows = codes[step // 2 % len(codes)], random.choice(len(latents), batch, replace=False)
        chosen = encoded[step // 2 % len(codes)][rows]
        alone = step % 2 == 1 or queries is None
        asked = latents[rows] if queries is None or alone else queries[random.integers(0, len(queries), batch)]
        decoded = start.offset + sum(book[chosen[:, stage]] for stage, book in enumerate(books))
        levels = code.levels_of(chosen)
        if levels.shape[1]:
            decoded = decoded + levels @ axes[code.order]
        slope = _slope(asked, latents[rows], decoded, metric, scale, alone)
        book_slopes = np.stack([group_sums(slope, chosen[:, stage]) for stage in range(len(books))])
        axes_slope = np.zeros_like(axes)
        axes_slope[code.order] = levels.T @ slope
        share = min(1.0, (steps - step) / (steps * (1 - _CONSTANT)))
        optimiser.step((book_slopes, axes_slope), [share * rate for rate in rates])
    return replace(start, books=_rounded(books), axes=_rounded(axes))


def _slope(
    queries: FloatArray, latents: FloatArray, decoded: FloatArray, metric: Metric, scale: np.float32, alone: bool
) -> FloatArray:
    """Return the gradient of the loss with respect to the decoded codes: float32 (n, k)."""
    norms = np.sqrt(np.einsum("ij,ij->i", decoded, decoded))[:, None] if metric is Metric.COSINE else None
    seen = decoded / np.maximum(norms, np.finfo(np.float32).tiny) if norms is not None else decoded
    taught, found = (scale * _scores(queries, rows, metric) for rows in (latents, seen))
    if alone:  # ignore the score of each document with itself
        np.fill_diagonal(taught, -np.inf)
        np.fill_diagonal(found, -np.inf)
    error = (_shares(found) - _shares(taught)) * (scale / len(queries))
    slope = error.T @ queries
    if metric is Metric.L2:
        slope -= error.sum(axis=0)[:, None] * decoded
    if norms is not None:
        slope -= np.einsum("ij,ij->i", slope, seen)[:, None] * seen
        slope /= np.maximum(norms, np.finfo(np.float32).tiny)
    return np.asarray(slope, np.float32)


def _scores(queries: FloatArray, rows: FloatArray, metric: Metric) -> FloatArray:
    """Return scores without the part that depends only on the query."""
    scores = queries @ rows.T
    if metric is Metric.L2:
        scores -= np.einsum("ij,ij->i", rows, rows) / 2
    return np.asarray(scores)


def _shares(scores: FloatArray) -> FloatArray:
    """Return the softmax of each row."""
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return np.asarray(shares)


def _rounded(array: FloatArray) -> FloatArray:
    return array.astype(np.float16).astype(np.float32)


class _Adam:
    """Apply Adam (Kingma & Ba 2015, arXiv 1412.6980) to arrays in place."""

    def __init__(self, arrays: Sequence[FloatArray]) -> None:
        self._arrays = arrays
        self._means = [np.zeros_like(array) for array in arrays]
        self._squares = [np.zeros_like(array) for array in arrays]
        self._steps = 0

    def step(self, slopes: Sequence[FloatArray], rates: Sequence[float]) -> None:
        """Take one step against the slopes."""
        self._steps += 1
        first, second = (1 - decay**self._steps for decay in _DECAYS)
        for array, mean, square, slope, rate in zip(
            self._arrays, self._means, self._squares, slopes, rates, strict=True
        ):
            mean += (1 - _DECAYS[0]) * (slope - mean)
            square += (1 - _DECAYS[1]) * (slope * slope - square)
            array -= (rate / first) * mean / (np.sqrt(square / second) + np.float32(1e-12))
