"""Write the report's tables as text, the same on the terminal, in Markdown and on the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vaecodec.evaluation import KEPT_MEANS
from vaecodec_integrations.report.run import UNCOMPRESSED, Role, Run
from vaecodec_integrations.report.summary import JUDGED, MethodSummary, ReportSummary, label
from vaecodec_integrations.report.verdict import figure


@dataclass(frozen=True)
class Table:
    """Hold cells as text; the first column names the row.

    Attributes:
        title: a heading.
        note: what the reader must know to read it, one or two sentences.
        columns: headings, one per cell of a row.
        rows: the cells.
        emphasised: rows of the codecs that are judged.
        decisive: whether the second column is what most readers look for, which a narrow screen keeps in view.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    emphasised: tuple[int, ...] = ()
    decisive: bool = False

    @property
    def has_head(self) -> bool:
        """Tell whether any column has a heading."""
        return any(self.columns)


def tables(summary: ReportSummary, run: Run) -> list[Table]:
    """Return everything that the report shows in tables, in order."""
    shown = [_quality(summary)]
    if summary.rivals:
        shown.append(_rivals(summary))
    shown += [
        _costs(summary),
        *(_differences(summary) if summary.trained else []),
        _losses(summary),
        _geometry(summary, run),
    ]
    if any(method.scores for method in summary.methods):
        shown.append(_scores(summary))
    if summary.slices:
        shown.append(_slices(summary))
    if summary.changes:
        shown.append(_changes(summary))
    return [*shown, _setting(run)]


def _methods(
    summary: ReportSummary,
    title: str,
    note: str,
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    decisive: bool = False,
) -> Table:
    rows = [(label(method.name), *row) for method, row in zip(summary.methods, cells, strict=True)]
    return Table(
        title,
        note,
        ("stored as", *columns),
        rows,
        emphasised=tuple(
            row
            for row, method in enumerate(summary.methods)
            if method.role is Role.CODEC or method.name == summary.chosen
        ),
        decisive=decisive,
    )


def _quality(summary: ReportSummary) -> Table:
    metrics = [metric for metric in _ordered(summary.methods[0].metrics) if metric != "kept@100"]
    cells = [
        [*(f"{method.metrics[metric]:.3f}" for metric in metrics), f"{method.worst_decile:.3f}"]
        for method in summary.methods
    ]
    note = (
        "Mean over the queries with its 95 % bootstrap interval. Recall: share of the exact nearest neighbours of the "
        "uncompressed vectors that the index returns; documents with equal scores count as equal. Worst tenth: mean "
        "recall@10 of the queries that lose most."
        + (f" Below, {KEPT_MEANS}" if "kept@100" in summary.methods[0].metrics else "")
    )
    columns = (*map(figure, metrics), "worst tenth")
    return _methods(summary, "What is found", note, columns, cells, decisive=True)


def _ordered(metrics: Iterable[str]) -> list[str]:
    """Return the figures with the one that most readers look for first."""
    return sorted(metrics, key=lambda metric: metric != JUDGED)


def _rivals(summary: ReportSummary) -> Table:
    metrics = _ordered(summary.rivals[0].metrics)
    rows: list[tuple[str, ...]] = []
    own = []
    # Several methods may be held against the same untrained codes: these stand once, below the last of them.
    last = {rival.name: rival.of for rival in summary.rivals if rival.untrained}
    for of in dict.fromkeys(rival.of for rival in summary.rivals):
        method = summary.method(of)
        own.append(len(rows))
        size = f"{method.bytes_per_vector:,}"
        rows.append((of, *(f"{method.metrics[metric]:.3f}" for metric in metrics), size))
        for rival in (rival for rival in summary.rivals if rival.of == of == last.get(rival.name, of)):
            figures = (f"{rival.metrics[metric]:.3f}" for metric in metrics)
            rows.append((label(rival.name), *figures, f"{rival.bytes_per_vector:,}"))
    note = (
        "Codecs and codes (emphasised) and, below them, what needs no training and takes no more bytes: "
        "the same code of linear latents, and a code of all dimensions turned to their principal axes. The latter "
        "need an index that holds codes; they are searched exactly here."
    )
    columns = ("stored as", *map(figure, metrics), "bytes per vector")
    return Table("In as many bytes, without training", note, columns, rows, tuple(own), decisive=True)


def _costs(summary: ReportSummary) -> Table:
    whole = summary.method(UNCOMPRESSED)

    def cells(method: MethodSummary) -> list[str]:
        share = method.index_bytes / whole.index_bytes
        return [
            f"{method.width}",
            f"{method.bytes_per_vector:,}",
            f"{method.index_bytes / 1e6:,.1f} MB ({share:.0%})",
            f"{method.build_seconds:.2f}",
            f"{method.queries_per_second:,.0f}",
        ]

    note = (
        "Index: bytes on disk. Build and queries include encoding; queries are searched in one batch for 100 "
        "neighbours, on all cores."
        + (
            " Codes that the engine does not have are searched exactly, in a PackedIndex."
            if any(method.packed for method in summary.methods)
            else ""
        )
    )
    columns = ("dimensions", "bytes per vector", "index", "build, s", "queries per s")
    return _methods(summary, "What it costs", note, columns, [cells(method) for method in summary.methods])


def _differences(summary: ReportSummary) -> list[Table]:
    note = (
        "Against the baseline that is best by that figure, paired over the queries. An interval above zero means that "
        "the codec is better, one below zero that it is worse."
    )
    return [
        Table(
            f"{verdict.method} minus the {verdict.opponent}",
            note,
            ("figure", "difference", "baseline"),
            [
                (
                    figure(metric),
                    f"{verdict.differences[metric].interval:+.3f}",
                    label(verdict.differences[metric].rival),
                )
                for metric in _ordered(verdict.differences)
            ],
        )
        for verdict in summary.verdicts
    ]


