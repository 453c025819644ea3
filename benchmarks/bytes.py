"""Measure recall per byte: every way to spend the same bytes on a vector, on the same data and queries.

    python benchmarks/bytes.py --data ../shared/data/debian-minilm --codecs runs/ --out docs/bytes/debian-minilm

Float queries against what codes decode to, exact search, single pass; then the engines themselves on the same vectors.
Codecs that are not in --codecs yet are trained there first, with Recipe.for_code, which takes most of the time: --parts
train does only that. The parts trellis, uniform, peers, qdrant and engines can be run one by one: figures of
the others are kept from the last run. Writes OUT.json (every figure, the machine, the versions), OUT.md (the tables)
and OUT.svg (recall against bytes).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from bytes_tables import RERANKED, Row, averaged, differences, picture, row_key, table
from embeddings import load, load_relevant
from vaecodec import Codec, Metric, fit_linear
from vaecodec.codes import Calibration
from vaecodec.codes.parallel import available_threads
from vaecodec.evaluation import exact_search, ndcg, recall, recall_among
from vaecodec.vectors import normalised

# Each budget, and the budgets that its codec was trained for: neighbours share a file.
TRELLIS = {24: (24, 32), 32: (24, 32), 48: (40,), 64: (48,), 96: (96,), 128: (96,), 192: (96,)}
# More latents than any of these budgets funds.
TRELLIS_DIM = 512
# Uniform codes by bytes, (latents, code): the first one is trained as well.
UNIFORM = {
    24: [(96, "int2"), (192, "binary")],
    32: [(128, "int2"), (256, "binary"), (64, "int4")],
    48: [(192, "int2"), (384, "binary"), (96, "int4")],
    64: [(256, "int2"), (128, "int4")],
    96: [(192, "int4"), (384, "int2"), (96, "int8")],
    128: [(256, "int4"), (128, "int8")],
    192: [(384, "int4"), (192, "int8")],
}
TRAINED_UNIFORM = tuple(budget for budget in UNIFORM if budget < 192)
K = 10


class Data:
    """Hold vectors of unit norm, queries, their exact neighbours and the documents that answer them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.train, self.base, self.queries = load(folder, "train", "base", "queries")
        self.relevant = load_relevant(folder)
        self.truth, _ = exact_search(self.base, self.queries, K, Metric.COSINE)
        self.recalls: dict[str, list[np.ndarray]] = {}

    def measure(self, part: str, system: str, size: float, ids: np.ndarray, **more: Any) -> Row:
        figures = recall(ids, self.truth, K)
        self.recalls.setdefault(row_key(part, system, size), []).append(figures)
        reranked = {
            str(factor): float(recall_among(ids[:, : K * factor], self.truth).mean())
            for factor in RERANKED
            if ids.shape[1] >= K * factor
        }
        row = Row(
            part,
            system,
            size,
            float(figures.mean()),
            float(ndcg(ids, self.relevant, K).mean()),
            reranked=reranked,
            **more,
        )
        print(f"{row.part:8} {row.bytes:6g} B  {row.recall:.4f} / {row.ndcg:.4f}  {system}", flush=True)
        return row

    def coded(
        self,
        part: str,
        system: str,
        encode: Callable[[], Any],
        decode: Callable[[Any], Any],
        queries: Any,
        kl_bits: float | None = None,
    ) -> Row:
        """Decode a code of the base and search it exactly with float queries."""
        started = time.perf_counter()
        codes = encode()
        encode_rate = len(codes) / (time.perf_counter() - started)
        started = time.perf_counter()
        ids, _ = exact_search(decode(codes), queries, K * max(RERANKED), Metric.COSINE)
        query_rate = len(queries) / (time.perf_counter() - started)
        size = codes.nbytes / len(codes)
        return self.measure(part, system, size, ids, encode_rate=encode_rate, query_rate=query_rate, kl_bits=kl_bits)


