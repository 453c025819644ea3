"""Draw every picture in one style: colours that differ in lightness, hatches beside them, text that stays text."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

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

DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


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
