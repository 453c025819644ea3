"""Recall per byte: every way to spend the same bytes on a vector, on the same data and queries, in one run.

    python benchmarks/bytes.py --data ../shared/data/debian-minilm --codecs runs/ --seeds 3 --out docs/bytes-debian

Float queries against what codes decode to, exact search, single pass; then the engines themselves on the same vectors.
Codecs that are not in --codecs yet are trained there first, one per code and seed, with the recipes below. Writes
OUT.json (every figure, the machine, the versions), OUT.md (the tables) and OUT.png (recall against bytes). With --parts
only some of it: ours, peers, qdrant, engines.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from vaecodec import Codec, Metric, fit_linear
from vaecodec.codes import Calibration
from vaecodec.codes.parallel import available_threads
from vaecodec.evaluation import exact_search, ndcg, paired_bootstrap, recall

BUDGETS = (24, 32, 48, 64, 96, 128, 192)
# Uniform codes by bytes: (latents, code). Several per budget: the best one is what the table is about.
UNIFORM = {
    24: [(96, "int2"), (192, "binary"), (48, "int4")],
    32: [(128, "int2"), (256, "binary"), (64, "int4")],
    48: [(192, "int2"), (384, "binary"), (96, "int4")],
    64: [(256, "int2"), (128, "int4")],
    96: [(384, "int2"), (192, "int4"), (96, "int8")],
    128: [(256, "int4"), (128, "int8")],
    192: [(384, "int4"), (192, "int8")],
}
# The budgets that the codec of each budget was trained for: neighbours share a file.
TRAINED_FOR = {24: (24, 32), 32: (24, 32), 48: (48,), 64: (48,), 96: (96,), 128: (96,), 192: (96,)}
# Chosen on held-out training rows of debian-minilm; docs/codes.md shows what was tried.
RECIPE: dict[str, Any] = {
    "hidden": 0,
    "kl": 0.0,
    "reconstruction": 0.0,
    "learning_rate": 2e-3,
    "batch": 512,
    "epochs": 8.0,
    "checkpoints": 3,
}
# Where it is known which query belongs to which document.
PAIRED = {"contrastive": 0.01}
K = 10


@dataclass(frozen=True)
class Row:
    """One system at one size. Rates are per second on this machine; None where not measured."""

    part: str
    system: str
    bytes: float
    recall: float
    ndcg: float
    encode_rate: float | None = None
    query_rate: float | None = None
    disk_bytes: float | None = None
    seeds: int = 1
    spread: float = 0.0


class Data:
    """Vectors of unit norm, queries, their exact neighbours and the documents that answer them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.train, self.base, self.queries = (_unit(folder / f"{name}.npy") for name in ("train", "base", "queries"))
        if (folder / "relevant.npy").exists():
            self.relevant: Any = np.load(folder / "relevant.npy")
        else:
            self.relevant = json.loads((folder / "relevant.json").read_text())
        self.truth, _ = exact_search(self.base, self.queries, K, Metric.COSINE)
        self.recalls: dict[str, np.ndarray] = {}

    def measure(self, part: str, system: str, size: float, ids: np.ndarray, **more: Any) -> Row:
        figures = recall(ids, self.truth, K)
        self.recalls[f"{system} @ {size:g}"] = figures
        row = Row(part, system, size, float(figures.mean()), float(ndcg(ids, self.relevant, K).mean()), **more)
        print(f"{row.part:8} {row.bytes:6g} B  {row.recall:.4f} / {row.ndcg:.4f}  {system}", flush=True)
        return row

    def coded(
        self, part: str, system: str, encode: Callable[[], Any], decode: Callable[[Any], Any], queries: Any
    ) -> Row:
        """A code of the base, decoded and searched exactly by float queries."""
        started = time.perf_counter()
        codes = encode()
        rate = len(codes) / (time.perf_counter() - started)
        ids, _ = exact_search(decode(codes), queries, K, Metric.COSINE)
        return self.measure(part, system, codes.nbytes / len(codes), ids, encode_rate=rate)


