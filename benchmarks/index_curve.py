"""Recall against queries per second on 200,000 vectors: hnswlib and Qdrant, uncompressed, compressed, and re-ranked.

    OMP_NUM_THREADS=2 python benchmarks/index_curve.py measure --engine hnswlib --codec vae128.onnx --out hnswlib.json
    OMP_NUM_THREADS=2 python benchmarks/index_curve.py measure --engine qdrant --codec vae128.onnx --out qdrant.json
    python benchmarks/index_curve.py draw hnswlib.json qdrant.json

The vectors are those of ../shared/data/debian-minilm (else of the bundled sample), repeated with a small random
perturbation until there are enough: good for times, *not* for what recall a codec has on real data, since most of a
row's neighbours are perturbed copies. The queries are the real ones. Every index has the same parameters and is built
in a process of its own, whose resident memory is read before and after. A query's time includes encoding it and, where
that is done, re-ranking: half of ef candidates are scored by the original vectors, in a memory map. Each point of a
curve is one ef, in ann-benchmarks' manner, with all queries in one batch; the rates at equal recall are interpolated.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.table import Table

from vaecodec import Codec, LinearCodec, Metric, fit_linear
from vaecodec.evaluation import exact_search, recall
from vaecodec.vectors import normalised

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data" / "debian-minilm"
DATA = SHARED if SHARED.is_dir() else ROOT / "examples" / "debian-sample"
PICTURE = ROOT / "docs" / "images" / "index-curve.png"

M, EF_CONSTRUCTION, K = 16, 200, 10
EFS = (20, 40, 80, 160, 320)
RUNS = 3
QUERIES = 1_000
NOISE = 0.2  # length of the perturbation of a unit vector: a cosine of .98 between a row and its copy
EQUAL_RECALLS = (0.9, 0.95)
UNCOMPRESSED, COMPRESSED, RERANKED = "uncompressed", "compressed", "compressed, re-ranked"

Search = Callable[[np.ndarray, int, int], np.ndarray]
app = typer.Typer(add_completion=False)


@app.command()
def measure(
    engine: Annotated[str, typer.Option(help="hnswlib or qdrant.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    rows: Annotated[int, typer.Option(help="Vectors to index.")] = 200_000,
    codec: Annotated[Path | None, typer.Option(help="Codec file; by default an SVD is fitted on train.npy.")] = None,
    dim: Annotated[int, typer.Option(help="Width of that SVD.")] = 128,
    data: Annotated[Path, typer.Option(help="Folder with base.npy, queries.npy and train.npy.")] = DATA,
    threads: Annotated[int, typer.Option(help="Threads of the engine.")] = 2,
) -> None:
    """Build both indexes of an engine and search them along a curve."""
    console = Console(width=140)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = _repeated(normalised(np.load(data / "base.npy").astype(np.float32)), rows)
        queries = normalised(np.load(data / "queries.npy").astype(np.float32))[:QUERIES]
        truth = exact_search(base, queries, K, Metric.COSINE)[0]
        loaded = Codec.load(codec) if codec else fit_linear(np.load(data / "train.npy", mmap_mode="r"), dim)
        start = time.perf_counter()
        latents = loaded.encode(base)
        encode_seconds = time.perf_counter() - start
        for file, array in (("base", base), ("latents", latents)):
            np.save(folder / f"{file}.npy", array)
        del base, latents
        sides: dict[str, Any] = {}
        for side, file in ((UNCOMPRESSED, "base"), (COMPRESSED, "latents")):
            encoder = (codec or loaded) if side is COMPRESSED else None
            # A process of its own, so that its memory is the index's.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                work = pool.submit(_measure, engine, folder / f"{file}.npy", folder, queries, truth, encoder, threads)
                sides |= work.result()
        for side in (COMPRESSED, RERANKED):
            sides[side]["encode_seconds"] = encode_seconds
    result = {
        "engine": engine,
        "data": data.name,
        "rows": rows,
        "codec": codec.name if codec else f"SVD {dim}",
        "dim": loaded.dim,
        "code_dim": loaded.code_dim,
        "threads": threads,
        "sides": sides,
    }
    out.write_text(json.dumps(result, indent=1))
    for table in _tables(result):
        console.print(table)


@app.command()
def draw(
    results: Annotated[list[Path], typer.Argument(help="What 'measure' wrote.")],
    out: Annotated[Path, typer.Option(help="Picture to write.")] = PICTURE,
) -> None:
    """Draw the curves, one panel for each engine."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(results), figsize=(5.2 * len(results), 4.4), layout="constrained", sharey=True, squeeze=False
    )
    for axes, path in zip(panels[0], results, strict=True):
        result = json.loads(path.read_text())
        for (side, figures), colour in zip(result["sides"].items(), ("#999999", "#d9a066", "#0b6e4f"), strict=True):
            recalls, rates = zip(*((point["recall"], point["rate"]) for point in figures["curve"]), strict=True)
            axes.plot(recalls, rates, "o-", color=colour, markersize=4, label=side)
        axes.set_yscale("log")
        axes.set(xlabel="recall@10 against exact search, uncompressed", title=result["engine"])
        axes.grid(alpha=0.3, which="both")
    panels[0][0].set_ylabel(f"queries per second, {result['threads']} threads")
    panels[0][0].legend(loc="lower left")
    figure.suptitle(
        f"{result['rows']:,} vectors: {result['data']} with perturbed copies, for timing only; "
        f"{result['codec']}, {result['dim']} to {result['code_dim']}",
        size=10,
    )
    figure.savefig(out, dpi=120)


