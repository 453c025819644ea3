"""Define the command ``vaecodec linear``."""

from __future__ import annotations

from typing import Annotated

import typer

from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec.linear import LinearKind
from vaecodec_cli.console import print_written
from vaecodec_cli.options import AsJson, CodecOutput, Column, Documents, Embedder, MetricOption, open_documents


def linear(
    data: Documents,
    dim: Annotated[int, typer.Option(help="Width of the latents.")],
    output: CodecOutput,
    column: Column = None,
    kind: Annotated[LinearKind, typer.Option(help="Which reduction to fit.")] = LinearKind.SVD,
    metric: MetricOption = Metric.COSINE,
    embedder: Embedder = "",
    as_json: AsJson = False,
) -> None:
    """Fit a linear reduction and write it in the format of the learned codecs."""
    require("onnx", extra="export")
    from vaecodec_exporters.linear import fit_and_export_linear

    rows = open_documents(data, column)
    fit_and_export_linear(
        rows, output.out, dim, kind=kind, metric=metric, embedder=embedder, overwrite=output.overwrite
    )
    print_written(output.out, as_json)
