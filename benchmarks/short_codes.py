"""Recall of the shortest codes: ours against every quantiser of its kind, on the same data and queries.

    python benchmarks/short_codes.py --data DIR --kept runs/ --out docs/bytes/NAME-short

Float queries against what codes decode to, by exact search; recall@10 against the exact neighbours. Ours are untrained,
on all principal axes: what `vaecodec fit` writes where nothing is learned. Writes OUT.json and OUT.md after every row,
and goes on from there when it was stopped; the recall of each query is kept in the folder --kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from embeddings import load, load_relevant
from vaecodec import Metric, fit_linear
from vaecodec.codes import Calibration
from vaecodec.evaluation import exact_search, ndcg, paired_bootstrap, recall
from vaecodec.vectors import normalised

SIZES = (8, 16, 24, 32, 48, 64, 96)
K = 10
OURS = "stages and trellis"
# Rows that the peers' slow searches for centroids see, evenly spaced, and their iterations. More gain little here.
PEER_ROWS = 16_384
PEER_ITERATIONS = 10
# Larger ones take hours on one core.
LARGEST = {"LocalSearchQuantizer": 8, "ResidualQuantizer": 32}
# faiss keeps two float32 beside the bits of each vector.
FACTORS = 8


@dataclass(frozen=True)
class Row:
    """One system at one size. Rates are per second on one thread, of a machine that may have been busy."""

    system: str
    bytes: int
    recall: float
    ndcg: float
    fit_seconds: float
    encode_rate: float


class Data:
    """Vectors of unit norm, their exact neighbours and the documents that answer the queries."""

    def __init__(self, folder: Path) -> None:
        self.train, self.asked, self.base, self.queries = load(folder, "train", "train_queries", "base", "queries")
        self.relevant = load_relevant(folder)
        self.truth, _ = exact_search(self.base, self.queries, K, Metric.COSINE)
        self.some = self.train[np.linspace(0, len(self.train) - 1, PEER_ROWS).astype(int)]
        self.linear = fit_linear(self.train, self.train.shape[1])

    @property
    def width(self) -> int:
        return self.train.shape[1]


# A system at a size fits, and returns how to encode the base, and how to find the queries' neighbours among codes.
Fitted = tuple[Callable[[], np.ndarray], Callable[[np.ndarray], np.ndarray]]
System = Callable[[Data, int], Fitted]


def by_decoding(decode: Callable[[np.ndarray], np.ndarray], queries: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda codes: exact_search(normalised(decode(codes)), queries, K, Metric.COSINE)[0]


class Ours:
    """Ours with stages before the trellis, and without."""

    def __init__(self, staged: bool) -> None:
        self._staged = staged
        self._calibration: Calibration | None = None

    def __call__(self, data: Data, size: int) -> Fitted:
        if self._calibration is None:
            latents = data.linear.encode(data.train)
            self._calibration = Calibration.fit(latents, Metric.COSINE)
            if self._staged:
                asked = data.linear.encode_queries(data.asked)
                self._calibration = self._calibration.with_residual(latents, asked)
        code = self._calibration.code(bytes=size)
        return (
            lambda: code.encode(data.linear.encode(data.base), threads=1),
            by_decoding(code.decode, data.linear.encode_queries(data.queries)),
        )


def additive(name: str) -> System:
    """One of faiss's additive quantisers, with 8 bits for each of its codebooks."""

    def fit(data: Data, size: int) -> Fitted:
        if name.startswith("Product"):
            quantiser = getattr(faiss, name)(data.width, size // 8, 8, 8)
            parts = [faiss.downcast_AdditiveQuantizer(quantiser.subquantizer(i)) for i in range(size // 8)]
        else:
            quantiser = getattr(faiss, name)(data.width, size, 8)
            parts = [quantiser]
        for part in parts:
            if "Residual" in name:
                part.cp.niter, part.max_beam_size = PEER_ITERATIONS, 1
        quantiser.train(data.some)
        for part in parts:
            if "Residual" in name:
                part.max_beam_size = 5
        return lambda: quantiser.compute_codes(data.base), by_decoding(quantiser.decode, data.queries)

    return fit


def product(rotated: bool) -> System:
    """Product quantisation, with a learned rotation before it or not."""

    def fit(data: Data, size: int) -> Fitted:
        quantiser = faiss.IndexPQ(data.width, size, 8, faiss.METRIC_INNER_PRODUCT)
        index: Any = quantiser
        if rotated:
            matrix = faiss.OPQMatrix(data.width, size, data.width)
            matrix.niter, matrix.max_train_points = PEER_ITERATIONS, PEER_ROWS
            index = faiss.IndexPreTransform(matrix, quantiser)
        index.train(data.train)
        return lambda: index.sa_encode(data.base), by_decoding(index.sa_decode, data.queries)

    return fit


def scaled_bits(kind: str, bits: int) -> System:
    """RaBitQ or EDEN with some bits for as many principal axes as the size leaves room for, by their own estimates."""

    def fit(data: Data, size: int) -> Fitted:
        dim = 8 * (size - FACTORS) // bits
        narrow = data.linear.truncated(dim)
        quantiser = getattr(faiss, f"Index{kind}")(dim, faiss.METRIC_INNER_PRODUCT, bits)
        index = faiss.IndexPreTransform(faiss.RandomRotationMatrix(dim, dim), quantiser)
        index.train(narrow.encode(data.train))

        def find(codes: np.ndarray) -> np.ndarray:
            quantiser.add_sa_codes(codes)
            index.ntotal = quantiser.ntotal
            return index.search(narrow.encode_queries(data.queries), K)[1]

        return lambda: index.sa_encode(narrow.encode(data.base)), find

    return fit


def sentence_transformers(precision: str) -> System:
    """What its users call: the first dimensions, in one byte or one bit each, the ranges fitted on documents."""
    from sentence_transformers.util.quantization import quantize_embeddings

    def fit(data: Data, size: int) -> Fitted:
        width = size if precision == "int8" else 8 * size
        train, base, queries = (normalised(rows[:, :width]) for rows in (data.train, data.base, data.queries))
        if precision == "ubinary":
            signs = by_decoding(lambda codes: 2 * np.unpackbits(codes, axis=1).astype(np.float32) - 1, queries)
            return lambda: quantize_embeddings(base, "ubinary"), signs
        ranges = np.stack([train.min(axis=0), train.max(axis=0)])
        steps = (ranges[1] - ranges[0]) / 255
        return (
            lambda: quantize_embeddings(base, "int8", ranges=ranges),
            by_decoding(lambda codes: (codes.astype(np.float32) + 128) * steps + ranges[0], queries),
        )

    return fit


def systems(data: Data, size: int) -> Iterator[tuple[str, System]]:
    """What there is at a size, the quick ones first."""
    yield OURS, _OURS
    yield "trellis alone", _ALONE
    if data.width % size == 0:
        yield "PQ", product(rotated=False)
    for kind, bits in (("RaBitQ", 1), ("EDEN", 1), ("EDEN", 2)):
        if 0 < 8 * (size - FACTORS) // bits <= data.width:
            yield f"{kind}, {bits} bit{'s' * (bits > 1)}", scaled_bits(kind, bits)
    yield "truncation, sentence-transformers int8", sentence_transformers("int8")
    if 8 * size <= data.width:
        yield "truncation, sentence-transformers ubinary", sentence_transformers("ubinary")
    if data.width % size == 0:
        yield "OPQ", product(rotated=True)
    for name in ("ResidualQuantizer", "LocalSearchQuantizer"):
        if size <= LARGEST[name]:
            yield name, additive(name)
        elif data.width % (size // 8) == 0:
            yield f"Product{name}", additive(f"Product{name}")


_OURS, _ALONE = Ours(staged=True), Ours(staged=False)


def measured(data: Data, system: str, size: int, make: System) -> tuple[Row, np.ndarray]:
    started = time.perf_counter()
    encode, find = make(data, size)
    fitted = time.perf_counter()
    codes = encode()
    rate = len(codes) / (time.perf_counter() - fitted)
    ids = find(codes)
    figures = recall(ids, data.truth, K)
    found = float(ndcg(ids, data.relevant, K).mean())
    return Row(system, codes.shape[1], float(figures.mean()), found, fitted - started, rate), figures


def table(rows: list[Row], gains: dict[str, dict[str, float]]) -> str:
    """For each size every system, the best first, and by how much ours finds more."""
    lines = [
        "| bytes | system | recall@10 | nDCG@10 | ours more, 95 % interval | fit, s | encoded/s |",
        "|" + "---|" * 7,
    ]
    for row in sorted(rows, key=lambda row: (row.bytes, -row.recall)):
        gain = gains.get(f"{row.system}|{row.bytes}")
        more = f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]" if gain else ""
        lines.append(
            f"| {row.bytes} | {row.system} | {row.recall:.3f} | {row.ndcg:.3f} | {more} | {row.fit_seconds:,.0f} | "
            f"{row.encode_rate:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kept", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--systems", nargs="*", help="only these")
    arguments = parser.parse_args()
    data = Data(arguments.data)
    output, recalls = arguments.out.with_suffix(".json"), arguments.kept / f"{arguments.out.name}.npz"
    rows = [Row(**row) for row in json.loads(output.read_text())["rows"]] if output.exists() else []
    known = dict(np.load(recalls)) if recalls.exists() else {}
    for size in arguments.sizes:
        for system, make in systems(data, size):
            wanted = arguments.systems is None or system in arguments.systems
            if not wanted or f"{system}|{size}" in known:
                continue
            row, known[f"{system}|{size}"] = measured(data, system, size, make)
            print(f"{size:3} bytes  {row.recall:.4f} / {row.ndcg:.4f}  {system}", flush=True)
            rows.append(row)
            write(output, recalls, arguments.data.name, rows, known)


def write(output: Path, recalls: Path, name: str, rows: list[Row], known: dict[str, np.ndarray]) -> None:
    gains = {}
    for key, figures in known.items():
        system, size = key.split("|")
        if system != OURS and f"{OURS}|{size}" in known:
            gains[key] = paired_bootstrap(known[f"{OURS}|{size}"], figures)._asdict()
    versions = {package: version(package) for package in ("numpy", "faiss-cpu", "sentence-transformers")}
    content = {"data": name, "versions": versions, "rows": [asdict(row) for row in rows], "gains": gains}
    output.write_text(json.dumps(content, indent=1) + "\n")
    np.savez_compressed(recalls, **known)
    output.with_suffix(".md").write_text(table(rows, gains))


if __name__ == "__main__":
    main()
