"""``vaecodec export``, ``vaecodec linear``, ``vaecodec split`` and ``vaecodec bridge``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from vaecodec.errors import InvalidVectorsError, UnsupportedPrecisionError
from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec.linear import LinearCodec, LinearKind
from vaecodec.scores import ScoreCalibration, fit_score_calibration
from vaecodec_cli.info import AsJson, describe, print_json

if TYPE_CHECKING:
    from vaecodec.sources import Rows, VectorSource

_CALIBRATION_ROWS = 50_000
# Searched, and searching, for the calibration of scores: as in training.
_SCORED_ROWS, _SCORED_QUERIES = 8_192, 512
# One row in so many is not fitted on, for the statistics that drift is found by.
_HOLD_OUT = 20

_BRIDGE_ROWS = 50_000
# What each figure of a bridge is of: what is searched, and with what.
_SEARCHES = {
    "re-encoded": ("encoded by the new codec", "new codec"),
    "bridged": ("encoded by the old codec", "new codec and bridge"),
    "carried over": ("encoded by the old codec, carried over the bridge", "new codec"),
    "decoded, re-encoded": ("encoded and decoded by the old codec, encoded by the new one", "new codec"),
    "old": ("encoded by the old codec", "old codec"),
}


def export(
    run: Annotated[Path, typer.Argument(help="Folder that 'vaecodec train' wrote.")],
    out: Annotated[Path, typer.Option(help="The codec file to write, e.g. vae128.onnx.")],
    precision: Annotated[
        str,
        typer.Option(
            help="Of weights and products: float32, float16 for half the file and for GPUs, or int8 for the hidden "
            "layer of an encoder, for speed on CPUs."
        ),
    ] = "float32",
    as_json: AsJson = False,
) -> None:
    """Write a trained checkpoint as one ONNX file, after proving that it computes the same."""
    require("onnx", extra="export")
    require("torch", extra="train")
    from vaecodec_exporters.checkpoint import export_checkpoint
    from vaecodec_exporters.graph import Precision

    if precision not in [*Precision]:
        raise UnsupportedPrecisionError(f"expected precision to be one of {', '.join(Precision)}, got {precision!r}")
    metadata = export_checkpoint(run, out, precision=Precision(precision))
    _written(out, metadata.kind, metadata.dim, metadata.code_dim, as_json)


def linear(
    data: Annotated[Path, typer.Argument(help="Embeddings to fit on: a file of vectors, one row each.")],
    dim: Annotated[int, typer.Option(help="Width of the latents.")],
    out: Annotated[Path, typer.Option(help="The codec file to write, e.g. svd128.onnx.")],
    kind: Annotated[LinearKind, typer.Option(help="Which reduction.")] = LinearKind.SVD,
    metric: Annotated[Metric, typer.Option(help="How the embeddings are compared.")] = Metric.COSINE,
    embedder: Annotated[str, typer.Option(help="Name of the embedding model, kept in the file.")] = "",
    as_json: AsJson = False,
) -> None:
    """Fit a linear reduction and write it in the format of the learned codecs."""
    require("onnx", extra="export")
    from vaecodec.codes import Calibration
    from vaecodec.drift import FEWEST_REFERENCE, MOST_REFERENCE, Encoded, Reference
    from vaecodec.linear import fit_linear
    from vaecodec.sources import open_source
    from vaecodec.vectors import as_vectors
    from vaecodec_exporters.linear import export_linear

    source = open_source(data)
    rows = source.rows or 0
    hold_out = max(_HOLD_OUT, rows // MOST_REFERENCE) if rows >= _HOLD_OUT * FEWEST_REFERENCE else None
    codec = fit_linear(source, dim, kind=kind, metric=metric, embedder=embedder, hold_out=hold_out)
    latents = np.concatenate([*map(codec.encode, _every(source, max(1, rows // _CALIBRATION_ROWS)))])
    calibration = Calibration.fit(latents, codec.latent_metric)
    scores = _score_calibration(codec, np.concatenate([*_every(source, max(1, rows // _SCORED_ROWS))]))
    figures, reference = {"rows": source.rows}, None
    if hold_out is not None:
        unseen = as_vectors(np.concatenate([*_every(source, hold_out)]), codec.dim, metric)
        figures["held_out_rows"] = len(unseen)
        encoded = Encoded.encode(codec.encode, codec.decode, unseen)
        reference = Reference.fit(encoded, None, codec.metric, codec.latent_metric)
    export_linear(codec, out, provenance={"data": figures}, calibration=calibration, scores=scores, reference=reference)
    _written(out, kind, codec.dim, codec.code_dim, as_json)


def _score_calibration(codec: LinearCodec, rows: Rows) -> ScoreCalibration | None:
    """What scores between latents say about those between embeddings; some of the rows search the others.

    None for L2, and where scores do not vary together: rows without neighbours still get their codec.
    """
    if codec.metric is Metric.L2:
        return None
    asking = slice(None, None, max(2, len(rows) // _SCORED_QUERIES))
    try:
        return fit_score_calibration(codec, np.delete(rows, asking, axis=0), rows[asking])
    except InvalidVectorsError:
        return None


def split(
    codec: Annotated[Path, typer.Argument(help="A codec file, e.g. vae128.onnx.")],
    out: Annotated[Path, typer.Option(help="Folder for encode.onnx, encode_queries.onnx and decode.onnx.")],
    as_json: AsJson = False,
) -> None:
    """Cut a codec file into one ONNX file per entry point, for Triton, Java and JavaScript."""
    require("onnx", extra="export")
    from vaecodec_exporters.parts import write_parts

    files = write_parts(codec, out)
    if as_json:
        print_json({file.stem: str(file) for file in files})
        return
    for file in files:
        Console().print(f"[bold]{file}[/]: {file.stat().st_size / 1e6:.1f} MB")


def bridge(
    old: Annotated[Path, typer.Argument(help="The codec file that filled the collection.")],
    new: Annotated[Path, typer.Argument(help="The codec file that shall be used from now on.")],
    sample: Annotated[str, typer.Option(help="Embeddings such as the collection's: a file of vectors, one row each.")],
    out: Annotated[Path, typer.Option(help="The bridge to write, e.g. bridge.onnx.")],
    new_sample: Annotated[
        str | None, typer.Option(help="Where the embedding model is another: the same texts by the new one, in order.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a bridge from a new codec to a collection that an old one filled, and measure the recall across it."""
    require("onnx", extra="export")
    from vaecodec.bridge import fit_bridge
    from vaecodec.codec import Codec
    from vaecodec.sources import open_source
    from vaecodec_exporters.bridge import export_bridge

    codecs = Codec.load(old), Codec.load(new)
    sources = [open_source(location) for location in (sample, new_sample) if location is not None]
    step = max(1, -(-(sources[0].rows or 0) // _BRIDGE_ROWS))
    samples = [np.concatenate([*_every(source, step)]) for source in sources]
    fitted, figures = fit_bridge(*codecs, *samples)
    summaries = export_bridge(fitted, out, figures)
    if as_json:
        print_json(summaries)
        return
    asked = len(figures["bridged"])
    table = Table(title=f"recall@10 of {asked:,} held-out queries, mean [95 % interval]", title_justify="left")
    for column in ("documents", "queries", "recall@10"):
        table.add_column(column, justify="right" if column == "recall@10" else "left")
    for name, (documents, queries) in _SEARCHES.items():
        if name in summaries:
            mean, low, high = (summaries[name]["recall@10"][key] for key in ("mean", "low", "high"))
            table.add_row(documents, queries, f"{mean:.3f} [{low:.3f}, {high:.3f}]")
    console = Console()
    console.print(table)
    console.print(f"[bold]{out}[/]: latents {fitted.dim} -> {fitted.code_dim} and back, {out.stat().st_size:,} bytes")


def _every(source: VectorSource, step: int) -> Iterator[Rows]:
    """Rows 0, step, 2 step and so on of a source, block by block."""
    first = 0
    for block in source.blocks():
        yield block[-first % step :: step]
        first += len(block)


def _written(file: Path, kind: str, dim: int, code_dim: int, as_json: bool) -> None:
    if as_json:
        print_json(describe(file))
    else:
        Console().print(f"[bold]{file}[/]: {kind}, {dim} -> {code_dim}, {file.stat().st_size / 1e6:.1f} MB")