def trained(data: Data, folder: Path, dim: int, seed: int, **target: Any) -> Codec:
    """Return a codec of this benchmark; train it when its file is missing."""
    code = target.get("target") or "trellis" + "-".join(map(str, target["target_bytes"]))
    path = folder / f"{data.folder.name}-{code}-{dim}-{seed}.onnx"
    if not path.exists():
        from vaecodec.sources import ArraySource
        from vaecodec_exporters.checkpoint import export_checkpoint
        from vaecodec_training.data.collection import Collection
        from vaecodec_training.recipe import Recipe
        from vaecodec_training.trainer import train

        folder.mkdir(parents=True, exist_ok=True)
        documents, queries = (ArraySource(np.load(data.folder / f"train{part}.npy")) for part in ("", "_queries"))
        # In these folders as many queries as documents means that they belong together row for row.
        paired = documents.rows == queries.rows
        collection = Collection.open(documents, queries, pairs="aligned" if paired else None)
        recipe = Recipe.for_code(**target, paired=paired, dim=dim, seed=seed)
        started = time.perf_counter()
        train(collection, recipe, folder / path.stem)
        export_checkpoint(folder / path.stem, path)
        print(f"trained {path.name} in {time.perf_counter() - started:.0f} s", flush=True)
    return Codec.load(path)


def codecs(data: Data, folder: Path, seeds: int, budgets: tuple[int, ...]) -> Iterator[Row]:
    """Train what the other parts need, and measure nothing."""
    for seed in range(seeds):
        for targets in dict.fromkeys(TRELLIS[size] for size in budgets):
            trained(data, folder, min(data.base.shape[1], TRELLIS_DIM), seed, target_bytes=targets)
        for size in budgets:
            if size in TRAINED_UNIFORM:
                dim, dtype = UNIFORM[size][0]
                trained(data, folder, dim, seed, target=dtype)
    yield from ()


def trellis(data: Data, folder: Path, seeds: int, budgets: tuple[int, ...]) -> Iterator[Row]:
    """Measure our trellis codes, trained, and the same codes on the linear map that training starts from."""
    width = data.base.shape[1]
    linear = fit_linear(data.train, width)
    calibration = Calibration.fit(linear.encode(data.train), Metric.COSINE)
    queries = linear.encode_queries(data.queries)
    for size in budgets:
        code = calibration.code(bytes=size)
        encode = lambda c=code: c.encode(linear.encode(data.base))  # noqa: E731 - named for the reader
        yield data.coded("trellis", "SVD x trellis (untrained)", encode, code.decode, queries)
        for seed in range(seeds):
            codec = trained(data, folder, min(width, TRELLIS_DIM), seed, target_bytes=TRELLIS[size])
            yield _ours(data, codec, "trellis", "trellis", {"bytes": size})


def uniform(data: Data, folder: Path, seeds: int, budgets: tuple[int, ...]) -> Iterator[Row]:
    """Measure codes with the same number of bits for each dimension, on trained latents and on linear ones."""
    linear = fit_linear(data.train, data.base.shape[1])
    calibration = Calibration.fit(linear.encode(data.train), Metric.COSINE)
    for size in budgets:
        for number, (dim, dtype) in enumerate(UNIFORM[size]):
            narrow, code = linear.truncated(dim), calibration.prefix(dim).code(dtype=dtype)
            encode = lambda c=code, n=narrow: c.encode(n.encode(data.base))  # noqa: E731
            queries = narrow.encode_queries(data.queries)
            yield data.coded("uniform", f"SVD {dim} x {dtype}", encode, code.decode, queries)
            if number == 0 and size in TRAINED_UNIFORM:
                for seed in range(seeds):
                    codec = trained(data, folder, dim, seed, target=dtype)
                    yield _ours(data, codec, "uniform", f"uniform {dim} x {dtype}", {"dtype": dtype})


def _ours(data: Data, codec: Codec, part: str, system: str, parameters: dict[str, Any]) -> Row:
    code = codec.code(**parameters)
    rates = {rate["code_bits"]: rate["kl_bits"] for rate in codec.metadata.provenance["rates"]}
    encode = lambda: codec.encode(data.base, **parameters)  # noqa: E731
    kl_bits = rates.get(8.0 * code.bytes_per_vector)
    return data.coded(part, system, encode, code.decode, codec.encode_queries(data.queries), kl_bits)


