"""Turn figures of every query into means with 95 % intervals, and into sentences that say what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec.evaluation import Figures, Interval, bootstrap, paired_bootstrap
from vaecodec.linear import LinearKind
from vaecodec.text import visible
from vaecodec_integrations.report.run import UNCOMPRESSED, Method, Rival, Role, Run, Scores, plain
from vaecodec_integrations.report.verdict import Difference, Verdict, verdict

# The figure by which re-ranking and losses are described.
JUDGED = "recall@10"

# Names of the baselines in the text.
BASELINE_LABELS = {
    LinearKind.TRUNCATION: "truncation",
    LinearKind.TRUNCATION_DOT: "truncation, dot product",
    LinearKind.SVD: "SVD",
    LinearKind.SVD_DOT: "SVD, dot product",
    LinearKind.PCA: "PCA, both sides centred",
    LinearKind.PCA_DOCUMENTS: "PCA, documents centred",
}

_FLOAT_BYTES = 4
_LACKS_ADAPTER = (
    "Part of what training for relevance gains is gained without compression, too. To see it, train a codec of all "
    "dimensions in the same way, and give it by --adapter. vaecodec fit writes one: full-width.onnx."
)
_BY_RELEVANCE = ("ndcg@10", "mrr@10", "relevant@10", "relevant@100")


@dataclass(frozen=True)
class Losses:
    """Hold where recall@10 is lost, as means over the queries; with ``found`` the first three add up to 1.

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
    """Hold the figures of one way to store the vectors.

    The attributes not listed are those of :class:`~vaecodec_integrations.report.run.Method`.

    Attributes:
        coded: whether the vectors are stored as codes, in the engine or a packed index.
        build_seconds: encoding and indexing the base.
        queries_per_second: encoding and searching the queries, in one batch.
        metrics: every figure, by name, with its 95 % interval.
        worst_decile: mean recall@10 of the tenth of the queries that lost most.
        unreached: share of documents that their own neighbourhood found before and does not find any more.
        losses: where recall@10 goes.
    """

    name: str
    role: Role
    of: str
    kind: str
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
class RivalSummary:
    """Hold an untrained way to store vectors that takes as many bytes as a method.

    Attributes:
        of, name, untrained, width, bytes_per_vector: see :class:`~vaecodec_integrations.report.run.Rival`.
        metrics: every figure, by name, with its 95 % interval.
        differences: the method minus this, paired over the queries.
    """

    of: str
    name: str
    untrained: bool
    width: int
    bytes_per_vector: int
    metrics: Mapping[str, Interval]
    differences: Mapping[str, Interval]


@dataclass(frozen=True)
class Slice:
    """Hold recall@10 over the queries with one label, and the paired difference codec - best linear."""

    label: str
    queries: int
    codec: Interval
    linear: Interval
    difference: Interval


@dataclass(frozen=True)
class Change:
    """Hold one metric of one method in an earlier report and now.

    Attributes:
        method: the method's name now; the first codec is held against the first codec, whatever it was called.
        before, now: the means.
        difference: now - before, paired over the queries; None when these or the base are not the same.
    """

    method: str
    metric: str
    before: float
    now: float
    difference: Interval | None


