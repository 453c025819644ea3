"""Define the command ``vaecodec export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaecodec.extras import require
from vaecodec.graph.nodes import Precision
from vaecodec_cli.console import print_written
from vaecodec_cli.options import AsJson, CodecOutput
from vaecodec_cli.progress import working


def export(
    run: Annotated[Path, typer.Argument(help="Folder that 'vaecodec train' wrote.")],
    output: CodecOutput,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Number type of weights and products: float32; float16 for half the file size and for GPUs; int8 for "
            "the hidden layer of an encoder, for speed on CPUs."
        ),
    ] = Precision.FLOAT32,
    as_json: AsJson = False,
) -> None:
    """Write a trained checkpoint as one ONNX file, after proving that it computes the same."""
    require("onnx", extra="export")
    require("torch", extra="train")
    from vaecodec_exporters.checkpoint import export_checkpoint

    with working("exporting and checking"):
        export_checkpoint(run, output.out, precision=precision, overwrite=output.overwrite)
    print_written(output.out, as_json)
