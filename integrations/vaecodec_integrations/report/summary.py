"""From raw ids and times to figures, each with its 95 % interval. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vaecodec.evaluation import Figures, Interval, best, bootstrap, mrr, ndcg, paired_bootstrap, recall, recall_among
from vaecodec.linear import LinearKind
from vaecodec_integrations.report.run import Method, Run, Scores

# What the codec is judged by.
JUDGED = "recall@10"

# What the baselines are called in print.
LABELS = {
    LinearKind.TRUNCATION: "truncation",
    LinearKind.SVD: "SVD",
    LinearKind.SVD_DOT: "SVD, by dot product",
    LinearKind.TRUNCATION_DOT: "truncation, by dot product",
    LinearKind.PCA: "PCA, both sides centred",
    LinearKind.PCA_DOCUMENTS: "PCA, documents centred",
}

RERANKED = (1, 2, 4, 8)
_RECALL_AT = (1, 10, 100)
_RELEVANCE_AT = 10
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Losses:
    """Where recall@10 goes, as means over the queries; with ``found`` the first three add up to 1.

    Attributes:
        codec: lost by exact search on the float32 vectors.
        bits: lost in addition by writing them as codes.
        graph: lost in addition by the engine's index. This and ``bits`` may be slightly negative: they can err on the
            right side. Where the engine stores codes of its own, ``bits`` is what ours of the same size lose, and what
            its quantiser does better or worse is in ``graph``.
        found: recall@10 of the index.
        reranked: recall@10 after the index's first 10, 20, 40 and 80 candidates are scored again with the
            original vectors.
    """

    codec: float
    bits: float
    graph: float
    found: float
    reranked: Mapping[int, float]


@dataclass(frozen=True)
class MethodSummary:
    """The figures of one way to store the vectors.

    Attributes:
        name, packed, width, bytes_per_vector, index_bytes, pair_similarity, scored_pairs, reconstruction, scores: see
            :class:`Method`.
        coded: stored as codes, there or in the engine.
        build_seconds: encoding and indexing the base.
        queries_per_second: encoding and searching the queries, in one batch.
        metrics: recall@k, and nDCG@10 and MRR@10 where relevance is known, by name.
        worst_decile: mean recall@10 of the tenth of the queries that lost most.
        unreached: share of documents that their own neighbourhood found before and does not find any more.
        losses: where recall@10 goes.
    """

    name: str
    packed: bool
    coded: bool
    width: int
    bytes_per_vector: int
    index_bytes: int
    build_seconds: float
    queries_per_second: float
    metrics: Mapping[str, Interval]
    worst_decile: float
    pair_similarity: float
    scored_pairs: float | None
    reconstruction: float
    scores: Scores | None
    unreached: float
    losses: Losses


@dataclass(frozen=True)
class Difference:
    """Codec - best linear baseline by one metric, paired over the queries, and the name of that baseline."""

    linear: str
    interval: Interval


@dataclass(frozen=True)
class Slice:
    """Recall@10 over the queries with one label, and the paired difference codec - best linear."""

    label: str
    queries: int
    codec: Interval
    linear: Interval
    difference: Interval


@dataclass(frozen=True)
class Change:
    """One metric of one method in an earlier report and now.

    Attributes:
        method: the method's name now; the codec is held against the codec, whatever it was called.
        before, now: the means.
        difference: now - before, paired over the queries; none when these or the base are not the same.
    """

    method: str
    metric: str
    before: float
    now: float
    difference: Interval | None


@dataclass(frozen=True)
class ReportSummary:
    """What a report says.

    Attributes:
        headline: one sentence: does the codec beat the best linear baseline.
        codec, best_linear: names of methods; the best linear baseline is the one with the highest recall@10.
        differences: for each metric, against the baseline that is best by that metric.
        methods: in the order measured.
        slices: by label, most queries first.
        svd_curve: bytes per vector and recall@10 of SVD at several widths, by exact search.
        changes: against an earlier report, where one was given.
    """

    headline: str
    codec: str
    best_linear: str
    differences: Mapping[str, Difference]
    methods: Sequence[MethodSummary]
    slices: Sequence[Slice]
    svd_curve: Sequence[tuple[int, float]]
    changes: Sequence[Change]

    def method(self, name: str) -> MethodSummary:
        """The method of that name."""
        return next(method for method in self.methods if method.name == name)


def summarise(run: Run, earlier: Run | None = None) -> ReportSummary:
    """Derive every figure of a report from what was measured, and what changed since an earlier one."""
    figures = {method.name: per_query(run, method) for method in run.methods}
    linear = [method.name for method in run.methods if method.name in LABELS]
    differences = {}
    for metric, values in figures[run.codec].items():
        rival = best({name: figures[name] for name in linear}, metric)
        differences[metric] = Difference(rival, paired_bootstrap(values, figures[rival][metric]))
    rival = differences[JUDGED].linear
    width = next(method.width for method in run.methods if method.name == run.codec)
    return ReportSummary(
        headline=_headline(run.codec, rival, width, figures, differences[JUDGED].interval),
        codec=run.codec,
        best_linear=rival,
        differences=differences,
        methods=[_summarise(run, method, figures[method.name]) for method in run.methods],
        slices=_slices(run, figures[run.codec][JUDGED], figures[rival][JUDGED]),
        svd_curve=[
            (width * _FLOAT_BYTES, float(recall(ids, run.truth, 10).mean())) for width, ids in run.svd_curve.items()
        ],
        changes=[] if earlier is None else _changes(earlier, run),
    )


def label(method: str) -> str:
    """What a method is called in print: the codec and the uncompressed vectors by their name."""
    return LABELS[LinearKind(method)] if method in LABELS else method


def per_query(run: Run, method: Method) -> dict[str, Figures]:
    """Every retrieval metric of the engine's answers, one figure per query (those with known relevance)."""
    figures = {f"recall@{k}": recall(method.engine_ids, run.truth, k) for k in _RECALL_AT if k <= run.truth.shape[1]}
    if run.relevant is not None:
        judged = [query for query, rows in enumerate(run.relevant) if len(rows)]
        relevant = [np.asarray(run.relevant[query]) for query in judged]
        if judged:
            figures["nDCG@10"] = ndcg(method.engine_ids[judged], relevant, _RELEVANCE_AT)
            figures["MRR@10"] = mrr(method.engine_ids[judged], relevant, _RELEVANCE_AT)
    return figures