@dataclass(frozen=True)
class ReportSummary:
    """Hold the statements and figures of a report.

    Attributes:
        chosen: the codec or code that the first sentence is about: what will be used, as far as that is known.
        trained: whether that needed training; what needs none is not compared with what needs none.
        verdicts: for each codec and each code of it, whether it is better than what needs no training.
        lacks_adapter: whether a codec was trained for relevance, and what the same training makes of uncompressed
            vectors was not measured.
        methods: in the order measured.
        rivals: what needs no training and takes as many bytes.
        slices: of the first codec by label, most queries first.
        svd_curve: bytes per vector and recall@10 of SVD at several widths, by exact search.
        changes: against an earlier report, where one was given.
    """

    chosen: str
    trained: bool
    verdicts: Sequence[Verdict]
    lacks_adapter: bool
    methods: Sequence[MethodSummary]
    rivals: Sequence[RivalSummary]
    slices: Sequence[Slice]
    svd_curve: Sequence[tuple[int, float]]
    changes: Sequence[Change]

    @property
    def codec(self) -> str:
        """Name of the first codec."""
        return self.verdicts[0].method

    @property
    def differences(self) -> Mapping[str, Difference]:
        """Return for each figure the first codec minus the linear baseline that is best in it."""
        return self.verdicts[0].differences

    @property
    def best_linear(self) -> str:
        """Name of the linear baseline with the highest recall@10 at the width of the first codec."""
        return self.differences[JUDGED].rival

    @property
    def headline(self) -> str:
        """Return in one or two sentences what the chosen codec or code saves and keeps."""
        return self.in_words(self.chosen) if self.trained else self.gain_in_words(self.chosen)

    @property
    def judgements(self) -> list[str]:
        """Return the verdicts in words, that on the chosen codec or code first; what needs no training has none."""
        if not self.trained:
            return ["It needs no training. What else needs none is beside it below."]
        found = [each.text for each in sorted(self.verdicts, key=lambda each: each.method != self.chosen)]
        return [*found, _LACKS_ADAPTER] if self.lacks_adapter else found

    def method(self, name: str) -> MethodSummary:
        """Return the method of that name."""
        return next(method for method in self.methods if method.name == name)

    def in_words(self, name: str) -> str:
        """Say how much smaller a codec or code is, what it keeps, and what is kept without training."""
        rivals = [f"the best linear codecs of this size keep {_kept(self._best_without_training(name))}"]
        for rival in self.rivals:
            if rival.of == name and rival.untrained:
                means = {metric: value.mean for metric, value in rival.metrics.items()}
                rivals.append(f"{rival.name}, {_kept(means)}")
        return f"{self.gain_in_words(name)} Without training, {'; '.join(rivals)}."

    def gain_in_words(self, name: str) -> str:
        """Say how much smaller a codec or code is, and what it keeps."""
        codec, whole = self.method(name), self.method(UNCOMPRESSED)
        share = whole.bytes_per_vector / codec.bytes_per_vector
        text = f"{name}: {share:.3g}x smaller" if share > 1 else f"{name}: not smaller"
        text += f" ({codec.bytes_per_vector:,} bytes per vector)"
        text += f"; keeps {_percent(codec.metrics[JUDGED].mean)} of the ten nearest documents"
        if 4 in codec.losses.reranked:
            text += f", {_percent(codec.losses.reranked[4])} with 4x re-ranking"
        if "recall@100" in codec.metrics:
            text += f", and {_percent(codec.metrics['recall@100'].mean)} of the hundred nearest"
        if "relevant@10" in codec.metrics:
            found, before = (100 * method.metrics["relevant@10"].mean for method in (codec, whole))
            ranked, ranked_before = (method.metrics["ndcg@10"].mean for method in (codec, whole))
            text += f"; reaches nDCG@10 {ranked:.3f} (uncompressed {ranked_before:.3f}) and finds the right document "
            text += f"in {found:.0f} of 100 searches, uncompressed in {before:.0f}"
            adapted = next((method for method in self.methods if method.role is Role.ADAPTER), None)
            if adapted is not None:
                text += f", {adapted.name} in {100 * adapted.metrics['relevant@10'].mean:.0f}"
                text += f" (nDCG@10 {adapted.metrics['ndcg@10'].mean:.3f})"
        return f"{text}."

    def _best_without_training(self, name: str) -> dict[str, float]:
        """Return for each figure the mean of the best linear codec of the same width, with the same code where it has
        one.
        """
        linear = [rival.metrics for rival in self.rivals if rival.of == name and not rival.untrained]
        if not linear:
            width = self.method(name).width
            linear = [method.metrics for method in self.methods if (method.role, method.width) == (Role.LINEAR, width)]
        return {metric: max(metrics[metric].mean for metrics in linear) for metric in linear[0]}

    def to_json(self) -> dict[str, Any]:
        """Return JSON values whose keys are identifiers, such as ``recall_at_10``."""
        values: dict[str, Any] = plain(
            {"headline": self.headline, "codec": self.codec, "best_linear": self.best_linear, **asdict(self)}
        )
        return values


