"""``vaecodec linear``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec.linear import LinearKind
from vaecodec_cli.console import print_written
from vaecodec_cli.options import AsJson, Column, Documents, Embedder, MetricOption, Overwrite, open_documents


def linear(
    data: Documents,
    dim: Annotated[int, typer.Option(help="Width of the latents.")],
    out: Annotated[Path, typer.Option(help="Codec file to write, e.g. svd128.onnx.")],
    column: Column = None,
    kind: Annotated[LinearKind, typer.Option(help="Which reduction to fit.")] = LinearKind.SVD,
    metric: MetricOption = Metric.COSINE,
    embedder: Embedder = "",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fit a linear reduction and write it in the format of the learned codecs."""
    require("onnx", extra="export")
    from vaecodec_exporters.linear import fit_and_export_linear

    rows = open_documents(data, column)
    fit_and_export_linear(rows, out, dim, kind=kind, metric=metric, embedder=embedder, overwrite=overwrite)
    print_written(out, as_json)
