"""Measure quality by one set of metrics, which training, report and benchmarks share.

Exact search on uncompressed vectors is the reference everywhere, never an engine's distances. Retrieval metrics
return one figure per query; :func:`bootstrap` and :func:`paired_bootstrap` turn these into a mean with its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.best_rows import BestRows
from vaecodec.interface import FloatArray, Metric
from vaecodec.vectors import as_matrix, as_vectors, blocks, normalised_or_zero

IdArray = NDArray[np.int64]
Figures = NDArray[np.float64]

# Queries and documents per block of scores: 256 x 16,384 float32 are 16 MiB. Larger ones are asked of the system anew.
_QUERY_ROWS = 256
_BASE_ROWS = 16_384
# Up to this many documents it is faster to compute all scores of a query than to gather a hundred rows. They are kept
# for the next codec that is judged, unless that takes more than 128 MiB.
_FEW_DOCUMENTS = 8_192
_MOST_SCORES = 2**25

# The one figure whose name does not tell what it is.
KEPT_MEANS = "kept@100 is the share of the old top 10 that is in the new 100."


class Interval(NamedTuple):
    """Hold a mean and the ends of its 95 % bootstrap interval.

    Examples:
        >>> f"{Interval(0.8125, 0.79, 0.835)}; gain {Interval(0.01, -0.002, 0.022):+.3f}"
        '0.812 [0.790, 0.835]; gain +0.010 [-0.002, +0.022]'
    """

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Write ``mean [low, high]``, each number by ``spec``, ``.3f`` where it is empty."""
        mean, low, high = (format(value, spec or ".3f") for value in self)
        return f"{mean} [{low}, {high}]"


def similarities(queries: FloatArray, base: FloatArray, metric: Metric) -> FloatArray:
    """Return scores of every pair, float32 (nq, nb); larger is nearer, L2 is the negated squared distance.

    Under cosine the rows are normalised here, so they need not be.
    """
    if metric is Metric.COSINE:
        queries, base = normalised_or_zero(queries), normalised_or_zero(base)
    return _scores(queries, base, metric)


def _scores(queries: FloatArray, base: FloatArray, metric: Metric) -> FloatArray:
    """Return scores of every pair as :func:`similarities` does, of rows that have unit norm already under cosine."""
    scores = queries @ base.T
    if metric is Metric.L2:
        scores = 2 * scores - np.einsum("ij,ij->i", base, base) - np.einsum("ij,ij->i", queries, queries)[:, None]
    return scores