def label(name: str) -> str:
    """Return what a method is called in print; a codec is called by its file, whose name may hold any bytes."""
    kind, at, width = name.partition(" at ")
    kind, comma, code = kind.partition(", ") if not at else (kind, "", "")
    if kind not in BASELINE_LABELS:
        return visible(name)
    return BASELINE_LABELS[LinearKind(kind)] + at + width + comma + code


def summarise(
    run: Run, earlier: Run | None = None, *, chosen: str | None = None, trained: bool = True
) -> ReportSummary:
    """Derive every figure of a report from what was measured.

    Args:
        run: what was measured.
        earlier: an earlier report, to show what changed.
        chosen: the name of the codec or code that will be used; by default the first code that was measured of the
            first codec, since who asks for codes stores codes, or that codec where there is none.
        trained: whether that needed training.
    """
    answered = _answered(run)
    figures = {method.name: per_query(method, answered) for method in run.methods}
    methods = [_summarise(run, method, figures[method.name]) for method in run.methods]
    rivals = [_rival(rival, figures[rival.of], answered) for rival in run.rivals]
    verdicts = _verdicts(run, figures, answered)
    first = run.codecs[0]
    codes = [method.name for method in run.methods if method.role is Role.CODE and method.of == first]
    return ReportSummary(
        chosen=[*codes, first][0] if chosen is None else run.method(chosen).name,
        trained=trained,
        verdicts=verdicts,
        lacks_adapter=_lacks_adapter(run),
        methods=methods,
        rivals=rivals,
        slices=_slices(run, figures[first][JUDGED], figures[verdicts[0].differences[JUDGED].rival][JUDGED]),
        svd_curve=[(width * _FLOAT_BYTES, value) for width, value in run.svd_curve.items()],
        changes=[] if earlier is None else _changes(run, figures, earlier),
    )


def _kept(means: Mapping[str, float]) -> str:
    """Write what is kept without training, in the order of the first sentence."""
    text = f"{_percent(means[JUDGED])}"
    if "recall@100" in means:
        text += f" and {_percent(means['recall@100'])}"
    if "relevant@10" in means:
        text += f", and find the right document in {100 * means['relevant@10']:.0f}"
    return text


def _percent(share: float) -> str:
    """Write a share with a decimal near the ends, and none of nearly all as all."""
    if 0.9995 <= share < 1:
        return "over 99.9%"
    if 0 < share < 0.0005:
        return "under 0.1%"
    return f"{share:.0%}" if 0.02 <= share <= 0.98 or share in (0, 1) else f"{share:.1%}"


def per_query(method: Method | Rival, answered: NDArray[np.bool_]) -> Mapping[str, Figures]:
    """Return a method's figures; those of relevance for the queries that have an answer."""
    return {
        name: values[answered] if name in _BY_RELEVANCE else values
        for name, values in method.figures.items()
        if name not in _BY_RELEVANCE or answered.any()
    }


def _lacks_adapter(run: Run) -> bool:
    trained = any(codec["objective"] == "relevance" for codec in run.setting["codecs"])
    return trained and all(method.role is not Role.ADAPTER for method in run.methods)


def _answered(run: Run) -> NDArray[np.bool_]:
    if run.relevant is None:
        return np.zeros(len(run.methods[0].exact), bool)
    return np.array([len(rows) > 0 for rows in run.relevant], bool)


