"""Draw the report's pictures with matplotlib, without a display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from vaecodec.charts import DARK, LIGHT, MARKERS, Name, Theme, chart, rendered, write_names
from vaecodec.evaluation import Interval
from vaecodec_integrations.report.run import Role
from vaecodec_integrations.report.summary import JUDGED, MethodSummary, ReportSummary, label

_WIDTH = 6.4
_SHOWN_AGAIN = 4  # the factor of re-ranking that is drawn


@dataclass(frozen=True)
class Picture:
    """Hold a picture in the forms that a report needs.

    Attributes:
        name: of the file, without suffix.
        caption: what is drawn, in a few words.
        shows: what can be seen, for those who do not see it.
        light, dark: SVG for a light and for a dark page.
        png: the light one as pixels.
    """

    name: str
    caption: str
    shows: str
    light: bytes
    dark: bytes
    png: bytes


@dataclass(frozen=True)
class _Point:
    text: str
    size: int
    recall: Interval
    colour: str
    marker: str
    ours: bool = False
    labelled: bool = True


def pictures(summary: ReportSummary) -> list[Picture]:
    """Draw everything that the report shows as pictures, in order; raises ``MissingExtraError``."""
    return [
        _picture(
            "recall",
            f"{JUDGED} over bytes per vector; the best linear codec is named, unnamed squares are the others",
            _recall_in_words(summary),
            lambda theme, form: _recall_against_bytes(summary, theme, form),
        ),
        _picture(
            "losses",
            f"where {JUDGED} goes, and what it becomes when 40 candidates are scored again with the original vectors",
            _losses_in_words(summary),
            lambda theme, form: _losses(summary, theme, form),
        ),
    ]


def _picture(name: str, caption: str, shows: str, draw: Callable[[Theme, Literal["png", "svg"]], bytes]) -> Picture:
    return Picture(name, caption, shows, draw(LIGHT, "svg"), draw(DARK, "svg"), draw(LIGHT, "png"))


def _recall_in_words(summary: ReportSummary) -> str:
    points = [
        f"{point.text} {point.recall.mean:.3f} at {point.size:,} bytes"
        for point in _points(summary, LIGHT)
        if point.labelled
    ]
    return f"Points: {JUDGED} over bytes per vector. {'; '.join(points)}."


def _losses_in_words(summary: ReportSummary) -> str:
    bars = []
    for method in summary.methods:
        again = method.losses.reranked.get(_SHOWN_AGAIN)
        then = "" if again is None else f", {again:.3f} after re-ranking {_SHOWN_AGAIN}x"
        bars.append(f"{label(method.name)} {method.losses.found:.3f}{then}")
    return f"Bars: {JUDGED} and where the rest is lost. {'; '.join(bars)}."


def _points(summary: ReportSummary, theme: Theme) -> list[_Point]:
    ours, linear, _, other = theme.lines
    codecs = [method.name for method in summary.methods if method.role is Role.CODEC]
    best = {verdict.differences[JUDGED].rival for verdict in summary.verdicts}
    points = []
    for method in summary.methods:
        size, recall = method.bytes_per_vector, method.metrics[JUDGED]
        if method.role is Role.LINEAR:
            named = method.name in best
            points.append(_Point(label(method.name), size, recall, linear, "s", labelled=named))
        elif method.role in (Role.CODEC, Role.CODE):
            mark = MARKERS[codecs.index(method.of or method.name) * 2 % len(MARKERS)]
            points.append(
                _Point(label(method.name), size, recall, ours, mark, ours=method.name in (*codecs, summary.chosen))
            )
        else:
            points.append(_Point(label(method.name), size, recall, theme.ink, "D"))
    # Several methods may be held against the same codes.
    untrained = {rival.name: rival for rival in summary.rivals if rival.untrained}
    points += [
        _Point(label(rival.name), rival.bytes_per_vector, rival.metrics[JUDGED], other, "v")
        for rival in untrained.values()
    ]
    return points


def _recall_against_bytes(summary: ReportSummary, theme: Theme, form: Literal["png", "svg"]) -> bytes:
    """Draw recall@10 of each method over bytes per vector, and the curve of SVD at other widths."""
    points = _points(summary, theme)
    shown = [point for point in points if point.labelled]
    curve_bytes, curve_recall = zip(*summary.svd_curve, strict=True)
    bottom = min(0.9, *(point.recall.mean for point in points), *curve_recall) - 0.05
    widest = max(point.size for point in points)  # these, uncompressed vectors among them, are named above the frame
    with chart(_WIDTH, 4.2, theme) as (figure, (axes,)):
        axes.plot(
            curve_bytes,
            curve_recall,
            "--",
            color=theme.lines[1],
            linewidth=1,
            label="SVD at other widths, exact search",
        )
        for point in points:
            around = [[point.recall.mean - point.recall.low], [point.recall.high - point.recall.mean]]
            axes.errorbar(
                point.size,
                point.recall.mean,
                around,
                fmt=point.marker,
                color=point.colour,
                capsize=3,
                markersize=8 if point.ours else 5 if point.labelled else 4,
            )
        last = ", ".join(point.text for point in shown if point.size == widest)
        axes.annotate(last, (widest, 1.04), ha="right", va="bottom", color=theme.ink, annotation_clip=False)
        axes.set_ylim(bottom, 1.04)
        axes.set_xscale("log", base=2)
        named = [point for point in shown if point.size < widest]
        write_names(
            axes,
            [Name(point.text, point.size, point.recall.mean, point.colour, point.ours) for point in named],
            others=[(point.size, point.recall.mean) for point in points if point not in named],
            paper=theme.paper,
        )
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel("bytes per vector")
        axes.set_ylabel(f"{JUDGED} against exact search")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), frameon=False)
        return rendered(figure, form)


def _losses(summary: ReportSummary, theme: Theme, form: Literal["png", "svg"]) -> bytes:
    """Draw a bar for each method that shows where recall@10 is lost, with a mark at the recall after re-ranking."""
    coded = any(method.coded for method in summary.methods)
    with chart(_WIDTH, 1.3 + 0.36 * len(summary.methods), theme) as (figure, (axes,)):
        for row, method in enumerate(summary.methods):
            _bar(axes, row, method, theme)
        axes.set_yticks(
            range(len(summary.methods)),
            [label(method.name) for method in summary.methods],
        )
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xlim(0, 1)
        axes.set_xlabel(JUDGED)
        names = ("found", "lost by the index", "lost by the bits", "lost by the codec")
        handles = [
            axes.barh(0, 0, color=fill.colour, hatch=fill.hatch, edgecolor=theme.ink, linewidth=0.5, label=name)
            for fill, name in zip(theme.fills, names, strict=True)
            if coded or name != "lost by the bits"
        ]
        handles += axes.plot(
            [], [], "D", color=theme.paper, markeredgecolor=theme.ink, label=f"after re-ranking {_SHOWN_AGAIN}x"
        )
        axes.legend(handles=handles, ncols=3, loc="lower center", bbox_to_anchor=(0.35, 1.0), frameon=False)
        return rendered(figure, form)


def _bar(axes: Any, row: int, method: MethodSummary, theme: Theme) -> None:
    losses = method.losses
    left = 0.0
    for part, fill in zip(
        (losses.found, max(0.0, losses.graph), max(0.0, losses.bits), max(0.0, losses.codec)), theme.fills, strict=True
    ):
        axes.barh(
            row, part, height=0.6, left=left, color=fill.colour, hatch=fill.hatch, edgecolor=theme.ink, linewidth=0.5
        )
        left += part
    text = f"{losses.found:.3f}"
    again = losses.reranked.get(_SHOWN_AGAIN)
    if again is not None:
        axes.plot(again, row, "D", color=theme.paper, markeredgecolor=theme.ink, markersize=5, clip_on=False, zorder=3)
        text += f", then {again:.3f}"
    axes.annotate(text, (1, row), xytext=(8, 0), textcoords="offset points", va="center", annotation_clip=False)
