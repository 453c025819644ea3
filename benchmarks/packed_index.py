"""Query rate and memory of PackedIndex against faiss IndexFlatIP on the uncompressed vectors, same threads, same run.

    python benchmarks/packed_index.py [--data DIR] [--codec CODEC.onnx] [--rows 200000] [--bytes 64]

Without a codec file the untrained one is fitted: rates depend little on the weights. The rows asked for are the real
ones, base and training rows, repeated with a small random perturbation (norm .2): good for timing only.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

from embeddings import load
from vaecodec import Codec, fit_linear
from vaecodec.codes.parallel import available_threads
from vaecodec.packed_index import PackedIndex
from vaecodec_exporters.linear import export_linear

DATA = Path(__file__).parents[2] / "shared" / "data" / "debian-minilm"
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--codec", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--bytes", type=int, default=64)
    parser.add_argument("--threads", type=int, default=available_threads())
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(arguments.threads)
    base, queries, train = load(arguments.data, "base", "queries", "train")
    base = _perturbed(np.concatenate([base, train]), arguments.rows)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.codec or _untrained(train, Path(folder) / "svd.onnx")
        codec = Codec.load(path, threads=arguments.threads)
        flat = faiss.IndexFlatIP(base.shape[1])
        flat.add(base)
        packed = PackedIndex(codec, bytes=arguments.bytes)
        started = time.perf_counter()
        packed.add(base)
        rate = len(base) / (time.perf_counter() - started)
        packed.save(Path(folder) / "packed.index")
        # Queries are encoded by one thread: onnxruntime's others would go on spinning on the cores that search.
        packed = PackedIndex.load(Path(folder) / "packed.index", Codec.load(path, threads=1))

        latents = codec.encode(base[:8_192])
        size = (Path(folder) / "packed.index").stat().st_size
        print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads, faiss {faiss.__version__}")
        print(f"{len(base):,} vectors of {base.shape[1]} dimensions at {arguments.bytes} bytes, top {K}")
        for width in dict.fromkeys((min(256, codec.code_dim), codec.code_dim)):
            code, rows = codec.calibration.prefix(width).code(bytes=arguments.bytes), latents[:, :width].copy()
            codes = code.encode(rows)
            coding = len(codes) / _seconds(lambda c=code, r=rows: c.encode(r, threads=arguments.threads))
            decoding = len(codes) / _seconds(lambda c=code, r=codes: c.decode(r, threads=arguments.threads))
            print(
                f"{width} latents, {code.steps} with bits: {coding:,.0f} vectors/s from latents to codes, "
                f"{decoding:,.0f} back"
            )
        print(f"insert, from embeddings: {rate:,.0f} vectors/s")
        print("| queries per call | faiss flat, queries/s | packed, queries/s | ratio | packed search peak, MB |")
        print("|---|---|---|---|---|")
        for batch in (1, 2, 4, 10, 100, 1_000):
            # Some queries let more rows be given up than others: small batches are timed for sixteen different queries.
            calls = [queries[start : start + batch] for start in range(0, max(16, batch), batch)]
            count = sum(map(len, calls))
            theirs = count / _seconds(lambda calls=calls: [flat.search(asked, K) for asked in calls])
            ours = count / _seconds(
                lambda calls=calls: [packed.search(asked, K, threads=arguments.threads) for asked in calls]
            )
            tracemalloc.start()
            packed.search(calls[0], K, threads=arguments.threads)
            peak = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()
            print(f"| {batch:,} | {theirs:,.1f} | {ours:,.1f} | {ours / theirs:.2f} | {peak:.0f} |")
        print(
            f"index: faiss {base.nbytes / 1e6:.0f} MB, packed {size / 1e6:.1f} MB ({base.nbytes / size:.1f} times less)"
        )


def _seconds(call: Callable[[], object]) -> float:
    """Return the seconds of the fastest of several calls, after one that warms up."""
    call()
    best, total = float("inf"), 0.0
    for _ in range(20):
        started = time.perf_counter()
        call()
        took = time.perf_counter() - started
        best, total = min(best, took), total + took
        if total > 3:
            break
    return best


def _untrained(train: np.ndarray, path: Path) -> Path:
    linear = fit_linear(train, train.shape[1])
    export_linear(linear, path)
    return path


def _perturbed(rows: np.ndarray, count: int) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((count, rows.shape[1]), np.float32)
    repeated = np.resize(rows, noise.shape)
    repeated += 0.2 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    repeated /= np.linalg.norm(repeated, axis=1, keepdims=True)
    return repeated


if __name__ == "__main__":
    main()