def peers(data: Data, budgets: tuple[int, ...]) -> Iterator[Row]:
    """Measure other codes of these bytes: product quantisers, RaBitQ, TurboQuant's scheme, truncation."""
    width = data.base.shape[1]
    whole = Calibration.fit(data.train, Metric.COSINE)
    for dtype in ("binary", "int2", "int4"):
        code = whole.code(dtype=dtype)
        system = f"full vector x {dtype} (TurboQuant's scheme)"
        yield data.coded("peers", system, lambda c=code: c.encode(data.base), code.decode, data.queries)
    for bits in (1, 2, 4):
        yield _rabitq(data, f"RaBitQ, {bits} bits, full vector", bits, data.train, data.base, data.queries)
    linear = fit_linear(data.train, width)
    for size in budgets:
        dim = 8 * (size - _RABITQ_FACTORS)
        if dim < width:
            narrow = linear.truncated(dim)
            latents = narrow.encode(data.train), narrow.encode(data.base), narrow.encode_queries(data.queries)
            yield _rabitq(data, f"RaBitQ, 1 bit, SVD {dim}", 1, *latents)
        if size < width:
            cut = [normalised(rows[:, :size]) for rows in (data.train, data.base, data.queries)]
            code = Calibration.fit(cut[0], Metric.COSINE).code(dtype="int8")
            yield data.coded("peers", "truncation x int8", lambda c=code, b=cut[1]: c.encode(b), code.decode, cut[2])
        if width % size == 0:
            rows = data.train, data.base, data.queries
            quantiser = faiss.IndexPQ(width, size, 8, faiss.METRIC_INNER_PRODUCT)
            yield _faiss(data, f"PQ{size}", quantiser, size, *rows)
            matrix = faiss.OPQMatrix(width, size, width)
            # Its defaults take minutes for each size on one core.
            matrix.niter, matrix.max_train_points = 10, 16_384
            quantiser = faiss.IndexPQ(width, size, 8, faiss.METRIC_INNER_PRODUCT)
            yield _faiss(data, f"OPQ{size}", faiss.IndexPreTransform(matrix, quantiser), size, *rows)


# Bytes of two float32 that faiss keeps beside the bits of each vector.
_RABITQ_FACTORS = 8


def _rabitq(data: Data, system: str, bits: int, train: Any, base: Any, queries: Any) -> Row:
    dim = base.shape[1]
    quantiser: Any = faiss.IndexRaBitQ(dim, faiss.METRIC_INNER_PRODUCT, bits)
    # faiss leaves the random rotation that RaBitQ assumes to the caller.
    rotated = faiss.IndexPreTransform(faiss.RandomRotationMatrix(dim, dim), quantiser)
    return _faiss(data, system, rotated, quantiser.code_size, train, base, queries)


def _faiss(data: Data, system: str, index: Any, size: float, train: Any, base: Any, queries: Any) -> Row:
    index.train(train)
    started = time.perf_counter()
    index.add(base)
    encode_rate = len(base) / (time.perf_counter() - started)
    return _timed(data, "peers", system, size, encode_rate, lambda: index.search(queries, K * max(RERANKED))[1])


