"""Define the command ``vaecodec split``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaecodec.extras import require
from vaecodec_cli.console import print_file, print_json
from vaecodec_cli.options import AsJson, Overwrite
from vaecodec_cli.progress import working


def split(
    codec: Annotated[Path, typer.Argument(help="Codec file, e.g. vae128.onnx.")],
    out: Annotated[Path, typer.Option(help="Folder for encode.onnx, encode_queries.onnx and decode.onnx.")],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Cut a codec file into one ONNX file for each entry point, for Triton, Java and JavaScript."""
    require("onnx", extra="export")
    from vaecodec_exporters.parts import write_parts

    with working("cutting and checking"):
        files = write_parts(codec, out, overwrite=overwrite)
    if as_json:
        print_json({file.stem: str(file) for file in files})
        return
    for file in files:
        print_file(file, f"{file.stat().st_size / 1e6:.1f} MB")