def trained(data: Data, folder: Path, dim: int, seed: int, **target: Any) -> Codec:
    """A codec of this benchmark, trained when its file is not there."""
    code = target.get("target") or "trellis" + "-".join(map(str, target["target_bytes"]))
    path = folder / f"{data.folder.name}-{code}-{dim}-{seed}.onnx"
    if not path.exists():
        from vaecodec.sources import ArraySource
        from vaecodec_exporters.checkpoint import export_checkpoint
        from vaecodec_training.collection import Collection
        from vaecodec_training.recipe import Recipe
        from vaecodec_training.trainer import train

        folder.mkdir(parents=True, exist_ok=True)
        documents, queries = (ArraySource(np.load(data.folder / f"train{part}.npy")) for part in ("", "_queries"))
        # In these folders as many queries as documents means that they belong together row for row.
        paired = documents.rows == queries.rows
        collection = Collection.open(documents, queries, pairs="aligned" if paired else None)
        recipe = Recipe(**RECIPE, **(PAIRED if paired else {}), **target, dim=dim, seed=seed)
        train(collection, recipe, folder / path.stem)
        export_checkpoint(folder / path.stem, path)
    return Codec.load(path)


def ours(data: Data, folder: Path, seeds: int, budgets: tuple[int, ...]) -> Iterator[Row]:
    """Our codes, trained, mean over seeds, and the same codes on the linear map that training starts from."""
    width = data.base.shape[1]
    linear = fit_linear(data.train, width)
    calibration = Calibration.fit(linear.encode(data.train), Metric.COSINE)
    base, queries = linear.encode(data.base), linear.encode_queries(data.queries)
    for size in budgets:
        code = calibration.code(bytes=size)
        yield data.coded("ours", "SVD x trellis (untrained)", lambda c=code: c.encode(base), code.decode, queries)
        rows = []
        for seed in range(seeds):
            codec = trained(data, folder, f"trellis{size}", width, seed, target_bytes=(size,))
            rows.append(_ours(data, codec, f"trellis, seed {seed}", {"bytes": size}))
        yield _mean("trellis", rows)
        uniform = []
        for dim, dtype in UNIFORM[size]:
            if dim > width:
                continue
            narrow = linear.truncated(dim)
            code = calibration.prefix(dim).code(dtype=dtype)
            yield data.coded(
                "ours",
                f"SVD {dim} x {dtype}",
                lambda c=code, n=narrow: c.encode(n.encode(data.base)),
                code.decode,
                narrow.encode_queries(data.queries),
            )
            if dtype in ("int2", "int4"):
                rows = []
                for seed in range(seeds):
                    codec = trained(data, folder, dtype, dim, seed, target=dtype)
                    rows.append(_ours(data, codec, f"uniform {dim} x {dtype}, seed {seed}", {"dtype": dtype}))
                uniform.append(_mean(f"uniform {dim} x {dtype}", rows))
        yield from uniform


def _ours(data: Data, codec: Codec, system: str, code: dict[str, Any]) -> Row:
    reader = codec.code(**code)
    encode = lambda: codec.encode(data.base, **code)  # noqa: E731 - named for the reader
    return data.coded("ours", system, encode, reader.decode, codec.encode_queries(data.queries))


def _mean(system: str, rows: list[Row]) -> Row:
    recalls = [row.recall for row in rows]
    return Row(
        "ours",
        system,
        rows[0].bytes,
        float(np.mean(recalls)),
        float(np.mean([row.ndcg for row in rows])),
        float(np.mean([row.encode_rate or 0 for row in rows])),
        seeds=len(rows),
        spread=max(recalls) - min(recalls),
    )


