"""Draw every picture in one style: colours that differ in lightness, hatches beside them, text that stays text."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from vaecodec.extras import require


@dataclass(frozen=True)
class Fill:
    """Say how an area is filled: a colour, and the hatch that tells it from one of similar lightness."""

    colour: str
    hatch: str = ""


@dataclass(frozen=True)
class Theme:
    """Hold the colours for one background.

    Attributes:
        paper: the background.
        ink: text and axes.
        quiet: grid lines.
        lines: of series, most important first; told apart by :data:`DASHES` and :data:`MARKERS` too.
        fills: of neighbouring areas, in order.
    """

    paper: str
    ink: str
    quiet: str
    lines: tuple[str, ...]
    fills: tuple[Fill, ...]


# Two fills that can touch have a contrast of at least 3:1, or one of them is hatched.
LIGHT = Theme(
    paper="#ffffff",
    ink="#1d2321",
    quiet="#c9d1cd",
    lines=("#0b5a41", "#a34a00", "#2b4c9b", "#5b6662"),
    fills=(Fill("#0a3d2c"), Fill("#fbe3b4"), Fill("#c26a1e"), Fill("#ffffff", "////")),
)
DARK = Theme(
    paper="#161a19",
    ink="#e8edeb",
    quiet="#3b4441",
    lines=("#7fd0ae", "#f0a35c", "#9db8ff", "#aab5b0"),
    fills=(Fill("#c9f5e2"), Fill("#1c3830"), Fill("#c26a1e"), Fill("#161a19", "////")),
)
THEMES = {"light": LIGHT, "dark": DARK}

# Inches that a character and a line of text take, and a gap beside a point.
_CHARACTER, _LINE, _GAP = 0.075, 0.17, 0.12

DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Name:
    """Hold the name of a point: where that lies in the units of the axes, the colour, and whether it is in bold."""

    text: str
    x: float
    y: float
    colour: str
    bold: bool = False


@contextmanager
def chart(
    width: float, height: float, theme: Theme = LIGHT, *, columns: int = 1
) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Open a figure of so many inches and panels beside each other; draw and save it while this is open.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", extra="report")
    figures = require("matplotlib.figure", extra="report")
    style = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.quiet,
        "grid.linewidth": 0.5,
        "hatch.color": theme.ink,
        "hatch.linewidth": 0.6,
        "svg.fonttype": "none",
        "text.parse_math": False,  # matplotlib must not read names with dollar signs as formulas
        "svg.hashsalt": "vaecodec",
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), theme.ink),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), theme.paper),
    }
    with matplotlib.rc_context(style):
        figure = figures.Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(1, columns, squeeze=False)[0]


def rendered(figure: Any, form: Literal["png", "svg"]) -> bytes:
    """Return a figure as bytes; the same figures give the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=200, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def write_names(
    axes: Any,
    names: Sequence[Name],
    *,
    others: Sequence[tuple[float, float]] = (),
    paper: str = LIGHT.paper,
    beyond: bool = False,
) -> None:
    """Write names beside points; none covers another, or a point, where there is room elsewhere.

    Set the limits and scales of the axes first. A thin line leads to a name that stands higher or lower than its point.

    Args:
        axes: of :func:`chart`.
        names: the names.
        others: points without a name, in the units of the axes.
        paper: the colour behind names.
        beyond: whether names may leave the frame on the right.
    """
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    width, height = axes.figure.get_size_inches() * (0.88, 0.8)  # of the frame, nearly
    inside = axes.transData + axes.transAxes.inverted()
    points = [tuple(inside.transform(place)) for place in [*((name.x, name.y) for name in names), *others]]
    lengths = [len(name.text) * _CHARACTER * (1.1 if name.bold else 1.0) / width for name in names]
    boxes = place_names(points, lengths, gap=_GAP / width, line=_LINE / height, right=float("inf") if beyond else 1.0)
    for name, point, box in zip(names, points, boxes, strict=False):
        left = box.end < point[0]
        axes.annotate(
            name.text,
            point,
            xycoords="axes fraction",
            xytext=(box.end if left else box.start, box.height),
            textcoords="axes fraction",
            ha="right" if left else "left",
            va="center",
            color=name.colour,
            fontweight="bold" if name.bold else "normal",
            bbox={"facecolor": paper, "edgecolor": "none", "pad": 0.5},  # no line runs through the name
            arrowprops=None
            if box.height == point[1]
            else {"arrowstyle": "-", "color": name.colour, "linewidth": 0.5, "relpos": (float(left), 0.5)},
            annotation_clip=False,
        )


class Box(NamedTuple):
    """Hold where a name stands: its left and right end, and the height of its middle, as shares of the frame."""

    start: float
    end: float
    height: float


def place_names(
    points: Sequence[tuple[float, float]], lengths: Sequence[float], *, gap: float, line: float, right: float = 1.0
) -> list[Box]:
    """Return where to write the names of points, as shares of the frame.

    A name stands right of its point, or left of it where the frame ends, at the nearest height where it covers
    nothing; without any such place, right of its point.

    Args:
        points: all that are drawn, those with names first.
        lengths: of the names.
        gap: between a point and its name.
        line: the height of a line of text.
        right: where the frame ends for names.
    """
    boxes: list[Box] = []
    for (across, up), length in zip(points, lengths, strict=False):
        places = [
            Box(start, start + length, up + step * line)
            for step in sorted(range(-9, 10), key=lambda step: (abs(step), step))
            for start in (across + gap, *([across - gap - length] if right < float("inf") else []))
        ]
        free = (box for box in places if _is_free(box, points, boxes, line, right))
        boxes.append(next(free, places[0]))
    return boxes


def _is_free(box: Box, points: Sequence[tuple[float, float]], boxes: Sequence[Box], line: float, right: float) -> bool:
    """Tell whether a name lies in the frame and covers neither a point nor another name."""
    start, end, height = box
    return (
        start >= 0
        and end <= right
        and line / 2 <= height <= 1
        and not any(start < across < end and abs(up - height) < 0.9 * line for across, up in points)
        and not any(start < other.end and other.start < end and abs(other.height - height) < line for other in boxes)
    )
