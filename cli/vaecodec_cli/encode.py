"""Define the command ``vaecodec encode``."""

from __future__ import annotations

from typing import Annotated

import typer

from vaecodec import bulk
from vaecodec.codes import CodeType
from vaecodec_cli.bulk import BulkInput, BulkOutput, WorkerOptions, run
from vaecodec_cli.options import AsJson


def encode(
    given: BulkInput,
    output: BulkOutput,
    workers: WorkerOptions,
    dtype: Annotated[CodeType | None, typer.Option(help="How to store latents. Default: float32.")] = None,
    budget: Annotated[
        int | None,
        typer.Option("--bytes", help="Store a code of this many bytes per vector, at least 4, instead of --dtype."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Encode a file or folder of embeddings of any size. An interrupted run can be resumed."""
    options = bulk.BulkOptions(
        column=given.column,
        dtype=dtype,
        bytes=budget,
        on_bad_rows=given.on_bad_rows,
        resume=output.resume,
        overwrite=output.overwrite,
    )
    run(bulk.encode, given, output.out, workers, options, as_json)
