"""The one metric suite of the trainer, the report and the benchmarks.

Exact search on uncompressed vectors is the reference everywhere, never an engine's distances. Retrieval metrics
return one figure per query; :func:`bootstrap` and :func:`paired_bootstrap` turn these into a mean with its interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.interface import FloatArray, Metric

IdArray = NDArray[np.int64]
Figures = NDArray[np.float64]

# Queries and documents per block of scores: 256 x 65,536 float32 are 64 MiB.
_QUERY_ROWS = 256
_BASE_ROWS = 65_536


class Interval(NamedTuple):
    """A mean and the ends of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def similarities(queries: FloatArray, base: FloatArray, metric: Metric) -> FloatArray:
    """Scores of every pair, float32 (nq, nb); larger is nearer, L2 is the negated squared distance.

    Under cosine the rows are normalised here, so they need not be.
    """
    if metric is Metric.COSINE:
        queries, base = _unit(queries), _unit(base)
    scores = queries @ base.T
    if metric is Metric.L2:
        scores = 2 * scores - np.einsum("ij,ij->i", base, base) - np.einsum("ij,ij->i", queries, queries)[:, None]
    return scores


def exact_search(base: Any, queries: FloatArray, k: int, metric: Metric) -> tuple[IdArray, FloatArray]:
    """The k nearest rows of ``base`` for each query, by brute force in blocks of bounded memory.

    Args:
        base: float (nb, d), an array or a memory map.
        queries: float32 (nq, d).
        k: neighbours asked for; at most nb are returned.
        metric: see :func:`similarities`.

    Returns:
        ids, int64 (nq, min(k, nb)), and scores, float32 of the same shape, nearest first, ties by lower id.

    Examples:
        What a codec of 64 dimensions keeps of the ten nearest:

        >>> import numpy as np
        >>> from vaecodec import Codec
        >>> from vaecodec.evaluation import bootstrap, exact_search, recall
        >>> codec = Codec.load("codec.onnx")
        >>> embeddings, queries = np.load("embeddings.npy"), np.load("queries.npy")
        >>> truth, _ = exact_search(embeddings, queries, 10, codec.metric)
        >>> latents, query_latents = codec.encode(embeddings), codec.encode_queries(queries)
        >>> found, _ = exact_search(latents, query_latents, 10, codec.latent_metric)
        >>> 0.6 < bootstrap(recall(found, truth, 10)).mean < 0.7
        True
    """
    k = min(k, len(base))
    ids = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float32)
    for first in range(0, len(queries), _QUERY_ROWS):
        rows = slice(first, min(first + _QUERY_ROWS, len(queries)))
        best_ids = np.empty((rows.stop - rows.start, 0), np.int64)
        best_scores = np.empty((rows.stop - rows.start, 0), np.float32)
        for start in range(0, len(base), _BASE_ROWS):
            block = np.asarray(base[start : start + _BASE_ROWS], dtype=np.float32)
            block_ids, block_scores = _top(similarities(queries[rows], block, metric), k)
            best_ids = np.concatenate([best_ids, block_ids + start], axis=1)
            best_scores = np.concatenate([best_scores, block_scores], axis=1)
            order = np.lexsort((best_ids, -best_scores), axis=1)[:, :k]
            best_ids = np.take_along_axis(best_ids, order, axis=1)
            best_scores = np.take_along_axis(best_scores, order, axis=1)
        ids[rows], scores[rows] = best_ids, best_scores
    return ids, scores


def recall(ids: IdArray, truth: IdArray, k: int) -> Figures:
    """Share of the true k nearest that are among the k returned, per query: float64 (nq,).

    Args:
        ids: (nq, >= k) as returned; a negative id stands for nothing found.
        truth: (nq, >= k) the exact neighbours.
    """
    return recall_among(ids[:, :k], truth[:, :k])


def recall_among(candidates: IdArray, truth: IdArray) -> Figures:
    """Share of the true nearest that are among the candidates, per query: float64 (nq,).

    That is the recall after the candidates were scored again with the original vectors, since every true neighbour
    among them then comes before all others.

    Args:
        candidates: (nq, any number) as returned; a negative id stands for nothing found.
        truth: (nq, k) the exact neighbours.
    """
    return np.asarray((candidates[:, :, None] == truth[:, None, :]).any(axis=1).mean(axis=1), np.float64)


def ndcg(ids: IdArray, relevant: Sequence[Any] | NDArray[Any], k: int) -> Figures:
    """nDCG@k with binary relevance, per query: float64 (nq,).

    Gain 1 and discount log2(rank + 1), Järvelin & Kekäläinen 2002 (doi:10.1145/582415.582418).

    Args:
        ids: (nq, >= k) as returned.
        relevant: for each query the ids that answer it (a sequence of arrays), or int (nq,) for one each.
    """
    discounts = 1 / np.log2(np.arange(2, k + 2))
    figures = np.zeros(len(ids))
    for query, answers in enumerate(_answers(relevant)):
        hits = np.isin(ids[query, :k], answers)
        if len(answers):
            figures[query] = (hits * discounts[: len(hits)]).sum() / discounts[: min(len(answers), k)].sum()
    return figures