def _measure(
    engine: str,
    file: Path,
    folder: Path,
    queries: np.ndarray,
    truth: np.ndarray,
    encoder: Path | LinearCodec | None,
    threads: int,
) -> dict[str, Any]:
    vectors = np.array(np.load(file))
    process = psutil.Process()
    before = process.memory_info().rss
    start = time.perf_counter()
    search, disk = _ENGINES[engine](vectors, folder / f"{engine}-{file.stem}", threads)
    build_seconds = time.perf_counter() - start
    figures = {
        "build_seconds": build_seconds,
        "memory_bytes": process.memory_info().rss - before,
        "disk_bytes": disk,
    }
    if isinstance(encoder, Path):
        encoder = Codec.load(encoder, threads=threads)
    originals = np.load(folder / "base.npy", mmap_mode="r")

    def plain(ef: int) -> np.ndarray:
        asked = encoder.encode_queries(queries) if encoder is not None else queries
        return search(asked, K, ef)

    def reranked(ef: int) -> np.ndarray:
        candidates = search(encoder.encode_queries(queries), max(K, ef // 2), ef)
        return _reranked(candidates, originals, queries)

    if encoder is None:
        return {UNCOMPRESSED: figures | {"curve": _curve(plain, truth)}}
    return {
        COMPRESSED: figures | {"curve": _curve(plain, truth)},
        RERANKED: figures
        | {"disk_bytes": disk + (folder / "base.npy").stat().st_size, "curve": _curve(reranked, truth)},
    }


def _curve(search: Callable[[int], np.ndarray], truth: np.ndarray) -> list[dict[str, float]]:
    points = []
    for ef in EFS:
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            ids = search(ef)
            seconds.append(time.perf_counter() - start)
        found = float(recall(ids.astype(np.int64), truth, K).mean())
        points.append({"ef": ef, "recall": found, "rate": len(truth) / statistics.median(seconds)})
    return points


def _hnswlib(vectors: np.ndarray, path: Path, threads: int) -> tuple[Search, int]:
    import hnswlib

    index = hnswlib.Index("cosine", vectors.shape[1])
    index.init_index(len(vectors), M=M, ef_construction=EF_CONSTRUCTION)
    index.set_num_threads(threads)
    index.add_items(vectors)
    index.save_index(str(path))

    def search(queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        index.set_ef(ef)
        return np.asarray(index.knn_query(queries, k)[0])

    return search, path.stat().st_size


def _qdrant(vectors: np.ndarray, path: Path, _threads: int) -> tuple[Search, int]:
    # Qdrant takes as many threads as there are cores.
    import qdrant_edge as edge

    from vaecodec_integrations.report.engine_qdrant import QdrantEngine

    path.mkdir()
    index = QdrantEngine().build(vectors, Metric.COSINE, path)

    def search(queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        parameters = edge.SearchParams(hnsw_ef=ef)
        requests = [
            edge.QueryRequest(limit=k, query=edge.Query.Nearest(q), params=parameters) for q in queries.tolist()
        ]
        answers = index._shard.query_batch(edge.QueryBatchRequest(requests))
        return np.array([[point.id for point in points] for points in answers])

    return search, index.size_bytes


_ENGINES = {"hnswlib": _hnswlib, "qdrant": _qdrant}


def _reranked(candidates: np.ndarray, originals: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The best of each query's candidates by the original vectors."""
    best = np.empty((len(queries), K), np.int64)
    for row, (ids, query) in enumerate(zip(candidates, queries, strict=True)):
        best[row] = ids[np.argsort(-(originals[ids] @ query))[:K]]
    return best


def _repeated(rows: np.ndarray, wanted: int) -> np.ndarray:
    random = np.random.default_rng(0)
    parts = [rows[:wanted]]
    while sum(map(len, parts)) < wanted:
        noise = random.standard_normal(rows.shape, dtype=np.float32) * np.float32(NOISE / np.sqrt(rows.shape[1]))
        parts.append(normalised(rows + noise)[: wanted - sum(map(len, parts))])
    return np.concatenate(parts)


def _tables(result: dict[str, Any]) -> tuple[Table, Table]:
    title = (
        f"{result['engine']}: {result['rows']:,} x {result['dim']}, {result['data']} with perturbed copies (for timing "
        f"only); {result['codec']} to {result['code_dim']}; M {M}, ef_construction {EF_CONSTRUCTION}, "
        f"{result['threads']} threads"
    )
    sides = result["sides"]
    costs = Table(title=title, title_justify="left")
    for column in ("", *sides):
        costs.add_column(column, justify="right" if column else "left")
    costs.add_row("encode, s", *(f"{side.get('encode_seconds', 0):.1f}" for side in sides.values()))
    costs.add_row("build, s", *(f"{side['build_seconds']:.1f}" for side in sides.values()))
    costs.add_row("memory, MB", *(f"{side['memory_bytes'] / 1e6:,.0f}" for side in sides.values()))
    costs.add_row("disk, MB", *(f"{side['disk_bytes'] / 1e6:,.0f}" for side in sides.values()))
    for target in EQUAL_RECALLS:
        costs.add_row(f"queries/s at recall {target}", *(_rate_at(side["curve"], target) for side in sides.values()))
    points = Table(title="recall@10 and queries per second", title_justify="left")
    for column in ("ef", *sides):
        points.add_column(column, justify="right")
    for row, ef in enumerate(EFS):
        at = [side["curve"][row] for side in sides.values()]
        points.add_row(str(ef), *(f"{point['recall']:.3f} {point['rate']:,.0f}" for point in at))
    return costs, points


def _rate_at(curve: list[dict[str, float]], target: float) -> str:
    recalls = [point["recall"] for point in curve]
    if max(recalls) < target:
        return "not reached"
    if min(recalls) >= target:
        return f"over {curve[0]['rate']:,.0f}"
    rate = np.exp(np.interp(target, recalls, np.log([point["rate"] for point in curve])))
    return f"{rate:,.0f}"


if __name__ == "__main__":
    app()