def _losses(summary: ReportSummary) -> Table:
    times = list(summary.methods[0].losses.reranked)
    coded = any(method.coded for method in summary.methods)
    own_codes = any(method.coded and not method.packed for method in summary.methods)

    def cells(method: MethodSummary) -> list[str]:
        losses = method.losses
        lost = [losses.codec, *([losses.bits] if coded else []), losses.graph]
        deep = [method.metrics["kept@100"].mean] if "kept@100" in method.metrics else []
        return [f"{value:z.3f}" for value in (*lost, *losses.reranked.values(), *deep)]

    note = (
        f"{JUDGED}. Lost by the codec: exact search on its float32 latents misses them. "
        + ("Lost by the bits: exact search on what the codes stand for misses them in addition. " if coded else "")
        + "Lost by the index: its graph misses them in addition"
        + ("; its own quantiser stands in for ours there and may find more. " if own_codes else ". ")
        + "Re-ranked: so many times 10 candidates are scored "
        "again with the original vectors."
    )
    lost_by = ("codec", "bits", "index") if coded else ("codec", "index")
    deep = ["kept@100"] if "kept@100" in summary.methods[0].metrics else []
    columns = (*(f"lost by the {part}" for part in lost_by), *(f"re-ranked {factor}x" for factor in times), *deep)
    title = "Where it is lost, and what re-ranking brings back"
    return _methods(summary, title, note, columns, [cells(method) for method in summary.methods])


def _geometry(summary: ReportSummary, run: Run) -> Table:
    def cells(method: MethodSummary) -> list[str]:
        scored = [] if method.scored_pairs is None else [f"{method.scored_pairs:.3f}"]
        return [f"{method.pair_similarity:.3f}", *scored, f"{method.reconstruction:.3f}", f"{method.unreached:.1%}"]

    scored = summary.methods[0].scored_pairs is not None
    note = (
        "Pair similarity: Spearman correlation of the scores of 20,000 random pairs before and after. "
        + ("Scored pairs: Spearman correlation with the scores that people gave. " if scored else "")
        + "Reconstruction: mean cosine between embeddings and what is restored. Unreached: share of "
        f"{run.sampled:,} sampled documents that one of their 10 nearest neighbours had among its own 10 nearest, and "
        "none has any more."
    )
    columns = ("pair similarity", *(("scored pairs",) if scored else ()), "reconstruction", "unreached")
    return _methods(
        summary, "What happens to the geometry", note, columns, [cells(method) for method in summary.methods]
    )


def _scores(summary: ReportSummary) -> Table:
    def cells(method: MethodSummary) -> list[str]:
        scores = method.scores
        if scores is None:
            return [""] * 5
        calibrated = "" if scores.calibrated_error is None else f"{scores.calibrated_error:.3f}"
        return [
            f"{scores.error:.3f}",
            calibrated,
            f"{scores.scale:.3f}",
            f"{scores.offset:+.3f}",
            f"{scores.residual:.3f}",
        ]

    note = (
        "Scores as stored against the original ones, over up to 100 nearest stored vectors of each query. Error: mean "
        "absolute difference, as they are and by the calibration in the codec's file, if any. Line: original score = "
        "scale x score + offset, as it would be fitted here, and the standard deviation that it leaves."
    )
    columns = ("error", "error, calibrated", "scale", "offset", "residual")
    return _methods(summary, "What happens to the scores", note, columns, [cells(method) for method in summary.methods])


def _slices(summary: ReportSummary) -> Table:
    rows = [
        (
            part.label,
            f"{part.queries:,}",
            f"{part.codec:.3f}",
            f"{part.linear:.3f}",
            f"{part.difference:+.3f}",
        )
        for part in summary.slices
    ]
    columns = ("slice", "queries", summary.codec, label(summary.best_linear), "difference")
    return Table(f"{JUDGED} by slice", "Paired differences, 95 % intervals.", columns, rows)


def _changes(summary: ReportSummary) -> Table:
    rows = [
        (
            label(change.method),
            figure(change.metric),
            f"{change.before:.3f}",
            f"{change.now:.3f}",
            f"{change.difference:+.3f}" if change.difference else f"{change.now - change.before:+.3f}, not paired",
        )
        for change in summary.changes
    ]
    note = "Now minus before, paired over the queries where base and queries are the same vectors."
    columns = ("stored as", "metric", "before", "now", "difference")
    return Table("What changed since the earlier report", note, columns, rows)


def _setting(run: Run) -> Table:
    setting = run.setting
    parameters = ", ".join(f"{key} {value}" for key, value in setting["engine_parameters"].items())
    versions = ", ".join(f"{key} {value}" for key, value in setting["versions"].items())
    fitted_on = {
        "train": "the training vectors given",
        "base": "the base itself, which favours them: they have seen what they are measured on",
    }[setting["linear_fitted_on"]]
    rows = [
        ("documents searched", f"{setting['base']['rows']:,} x {setting['base']['dim']}"),
        ("queries", f"{setting['queries']['rows']:,}"),
        ("metric", setting["metric"]),
        ("engine", f"{setting['engine']} ({parameters})" if parameters else f"{setting['engine']} search"),
        ("linear baselines fitted on", fitted_on),
        *((codec["name"], f"id {codec['id']}") for codec in setting["codecs"]),
        ("embedder", ", ".join(dict.fromkeys(codec["embedder"] or "not given" for codec in setting["codecs"]))),
        ("cores", f"{setting['cores']}"),
        ("measured", f"{setting['created']}, {versions}"),
    ]
    return Table("What was measured", "", ("", ""), rows)
