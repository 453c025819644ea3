"""``vaecodec decode``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from vaecodec import bulk
from vaecodec.codes import CodeType
from vaecodec_cli.bulk import (
    Device,
    DeviceChoice,
    EngineChoice,
    EngineName,
    GpusPerWorker,
    Out,
    OverwriteOutput,
    RayAddress,
    Resume,
    Source,
    Workers,
    engine,
    run,
)
from vaecodec_cli.options import AsJson, CodecFile, Column, Dim, OnBadRowsChoice


class FloatType(StrEnum):
    """What embeddings are decoded to."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


def decode(
    source: Source,
    codec: CodecFile,
    out: Out,
    dim: Dim = None,
    column: Column = None,
    dtype: Annotated[FloatType, typer.Option(help="How to store embeddings.")] = FloatType.FLOAT32,
    on_bad_rows: OnBadRowsChoice = bulk.OnBadRows.FAIL,
    resume: Resume = False,
    overwrite: OverwriteOutput = False,
    workers: Workers = None,
    device: DeviceChoice = Device.CPU,
    engine_name: EngineChoice = EngineName.THREADS,
    ray_address: RayAddress = None,
    gpus_per_worker: GpusPerWorker = 0,
    as_json: AsJson = False,
) -> None:
    """Reconstruct embeddings from a file or folder of latents or codes."""
    options = bulk.BulkOptions(
        column=column, dtype=CodeType(dtype), on_bad_rows=on_bad_rows, resume=resume, overwrite=overwrite
    )
    chosen = engine(engine_name, codec, workers, device, ray_address, gpus_per_worker)
    run(bulk.decode, source, out, codec, dim, device, options, chosen, as_json)
