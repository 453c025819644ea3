"""Define the command ``vaecodec decode``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from vaecodec import bulk
from vaecodec.codes import CodeType
from vaecodec_cli.bulk import BulkInput, BulkOutput, WorkerOptions, run
from vaecodec_cli.options import AsJson


class FloatType(StrEnum):
    """Name the type of the decoded embeddings."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


def decode(
    given: BulkInput,
    output: BulkOutput,
    workers: WorkerOptions,
    dtype: Annotated[FloatType, typer.Option(help="How to store embeddings.")] = FloatType.FLOAT32,
    as_json: AsJson = False,
) -> None:
    """Reconstruct embeddings from a file or folder of latents or codes."""
    options = bulk.BulkOptions(
        column=given.column,
        dtype=CodeType(dtype),
        on_bad_rows=given.on_bad_rows,
        resume=output.resume,
        overwrite=output.overwrite,
    )
    run(bulk.decode, given, output.out, workers, options, as_json)
