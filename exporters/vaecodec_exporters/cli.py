"""``vaecodec export`` and ``vaecodec linear``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from vaecodec.errors import InvalidVectorsError
from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec.linear import LinearCodec, LinearKind
from vaecodec.scores import ScoreCalibration, fit_score_calibration
from vaecodec.sources import Rows

_CALIBRATION_ROWS = 50_000
# Searched, and searching, for the calibration of scores: as in training.
_SCORED_ROWS, _SCORED_QUERIES = 8_192, 512


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
    from vaecodec.codes import Calibration
    from vaecodec.linear import fit_linear
    from vaecodec.sources import open_source
    from vaecodec_exporters.linear import export_linear

    source = open_source(data)
    codec = fit_linear(source, dim, kind=kind, metric=metric, embedder=embedder)
    rows = source.rows or 0
    step, scored_step = max(1, rows // _CALIBRATION_ROWS), max(1, rows // _SCORED_ROWS)
    latents, scored = [], []
    for block in source.blocks():
        latents.append(codec.encode(block[::step]))
        scored.append(block[::scored_step].copy())
    calibration = Calibration.fit(np.concatenate(latents), codec.latent_metric)
    scores = _score_calibration(codec, np.concatenate(scored))
    provenance = {"data": {"rows": source.rows}}
    export_linear(codec, out, provenance=provenance, calibration=calibration, scores=scores)
    Console().print(f"[bold]{out}[/]: {kind}, {codec.dim} -> {codec.code_dim}, {_size(out)}")


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


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
