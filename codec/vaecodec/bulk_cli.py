"""``vaecodec encode`` and ``vaecodec decode``."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from vaecodec import bulk
from vaecodec.codec import Codec
from vaecodec.codes import CodeType

Source = Annotated[
    str, typer.Argument(help="A .npy, .npz, .fvecs, .fbin, .hdf5 or .parquet file, or a folder of Parquet.")
]
CodecFile = Annotated[Path, typer.Option("--codec", help="A codec file, e.g. vae128.onnx.")]
Out = Annotated[Path, typer.Option("--out", help="NAME.npy for one array, any other name for a folder of Parquet.")]
Dim = Annotated[int | None, typer.Option(help="Width of the latents, where the codec file has several.")]
Column = Annotated[str | None, typer.Option(help="Column, dataset or array of the vectors, where there are several.")]
DType = Annotated[CodeType, typer.Option(help="How latents are stored.")]
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
Workers = Annotated[int | None, typer.Option(min=1, help="Threads; by default one per core.")]


def encode(
    source: Source,
    codec: CodecFile,
    out: Out,
    dim: Dim = None,
    column: Column = None,
    dtype: DType = CodeType.FLOAT32,
    bytes: Bytes = None,  # noqa: A002
    on_bad_rows: OnBadRows = bulk.OnBadRows.FAIL,
    resume: Resume = False,
    workers: Workers = None,
) -> None:
    """Encode a file or folder of embeddings of any size; can be interrupted and resumed."""
    options = bulk.BulkOptions(
        column=column, dtype=dtype, bytes=bytes, on_bad_rows=on_bad_rows, resume=resume, workers=workers
    )
    _run(bulk.encode, source, out, codec, dim, options)


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
) -> None:
    """Reconstruct embeddings from a file or folder of latents."""
    options = bulk.BulkOptions(
        column=column, dtype=CodeType(dtype), on_bad_rows=on_bad_rows, resume=resume, workers=workers
    )
    _run(bulk.decode, source, out, codec, dim, options)


def _run(
    work: Callable[..., bulk.BulkResult],
    source: str,
    out: Path,
    codec_file: Path,
    dim: int | None,
    options: bulk.BulkOptions,
) -> None:
    # Each worker is one thread of its own, and a call's bits then do not depend on the machine's cores.
    codec = Codec.load(codec_file, dim=dim, threads=1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    started = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(str(source), total=None)
        result = work(
            source,
            out,
            codec,
            options=options,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    seconds = time.perf_counter() - started
    line = f"{result.output}: {result.rows:,} rows in {seconds:.1f} s"
    if result.resumed:
        line += f", {result.resumed} of {result.shards} shards from before"
    if result.bad_rows:
        line += f", {result.bad_rows:,} bad rows left out, see {result.output}.bad-rows.csv"
    print(line)


class _Rate(ProgressColumn):
    """Rows per second over the last while."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} rows/s" if task.speed else "")
