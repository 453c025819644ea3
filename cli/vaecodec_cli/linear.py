"""``vaecodec linear``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec.linear import LinearKind
from vaecodec_cli.console import print_written
from vaecodec_cli.info import AsJson
from vaecodec_cli.options import Embedder, MetricOption, Overwrite


def linear(
    data: Annotated[Path, typer.Argument(help="Embeddings to fit on: a file with one vector a row.")],
    dim: Annotated[int, typer.Option(help="Width of the latents.")],
    out: Annotated[Path, typer.Option(help="Codec file to write, e.g. svd128.onnx.")],
    kind: Annotated[LinearKind, typer.Option(help="Which reduction to fit.")] = LinearKind.SVD,
    metric: MetricOption = Metric.COSINE,
    embedder: Embedder = "",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fit a linear reduction and write it in the format of the learned codecs."""
    require("onnx", extra="export")
    from vaecodec.sources import open_source
    from vaecodec_exporters.linear import fit_and_export_linear

    fit_and_export_linear(open_source(data), out, dim, kind=kind, metric=metric, embedder=embedder, overwrite=overwrite)
    print_written(out, as_json)
