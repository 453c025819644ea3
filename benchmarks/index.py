"""Measure hnswlib through the adapter against hnswlib on the uncompressed vectors: same parameters, same run.

Run: OMP_NUM_THREADS=2 python benchmarks/index.py [--codec vae128.onnx]

The data are those of ../shared/data/debian-minilm where that folder is, else the bundled sample. Both sides take the
original vectors, so the adapter's times include encoding. They alternate, and every time is the median of several runs.
Prints insertions per second, queries per second in one batch and one at a time, bytes of the saved file and recall@10
against exact search on the uncompressed vectors, and the adapter's share of each. More vectors, Qdrant, re-ranking and
the curve of recall against rates are in index_curve.py.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import hnswlib
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from embeddings import DATA, load
from vaecodec import Codec, Metric, VectorCodec, fit_linear
from vaecodec.evaluation import exact_search, recall
from vaecodec_integrations.hnsw import CompressedIndex

M, EF_CONSTRUCTION, EF, K = 16, 200, 100, 10
SINGLE_QUERIES = 500
SIDES = ("hnswlib", "adapter")


def main(
    data: Annotated[Path, typer.Option(help="Folder with base.npy, queries.npy and train.npy.")] = DATA,
    codec: Annotated[Path | None, typer.Option(help="Codec file; by default an SVD is fitted on train.npy.")] = None,
    dim: Annotated[int, typer.Option(help="Width of that SVD.")] = 128,
    runs: Annotated[int, typer.Option(help="Runs of each side.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads of hnswlib.")] = 2,
) -> None:
    """Measure and print the table."""
    base, queries = load(data, "base", "queries")
    loaded = Codec.load(codec) if codec else fit_linear(np.load(data / "train.npy", mmap_mode="r"), dim)
    truth = exact_search(base, queries, K, Metric.COSINE)[0]
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            for side in SIDES:
                measured[side].append(_measure(_new(side, loaded), base, queries, truth, threads, Path(folder) / side))
    name = codec.name if codec else f"SVD {dim}"
    table = Table(
        title=f"{data.name}: {len(base):,} x {base.shape[1]}, {len(queries):,} queries; {name}, {loaded.dim} to "
        f"{loaded.code_dim}; M {M}, ef_construction {EF_CONSTRUCTION}, ef {EF}, {threads} threads, median of {runs}"
    )
    for column in ("", *SIDES, "adapter / hnswlib"):
        table.add_column(column, justify="right" if column else "left")
    for figure in measured["hnswlib"][0]:
        plain, ours = (statistics.median(run[figure] for run in measured[side]) for side in SIDES)
        digits = 3 if figure.startswith("recall") else 0
        table.add_row(figure, f"{plain:,.{digits}f}", f"{ours:,.{digits}f}", f"{ours / plain:.3f}")
    Console(width=140).print(table)


def _new(side: str, codec: VectorCodec) -> Any:
    return CompressedIndex("cosine", codec.dim, codec) if side == "adapter" else hnswlib.Index("cosine", codec.dim)


def _measure(
    index: Any, base: np.ndarray, queries: np.ndarray, truth: np.ndarray, threads: int, path: Path
) -> dict[str, float]:
    index.init_index(len(base), M=M, ef_construction=EF_CONSTRUCTION)
    index.set_num_threads(threads)
    start = time.perf_counter()
    index.add_items(base)
    inserted = time.perf_counter() - start
    index.set_ef(EF)
    start = time.perf_counter()
    ids, _ = index.knn_query(queries, K)
    batch = time.perf_counter() - start
    singles = queries[:SINGLE_QUERIES]
    start = time.perf_counter()
    for query in singles:
        index.knn_query(query, K)
    single = time.perf_counter() - start
    index.save_index(str(path))
    return {
        "insertions per s": len(base) / inserted,
        "queries per s, in one batch": len(queries) / batch,
        "queries per s, one at a time": len(singles) / single,
        "file, bytes": path.stat().st_size,
        "recall@10": float(recall(ids.astype(np.int64), truth, K).mean()),
    }


if __name__ == "__main__":
    typer.run(main)
