"""``vaecodec export`` and ``vaecodec linear``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec.linear import LinearKind

if TYPE_CHECKING:
    from vaecodec.sources import Rows, VectorSource

_CALIBRATION_ROWS = 50_000
# One row in so many is not fitted on, for the statistics that drift is found by.
_HOLD_OUT = 20


def export(
    run: Annotated[Path, typer.Argument(help="Folder that 'vaecodec train' wrote.")],
    out: Annotated[Path, typer.Option(help="The codec file to write, e.g. vae128.onnx.")],
) -> None:
    """Write a trained checkpoint as one ONNX file, after proving that it computes the same."""
    require("onnx", extra="export")
    require("torch", extra="train")
    from vaecodec_exporters.checkpoint import export_checkpoint

    metadata = export_checkpoint(run, out)
    Console().print(f"[bold]{out}[/]: {metadata.kind}, {metadata.dim} -> {metadata.code_dim}, {_size(out)}")


def linear(
    data: Annotated[Path, typer.Argument(help="Embeddings to fit on: a file of vectors, one row each.")],
    dim: Annotated[int, typer.Option(help="Width of the latents.")],
    out: Annotated[Path, typer.Option(help="The codec file to write, e.g. svd128.onnx.")],
    kind: Annotated[LinearKind, typer.Option(help="Which reduction.")] = LinearKind.SVD,
    metric: Annotated[Metric, typer.Option(help="How the embeddings are compared.")] = Metric.COSINE,
    embedder: Annotated[str, typer.Option(help="Name of the embedding model, kept in the file.")] = "",
) -> None:
    """Fit a linear reduction and write it in the format of the learned codecs."""
    require("onnx", extra="export")
    import numpy as np

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
    figures, reference = {"rows": source.rows}, None
    if hold_out is not None:
        unseen = as_vectors(np.concatenate([*_every(source, hold_out)]), codec.dim, metric)
        figures["held_out_rows"] = len(unseen)
        encoded = Encoded.by(codec.encode, codec.decode, unseen)
        reference = Reference.fit(encoded, None, codec.metric, codec.latent_metric)
    export_linear(codec, out, provenance={"data": figures}, calibration=calibration, reference=reference)
    Console().print(f"[bold]{out}[/]: {kind}, {codec.dim} -> {codec.code_dim}, {_size(out)}")


def _every(source: VectorSource, step: int) -> Iterator[Rows]:
    """Rows 0, step, 2 step and so on of a source, block by block."""
    first = 0
    for block in source.blocks():
        yield block[-first % step :: step]
        first += len(block)


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
