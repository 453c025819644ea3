"""Choose the width from which more bytes bring less, and draw it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vaecodec.charts import DASHES, LIGHT, MARKERS, Name, chart, rendered, write_names
from vaecodec.files import write_atomically

# Smaller differences are noise.
_NOISE = 0.005


def knee(values: Mapping[int, float], figure: str = "recall@10", step: str = "4 bytes") -> tuple[int, str]:
    """Return the width from which more bytes bring less, and why.

    The knee lies farthest above the straight line between the ends (Kneedle, Satopää et al. 2011). Where no width lies
    above it by more than noise, the figure does not flatten and the largest width is chosen; where none has more than
    the smallest, that one.

    Args:
        values: a figure such as recall, from 0 to 1, by width.
        figure: its name, for the reason.
        step: what one more latent costs, for the reason.
    """
    widths = sorted(values)
    first, last = widths[0], widths[-1]
    if len(widths) == 1:
        return first, "the only width asked for"
    most = max(values.values())
    if most - values[first] <= _NOISE:
        return first, (
            f"{figure} is {values[first]:.3f} there and at most {most:.3f} up to {last} latents, within noise"
        )
    if len(widths) == 2:
        return last, "the larger of two; a knee takes at least three"
    slope = (values[last] - values[first]) / (last - first)
    above = {width: values[width] - values[first] - slope * (width - first) for width in widths[1:-1]}
    best = max(above, key=lambda width: above[width])
    if above[best] <= _NOISE:
        return last, (
            f"{figure} rises evenly or ever faster, from {values[first]:.3f} at {first} latents to "
            f"{values[last]:.3f}; no knee up to {last}"
        )
    before, after = widths[widths.index(best) - 1], widths[widths.index(best) + 1]

    def bought(low: int, high: int) -> str:
        return f"{(values[high] - values[low]) / (high - low):.4f}"

    return best, (
        f"from {before} to {best} latents each {step} buy {bought(before, best)} {figure}, "
        f"from there to {after} only {bought(best, after)}"
    )


def draw_knee(curves: Mapping[str, Mapping[float, float]], chosen: tuple[float, str], figure: str, path: Path) -> None:
    """Draw a figure against bytes per vector, with the chosen size marked, as a picture.

    Args:
        curves: by its label, the figure at each number of bytes.
        chosen: the bytes and what to call them.
        figure: its name.
        path: the file to write.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with chart(6, 4) as (drawing, (axes,)):
        ends = []
        for (label, points), colour, dashes, marker in zip(curves.items(), LIGHT.lines, DASHES, MARKERS, strict=False):
            sizes = sorted(points)
            axes.plot(sizes, [points[size] for size in sizes], dashes, color=colour, marker=marker)
            ends.append(Name(label, sizes[-1], points[sizes[-1]], colour))
        axes.axvline(chosen[0], linestyle=":", color=LIGHT.ink)
        axes.annotate(chosen[1], (chosen[0], 1.01), xycoords=("data", "axes fraction"), ha="center", va="bottom")
        axes.set(
            xlabel="bytes per vector", ylabel=f"{figure.replace('ndcg', 'nDCG')} on validation queries", xscale="log"
        )
        ticks = sorted({size for points in curves.values() for size in points})
        axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(ticks[0] / 1.1, ticks[-1] * 1.1)
        write_names(axes, ends, beyond=True)
        write_atomically(path, rendered(drawing, "png"))