def exact_search(base: Any, queries: FloatArray, k: int, metric: Metric) -> tuple[IdArray, FloatArray]:
    """Return the k nearest rows of ``base`` for each query, by brute force in blocks of bounded memory.

    Args:
        base: float (nb, d), an array or a memory map of fewer than 2**32 rows.
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
    base = as_matrix(base, name="base")
    queries = as_vectors(queries, base.shape[1], Metric.DOT, name="queries")
    unit = normalised_or_zero if metric is Metric.COSINE else np.asarray
    queries = unit(queries)
    parts = [queries[first : first + _QUERY_ROWS] for first in range(0, max(1, len(queries)), _QUERY_ROWS)]
    best = [BestRows(len(part), min(k, len(base))) for part in parts]
    for start, block in blocks(base, base.shape[1], Metric.DOT, name="base", rows=_BASE_ROWS):
        block, rows = unit(block), np.arange(start, start + len(block))
        for part, found in zip(parts, best, strict=True):
            found.update(rows, _scores(part, block, metric))
    return np.concatenate([each.rows for each in best]), np.concatenate([each.scores for each in best])


@dataclass(frozen=True, eq=False)
class Truth:
    """Hold the exact neighbours of each query, by which the results of a codec or an engine are judged.

    Documents whose scores equal that of the k-th neighbour are all right answers: of equal vectors any may be
    returned. Scores that differ by rounding alone count as equal. Made by :meth:`of`.

    Attributes:
        ids: int64 (nq, depth), nearest first.
        base, queries: float32 (nb, d) and (nq, d), as they are compared; of unit norm under cosine.
        metric: how they are compared.
    """

    ids: IdArray
    base: FloatArray
    queries: FloatArray
    metric: Metric

    @classmethod
    def of(
        cls, base: FloatArray, queries: FloatArray, metric: Metric, *, depth: int = 100, own: IdArray | None = None
    ) -> Truth:
        """Search for the ``depth`` nearest rows of ``base``, or all where there are fewer.

        Args:
            base: float32 (nb, d), the rows that are searched.
            queries: float32 (nq, d).
            metric: how they are compared.
            depth: how many neighbours to find.
            own: int64 (nq,), the row of ``base`` that is the query itself and no neighbour of it; None without one.
        """
        base, queries = as_matrix(base, name="base"), as_matrix(queries, name="queries")
        if metric is Metric.COSINE:
            base, queries = normalised_or_zero(base), normalised_or_zero(queries)
        ids, _ = exact_search(base, queries, depth + (own is not None), metric)
        return cls(ids if own is None else without_own(ids, own), base, queries, metric)

    @classmethod
    def known(cls, base: FloatArray, queries: FloatArray, metric: Metric, ids: IdArray) -> Truth:
        """Take the neighbours that a search has found: ``ids``, int64 (nq, depth), rows of ``base``, nearest first."""
        if metric is Metric.COSINE:
            base, queries = normalised_or_zero(base), normalised_or_zero(queries)
        return cls(ids, base, queries, metric)

    @property
    def depth(self) -> int:
        """Return the number of neighbours that are known for each query."""
        return int(self.ids.shape[1])

    def recall(self, found: IdArray, k: int) -> Figures:
        """Return the share of the k nearest that are among the first k found, per query: float64 (nq,).

        Args:
            found: int64 (nq, >= k) as returned, without repetitions; a negative id stands for nothing found.
            k: at most :attr:`depth`.
        """
        return self.kept(found[:, :k], k)

    def kept(self, found: IdArray, k: int) -> Figures:
        """Return the share of the k nearest that are among all found, per query: float64 (nq,).

        That is the recall after the found were scored again with the original vectors.
        """
        return self._share_of(self._original_scores(found), k)

    def figures(self, found: IdArray) -> dict[str, Figures]:
        """Return recall@1, @10, @100 and kept@100 of what was found, as :func:`judge` does."""
        scores = self._original_scores(found)
        depths = [k for k in (1, 10, 100) if k <= self.depth and (k < 100 or len(self.base) > 100)]
        figures = {f"recall@{k}": self._share_of(scores[:, :k], k) for k in depths}
        if 100 in depths:
            figures["kept@100"] = self._share_of(scores[:, :100], 10)
        return figures

    def _share_of(self, scores: FloatArray, k: int) -> Figures:
        """Share of the k nearest among documents with these original scores."""
        right = scores >= self._nearest_scores[:, k - 1 : k] - self._tolerance[:, None]
        return np.asarray(np.minimum(right.sum(axis=1), k) / k, np.float64)

    def _original_scores(self, found: IdArray) -> FloatArray:
        scores = np.empty(found.shape, np.float32)
        if self._every is not None:
            scores[:] = np.take_along_axis(self._every, found, axis=1)
        else:
            for block in self._query_blocks():
                rows, queries = self.base[found[block]], self.queries[block]
                products = np.matmul(rows, queries[:, :, None])[:, :, 0]
                if self.metric is Metric.L2:
                    products = 2 * products - np.einsum("ijk,ijk->ij", rows, rows)
                    products -= np.einsum("ij,ij->i", queries, queries)[:, None]
                scores[block] = products
        scores[found < 0] = -np.inf
        return scores

    def _query_blocks(self) -> list[slice]:
        return [slice(start, start + _QUERY_ROWS) for start in range(0, len(self.queries), _QUERY_ROWS)]

    @cached_property
    def _every(self) -> FloatArray | None:
        """Return the scores of all pairs, (nq, nb), where these are few; otherwise None."""
        if len(self.base) > _FEW_DOCUMENTS or len(self.base) * len(self.queries) > _MOST_SCORES:
            return None
        return np.concatenate([_scores(self.queries[block], self.base, self.metric) for block in self._query_blocks()])

    @cached_property
    def _nearest_scores(self) -> FloatArray:
        """Return the scores of the nearest, float32 (nq, depth)."""
        return self._original_scores(self.ids)

    @cached_property
    def _tolerance(self) -> FloatArray:
        """Return how much rounding may change a score of each query."""
        if self.metric is Metric.COSINE:
            size = np.ones(len(self.queries))
        else:
            longest = np.sqrt(np.einsum("ij,ij->i", self.base, self.base).max(initial=0.0))
            norms = np.sqrt(np.einsum("ij,ij->i", self.queries, self.queries))
            size = norms * longest if self.metric is Metric.DOT else (norms + longest) ** 2
        return np.asarray(16 * np.finfo(np.float32).eps * size, np.float32)


def without_own(found: IdArray, own: IdArray) -> IdArray:
    """Return what was found, (nq, k), without each query's own row: (nq, k - 1); the last one goes where it is not
    there."""
    return found[_others(found, own)].reshape(len(found), -1)


def _others(found: IdArray, own: IdArray) -> NDArray[np.bool_]:
    """Return a mask that is True for all but one entry of each row: the query itself, or the last entry."""
    others = np.asarray(found != own[:, None], np.bool_)
    others[others.all(axis=1), -1] = False
    return others


def judge(
    found: IdArray,
    truth: Truth,
    relevant: Sequence[Any] | NDArray[Any] | None = None,
    grades: Sequence[Any] | None = None,
) -> dict[str, Figures]:
    """Return all figures of a search, per query: every decision about a codec reads these.

    Args:
        found: int64 (nq, up to 100) as returned, best first.
        truth: the exact neighbours, at least ten.
        relevant: for each query the ids that answer it, where that is known.
        grades: for each query how much each of these answers it; without it all answer equally.

    Returns:
        ``recall@1``, ``recall@10`` and, where more than 100 documents are searched, ``recall@100`` and ``kept@100``:
        the share of the old top ten within the new hundred. With ``relevant`` also ``ndcg@10``, ``mrr@10`` and
        ``relevant@100``, the share of the relevant documents within the new hundred.
    """
    figures = truth.figures(found)
    if relevant is not None:
        grouped = _by_count(relevant)
        figures["ndcg@10"] = _ndcg(found, grouped, 10, grades)
        figures["mrr@10"] = _mrr(found, grouped, 10)
        if "kept@100" in figures:
            figures["relevant@100"] = _share_found(found[:, :100], grouped)
    return figures


def recall(ids: IdArray, truth: IdArray, k: int) -> Figures:
    """Return the share of the true k nearest that are among the k returned, per query: float64 (nq,).

    Args:
        ids: (nq, >= k) as returned; a negative id stands for nothing found.
        truth: (nq, >= k) the exact neighbours.
    """
    return recall_among(ids[:, :k], truth[:, :k])


def recall_among(candidates: IdArray, truth: IdArray) -> Figures:
    """Return the share of the true nearest that are among the candidates, per query: float64 (nq,).

    That is the recall after the candidates were scored again with the original vectors, since every true neighbour
    among them then comes before all others.

    Args:
        candidates: (nq, any number) as returned; a negative id stands for nothing found.
        truth: (nq, k) the exact neighbours.
    """
    return np.asarray((candidates[:, :, None] == truth[:, None, :]).any(axis=1).mean(axis=1), np.float64)


def ndcg(
    ids: IdArray, relevant: Sequence[Any] | NDArray[Any], k: int, grades: Sequence[Any] | NDArray[Any] | None = None
) -> Figures:
    """Return nDCG@k, per query: float64 (nq,).

    Discount log2(rank + 1), Järvelin & Kekäläinen 2002 (doi:10.1145/582415.582418). The gain of a document is its
    grade, or 1.

    Args:
        ids: (nq, >= k) as returned.
        relevant: for each query the ids that answer it (a sequence of arrays), or int (nq,) for one each.
        k: how many of the returned count.
        grades: for each query the gain of each of these, at least 0.
    """
    return _ndcg(ids, _by_count(relevant), k, grades)


def _ndcg(ids: IdArray, grouped: list[_Answers], k: int, grades: Sequence[Any] | NDArray[Any] | None) -> Figures:
    discounts = 1 / np.log2(np.arange(2, k + 2))
    figures = np.zeros(len(ids))
    for queries, answers in grouped:
        gains = np.ones(answers.shape)
        if grades is not None:
            gains = np.stack([np.atleast_1d(np.asarray(grades[query], np.float64)) for query in queries])
        gained, best = np.zeros((len(queries), k)), np.zeros((len(queries), k))
        hits = ids[queries, :k, None] == answers[:, None, :]
        gained[:, : ids.shape[1]] = (hits * gains[:, None, :]).max(axis=2)
        best[:, : answers.shape[1]] = -np.sort(-gains, axis=1)[:, :k]
        # Add both sums in the same order, so that the best ranking gets exactly 1.
        ideal = np.einsum("ij,j->i", best, discounts)
        some = ideal > 0
        figures[queries[some]] = np.einsum("ij,j->i", gained[some], discounts) / ideal[some]
    return figures


def share_found(ids: IdArray, relevant: Sequence[Any] | NDArray[Any]) -> Figures:
    """Return the share of the relevant ids that are among all returned, per query: float64 (nq,); 0 where none is
    relevant."""
    return _share_found(ids, _by_count(relevant))


def _share_found(ids: IdArray, grouped: list[_Answers]) -> Figures:
    figures = np.zeros(len(ids))
    for queries, answers in grouped:
        figures[queries] = (ids[queries, :, None] == answers[:, None, :]).any(axis=1).mean(axis=1)
    return figures


def mrr(ids: IdArray, relevant: Sequence[Any] | NDArray[Any], k: int) -> Figures:
    """Return the reciprocal rank of the first relevant id within the first k, else 0, per query: float64 (nq,)."""
    return _mrr(ids, _by_count(relevant), k)


def _mrr(ids: IdArray, grouped: list[_Answers], k: int) -> Figures:
    figures = np.zeros(len(ids))
    for queries, answers in grouped:
        hits = (ids[queries, :k, None] == answers[:, None, :]).any(axis=2)
        some = hits.any(axis=1)
        figures[queries[some]] = 1 / (hits[some].argmax(axis=1) + 1)
    return figures


def spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return Spearman's rank correlation of two equally long arrays, ties by mean rank; nan when one is constant."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    ranks_a -= ranks_a.mean()
    ranks_b -= ranks_b.mean()
    scale = np.sqrt((ranks_a @ ranks_a) * (ranks_b @ ranks_b))
    return float(ranks_a @ ranks_b / scale) if scale > 0 else float("nan")


def pair_scores(left: FloatArray, right: FloatArray, metric: Metric) -> NDArray[Any]:
    """Return scores of pairs, row by row, (n,), as :func:`similarities` gives them; ``left`` and ``right`` are (n,
    d)."""
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
    """Return the Spearman correlation of the scores of random pairs before and after compression.

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


