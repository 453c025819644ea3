"""Options that ``encode`` and ``decode`` share, and what both do."""

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
from vaecodec_cli.console import print_file, print_json
from vaecodec_cli.progress import shown

Source = Annotated[
    str, typer.Argument(help="A .npy, .npz, .fvecs, .fbin, .hdf5 or .parquet file, or a folder of Parquet files.")
]
Out = Annotated[
    Path,
    typer.Option("--out", help="Output: NAME.npy is one array, any other name is a folder of Parquet files."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an output that was interrupted.")]
OverwriteOutput = Annotated[bool, typer.Option("--overwrite", help="Replace an output that vaecodec wrote.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Number of threads or, with Ray, of processes. Default: one per core.")
]


class Device(StrEnum):
    """Where the codec runs."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


DeviceChoice = Annotated[
    Device, typer.Option("--device", help="Where the codec runs. auto takes a GPU where one starts, else the CPU.")
]


class EngineName(StrEnum):
    """What does the work."""

    THREADS = "threads"
    RAY = "ray"


EngineChoice = Annotated[
    EngineName,
    typer.Option("--engine", help="Threads of this process; or Ray, for Parquet on one machine or many."),
]
RayAddress = Annotated[
    str | None, typer.Option(help="Address of a running Ray cluster, e.g. 'auto'. Default: start one on this machine.")
]
GpusPerWorker = Annotated[
    float, typer.Option(min=0, help="With Ray: share of a GPU for each process, e.g. 0.25. 0 encodes on the CPU.")
]


def engine(
    name: EngineName,
    codec: Path,
    workers: int | None,
    device: Device,
    ray_address: str | None,
    gpus_per_worker: float,
) -> bulk.Workers:
    """Return the workers that the options ask for."""
    if name is EngineName.THREADS:
        if ray_address is not None or gpus_per_worker:
            raise typer.BadParameter("--ray-address and --gpus-per-worker need --engine ray")
        return Threads(workers)
    if device is not Device.CPU:
        raise typer.BadParameter("--device is for threads; with --engine ray, --gpus-per-worker encodes on GPUs")
    from vaecodec_integrations.ray import RayWorkers

    return RayWorkers(codec, workers=workers, address=ray_address, gpus_per_worker=gpus_per_worker)


def run(
    work: Callable[..., bulk.BulkResult],
    source: str,
    out: Path,
    codec_file: Path,
    dim: int | None,
    device: Device,
    options: bulk.BulkOptions,
    workers: bulk.Workers,
    as_json: bool,
) -> None:
    """Encode or decode, and print the result."""
    # Each worker is one thread of its own, and a call's bits then do not depend on the machine's cores.
    codec = Codec.load(codec_file, dim=dim, device=device, threads=1)
    started = time.perf_counter()
    with shown(source) as progress:
        result = work(source, out, codec, options=options, workers=workers, progress=progress)
    seconds = time.perf_counter() - started
    listed = f"{result.output}.bad-rows.csv" if result.bad_rows else None
    if as_json:
        print_json({**asdict(result), "output": str(result.output), "bad_rows_file": listed, "seconds": seconds})
        return
    line = f"{result.rows:,} rows in {seconds:.1f} s"
    if result.resumed:
        line += f", {result.resumed} of {result.shards} shards from before"
    if result.bad_rows:
        line += f", {result.bad_rows:,} bad rows left out, see {listed}"
    print_file(result.output, line)
