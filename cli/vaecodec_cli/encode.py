"""``vaecodec encode`` and ``vaecodec decode``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vaecodec import bulk
from vaecodec.bulk import Threads
from vaecodec.codec import Codec
from vaecodec.codes import CodeType
from vaecodec_cli.info import AsJson, print_json
from vaecodec_cli.progress import shown

Source = Annotated[
    str, typer.Argument(help="A .npy, .npz, .fvecs, .fbin, .hdf5 or .parquet file, or a folder of Parquet.")
]
CodecFile = Annotated[Path, typer.Option("--codec", help="A codec file, e.g. vae128.onnx.")]
Out = Annotated[Path, typer.Option("--out", help="NAME.npy for one array, any other name for a folder of Parquet.")]
Dim = Annotated[int | None, typer.Option(help="Width of the latents, where the codec file has several.")]
Column = Annotated[str | None, typer.Option(help="Column, dataset or array of the vectors, where there are several.")]
DType = Annotated[CodeType | None, typer.Option(help="How latents are stored; float32 by default.")]
Bytes = Annotated[int | None, typer.Option(help="Or a code of so many bytes per vector, from 4 up.")]


class FloatType(StrEnum):
    """What embeddings are decoded to."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


OnBadRows = Annotated[
    bulk.OnBadRows,
    typer.Option(help="Rows with NaN, no direction or no vector: stop, leave out and list, or list all and stop."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an output that was interrupted.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output, if vaecodec wrote it.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Threads or, with Ray, worker processes; by default one per core.")
]


class Device(StrEnum):
    """Where the codec runs."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


DeviceChoice = Annotated[
    Device, typer.Option("--device", help="Where the codec runs; auto takes a GPU where one starts, and else the CPU.")
]


class EngineName(StrEnum):
    """What does the work."""

    THREADS = "threads"
    RAY = "ray"


EngineChoice = Annotated[
    EngineName, typer.Option("--engine", help="Threads of this process, or Ray: for Parquet, on one machine or many.")
]
RayAddress = Annotated[
    str | None, typer.Option(help="A running Ray cluster, e.g. 'auto'; by default one is started on this machine.")
]
GpusPerWorker = Annotated[
    float, typer.Option(min=0, help="With Ray: share of a GPU for each worker, e.g. 0.25; 0 encodes on the CPU.")
]


def encode(
    source: Source,
    codec: CodecFile,
    out: Out,
    dim: Dim = None,
    column: Column = None,
    dtype: DType = None,
    bytes: Bytes = None,  # noqa: A002
    on_bad_rows: OnBadRows = bulk.OnBadRows.FAIL,
    resume: Resume = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
    device: DeviceChoice = Device.CPU,
    engine: EngineChoice = EngineName.THREADS,
    ray_address: RayAddress = None,
    gpus_per_worker: GpusPerWorker = 0,
    as_json: AsJson = False,
) -> None:
    """Encode a file or folder of embeddings of any size; can be interrupted and resumed."""
    options = bulk.BulkOptions(
        column=column, dtype=dtype, bytes=bytes, on_bad_rows=on_bad_rows, resume=resume, overwrite=overwrite
    )
    chosen = _engine(engine, codec, workers, device, ray_address, gpus_per_worker)
    _run(bulk.encode, source, out, codec, dim, device, options, chosen, as_json)


def decode(
    source: Source,
    codec: CodecFile,
    out: Out,
    dim: Dim = None,
    column: Column = None,
    dtype: Annotated[FloatType, typer.Option(help="How embeddings are stored.")] = FloatType.FLOAT32,
    on_bad_rows: OnBadRows = bulk.OnBadRows.FAIL,
    resume: Resume = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
    device: DeviceChoice = Device.CPU,
    engine: EngineChoice = EngineName.THREADS,
    ray_address: RayAddress = None,
    gpus_per_worker: GpusPerWorker = 0,
    as_json: AsJson = False,
) -> None:
    """Reconstruct embeddings from a file or folder of latents."""
    options = bulk.BulkOptions(
        column=column, dtype=CodeType(dtype), on_bad_rows=on_bad_rows, resume=resume, overwrite=overwrite
    )
    chosen = _engine(engine, codec, workers, device, ray_address, gpus_per_worker)
    _run(bulk.decode, source, out, codec, dim, device, options, chosen, as_json)


def _engine(
    name: EngineName,
    codec: Path,
    workers: int | None,
    device: Device,
    ray_address: str | None,
    gpus_per_worker: float,
) -> bulk.Workers:
    if name is EngineName.THREADS:
        if ray_address is not None or gpus_per_worker:
            raise typer.BadParameter("--ray-address and --gpus-per-worker need --engine ray")
        return Threads(workers)
    if device is not Device.CPU:
        raise typer.BadParameter("--device is for threads; with --engine ray, --gpus-per-worker encodes on GPUs")
    from vaecodec_integrations.ray import RayWorkers

    return RayWorkers(codec, workers=workers, address=ray_address, gpus_per_worker=gpus_per_worker)


def _run(
    work: Callable[..., bulk.BulkResult],
    source: str,
    out: Path,
    codec_file: Path,
    dim: int | None,
    device: Device,
    options: bulk.BulkOptions,
    engine: bulk.Workers,
    as_json: bool,
) -> None:
    # Each worker is one thread of its own, and a call's bits then do not depend on the machine's cores.
    codec = Codec.load(codec_file, dim=dim, device=device, threads=1)
    started = time.perf_counter()
    with shown(source) as progress:
        result = work(source, out, codec, options=options, workers=engine, progress=progress)
    seconds = time.perf_counter() - started
    listed = f"{result.output}.bad-rows.csv" if result.bad_rows else None
    if as_json:
        print_json({**asdict(result), "output": str(result.output), "bad_rows_file": listed, "seconds": seconds})
        return
    line = f"{result.output}: {result.rows:,} rows in {seconds:.1f} s"
    if result.resumed:
        line += f", {result.resumed} of {result.shards} shards from before"
    if result.bad_rows:
        line += f", {result.bad_rows:,} bad rows left out, see {listed}"
    print(line)