def mrr(ids: IdArray, relevant: Sequence[Any] | NDArray[Any], k: int) -> Figures:
    """Reciprocal rank of the first relevant id within the first k, else 0, per query: float64 (nq,)."""
    figures = np.zeros(len(ids))
    for query, answers in enumerate(_answers(relevant)):
        hits = np.flatnonzero(np.isin(ids[query, :k], answers))
        if len(hits):
            figures[query] = 1 / (hits[0] + 1)
    return figures


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Spearman's rank correlation of two equally long arrays, ties by mean rank; nan when one is constant."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    ranks_a -= ranks_a.mean()
    ranks_b -= ranks_b.mean()
    scale = np.sqrt((ranks_a @ ranks_a) * (ranks_b @ ranks_b))
    return float(ranks_a @ ranks_b / scale) if scale > 0 else float("nan")


def pair_scores(left: FloatArray, right: FloatArray, metric: Metric) -> NDArray[Any]:
    """Scores of pairs, row by row, (n,), as :func:`similarities` gives them; ``left`` and ``right`` are (n, d)."""
    if metric is Metric.L2:
        return -np.asarray(((left - right) ** 2).sum(axis=1))
    products = np.einsum("ij,ij->i", left, right)
    if metric is Metric.COSINE:
        lengths = [np.sqrt(np.einsum("ij,ij->i", rows, rows)) for rows in (left, right)]
        products /= np.maximum(lengths[0] * lengths[1], np.finfo(np.float32).tiny)
    return np.asarray(products)


def pair_similarity(
    original: FloatArray,
    latents: FloatArray,
    metric: Metric,
    latent_metric: Metric,
    *,
    pairs: int = 20_000,
    seed: int = 0,
) -> float:
    """Spearman correlation of the scores of random pairs before and after compression.

    Args:
        original: float32 (n, d) and latents: float32 (n, k), row for row the same vectors; n >= 2.
        pairs: how many pairs of different rows are drawn, with the given seed.
    """
    random = np.random.default_rng(seed)
    left = random.integers(0, len(original), pairs)
    right = (left + random.integers(1, len(original), pairs)) % len(original)
    return spearman(
        pair_scores(original[left], original[right], metric),
        pair_scores(latents[left], latents[right], latent_metric),
    )


def bootstrap(values: NDArray[Any], *, seed: int = 0, resamples: int = 2_000) -> Interval:
    """Mean of per-query figures with its 95 % percentile bootstrap interval (Efron 1979), over queries.

    Args:
        values: (nq,), at least one.
    """
    values = np.asarray(values, np.float64)
    low, high = np.percentile(_resampling(len(values), seed, resamples) @ values / len(values), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def paired_bootstrap(a: NDArray[Any], b: NDArray[Any], *, seed: int = 0, resamples: int = 2_000) -> Interval:
    """Mean of a - b over the same queries with its 95 % interval; above zero means that a is better."""
    return bootstrap(np.asarray(a, np.float64) - np.asarray(b, np.float64), seed=seed, resamples=resamples)


@lru_cache(maxsize=1)
def _resampling(n: int, seed: int, resamples: int) -> Figures:
    """How often each value is drawn in each resampling, (resamples, n); kept, as drawing it is what takes long."""
    # Resampling n of n is drawing multinomial counts; a matrix product then gives all means at once.
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.asarray(counts, np.float64)


def _unit(rows: FloatArray) -> FloatArray:
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return np.asarray(rows / np.maximum(norms, np.finfo(np.float32).tiny)[:, None], np.float32)


def _top(scores: FloatArray, k: int) -> tuple[IdArray, FloatArray]:
    """The k best columns of each row, unsorted; at a tie for the last place the lower column stays."""
    if k >= scores.shape[1]:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape), scores
    candidates = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    kth = np.take_along_axis(scores, candidates, axis=1).min(axis=1)
    for row in np.flatnonzero((scores >= kth[:, None]).sum(axis=1) > k):
        tied = np.flatnonzero(scores[row] >= kth[row])
        candidates[row] = tied[np.lexsort((tied, -scores[row, tied]))][:k]
    return candidates, np.take_along_axis(scores, candidates, axis=1)


def _answers(relevant: Sequence[Any] | NDArray[Any]) -> list[NDArray[Any]]:
    return [np.atleast_1d(np.asarray(answers)) for answers in relevant]


def _ranks(values: NDArray[Any]) -> Figures:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts, dtype=np.float64)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)