def _changes(earlier: Run, run: Run) -> list[Change]:
    paired = all(
        earlier.setting[data]["fingerprint"] == run.setting[data]["fingerprint"] for data in ("base", "queries")
    )
    before = {
        run.codec if method.name == earlier.codec else method.name: per_query(earlier, method)
        for method in earlier.methods
    }
    changes = []
    for method in run.methods:
        for metric, values in per_query(run, method).items():
            old = before.get(method.name, {}).get(metric)
            # Of the baselines only what the codec is judged by.
            if old is None or not (method.name == run.codec or metric == JUDGED):
                continue
            same_queries = paired and len(old) == len(values)
            difference = paired_bootstrap(values, old) if same_queries else None
            changes.append(Change(method.name, metric, float(old.mean()), float(values.mean()), difference))
    return changes


def _summarise(run: Run, method: Method, figures: Mapping[str, Figures]) -> MethodSummary:
    judged = np.sort(figures[JUDGED])
    queries = len(run.truth)
    return MethodSummary(
        name=method.name,
        packed=method.packed,
        coded=method.packed or method.quantised_ids is not None,
        width=method.width,
        bytes_per_vector=method.bytes_per_vector,
        index_bytes=method.index_bytes,
        build_seconds=method.encode_seconds + method.build_seconds,
        queries_per_second=queries / (method.encode_queries_seconds + method.search_seconds),
        metrics={metric: bootstrap(values) for metric, values in figures.items()},
        worst_decile=float(judged[: max(1, queries // 10)].mean()),
        pair_similarity=method.pair_similarity,
        scored_pairs=method.scored_pairs,
        reconstruction=method.reconstruction,
        scores=method.scores,
        unreached=len(method.unreached) / max(1, run.sampled),
        losses=_losses(run, method),
    )


def _losses(run: Run, method: Method) -> Losses:
    exact = float(recall(method.exact_ids, run.truth, 10).mean())
    found = float(recall(method.engine_ids, run.truth, 10).mean())
    reranked = {
        times: float(recall_among(method.engine_ids[:, : 10 * times], run.truth[:, :10]).mean())
        for times in RERANKED
        if 10 * times <= run.truth.shape[1]
    }
    quantised = found if method.packed else exact
    if method.quantised_ids is not None:
        quantised = float(recall(method.quantised_ids, run.truth, 10).mean())
    return Losses(codec=1 - exact, bits=exact - quantised, graph=quantised - found, found=found, reranked=reranked)


def _slices(run: Run, codec: Figures, linear: Figures) -> list[Slice]:
    labels = np.asarray(run.labels if run.labels is not None else [], np.str_)
    slices = []
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        rows = labels == label
        slices.append(
            Slice(
                label=str(label),
                queries=int(count),
                codec=bootstrap(codec[rows]),
                linear=bootstrap(linear[rows]),
                difference=paired_bootstrap(codec[rows], linear[rows]),
            )
        )
    return sorted(slices, key=lambda part: (-part.queries, part.label))


def _headline(
    codec: str, rival: str, width: int, figures: Mapping[str, Mapping[str, Figures]], difference: Interval
) -> str:
    if difference.low > 0:
        verdict = f"{codec} beats the best linear baseline"
    elif difference.high < 0:
        verdict = f"{codec} is worse than the best linear baseline"
    else:
        verdict = f"{codec} does not beat the best linear baseline"
    ours, theirs = figures[codec][JUDGED].mean(), figures[rival][JUDGED].mean()
    return (
        f"{verdict} ({label(rival)}; {width} dimensions): {JUDGED} {ours:.3f} against {theirs:.3f}, "
        f"paired difference {difference.mean:+.3f}, 95 % interval [{difference.low:+.3f}, {difference.high:+.3f}]."
    )