def peers(data: Data, budgets: tuple[int, ...]) -> Iterator[Row]:
    """What else a user can get at these bytes: product quantisers, RaBitQ, TurboQuant's scheme, truncation."""
    width = data.base.shape[1]
    whole = Calibration.fit(data.train, Metric.COSINE)
    for dtype in ("binary", "int2", "int4"):
        code = whole.code(dtype=dtype)
        system = f"full vector x {dtype} (TurboQuant's scheme)"
        yield data.coded("peers", system, lambda c=code: c.encode(data.base), code.decode, data.queries)
    for bits in (1, 2, 4):
        index = faiss.IndexRaBitQ(width, faiss.METRIC_INNER_PRODUCT, bits)
        yield _faiss(data, f"RaBitQ {bits} bits", index, index.code_size)
    for size in budgets:
        if size % 4 == 0 and size < width:
            yield data.coded(
                "peers",
                "truncation x int8",
                lambda s=size: (
                    Calibration.fit(_scaled(data.train[:, :s]), Metric.COSINE)
                    .code(dtype="int8")
                    .encode(_scaled(data.base[:, :s]))
                ),
                lambda codes: _scaled(codes.astype(np.float32)),
                _scaled(data.queries[:, :size]),
            )
        if width % size == 0:
            for name in (f"PQ{size}x8", f"OPQ{size},PQ{size}x8"):
                index = faiss.index_factory(width, name, faiss.METRIC_INNER_PRODUCT)
                yield _faiss(data, name.split(",")[0].rstrip("x8") if "," in name else f"PQ{size}", index, size)


def _faiss(data: Data, system: str, index: Any, size: float, part: str = "peers") -> Row:
    index.train(data.train)
    started = time.perf_counter()
    index.add(data.base)
    encode_rate = len(data.base) / (time.perf_counter() - started)
    started = time.perf_counter()
    _, ids = index.search(data.queries, K)
    query_rate = len(data.queries) / (time.perf_counter() - started)
    return data.measure(part, system, size, ids, encode_rate=encode_rate, query_rate=query_rate)


