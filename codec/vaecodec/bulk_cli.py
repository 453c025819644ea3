"""``vaecodec encode`` and ``vaecodec decode``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from vaecodec import bulk
from vaecodec.cli import AsJson, print_json
from vaecodec.codec import Codec
from vaecodec.codes import CodeType
from vaecodec.conversion import Engine, Threads

Source = Annotated[
    str, typer.Argument(help="A .npy, .npz, .fvecs, .fbin, .hdf5 or .parquet file, or a folder of Parquet.")
]
CodecFile = Annotated[Path, typer.Option("--codec", help="A codec file, e.g. vae128.onnx.")]
Out = Annotated[Path, typer.Option("--out", help="NAME.npy for one array, any other name for a folder of Parquet.")]
Dim = Annotated[int | None, typer.Option(help="Width of the latents, where the codec file has several.")]
Column = Annotated[str | None, typer.Option(help="Column, dataset or array of the vectors, where there are several.")]
DType = Annotated[CodeType | None, typer.Option(help="How latents are stored; float32 by default.")]
Bytes = Annotated[int | None, typer.Option(help="Or a trellis code of so many bytes per vector, from 8 up.")]


class FloatType(StrEnum):
    """What embeddings are decoded to."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


OnBadRows = Annotated[
    bulk.OnBadRows,
    typer.Option(help="Rows with NaN, no direction or no vector: stop, leave out and list, or list all and stop."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an output that was interrupted.")]
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
    workers: Workers = None,
    device: DeviceChoice = Device.CPU,
    engine: EngineChoice = EngineName.THREADS,
    ray_address: RayAddress = None,
    gpus_per_worker: GpusPerWorker = 0,
    as_json: AsJson = False,
) -> None:
    """Encode a file or folder of embeddings of any size; can be interrupted and resumed."""
    options = bulk.BulkOptions(column=column, dtype=dtype, bytes=bytes, on_bad_rows=on_bad_rows, resume=resume)
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
    workers: Workers = None,
    device: DeviceChoice = Device.CPU,
    engine: EngineChoice = EngineName.THREADS,
    ray_address: RayAddress = None,
    gpus_per_worker: GpusPerWorker = 0,
    as_json: AsJson = False,
) -> None:
    """Reconstruct embeddings from a file or folder of latents."""
    options = bulk.BulkOptions(column=column, dtype=CodeType(dtype), on_bad_rows=on_bad_rows, resume=resume)
    chosen = _engine(engine, codec, workers, device, ray_address, gpus_per_worker)
    _run(bulk.decode, source, out, codec, dim, device, options, chosen, as_json)


def _engine(
    name: EngineName,
    codec: Path,
    workers: int | None,
    device: Device,
    ray_address: str | None,
    gpus_per_worker: float,
) -> Engine:
    if name is EngineName.THREADS:
        if ray_address is not None or gpus_per_worker:
            raise typer.BadParameter("--ray-address and --gpus-per-worker need --engine ray")
        return Threads(workers)
    if device is not Device.CPU:
        raise typer.BadParameter("--device is for threads; with --engine ray, --gpus-per-worker encodes on GPUs")
    (entry,) = entry_points(group="vaecodec.engines", name=name)
    engine: Engine = entry.load()(codec, workers=workers, address=ray_address, gpus_per_worker=gpus_per_worker)
    return engine


def _run(
    work: Callable[..., bulk.BulkResult],
    source: str,
    out: Path,
    codec_file: Path,
    dim: int | None,
    device: Device,
    options: bulk.BulkOptions,
    engine: Engine,
    as_json: bool,
) -> None:
    # Each worker is one thread of its own, and a call's bits then do not depend on the machine's cores.
    codec = Codec.load(codec_file, dim=dim, device=device, threads=1)
    started = time.perf_counter()
    with _shown(source) as progress:
        result = work(source, out, codec, options=options, engine=engine, progress=progress)
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


@contextmanager
def _shown(name: str) -> Iterator[bulk.Progress]:
    """Progress on standard error: a bar on a terminal, a line now and then in a log."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield LogLines(name)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class LogLines:
    """Rows done, rate and time left, as a line every so many seconds; the rate is that of this run.

    Args:
        name: of what is read.
        seconds: between two lines.
    """

    def __init__(self, name: str, seconds: float = 30) -> None:
        self._name, self._seconds = name, seconds
        self._first: int | None = None
        self._start = self._last = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if self._first is None:  # what an earlier run has done is not this one's speed
            self._first, self._start, self._last = done, now, now
        if now - self._last < self._seconds:
            return
        self._last = now
        rate = (done - self._first) / (now - self._start)
        left = f", {timedelta(seconds=round((total - done) / rate))} left" if rate else ""
        print(f"{self._name}: {done:,} of {total:,} rows, {rate:,.0f} rows/s{left}", file=sys.stderr, flush=True)


class _Rate(ProgressColumn):
    """Rows per second over the last while."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} rows/s" if task.speed else "")
