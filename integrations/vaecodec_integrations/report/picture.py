"""The report's pictures, drawn by matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from vaecodec.extras import require
from vaecodec_integrations.report.run import UNCOMPRESSED
from vaecodec_integrations.report.summary import JUDGED, RERANKED, ReportSummary, label

_CODEC, _LINEAR, _PLAIN, _LOST = "#0b6e4f", "#b5651d", "#555555", "#d9d9d9"
_REGAINED = ("#0b6e4f", "#3f9b7a", "#7fbfa3", "#bfe0d0")
_LOSSES = ("#0b6e4f", "#e0b04a", "#8d6cab", "#c8553d")
# How many times as many bytes the end of a label stands for as its beginning.
_LABEL = 3
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "vaecodec",
}


def recall_against_bytes(summary: ReportSummary, form: Literal["png", "svg"]) -> bytes:
    """Recall@10 of each method over bytes per vector, and the curve of SVD at other widths."""
    figure, axes = _figure(3.9)
    curve_bytes, curve_recall = zip(*summary.svd_curve, strict=True)
    axes.plot(curve_bytes, curve_recall, "--", color=_LINEAR, linewidth=1, label="SVD at other widths, exact search")
    means = [method.metrics[JUDGED].mean for method in summary.methods]
    bottom = min(0.9, *means, *curve_recall) - 0.05
    heights = _spread(means, [method.bytes_per_vector for method in summary.methods], gap=(1.03 - bottom) / 18)
    for method, height in zip(summary.methods, heights, strict=True):
        value = method.metrics[JUDGED]
        ours = method.name == summary.codec
        colour = _CODEC if ours or method.coded else _PLAIN if method.name == UNCOMPRESSED else _LINEAR
        around = [[value.mean - value.low], [value.high - value.mean]]
        axes.errorbar(
            method.bytes_per_vector, value.mean, around, fmt="o", color=colour, capsize=3, markersize=7 if ours else 4
        )
        axes.annotate(
            label(method.name),
            (method.bytes_per_vector, value.mean),
            xytext=(method.bytes_per_vector * (0.88 if method.name == UNCOMPRESSED else 1.14), height),
            textcoords="data",
            ha="right" if method.name == UNCOMPRESSED else "left",
            va="center",
            color=colour,
            fontweight="bold" if ours else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.5,
                "relpos": (1 if method.name == UNCOMPRESSED else 0, 0.5),
            },
        )
    axes.set_ylim(bottom, 1.03)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("bytes per vector")
    axes.set_ylabel(f"{JUDGED} against exact search")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return _rendered(figure, form)


def losses(summary: ReportSummary, form: Literal["png", "svg"]) -> bytes:
    """For each method two stacked bars: where recall@10 was lost, and what re-ranking brings back."""
    figure, axes = _figure(1.0 + 0.5 * len(summary.methods))
    names = [label(method.name) for method in summary.methods]
    for row, method in enumerate(summary.methods):
        parts = method.losses
        _stack(axes, row - 0.19, (parts.found, max(0.0, parts.graph), max(0.0, parts.bits), parts.codec), _LOSSES)
        steps = [0.0, *parts.reranked.values()]
        gains = [after - before for before, after in pairwise(steps)]
        _stack(axes, row + 0.19, (*gains, 1 - sum(gains)), (*_REGAINED[: len(gains)], _LOST))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(JUDGED)
    patches = [
        (colour, text)
        for colour, text in (
            (_LOSSES[0], "found"),
            (_LOSSES[1], "lost by the index"),
            *([(_LOSSES[2], "lost by the bits")] if any(method.coded for method in summary.methods) else []),
            (_LOSSES[3], "lost by the codec"),
            *(
                (colour, f"re-ranking {times}x")
                for colour, times in zip(_REGAINED[1:], RERANKED[1:], strict=True)
                if times in summary.methods[0].losses.reranked
            ),
            (_LOST, "still missing"),
        )
    ]
    handles = [axes.barh(0, 0, color=colour, label=text) for colour, text in patches]
    axes.legend(handles=handles, ncols=3, loc="lower center", bbox_to_anchor=(0.3, 1.0), frameon=False, fontsize=8)
    return _rendered(figure, form)


def _figure(height: float) -> tuple[Any, Any]:
    require("matplotlib", extra="report")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(5.2, height), layout="constrained")
        return figure, figure.subplots()


def _spread(values: Sequence[float], columns: Sequence[int], gap: float) -> list[float]:
    """Heights for labels: each at its value or, where it would cover one of a near column, ``gap`` below that."""
    heights = list(values)
    placed: list[int] = []
    for row in sorted(range(len(values)), key=lambda row: values[row], reverse=True):
        near = (other for other in placed if 1 / _LABEL < columns[row] / columns[other] < _LABEL)
        for other in sorted(near, key=lambda other: heights[other], reverse=True):
            if abs(heights[row] - heights[other]) < gap:
                heights[row] = heights[other] - gap
        placed.append(row)
    return heights


def _stack(axes: Any, row: float, parts: tuple[float, ...], colours: tuple[str, ...]) -> None:
    left = 0.0
    for part, colour in zip(parts, colours, strict=True):
        axes.barh(row, part, height=0.34, left=left, color=colour)
        left += part


def _rendered(figure: Any, form: Literal["png", "svg"]) -> bytes:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(_STYLE):
        # Without a date the same figures give the same bytes.
        figure.savefig(buffer, format=form, dpi=200, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()
