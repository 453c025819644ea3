"""Draw the README's picture: recall against bytes per vector, learned codecs beside linear ones.

    python benchmarks/contract.py --data ../shared/data/debian-minilm --dims 64,128 \\
        --json docs/contract/debian-minilm.json
    python benchmarks/tradeoff.py --data ../shared/data/debian-minilm \\
        --codes docs/bytes/debian-minilm-short.json --floats docs/contract/debian-minilm.json

Codes are those of `short_codes.py`, learned floats those of `contract.py`; the linear codecs are fitted here on the
same training documents and measured on the same base and queries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from embeddings import ROOT, load
from vaecodec import LinearKind, fit_linear
from vaecodec.charts import DASHES, LIGHT, MARKERS, chart, rendered
from vaecodec.evaluation import exact_search, recall
from vaecodec.interface import Metric

BYTES = (8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1_024)
OURS = ("stages and trellis", "trellis alone")
OUT = ROOT / "docs" / "images" / "tradeoff.svg"


def main(
    data: Annotated[Path, typer.Option(help="Folder with train, base and queries as .npy.")],
    codes: Annotated[Path, typer.Option(help="What short_codes.py wrote.")],
    floats: Annotated[Path, typer.Option(help="What contract.py --json wrote.")],
    out: Annotated[Path, typer.Option(help="Picture to write.")] = OUT,
) -> None:
    """Measure the linear codecs, draw all."""
    train, base, queries = load(data, "train", "base", "queries")
    rows = json.loads(codes.read_text())["rows"]
    learned = [row for row in json.loads(floats.read_text())["results"] if row["figure"] == "recall@10"]
    series = {
        "codes, not trained": {row["bytes"]: row["recall"] for row in rows if row["system"] == OURS[0]},
        "strongest rival code": _strongest(rows),
        "best linear codec, as floats": _linear(train, base, queries),
        "trained, as floats": {4 * row["dim"]: row["learned"] for row in learned},
    }
    with chart(8, 4.8) as (figure, (axes,)):
        for number, (name, points) in enumerate(series.items()):
            _draw(axes, number, name, points)
        axes.set_xscale("log", base=2)
        axes.set_xticks(BYTES, [f"{size:,}" for size in BYTES])
        axes.set(xlabel="bytes per vector", ylabel="recall@10 against exact search, uncompressed", xlim=(7, 1_200))
        axes.set_title(
            f"{data.name}: {len(base):,} documents of {4 * base.shape[1]:,} bytes, {len(queries):,} queries", size=11
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(rendered(figure, "svg"))


def _strongest(rows: list[dict[str, Any]]) -> dict[int, float]:
    """Return the highest recall of the systems of others at each size."""
    found: dict[int, float] = {}
    for row in rows:
        if row["system"] not in OURS:
            found[row["bytes"]] = max(row["recall"], found.get(row["bytes"], 0.0))
    return dict(sorted(found.items()))


def _linear(train: Any, base: Any, queries: Any) -> dict[int, float]:
    """Return the recall of the best linear codec at widths of 8 to 256."""
    truth, _ = exact_search(base, queries, 10, Metric.COSINE)
    found: dict[int, float] = {}
    for kind in LinearKind:
        whole = fit_linear(train, base.shape[1], kind=kind)
        for width in (8, 16, 32, 64, 128, 256):
            codec = whole.truncated(width)
            ids, _ = exact_search(codec.encode(base), codec.encode_queries(queries), 10, codec.latent_metric)
            found[4 * width] = max(float(recall(ids, truth, 10).mean()), found.get(4 * width, 0.0))
    return found


def _draw(axes: Any, number: int, name: str, points: Mapping[int, float]) -> None:
    """Draw one line with its name beside it: behind the short codes, before the floats, where there is room."""
    colour = LIGHT.lines[number]
    axes.plot(list(points), list(points.values()), DASHES[number], color=colour, marker=MARKERS[number], markersize=5)
    right = max(points) < 256
    place: dict[str, Any] = {"xytext": (8, -4)} if right else {"xytext": (-9, -1), "ha": "right"}
    axes.annotate(name, (max if right else min)(points.items()), textcoords="offset points", color=colour, **place)


if __name__ == "__main__":
    typer.run(main)
