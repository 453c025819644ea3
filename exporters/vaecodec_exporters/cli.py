"""``vaecodec export`` and ``vaecodec linear``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec.linear import LinearKind

_CALIBRATION_ROWS = 50_000


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
    from vaecodec.linear import fit_linear
    from vaecodec.sources import open_source
    from vaecodec_exporters.linear import export_linear

    source = open_source(data)
    codec = fit_linear(source, dim, kind=kind, metric=metric, embedder=embedder)
    step = max(1, (source.rows or 0) // _CALIBRATION_ROWS)
    latents = np.concatenate([codec.encode(block[::step]) for block in source.blocks()])
    calibration = Calibration.fit(latents, codec.latent_metric)
    export_linear(codec, out, provenance={"data": {"rows": source.rows}}, calibration=calibration)
    Console().print(f"[bold]{out}[/]: {kind}, {codec.dim} -> {codec.code_dim}, {_size(out)}")


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
