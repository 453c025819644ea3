"""The README's picture: recall against bytes per vector, learned codecs beside linear ones.

    python benchmarks/quality.py --data ../shared/data/debian-minilm --dims 64,128 --seeds 3 --json quality.json
    python benchmarks/tradeoff.py --data ../shared/data/debian-minilm --results quality.json

The learned points are those of `quality.py` (mean over the seeds; float32 latents); the linear codecs are fitted here
on the same training documents and measured on the same base and queries.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from embeddings import ROOT, load
from vaecodec import LinearKind, fit_linear
from vaecodec.charts import DASHES, LIGHT, MARKERS, chart, rendered
from vaecodec.evaluation import exact_search, recall
from vaecodec.interface import Metric

WIDTHS = (16, 32, 64, 96, 128, 192, 256, 384)
OUT = ROOT / "docs" / "images" / "tradeoff.png"
NAMES = {
    LinearKind.SVD: "SVD, uncentred",
    LinearKind.PCA: "PCA, both sides centred",
    LinearKind.TRUNCATION: "first coordinates",
}


def main(
    data: Annotated[Path, typer.Option(help="Folder with train, base and queries as .npy.")],
    results: Annotated[list[Path], typer.Option(help="What quality.py --json wrote; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Picture to write.")] = OUT,
) -> None:
    """Measure the linear codecs, draw all."""
    train, base, queries = load(data, "train", "base", "queries")
    truth, _ = exact_search(base, queries, 10, Metric.COSINE)
    with chart(8, 4.8) as (figure, (axes,)):
        for number, kind in enumerate(NAMES, 1):
            whole = fit_linear(train, base.shape[1], kind=kind)
            recalls = []
            for width in WIDTHS:
                codec = whole.truncated(width)
                ids, _ = exact_search(codec.encode(base), codec.encode_queries(queries), 10, codec.latent_metric)
                recalls.append(recall(ids, truth, 10).mean())
            axes.plot(
                [4 * width for width in WIDTHS],
                recalls,
                DASHES[number],
                color=LIGHT.lines[number],
                marker=MARKERS[number],
                markersize=4,
                label=NAMES[kind],
            )
        _learned(axes, results)
        axes.set_xscale("log", base=2)
        axes.set_xticks([4 * width for width in WIDTHS], [f"{4 * width:,}" for width in WIDTHS])
        axes.set(xlabel="bytes per vector (float32)", ylabel="recall@10 against exact search, uncompressed")
        axes.legend(loc="lower right", frameon=False)
        axes.set_title(
            f"{data.name}: {len(base):,} documents of {base.shape[1]} dimensions, {len(queries):,} queries", size=11
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(rendered(figure, "png"))


def _learned(axes: Any, results: list[Path]) -> None:
    """Draw the mean over the seeds at each width."""
    learned = defaultdict(list)
    for path in results:
        for row in json.loads(path.read_text())["results"]:
            learned[row["dim"]].append(row["recall@10"])
    widths = sorted(learned)
    means = [float(np.mean(learned[width])) for width in widths]
    axes.plot(
        [4 * width for width in widths], means, DASHES[0], color=LIGHT.lines[0], marker=MARKERS[0], label="learned"
    )
    for width, mean in zip(widths, means, strict=True):
        axes.annotate(
            f"{width} learned dimensions: {mean:.3f}",
            (4 * width, mean),
            (-8, 8),
            textcoords="offset points",
            ha="right",
            color=LIGHT.lines[0],
        )


if __name__ == "__main__":
    typer.run(main)