def best(figures: Mapping[str, Mapping[str, NDArray[Any]]], metric: str) -> str:
    """Name the codec whose mean of one metric is highest; the first of equal ones.

    Args:
        figures: for each codec its per-query figures by metric, each (nq,).
        metric: such as ``recall@10``.
    """
    return max(figures, key=lambda name: float(figures[name][metric].mean()))


def bootstrap(values: NDArray[Any], *, seed: int = 0, resamples: int = 2_000) -> Interval:
    """Return the mean of per-query figures with its 95 % percentile bootstrap interval (Efron 1979), over queries.

    Args:
        values: (nq,), at least one.
    """
    [interval] = bootstraps({"": values}, seed=seed, resamples=resamples).values()
    return interval


def bootstraps(figures: Mapping[str, NDArray[Any]], *, seed: int = 0, resamples: int = 2_000) -> dict[str, Interval]:
    """Return what :func:`bootstrap` does for several figures of the same queries, each (nq,), in one matrix product."""
    if not figures:
        return {}
    values = np.stack([np.asarray(each, np.float64) for each in figures.values()], axis=1)
    drawn = _resampling(len(values), seed, resamples) @ values / len(values)
    lows, highs = np.percentile(drawn, [2.5, 97.5], axis=0)
    means = values.mean(axis=0)
    return {name: Interval(*map(float, ends)) for name, *ends in zip(figures, means, lows, highs, strict=True)}


