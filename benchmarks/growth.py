"""Measure how the time and memory of encoding a file grow with rows and widths; anything above linear is a defect.

    OMP_NUM_THREADS=2 python benchmarks/growth.py rows
    OMP_NUM_THREADS=2 python benchmarks/growth.py dims

Each point is one `vaecodec.bulk.encode` from .npy to .npy in a process of its own, through a residual encoder with a
hidden layer of 512. Weights and vectors are random, since neither matters here; files are float32, made before and
removed after. ``rows`` goes from 10^4 to 10^7 rows (--least and --most for fewer) at 384 -> 64, ``dims`` through widths
of the embeddings and of the latents at 200,000 rows.

Prints the median, the shortest and the longest time of three runs (the process is warmed up on 1,000 rows), the
processor time of the median run, which waits for no disk, the process's peak resident memory (Linux only), and the
exponent e of cost = a * x^e, fitted by least squares on logarithms: over all points, and between the last two, where
fixed costs matter least.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from vaecodec import Codec, Kind, Metadata, Metric
from vaecodec.artifact import sign
from vaecodec.bulk import encode
from vaecodec_exporters.graph import CodecWeights, ResidualWeights, build_model

HIDDEN = 512
RUNS = 3

app = typer.Typer(help=__doc__, add_completion=False)
Folder = Annotated[Path | None, typer.Option(help="Where files are written and removed again.")]


@app.command()
def rows(
    least: Annotated[int, typer.Option(max=1_000_000, help="Rows of the smallest file.")] = 10_000,
    most: Annotated[int, typer.Option(min=100_000, help="Rows of the largest file.")] = 10_000_000,
    folder: Folder = None,
) -> None:
    """Measure cost against rows."""
    sizes = [size for size in (10**4, 10**5, 10**6, 10**7) if least <= size <= most]
    report("rows", [(size, size, 384, 64) for size in sizes], folder)


@app.command()
def dims(count: int = 200_000, folder: Folder = None) -> None:
    """Measure cost against the width of the embeddings and that of the latents."""
    report("embeddings' width", [(dim, count, dim, 64) for dim in (96, 192, 384, 768, 1536, 3072)], folder)
    report("latents' width", [(width, count, 768, width) for width in (32, 64, 128, 256, 512)], folder)


def report(name: str, points: list[tuple[int, int, int, int]], folder: Path | None) -> None:
    """Measure and print one curve: points are (x, rows, dim, code_dim)."""
    table = Table(title=f"encode, against {name}")
    for column in (name, "dim -> code_dim", "rows", "seconds", "of runs", "processor s", "rows/s", "peak RSS, MB"):
        table.add_column(column, justify="right")
    times, processor, peaks = [], [], []
    for x, count, dim, code_dim in points:
        runs, peak = in_own_process(count, dim, code_dim, folder)
        seconds, busy = sorted(runs)[len(runs) // 2]
        times.append(seconds)
        processor.append(busy)
        peaks.append(peak)
        spread = f"{min(runs)[0]:.3f} to {max(runs)[0]:.3f}"
        figures = (f"{seconds:.3f}", spread, f"{busy:.3f}", f"{count / seconds:,.0f}", f"{peak:,.0f}")
        table.add_row(f"{x:,}", f"{dim} -> {code_dim}", f"{count:,}", *figures)
    console = Console(width=140)
    console.print(table)
    xs = [x for x, *_ in points]
    for what, costs in (("time", times), ("processor time", processor), ("peak RSS", peaks)):
        last = exponent(xs[-2:], costs[-2:])
        console.print(f"{what}: exponent {exponent(xs, costs):.2f} over all points, {last:.2f} between the last two")


def exponent(xs: list[int], costs: list[float]) -> float:
    return float(np.polyfit(np.log(xs), np.log(costs), 1)[0])


def in_own_process(count: int, dim: int, code_dim: int, folder: Path | None) -> tuple[list[list[float]], float]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        write_rows(Path(place) / "vectors.npy", count, dim)
        write_codec(Path(place) / "codec.onnx", dim, code_dim)
        done = subprocess.run([sys.executable, __file__, "point", place], capture_output=True, text=True, check=True)
    runs, peak = json.loads(done.stdout)
    return runs, peak


@app.command(hidden=True)
def point(place: Path) -> None:
    """Measure one point in a fresh process: print (seconds, processor seconds) of each run, and megabytes, as JSON."""
    codec = Codec.load(place / "codec.onnx", threads=1)
    codec.encode(np.load(place / "vectors.npy", mmap_mode="r")[:1000])
    runs = []
    for number in range(RUNS):
        start, busy = time.perf_counter(), time.process_time()
        encode(place / "vectors.npy", place / f"latents{number}.npy", codec)
        runs.append((time.perf_counter() - start, time.process_time() - busy))
        (place / f"latents{number}.npy").unlink()
    # Not getrusage, in which Linux counts what the process that started this one had in use.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps([runs, int(status["VmHWM"].split()[0]) / 1024]))


def write_rows(path: Path, count: int, dim: int) -> None:
    block = np.random.default_rng(0).standard_normal((min(count, 20_000), dim), np.float32)
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(block) | {"shape": (count, dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, len(block)):
            block[: count - start].tofile(file)


def write_codec(path: Path, dim: int, code_dim: int) -> None:
    random = np.random.default_rng(0)

    def matrix(out: int, width: int) -> np.ndarray:
        return random.standard_normal((out, width), np.float32) / np.float32(np.sqrt(width))

    encoder = ResidualWeights(
        linear=matrix(code_dim, dim),
        bias=np.zeros(code_dim, np.float32),
        hidden=matrix(HIDDEN, dim),
        hidden_bias=np.zeros(HIDDEN, np.float32),
        output=matrix(code_dim, HIDDEN),
    )
    decoder = ResidualWeights(linear=matrix(dim, code_dim), bias=np.zeros(dim, np.float32))
    metadata = Metadata(kind=Kind.VAE, dim=dim, code_dim=code_dim, metric=Metric.COSINE, latent_metric=Metric.COSINE)
    path.write_bytes(sign(build_model(CodecWeights(encoder, decoder), metadata)))


if __name__ == "__main__":
    app()
