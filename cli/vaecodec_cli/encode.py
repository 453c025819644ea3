"""``vaecodec encode``."""

from __future__ import annotations

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


def encode(
    source: Source,
    codec: CodecFile,
    out: Out,
    dim: Dim = None,
    column: Column = None,
    dtype: Annotated[CodeType | None, typer.Option(help="How to store latents. Default: float32.")] = None,
    bytes: Annotated[  # noqa: A002
        int | None, typer.Option(help="Instead of --dtype: a code of so many bytes a vector, from 4 up.")
    ] = None,
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
    """Encode a file or folder of embeddings of any size. An interrupted run can be resumed."""
    options = bulk.BulkOptions(
        column=column, dtype=dtype, bytes=bytes, on_bad_rows=on_bad_rows, resume=resume, overwrite=overwrite
    )
    chosen = engine(engine_name, codec, workers, device, ray_address, gpus_per_worker)
    run(bulk.encode, source, out, codec, dim, device, options, chosen, as_json)
