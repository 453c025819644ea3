"""Define the command ``vaecodec linear``."""

from __future__ import annotations

from typing import Annotated

import typer

from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec.linear import LinearKind
from vaecodec_cli.console import print_written
from vaecodec_cli.options import AsJson, CodecOutput, Column, Documents, Embedder, MetricOption, with_column
from vaecodec_cli.progress import working


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

    with working("reading vectors"):
        fit_and_export_linear(
            with_column(data, column),
            output.out,
            dim,
            kind=kind,
            metric=metric,
            embedder=embedder,
            overwrite=output.overwrite,
        )
    print_written(output.out, as_json)
