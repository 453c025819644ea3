"""Measure recall against queries per second on 200,000 vectors: hnswlib and Qdrant, uncompressed, compressed, and
re-ranked.

    OMP_NUM_THREADS=2 python benchmarks/index_curve.py build --engine hnswlib --folder curve --codec vae128.onnx
    OMP_NUM_THREADS=2 python benchmarks/index_curve.py search --engine hnswlib --folder curve --out hnswlib.json
    (the same with --engine qdrant, in the same folder)
    python benchmarks/index_curve.py draw hnswlib.json qdrant.json

The vectors are those of ../shared/data/debian-minilm (else of the bundled sample), and where there are not enough,
copies of them, each moved by a tenth to a half of its length along the difference of two other rows, so that it varies
as the data do: good for times, *not* for what recall a codec has on real data. The queries are the real ones. Every
index has the same parameters and is built in a process of its own, whose resident memory is read before and after; a
build that was interrupted goes on with the index that is missing. A query's time includes encoding it and, where that
is done, re-ranking: half of ef candidates are scored by the original vectors, in a memory map. Each point of a curve is
one ef with all queries in one batch and, as in ann-benchmarks, the best of several runs; the rates at equal recall are
interpolated.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
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

from embeddings import DATA, ROOT, unit_rows
from vaecodec import Codec, Metric, fit_linear
from vaecodec.charts import DASHES, LIGHT, MARKERS, chart, rendered
from vaecodec.evaluation import exact_search, recall
from vaecodec.vectors import normalised
from vaecodec_exporters.linear import export_linear

PICTURE = ROOT / "docs" / "images" / "index-curve.svg"

M, EF_CONSTRUCTION, K = 16, 200, 10
EFS = (20, 40, 80, 160, 320)
RUNS = 7
RERANKED_AT_ONCE = 50
QUERIES = 1_000
NOISE = (0.1, 0.5)  # how far a copy lies from its unit row: cosines of .995 to .89
EQUAL_RECALLS = (0.9, 0.95)
UNCOMPRESSED, COMPRESSED, RERANKED = "uncompressed", "compressed", "compressed, re-ranked"
FILES = {UNCOMPRESSED: "base", COMPRESSED: "latents"}

Search = Callable[[np.ndarray, int, int], np.ndarray]
app = typer.Typer(help=__doc__, add_completion=False)
EngineName = Annotated[str, typer.Option(help="hnswlib or qdrant.")]
Folder = Annotated[Path, typer.Option(help="Where vectors and indexes are kept.")]
Threads = Annotated[int, typer.Option(help="Threads of hnswlib and onnxruntime; Qdrant takes all cores.")]


@app.command()
def build(
    engine: EngineName,
    folder: Folder,
    rows: Annotated[int, typer.Option(help="Vectors to index.")] = 200_000,
    codec: Annotated[Path | None, typer.Option(help="Codec file; by default an SVD is fitted on train.npy.")] = None,
    dim: Annotated[int, typer.Option(help="Width of that SVD.")] = 128,
    data: Annotated[Path, typer.Option(help="Folder with base.npy, queries.npy and train.npy.")] = DATA,
    threads: Threads = 2,
) -> None:
    """Build an engine's indexes of the vectors and of the latents."""
    if not (folder / "collection.json").exists():
        _make_collection(folder, rows, codec, dim, data)
    for file in FILES.values():
        built = folder / f"{engine}-{file}.json"
        if not built.exists():
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                figures = pool.submit(_build, engine, folder, file, threads).result()
            built.write_text(json.dumps(figures))
            print(engine, file, figures, flush=True)