def paired_bootstrap(a: NDArray[Any], b: NDArray[Any], *, seed: int = 0, resamples: int = 2_000) -> Interval:
    """Return the mean of a - b over the same queries with its 95 % interval; above zero means that a is better."""
    return bootstrap(np.asarray(a, np.float64) - np.asarray(b, np.float64), seed=seed, resamples=resamples)


def ratio_bootstrap(a: NDArray[Any], b: NDArray[Any], *, seed: int = 0, resamples: int = 2_000) -> Interval:
    """Sum of a over sum of b, of the same queries, with its 95 % interval; the sum of b is positive."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    drawn = _resampling(len(a), seed, resamples)
    low, high = np.percentile((drawn @ a) / np.maximum(drawn @ b, np.finfo(np.float64).tiny), [2.5, 97.5])
    return Interval(float(a.sum() / b.sum()), float(low), float(high))


@lru_cache(maxsize=2)
def _resampling(n: int, seed: int, resamples: int) -> Figures:
    """Draw how often each value appears in each resampling, (resamples, n); it is cached, as drawing takes long."""
    # Resampling n of n values means drawing multinomial counts. One matrix product then gives all means.
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.asarray(counts, np.float64)


class _Answers(NamedTuple):
    """Hold some queries with equally many answers.

    Attributes:
        queries: int64 (q,), at most 256.
        answers: the ids that answer each, (q, m).
    """

    queries: IdArray
    answers: NDArray[Any]


def _by_count(relevant: Sequence[Any] | NDArray[Any]) -> list[_Answers]:
    """Group queries by how many answers they have, so that each group is one array; leave out those of none."""
    answers = [np.atleast_1d(np.asarray(ids)) for ids in relevant]
    counts = np.array([len(ids) for ids in answers], np.int64)
    found = []
    for count in np.unique(counts[counts > 0]):
        queries = np.flatnonzero(counts == count)
        for start in range(0, len(queries), _QUERY_ROWS):
            part = queries[start : start + _QUERY_ROWS]
            found.append(_Answers(part, np.stack([answers[query] for query in part])))
    return found


def _ranks(values: NDArray[Any]) -> Figures:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts, dtype=np.float64)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)