def _verdicts(run: Run, figures: Mapping[str, Mapping[str, Figures]], answered: NDArray[np.bool_]) -> list[Verdict]:
    """Judge the codecs first, then their codes."""
    objectives = {codec["name"]: codec["objective"] for codec in run.setting["codecs"]}
    found = []
    for name in run.codecs:
        width = run.method(name).width
        linear = {
            method.name: figures[method.name]
            for method in run.methods
            if method.role is Role.LINEAR and method.width == width
        }
        found.append(verdict(name, figures[name], linear, _without_width, f"{width} dimensions", objectives[name]))
    for method in run.methods:
        rivals = {rival.name: per_query(rival, answered) for rival in run.rivals if rival.of == method.name}
        if method.role is Role.CODE and rivals:
            size = f"{method.bytes_per_vector} bytes"
            objective = objectives[method.of]
            found.append(
                verdict(method.name, figures[method.name], rivals, label, size, objective, "best code without training")
            )
    return found


def _without_width(name: str) -> str:
    """Return what a linear codec is called in print where its width is said beside it."""
    return label(name.partition(" at ")[0])


def _summarise(run: Run, method: Method, figures: Mapping[str, Figures]) -> MethodSummary:
    judged = np.sort(figures[JUDGED])
    queries = len(judged)
    return MethodSummary(
        name=method.name,
        role=method.role,
        of=method.of,
        kind=method.kind,
        packed=method.packed,
        coded=method.packed or method.quantised is not None,
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
        losses=_losses(method),
    )


def _rival(rival: Rival, of: Mapping[str, Figures], answered: NDArray[np.bool_]) -> RivalSummary:
    figures = per_query(rival, answered)
    return RivalSummary(
        of=rival.of,
        name=rival.name,
        untrained=rival.untrained,
        width=rival.width,
        bytes_per_vector=rival.bytes_per_vector,
        metrics={metric: bootstrap(values) for metric, values in figures.items()},
        differences={metric: paired_bootstrap(of[metric], values) for metric, values in figures.items()},
    )


def _losses(method: Method) -> Losses:
    exact, found = float(method.exact.mean()), float(method.figures[JUDGED].mean())
    quantised = found if method.packed else exact
    if method.quantised is not None:
        quantised = float(method.quantised.mean())
    return Losses(
        codec=1 - exact,
        bits=exact - quantised,
        graph=quantised - found,
        found=found,
        reranked={times: float(values.mean()) for times, values in method.reranked.items()},
    )


def _slices(run: Run, codec: Figures, linear: Figures) -> list[Slice]:
    labels = np.asarray(run.labels if run.labels is not None else [], np.str_)
    slices = []
    for name, count in zip(*np.unique(labels, return_counts=True), strict=True):
        rows = labels == name
        slices.append(
            Slice(
                label=str(name),
                queries=int(count),
                codec=bootstrap(codec[rows]),
                linear=bootstrap(linear[rows]),
                difference=paired_bootstrap(codec[rows], linear[rows]),
            )
        )
    return sorted(slices, key=lambda part: (-part.queries, part.label))


def _changes(run: Run, figures: Mapping[str, Mapping[str, Figures]], earlier: Run) -> list[Change]:
    paired = all(run.setting[key]["fingerprint"] == earlier.setting[key]["fingerprint"] for key in ("base", "queries"))
    answered = _answered(earlier)
    before = {method.name: per_query(method, answered) for method in earlier.methods}
    first, first_before = run.codecs[0], earlier.codecs[0]
    changes = []
    for method in run.methods:
        old_name = first_before if method.name == first else method.name
        for metric, values in figures[method.name].items():
            old = before.get(old_name, {}).get(metric)
            # For baselines compare recall@10 only.
            if old is None or not (method.role in (Role.CODEC, Role.CODE) or metric == JUDGED):
                continue
            difference = paired_bootstrap(values, old) if paired and len(old) == len(values) else None
            changes.append(Change(method.name, metric, float(old.mean()), float(values.mean()), difference))
    return changes