def qdrant(data: Data, folder: Path, seeds: int) -> Iterator[Row]:
    """Measure Qdrant in this process (HNSW, m 16, ef_construct 200, ef 128): its quantisers on full vectors and on
    latents.
    """
    import qdrant_edge as edge

    sizes = edge.TurboQuantBitSize
    turbo = {
        f"TurboQuant {bits} bit": edge.TurboQuantQuantizationConfig(bits=size)
        for bits, size in ((1, sizes.Bits1), (1.5, sizes.Bits1_5), (2, sizes.Bits2), (4, sizes.Bits4))
    }
    others = {
        "float32": None,
        "scalar int8": edge.ScalarQuantizationConfig(edge.ScalarType.Int8),
        "binary": edge.BinaryQuantizationConfig(),
    }
    quantisers = {**others, **turbo}
    for quantiser, config in quantisers.items():
        yield from _shard(edge, data, f"full vector, {quantiser}", data.base, data.queries, config)
    width = data.base.shape[1]
    for dim, dtype, quantiser in (
        (width // 2, "int2", "TurboQuant 2 bit"),
        (width // 2, "int4", "TurboQuant 4 bit"),
        (2 * width // 3, "int2", "TurboQuant 1.5 bit"),
        (width // 2, "int8", "scalar int8"),
        (width // 2, "binary", "binary"),
        (width // 2, "binary", "TurboQuant 1 bit"),
    ):
        narrow = fit_linear(data.train, dim)
        latents = narrow.encode(data.base), narrow.encode_queries(data.queries)
        yield from _shard(edge, data, f"SVD {dim}, {quantiser}", *latents, quantisers[quantiser])
        for seed in range(seeds):
            codec = trained(data, folder, dim, seed, target=dtype)
            latents = codec.encode(data.base), codec.encode_queries(data.queries)
            yield from _shard(edge, data, f"ours {dim} for {dtype}, {quantiser}", *latents, quantisers[quantiser])


def _shard(edge: Any, data: Data, system: str, rows: np.ndarray, queries: np.ndarray, config: Any) -> list[Row]:
    """Search one shard with and without re-scoring 30 candidates by the vectors that it was given.

    The bytes are those of the file that is searched.
    """
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
        answers = {}
        for rescore in (False, True) if config is not None else (False,):
            quantization = None
            if config is not None:
                quantization = edge.QuantizationSearchParams(rescore=rescore, oversampling=3.0 if rescore else None)
            search = edge.SearchParams(hnsw_ef=128, quantization=quantization)
            requests = [
                edge.QueryRequest(limit=K, query=edge.Query.Nearest(query), params=search) for query in queries.tolist()
            ]
            started = time.perf_counter()
            found = shard.query_batch(edge.QueryBatchRequest(requests))
            rate = len(queries) / (time.perf_counter() - started)
            ids = np.full((len(queries), K), -1)
            for row, points in enumerate(found):
                ids[row, : len(points)] = [point.id for point in points]
            answers[system + (", re-scored" if rescore else "")] = ids, rate
        shard.close()
        files = [path.stat() for path in Path(folder).rglob("*") if path.is_file()]
        searched = "quantized.data" if config is not None else "matrix.dat"
        size = max(path.stat().st_size for path in Path(folder).rglob(searched)) / len(rows)
        disk = sum(file.st_blocks * 512 for file in files) / len(rows)
    return [
        data.measure("qdrant", name, round(size), ids, encode_rate=encode_rate, query_rate=rate, disk_bytes=disk)
        for name, (ids, rate) in answers.items()
    ]


def engines(data: Data, folder: Path) -> Iterator[Row]:
    """Measure hnswlib, usearch and faiss on full vectors and on latents trained for 2 bits (seed 0)."""
    import hnswlib
    from usearch.index import Index

    half = data.base.shape[1] // 2
    codec = trained(data, folder, half, 0, target="int2")
    latents, asked = codec.encode(data.base), codec.encode_queries(data.queries)
    vectors = {"full vector": (data.base, data.queries), f"ours {half}": (latents, asked)}
    for name, (rows, queries) in vectors.items():
        dim = rows.shape[1]
        graph = hnswlib.Index("ip", dim)
        graph.init_index(len(rows), M=16, ef_construction=200)
        graph.set_ef(128)
        rate = _adding(rows, lambda g=graph, r=rows: g.add_items(r))
        yield _timed(
            data, "engines", f"{name}, hnswlib", dim * 4, rate, lambda g=graph, q=queries: g.knn_query(q, K)[0]
        )
        for dtype, size in (("f32", 4), ("f16", 2), ("i8", 1)):
            index = Index(ndim=dim, metric="cos", dtype=dtype, connectivity=16, expansion_add=200, expansion_search=128)
            rate = _adding(rows, lambda i=index, r=rows: i.add(np.arange(len(r)), r))
            search = lambda i=index, q=queries: i.search(q, K).keys.astype(np.int64)  # noqa: E731
            yield _timed(data, "engines", f"{name}, usearch {dtype}", dim * size, rate, search)
        bits4: Any = faiss.ScalarQuantizer.QT_4bit
        engines: list[tuple[str, float, Any]] = [
            ("SQ8", 1, faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)),
            ("SQ4", 0.5, faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_4bit, faiss.METRIC_INNER_PRODUCT)),
            ("HNSW-SQ4", 0.5, faiss.IndexHNSWSQ(dim, bits4, 16, faiss.METRIC_INNER_PRODUCT)),
        ]
        for system, share, engine in engines:
            engine.train(rows)
            if system.startswith("HNSW"):
                engine.hnsw.efConstruction, engine.hnsw.efSearch = 200, 128
            rate = _adding(rows, lambda i=engine, r=rows: i.add(r))
            search = lambda i=engine, q=queries: i.search(q, K)[1]  # noqa: E731
            yield _timed(data, "engines", f"{name}, faiss {system}", dim * share, rate, search)
    index = Index(ndim=half, metric="hamming", dtype="b1", connectivity=16, expansion_add=200, expansion_search=128)
    codes = codec.encode(data.base, dtype="binary")
    rate = _adding(codes, lambda: index.add(np.arange(len(codes)), codes))
    binary = codec.code(dtype="binary").encode(asked)
    yield _timed(
        data,
        "engines",
        f"ours {half}, usearch b1 (Hamming)",
        codes.shape[1],
        rate,
        lambda: index.search(binary, K).keys.astype(np.int64),
    )


def _adding(rows: np.ndarray, add: Callable[[], Any]) -> float:
    started = time.perf_counter()
    add()
    return len(rows) / (time.perf_counter() - started)


def _timed(
    data: Data, part: str, system: str, size: float, encode_rate: float, search: Callable[[], np.ndarray]
) -> Row:
    started = time.perf_counter()
    ids = search()
    query_rate = len(data.queries) / (time.perf_counter() - started)
    return data.measure(part, system, size, ids, encode_rate=encode_rate, query_rate=query_rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--codecs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="*", default=list(TRELLIS))
    parser.add_argument("--parts", nargs="*", default=["trellis", "uniform", "peers", "qdrant", "engines"])
    parser.add_argument("--draw", action="store_true", help="draw the results that are there, and measure nothing")
    arguments = parser.parse_args()
    if arguments.draw:
        known_rows = json.loads(arguments.out.with_suffix(".json").read_text())["rows"]
        picture([Row(**row) for row in known_rows], arguments.out.with_suffix(".svg"), ticks=TRELLIS)
        return
    data, budgets, folder, seeds = (
        Data(arguments.data),
        tuple(arguments.budgets),
        arguments.codecs,
        arguments.seeds,
    )
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "train": lambda: codecs(data, folder, seeds, budgets),
        "trellis": lambda: trellis(data, folder, seeds, budgets),
        "uniform": lambda: uniform(data, folder, seeds, budgets),
        "peers": lambda: peers(data, budgets),
        "qdrant": lambda: qdrant(data, folder, seeds),
        "engines": lambda: engines(data, folder),
    }
    rows = averaged([row for part in arguments.parts for row in parts[part]()])
    if not rows:
        return
    output, recalls = arguments.out.with_suffix(".json"), folder / f"{arguments.data.name}-recalls.npz"
    known: dict[str, Any] = {}
    if output.exists() and recalls.exists():
        rows += [Row(**row) for row in json.loads(output.read_text())["rows"] if row["part"] not in arguments.parts]
        with np.load(recalls) as stored:
            known = {name: stored[name] for name in stored if name.split("|")[0] not in arguments.parts}
    known |= {name: np.mean(figures, axis=0) for name, figures in data.recalls.items()}
    np.savez_compressed(recalls, **known)
    gains = differences(known)
    libraries = ("numpy", "onnxruntime", "torch", "faiss-cpu", "usearch", "hnswlib", "qdrant-edge-py")
    machine = {
        "processor": _processor(),
        "threads": available_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
        "versions": {name: version(name) for name in libraries},
    }
    content = {"data": arguments.data.name, "machine": machine, "rows": [asdict(row) for row in rows], "gains": gains}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(table(rows, gains))
    picture(rows, arguments.out.with_suffix(".svg"), ticks=tuple(TRELLIS))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