def qdrant(data: Data, folder: Path, seeds: int) -> Iterator[Row]:
    """Qdrant in this process (HNSW, m 16, ef_construct 200, ef 128): its quantisers on full vectors and on latents."""
    import qdrant_edge as edge

    bits = edge.TurboQuantBitSize
    turbo = edge.TurboQuantQuantizationConfig
    width = data.base.shape[1]
    configs = {
        "float32": (None, 32.0),
        "scalar int8": (edge.ScalarQuantizationConfig(edge.ScalarType.Int8), 8.0),
        "binary": (edge.BinaryQuantizationConfig(), 1.0),
        "TurboQuant 1 bit": (turbo(bits=bits.Bits1), 1.0),
        "TurboQuant 2 bits": (turbo(bits=bits.Bits2), 2.0),
        "TurboQuant 4 bits": (turbo(bits=bits.Bits4), 4.0),
    }
    vectors = {"full vector": (data.base, data.queries)}
    linear = fit_linear(data.train, width)
    for dim, dtype in ((width // 2, "int2"), (width // 4, "int4"), (width // 2, "int4")):
        narrow = linear.truncated(dim)
        vectors[f"SVD {dim}"] = (narrow.encode(data.base), narrow.encode_queries(data.queries))
        for seed in range(seeds):
            codec = trained(data, folder, dtype, dim, seed, target=dtype)
            name = f"ours {dim} for {dtype}, seed {seed}"
            vectors[name] = (codec.encode(data.base), codec.encode_queries(data.queries))
    for name, (rows, queries) in vectors.items():
        for quantiser, (config, per_dimension) in configs.items():
            if name != "full vector" and quantiser in ("scalar int8", "binary"):
                continue
            yield from _shard(edge, data, f"{name}, {quantiser}", rows, queries, config, per_dimension)


def _shard(
    edge: Any, data: Data, system: str, rows: np.ndarray, queries: np.ndarray, config: Any, bits: float
) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        parameters = edge.EdgeVectorParams(
            size=rows.shape[1],
            distance=edge.Distance.Cosine,
            hnsw_config=edge.HnswIndexConfig(m=16, ef_construct=200, full_scan_threshold=1),
            quantization_config=config,
        )
        optimizers = edge.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1)
        shard = edge.EdgeShard.create(
            folder, edge.EdgeConfig(vectors=parameters, optimizers=optimizers, wal_enabled=False)
        )
        started = time.perf_counter()
        for start in range(0, len(rows), 1000):
            points = [edge.Point(start + i, row, {}) for i, row in enumerate(rows[start : start + 1000].tolist())]
            shard.update(edge.UpdateOperation.upsert_points(points))
        shard.optimize()
        shard.flush()
        encode_rate = len(rows) / (time.perf_counter() - started)
        disk = sum(path.stat().st_blocks * 512 for path in Path(folder).rglob("*") if path.is_file()) / len(rows)
        for rescore in (False, True) if config is not None else (False,):
            quantization = edge.QuantizationSearchParams(rescore=rescore) if config is not None else None
            search = edge.SearchParams(hnsw_ef=128, quantization=quantization)
            requests = [
                edge.QueryRequest(limit=K, query=edge.Query.Nearest(query), params=search) for query in queries.tolist()
            ]
            started = time.perf_counter()
            answers = shard.query_batch(edge.QueryBatchRequest(requests))
            query_rate = len(queries) / (time.perf_counter() - started)
            ids = np.full((len(queries), K), -1)
            for row, points in enumerate(answers):
                ids[row, : len(points)] = [point.id for point in points]
            yield data.measure(
                "qdrant",
                system + (", re-scored" if rescore else ""),
                rows.shape[1] * bits / 8,
                ids,
                encode_rate=encode_rate,
                query_rate=query_rate,
                disk_bytes=disk,
            )
        shard.close()


def engines(data: Data, folder: Path) -> Iterator[Row]:
    """hnswlib, usearch and faiss HNSW on full vectors, and on latents trained for 2 and 4 bits (seed 0)."""
    import hnswlib
    from usearch.index import Index

    width = data.base.shape[1]
    codec = trained(data, folder, "int2", width // 2, 0, target="int2")
    latents, asked = codec.encode(data.base), codec.encode_queries(data.queries)
    for name, rows, queries in (("full vector", data.base, data.queries), (f"ours {width // 2}", latents, asked)):
        graph = hnswlib.Index("ip", rows.shape[1])
        graph.init_index(len(rows), M=16, ef_construction=200)
        started = time.perf_counter()
        graph.add_items(rows)
        rate = len(rows) / (time.perf_counter() - started)
        graph.set_ef(128)
        yield _timed(data, f"{name}, hnswlib", rows.shape[1] * 4, rate, lambda g=graph, q=queries: g.knn_query(q, K)[0])
        for dtype, size in (("f32", 4), ("f16", 2), ("i8", 1)):
            index = Index(
                ndim=rows.shape[1], metric="cos", dtype=dtype, connectivity=16, expansion_add=200, expansion_search=128
            )
            started = time.perf_counter()
            index.add(np.arange(len(rows)), rows)
            rate = len(rows) / (time.perf_counter() - started)
            search = lambda i=index, q=queries: i.search(q, K).keys.astype(np.int64)  # noqa: E731
            yield _timed(data, f"{name}, usearch {dtype}", rows.shape[1] * size, rate, search)
        index = faiss.IndexHNSWSQ(rows.shape[1], faiss.ScalarQuantizer.QT_4bit, 16, faiss.METRIC_INNER_PRODUCT)
        index.train(rows)
        index.hnsw.efSearch = 128
        started = time.perf_counter()
        index.add(rows)
        rate = len(rows) / (time.perf_counter() - started)
        yield _timed(
            data, f"{name}, faiss HNSW-SQ4", rows.shape[1] / 2, rate, lambda i=index, q=queries: i.search(q, K)[1]
        )
    index = Index(ndim=width // 2, metric="hamming", dtype="b1", connectivity=16, expansion_search=128)
    started = time.perf_counter()
    index.add(np.arange(len(data.base)), codec.encode(data.base, dtype="binary"))
    rate = len(data.base) / (time.perf_counter() - started)
    binary = codec.code(dtype="binary").encode(asked)
    search = lambda: index.search(binary, K).keys.astype(np.int64)  # noqa: E731
    yield _timed(data, f"ours {width // 2}, usearch b1 (Hamming)", width / 16, rate, search)


def _timed(data: Data, system: str, size: float, encode_rate: float, search: Callable[[], np.ndarray]) -> Row:
    started = time.perf_counter()
    ids = search()
    query_rate = len(data.queries) / (time.perf_counter() - started)
    return data.measure("engines", system, size, ids, encode_rate=encode_rate, query_rate=query_rate)


def differences(data: Data, rows: list[Row]) -> list[dict[str, Any]]:
    """The trellis code, seed 0, less each other system of its size: mean and 95 % interval over queries."""
    found = []
    for size in sorted({row.bytes for row in rows}):
        own = data.recalls.get(f"trellis, seed 0 @ {size:g}")
        for name, figures in data.recalls.items():
            system, _, bytes_ = name.rpartition(" @ ")
            if own is not None and float(bytes_) == size and not system.startswith("trellis"):
                found.append({"bytes": size, "over": system, **paired_bootstrap(own, figures)._asdict()})
    return found


def table(rows: list[Row], gains: list[dict[str, Any]]) -> str:
    lines = ["| bytes | part | system | recall@10 | nDCG@10 | encode/s | queries/s | disk bytes |", "|" + "---|" * 8]
    for row in sorted(rows, key=lambda row: (row.part, row.bytes, -row.recall)):
        optional = [f"{value:,.0f}" if value else "" for value in (row.encode_rate, row.query_rate, row.disk_bytes)]
        seeds = f" ({row.seeds} seeds, range {row.spread:.3f})" if row.seeds > 1 else ""
        lines.append(
            f"| {row.bytes:g} | {row.part} | {row.system}{seeds} | {row.recall:.3f} | {row.ndcg:.3f} | "
            + " | ".join(optional)
            + " |"
        )
    lines += ["", "| bytes | trellis (seed 0) over | recall@10 | 95 % interval |", "|---|---|---|---|"]
    lines += [
        f"| {g['bytes']:g} | {g['over']} | {g['mean']:+.4f} | {g['low']:+.4f} to {g['high']:+.4f} |" for g in gains
    ]
    return "\n".join(lines) + "\n"


def picture(rows: list[Row], path: Path) -> None:
    """Recall against bytes of everything searched exactly; the Pareto front is drawn through."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    shown = [row for row in rows if row.part in ("ours", "peers")]
    families = {"trellis": "ours, trellis", "uniform": "ours, uniform", "SVD x": "SVD x trellis", "SVD": "SVD x bits"}
    for prefix, label in [
        *families.items(),
        ("OPQ", "OPQ"),
        ("PQ", "PQ"),
        ("RaBitQ", "RaBitQ"),
        ("full", "TurboQuant"),
    ]:
        own = sorted((r.bytes, r.recall) for r in shown if r.system.startswith(prefix))
        shown = [row for row in shown if not row.system.startswith(prefix)]
        if own:
            axes.plot(*zip(*own, strict=True), "o", label=label)
    front, best = [], 0.0
    for row in sorted((r for r in rows if r.part in ("ours", "peers")), key=lambda r: (r.bytes, -r.recall)):
        if row.recall > best:
            best = row.recall
            front.append((row.bytes, row.recall))
    axes.plot(*zip(*front, strict=True), "-", color="grey", zorder=0, label="Pareto front")
    axes.set(xlabel="bytes per vector", ylabel="recall@10, single pass", xscale="log")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--codecs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="*", default=BUDGETS)
    parser.add_argument("--parts", nargs="*", default=["ours", "peers", "qdrant", "engines"])
    arguments = parser.parse_args()
    data, budgets = Data(arguments.data), tuple(arguments.budgets)
    parts = {
        "ours": lambda: ours(data, arguments.codecs, arguments.seeds, budgets),
        "peers": lambda: peers(data, budgets),
        "qdrant": lambda: qdrant(data, arguments.codecs, arguments.seeds),
        "engines": lambda: engines(data, arguments.codecs),
    }
    rows = [row for part in arguments.parts for row in parts[part]()]
    gains = differences(data, rows)
    libraries = ("numpy", "onnxruntime", "torch", "faiss-cpu", "usearch", "hnswlib", "qdrant-edge-py")
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": available_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
        "versions": {name: version(name) for name in libraries},
    }
    content = {"data": arguments.data.name, "machine": machine, "rows": [asdict(row) for row in rows], "gains": gains}
    arguments.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(table(rows, gains))
    picture(rows, arguments.out.with_suffix(".png"))


def _unit(path: Path) -> np.ndarray:
    return _scaled(np.load(path).astype(np.float32))


def _scaled(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


if __name__ == "__main__":
    main()
