"""Test the one style of pictures: what can be told apart without colour vision, on a light and on a dark page."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from vaecodec.charts import DASHES, MARKERS, THEMES, chart, place_names, rendered


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours such as ``#1d2321``: from 1 to 21, by the formula of WCAG 2."""
    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """Return the relative luminance of an sRGB colour."""
    values = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_is_that_of_the_standard() -> None:
    """Check the two ends of the scale, and a grey that the standard's own tools give 4.54 on white."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("name", sorted(THEMES))
def test_nothing_is_told_by_hue_alone(name: str) -> None:
    theme = THEMES[name]
    assert contrast(theme.ink, theme.paper) >= 7
    # Names of series are written in their colours.
    assert min(contrast(line, theme.paper) for line in theme.lines) >= 4.5
    assert len(set(DASHES)) == len(theme.lines) <= len(set(MARKERS))
    for first, second in itertools.combinations(theme.fills, 2):
        assert first.hatch != second.hatch or contrast(first.colour, second.colour) >= 3
    # An edge of ink parts a fill from the paper where their lightness does not.
    assert all(contrast(theme.ink, fill.colour) >= 3 or contrast(theme.paper, fill.colour) >= 3 for fill in theme.fills)


def test_text_stays_text_and_the_same_figures_give_the_same_bytes() -> None:
    def draw() -> bytes:
        with chart(3, 2) as (figure, (axes,)):
            axes.plot([1, 2], [3, 4])
            axes.set_xlabel("bytes per vector")
            return rendered(figure, "svg")

    svg = draw()
    assert re.search(rb"<text[^>]*>bytes per vector</text>", svg)
    assert svg == draw()


def test_names_cover_neither_points_nor_each_other() -> None:
    points = [(0.4, 0.97), (0.2, 0.96), (0.41, 0.95), (0.9, 0.9), (0.1, 0.02), (0.5, 0.5), (0.6, 0.5)]
    lengths = [0.3, 0.4, 0.2, 0.2, 0.2, 0.3]
    line = 0.05
    boxes = place_names(points, lengths, gap=0.02, line=line)
    assert len(boxes) == len(lengths)
    for (start, end, height), length in zip(boxes, lengths, strict=True):
        assert end - start == pytest.approx(length)
        assert 0 <= start < end <= 1
        assert 0 < height <= 1
        assert not any(start < across < end and abs(up - height) < 0.9 * line for across, up in points)
    for one, other in itertools.combinations(boxes, 2):
        assert one.end <= other.start or other.end <= one.start or abs(one.height - other.height) >= line
    assert boxes[3].end < 0.9  # there is no room on the right
    assert place_names(points[3:4], lengths[3:4], gap=0.02, line=line, right=2)[0].start > 0.9


def test_a_name_without_any_room_stands_right_of_its_point() -> None:
    (box,) = place_names([(0.5, 0.5)], [0.9], gap=0.02, line=0.05)
    assert (box.start, box.height) == (0.52, 0.5)


def test_every_picture_is_drawn_in_this_style() -> None:
    """Nothing but the module of charts itself opens a figure of matplotlib."""
    root = Path(__file__).parents[2]
    folders = ("benchmarks", "codec", "training", "exporters", "integrations", "cli")
    drawing = [
        path.relative_to(root).as_posix()
        for folder in folders
        for path in (root / folder).rglob("*.py")
        if re.search(r"pyplot|Figure\(|import matplotlib|from matplotlib", path.read_text())
    ]
    assert drawing == ["codec/vaecodec/charts.py"]
