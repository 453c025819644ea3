"""Define the options that ``encode`` and ``decode`` share, and run the job for both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from vaecodec import bulk
from vaecodec.bulk import Threads
from vaecodec.codec import Codec
from vaecodec_cli.console import print_file, print_json
from vaecodec_cli.options import CodecFile, Column, Dim, OnBadRowsChoice
from vaecodec_cli.progress import shown


class Device(StrEnum):
    """Say where the codec runs."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


class EngineName(StrEnum):
    """Name who does the work."""

    THREADS = "threads"
    RAY = "ray"


@dataclass(frozen=True, kw_only=True)
class BulkInput:
    """Name the input and the codec."""

    panel: ClassVar[str] = "Input"

    source: Annotated[
        str, typer.Argument(help="A .npy, .npz, .fvecs, .fbin, .hdf5 or .parquet file, or a folder of Parquet files.")
    ]
    codec: CodecFile
    dim: Dim = None
    column: Column = None
    on_bad_rows: OnBadRowsChoice = bulk.OnBadRows.FAIL


@dataclass(frozen=True, kw_only=True)
class BulkOutput:
    """Name the output and its form."""

    panel: ClassVar[str] = "Output"

    out: Annotated[
        Path,
        typer.Option("--out", help="Output: NAME.npy is one array, any other name is a folder of Parquet files."),
    ]
    resume: Annotated[bool, typer.Option("--resume", help="Continue an output that was interrupted.")] = False
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output that vaecodec wrote. Not with --resume.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Say who does the work, and where."""

    panel: ClassVar[str] = "Workers"

    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of threads or, with Ray, of processes. Default: one per core.")
    ] = None
    device: Annotated[
        Device,
        typer.Option("--device", help="Where the codec runs. auto uses a GPU if one works, otherwise the CPU."),
    ] = Device.CPU
    engine_name: Annotated[
        EngineName,
        typer.Option(
            "--engine", help="What does the work: threads of this process, or Ray (Parquet on one machine or many)."
        ),
    ] = EngineName.THREADS
    ray_address: Annotated[
        str | None,
        typer.Option(help="Address of a running Ray cluster, e.g. 'auto'. Default: start one on this machine."),
    ] = None
    gpus_per_worker: Annotated[
        float,
        typer.Option(min=0, help="With Ray: share of a GPU for each process, e.g. 0.25. 0 encodes on the CPU."),
    ] = 0

    def open(self, codec: Path) -> bulk.Workers:
        """Return the workers that the options ask for."""
        if self.engine_name is EngineName.THREADS:
            if self.ray_address is not None or self.gpus_per_worker:
                raise typer.BadParameter("--ray-address and --gpus-per-worker need --engine ray")
            return Threads(self.workers)
        if self.device is not Device.CPU:
            raise typer.BadParameter("--device is for threads; with --engine ray, --gpus-per-worker encodes on GPUs")
        from vaecodec_integrations.ray import RayWorkers

        return RayWorkers(codec, workers=self.workers, address=self.ray_address, gpus_per_worker=self.gpus_per_worker)


def run(
    work: Callable[..., bulk.BulkResult],
    given: BulkInput,
    out: Path,
    workers: WorkerOptions,
    options: bulk.BulkOptions,
    as_json: bool,
) -> None:
    """Encode or decode, and print the result."""
    chosen = workers.open(given.codec)
    # Each worker is a thread, so use one thread per call. The result then does not depend on the number of cores.
    codec = Codec.load(given.codec, dim=given.dim, device=workers.device, threads=1)
    started = time.perf_counter()
    with shown(given.source) as progress:
        result = work(given.source, out, codec, options=options, workers=chosen, progress=progress)
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