@app.command()
def search(
    engine: EngineName,
    folder: Folder,
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    threads: Threads = 2,
) -> None:
    """Search an engine's indexes along a curve."""
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    originals = np.load(folder / "base.npy", mmap_mode="r")
    codec = Codec.load(folder / "codec.onnx", threads=threads)
    index, compressed = (
        _ENGINES[engine].load(folder / f"{engine}-{file}", width, threads)
        for file, width in ((FILES[UNCOMPRESSED], codec.dim), (FILES[COMPRESSED], codec.code_dim))
    )

    def reranked(ef: int) -> np.ndarray:
        candidates = compressed(codec.encode_queries(queries), max(K, ef // 2), ef)
        return _reranked(candidates, originals, queries)

    built = {side: json.loads((folder / f"{engine}-{file}.json").read_text()) for side, file in FILES.items()}
    disk = built[COMPRESSED]["disk_bytes"] + (folder / "base.npy").stat().st_size
    sides = {
        UNCOMPRESSED: built[UNCOMPRESSED] | {"curve": _curve(lambda ef: index(queries, K, ef), truth)},
        COMPRESSED: built[COMPRESSED]
        | {"curve": _curve(lambda ef: compressed(codec.encode_queries(queries), K, ef), truth)},
        RERANKED: built[COMPRESSED] | {"disk_bytes": disk, "curve": _curve(reranked, truth)},
    }
    collection = json.loads((folder / "collection.json").read_text())
    result = {"engine": engine, "threads": threads, **collection, "sides": sides}
    out.write_text(json.dumps(result, indent=1))
    for table in _tables(result):
        Console(width=140).print(table)


@app.command()
def draw(
    results: Annotated[list[Path], typer.Argument(help="What 'search' wrote.")],
    out: Annotated[Path, typer.Option(help="Picture to write.")] = PICTURE,
) -> None:
    """Draw the curves, one panel for each engine."""
    found = [json.loads(path.read_text()) for path in results]
    with chart(5.2 * len(found), 4.4, columns=len(found)) as (figure, panels):
        for axes, result in zip(panels, found, strict=True):
            for number, (side, figures) in enumerate(result["sides"].items()):
                recalls, rates = zip(*((point["recall"], point["rate"]) for point in figures["curve"]), strict=True)
                style = {"color": LIGHT.lines[number], "marker": MARKERS[number], "markersize": 4}
                axes.plot(recalls, rates, DASHES[number], **style)
                where = {"xytext": (6, 4), "textcoords": "offset points", "color": LIGHT.lines[number]}
                axes.annotate(side, (recalls[0], rates[0]), **where)
            axes.set_yscale("log")
            # Plain numbers: the style shows no formulas.
            axes.yaxis.set_major_formatter("{x:,.0f}")
            axes.yaxis.set_minor_formatter("{x:,.0f}")
            axes.set(xlabel="recall@10 against exact search, uncompressed")
            axes.sharey(panels[0])
            copies = f"\n{result['copies']:,} of them perturbed copies: for timing only" if result["copies"] else ""
            widths = f"{result['dim']} to {result['code_dim']}"
            axes.set_title(f"{result['engine']}: {result['rows']:,} vectors, {widths}{copies}", size=9)
        panels[0].set_ylabel(f"queries per second, threads: {found[0]['threads']}")
        out.write_bytes(rendered(figure, "svg"))


def _make_collection(folder: Path, rows: int, codec: Path | None, dim: int, data: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    real = unit_rows(data / "base.npy")
    base = _repeated(real, rows)
    queries = unit_rows(data / "queries.npy", QUERIES)
    if codec is None:
        export_linear(fit_linear(np.load(data / "train.npy", mmap_mode="r"), dim), folder / "codec.onnx")
    else:
        shutil.copy(codec, folder / "codec.onnx")
    loaded = Codec.load(folder / "codec.onnx")
    start = time.perf_counter()
    latents = loaded.encode(base)
    encode_seconds = time.perf_counter() - start
    truth = exact_search(base, queries, K, Metric.COSINE)[0]
    for file, array in (("base", base), ("latents", latents), ("queries", queries), ("truth", truth)):
        np.save(folder / f"{file}.npy", array)
    described = {
        "data": data.name,
        "rows": rows,
        "copies": max(0, rows - len(real)),
        "codec": codec.name if codec else f"SVD {dim}",
        "dim": loaded.dim,
        "code_dim": loaded.code_dim,
        "encode_seconds": encode_seconds,
    }
    (folder / "collection.json").write_text(json.dumps(described))


def _build(engine: str, folder: Path, file: str, threads: int) -> dict[str, float]:
    vectors = np.array(np.load(folder / f"{file}.npy"))
    process = psutil.Process()
    before = process.memory_info().rss
    start = time.perf_counter()
    # The index is alive until its memory has been read.
    index, disk_bytes = _ENGINES[engine].build(vectors, folder / f"{engine}-{file}", threads)
    seconds = time.perf_counter() - start
    memory_bytes = process.memory_info().rss - before
    del index
    return {"build_seconds": seconds, "memory_bytes": memory_bytes, "disk_bytes": disk_bytes}


def _curve(search: Callable[[int], np.ndarray], truth: np.ndarray) -> list[dict[str, float]]:
    points = []
    for ef in EFS:
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            ids = search(ef)
            seconds.append(time.perf_counter() - start)
        found = float(recall(ids.astype(np.int64), truth, K).mean())
        points.append({"ef": ef, "recall": found, "rate": len(truth) / min(seconds)})
    return points


class _Hnswlib:
    @staticmethod
    def build(vectors: np.ndarray, path: Path, threads: int) -> tuple[Any, int]:
        import hnswlib

        index = hnswlib.Index("cosine", vectors.shape[1])
        index.init_index(len(vectors), M=M, ef_construction=EF_CONSTRUCTION)
        index.set_num_threads(threads)
        index.add_items(vectors)
        index.save_index(str(path))
        return index, path.stat().st_size

    @staticmethod
    def load(path: Path, width: int, threads: int) -> Search:
        import hnswlib

        index = hnswlib.Index("cosine", width)
        index.load_index(str(path))
        index.set_num_threads(threads)

        def search(queries: np.ndarray, k: int, ef: int) -> np.ndarray:
            index.set_ef(ef)
            return np.asarray(index.knn_query(queries, k)[0])

        return search


class _Qdrant:
    @staticmethod
    def build(vectors: np.ndarray, path: Path, _threads: int) -> tuple[Any, int]:
        from vaecodec_integrations.report.engines.qdrant import QdrantEngine

        shutil.rmtree(path, ignore_errors=True)  # what an interrupted build has left
        path.mkdir()
        index = QdrantEngine().build(vectors, Metric.COSINE, path)
        return index, index.size_bytes

    @staticmethod
    def load(path: Path, _width: int, _threads: int) -> Search:
        import qdrant_edge as edge

        shard = edge.EdgeShard.load(str(path))

        def search(queries: np.ndarray, k: int, ef: int) -> np.ndarray:
            parameters = edge.SearchParams(hnsw_ef=ef)
            requests = [
                edge.QueryRequest(limit=k, query=edge.Query.Nearest(query), params=parameters)
                for query in queries.tolist()
            ]
            answers = shard.query_batch(edge.QueryBatchRequest(requests))
            return np.array([[point.id for point in points] for points in answers])

        return search


_ENGINES: dict[str, Any] = {"hnswlib": _Hnswlib, "qdrant": _Qdrant}


def _reranked(candidates: np.ndarray, originals: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the best of each query's candidates by the original vectors."""
    best = np.empty((len(queries), K), np.int64)
    for start in range(0, len(queries), RERANKED_AT_ONCE):
        some = slice(start, start + RERANKED_AT_ONCE)
        ids = candidates[some].astype(np.int64)
        scores = np.matmul(originals[ids], queries[some, :, None])[:, :, 0]
        best[some] = np.take_along_axis(ids, np.argsort(-scores, axis=1)[:, :K], axis=1)
    return best


def _repeated(rows: np.ndarray, wanted: int) -> np.ndarray:
    random = np.random.default_rng(0)
    parts = [rows[:wanted]]
    while sum(map(len, parts)) < wanted:
        one, other = (random.permutation(len(rows)) for _ in range(2))
        length = random.uniform(*NOISE, size=(len(rows), 1)).astype(np.float32)
        away = normalised(rows[one] - rows[other] + np.float32(1e-6))
        parts.append(normalised(rows + length * away)[: wanted - sum(map(len, parts))])
    return np.concatenate(parts)


def _vectors(result: dict[str, Any]) -> str:
    copies = f", {result['copies']:,} of them perturbed copies: for timing only" if result["copies"] else ""
    return f"{result['rows']:,} vectors of {result['data']}{copies}"


def _tables(result: dict[str, Any]) -> tuple[Table, Table]:
    title = (
        f"{result['engine']}: {_vectors(result)}; {result['codec']}, {result['dim']} to {result['code_dim']}; M {M}, "
        f"ef_construction {EF_CONSTRUCTION}, threads: {result['threads']}; encoded in {result['encode_seconds']:.1f} s"
    )
    sides = result["sides"]
    costs = Table(title=title, title_justify="left")
    for column in ("", *sides):
        costs.add_column(column, justify="right" if column else "left")
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
