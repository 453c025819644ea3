"""Measure what smaller numbers in the graph are worth on this machine's CPU: float32, float16 and int8 weights.

Run: OMP_NUM_THREADS=2 python benchmarks/precision.py RUN --data ../shared/data/debian-minilm

RUN is a folder that `vaecodec train` wrote. Its codec is exported in each precision of `vaecodec export`, and once more
with int8 weights throughout by onnxruntime's dynamic quantisation. vaecodec does not offer the latter: it scales
activations by the whole batch, so that a row's latents depend on the rows beside it, which a codec promises they do
not. Prints for each: bytes of the file, milliseconds to load, vectors per second in batches, recall@10 against exact
search on the uncompressed vectors, its paired difference to float32 with a 95 % interval, and the largest difference
between a row's latents alone and in a batch. Then what onnxruntime's own optimisation at load is worth on the float32
file.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime
import typer
from onnxruntime.quantization import quantize_dynamic
from rich.console import Console
from rich.table import Table

from embeddings import load
from vaecodec import Metric
from vaecodec.evaluation import bootstrap, exact_search, recall
from vaecodec.graph.nodes import Precision
from vaecodec.interface import FloatArray
from vaecodec_exporters.checkpoint import export_checkpoint

BATCHES = (1, 32, 1_024, 16_384)
BLOCK_ROWS = 2_048
ALONE_ROWS = 500
ROUNDS, PAUSE_SECONDS, BURST_SECONDS = 7, 0.1, 0.05
LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class Graph:
    """Run a codec's graph in onnxruntime, in blocks as `Codec` does."""

    def __init__(self, path: Path, threads: int, level: str = "all") -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.graph_optimization_level = LEVELS[level]
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def encode(self, vectors: FloatArray, feed: str = "embedding", output: str = "latent") -> FloatArray:
        parts = range(0, len(vectors), BLOCK_ROWS)
        return np.concatenate(
            [self.session.run([output], {feed: vectors[start : start + BLOCK_ROWS]})[0] for start in parts]
        )


def main(
    run: Annotated[Path, typer.Argument(help="Folder that 'vaecodec train' wrote.")],
    data: Annotated[Path, typer.Option(help="Folder with base.npy and queries.npy.")],
    threads: Annotated[int, typer.Option(help="Threads of onnxruntime.")] = 2,
) -> None:
    """Measure and print both tables."""
    base, queries = load(data, "base", "queries")
    truth = exact_search(base, queries, 10, Metric.COSINE)[0]
    with tempfile.TemporaryDirectory() as folder:
        files = _export(run, Path(folder))
        graphs = {name: Graph(path, threads) for name, path in files.items()}
        recalls, apart = {}, {}
        for name, graph in graphs.items():
            latents, asked = graph.encode(base), graph.encode(queries, "query", "query_latent")
            alone = np.concatenate([graph.encode(row[None]) for row in base[:ALONE_ROWS]])
            apart[name] = np.abs(alone - latents[:ALONE_ROWS]).max()
            recalls[name] = recall(exact_search(latents, asked, 10, Metric.COSINE)[0], truth, 10)
        rates = _rates(graphs, base)
        loads = {name: _load_seconds(path, threads) for name, path in files.items()}
        console = Console(width=180)
        table = Table(title=f"{data.name}, {run.name}, {threads} threads", title_justify="left")
        columns = ("graph", "file, bytes", "load, ms", *(f"vectors/s at {batch:,}" for batch in BATCHES))
        for column in (*columns, "recall@10", "difference", "alone"):
            table.add_column(column, justify="left" if column == "graph" else "right")
        for name, path in files.items():
            table.add_row(
                name,
                f"{path.stat().st_size:,}",
                f"{loads[name] * 1e3:.1f}",
                *(f"{rate:,.0f}" for rate in rates[name]),
                f"{recalls[name].mean():.4f}",
                f"{bootstrap(recalls[name] - recalls['float32']):+.4f}",
                f"{apart[name]:.0e}",
            )
        console.print(table)
        levels = {level: Graph(files["float32"], threads, level) for level in LEVELS}
        rates = _rates(levels, base)
        table = Table(title="float32: onnxruntime's graph optimisation at load", title_justify="left")
        for column in ("level", "load, ms", *(f"vectors/s at {batch:,}" for batch in BATCHES)):
            table.add_column(column, justify="left" if column == "level" else "right")
        for level in LEVELS:
            seconds = _load_seconds(files["float32"], threads, level)
            table.add_row(level, f"{seconds * 1e3:.1f}", *(f"{rate:,.0f}" for rate in rates[level]))
        console.print(table)


def _export(run: Path, folder: Path) -> dict[str, Path]:
    files = {str(precision): folder / f"{precision}.onnx" for precision in Precision}
    for precision in Precision:
        export_checkpoint(run, files[str(precision)], precision=precision)
    logging.disable(logging.WARNING)  # advice to run a pre-processing that changes nothing in this graph
    files["dynamic int8"] = folder / "dynamic.onnx"
    quantize_dynamic(files["float32"], files["dynamic int8"], per_channel=True)
    return files


def _rates(graphs: dict[str, Graph], base: FloatArray) -> dict[str, list[float]]:
    """Return the vectors per second at each batch: the median of bursts in turns; benchmarks/encode.py explains the
    pause.
    """
    rates: dict[str, list[float]] = {name: [] for name in graphs}
    for batch in BATCHES:
        vectors = base[:batch]
        seconds: dict[str, list[float]] = {name: [] for name in graphs}
        for _ in range(ROUNDS):
            for name, graph in graphs.items():
                time.sleep(PAUSE_SECONDS)
                graph.encode(vectors)
                begun = end = time.perf_counter()
                while end - begun < BURST_SECONDS:
                    start = time.perf_counter()
                    graph.encode(vectors)
                    end = time.perf_counter()
                    seconds[name].append(end - start)
        for name in graphs:
            rates[name].append(len(vectors) / statistics.median(seconds[name]))
    return rates


def _load_seconds(path: Path, threads: int, level: str = "all") -> float:
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        Graph(path, threads, level)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    typer.run(main)
