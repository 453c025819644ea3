"""Measure how fast a codec encodes on the CPU: against the bare matrix products of the same model, and against other
encoders.

Run: OMP_NUM_THREADS=2 python benchmarks/encode.py [--only products | others]

Both sides run in the same process with the same threads, in turns, and the median counts. Between the sides there is a
pause, because the threads of numpy's BLAS and of onnxruntime go on spinning for tens of milliseconds after a call, on
the cores that the other side needs. The weights and the vectors are random, since speed does not depend on them.

Products: for each shape and batch, vectors per second of `Codec.encode`, of numpy's three products alone (linear part,
hidden layer, output layer; no normalisation, activation or checks), their ratio, and for one vector the overhead in
microseconds over onnxruntime's own call.

Others: the same vectors through a codec with and without a hidden layer, scikit-learn's PCA, faiss' PQ and OPQ with
one byte per latent dimension (trained just enough to run), and sentence-transformers' quantize_embeddings, which
converts numbers and reduces nothing.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import faiss
import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from sentence_transformers.util.quantization import quantize_embeddings
from sklearn.decomposition import PCA

from vaecodec import Codec, Kind, Metadata, Metric
from vaecodec.artifact import sign
from vaecodec_exporters.graph import CodecWeights, ResidualWeights, build_model

SHAPES = ((384, 512, 64), (768, 512, 128), (1536, 512, 256))
BATCHES = (1, 32, 1_024, 16_384)
PAUSE_SECONDS = 0.1
BURST_SECONDS = 0.05
ROUNDS = 9
OTHERS_ROWS, OTHERS_TRAINING_ROWS, OTHERS_ROUNDS = 1_024, 10_000, 3


def main(
    threads: Annotated[int, typer.Option(help="Threads for all sides.")] = 2,
    only: Annotated[str, typer.Option(help="'products' or 'others'; by default both.")] = "",
) -> None:
    """Measure and print the tables."""
    if os.environ.get("OMP_NUM_THREADS") != str(threads):
        raise SystemExit(f"numpy reads its threads at start: run with OMP_NUM_THREADS={threads}")
    faiss.omp_set_num_threads(threads)
    console = Console(width=140)
    if only != "others":
        for table in _against_products(threads):
            console.print(table)
    if only != "products":
        console.print(_against_others(threads))


def _against_products(threads: int) -> tuple[Table, Table]:
    batched = _table(
        f"encode, {threads} threads, residual encoder with a hidden layer",
        "dim -> code_dim (hidden)",
        "batch",
        "Codec.encode, vectors/s",
        "bare products, vectors/s",
        "time ratio",
    )
    single = _table(
        "one vector: the library around onnxruntime's own call",
        "dim -> code_dim",
        "Codec.encode, us",
        "session.run, us",
        "overhead, us",
    )
    random = np.random.default_rng(0)
    for dim, hidden, code_dim in SHAPES:
        encoder = _encoder(random, dim, hidden, code_dim)
        codec = _load(encoder, threads)
        for batch in BATCHES:
            vectors = _unit(random, batch, dim)
            ours, bare = _alternate(
                lambda vectors=vectors, codec=codec: codec.encode(vectors),
                lambda vectors=vectors, encoder=encoder: _products(vectors, encoder),
            )
            batched.add_row(
                f"{dim} -> {code_dim} ({hidden})",
                f"{batch:,}",
                f"{batch / ours:,.0f}",
                f"{batch / bare:,.0f}",
                f"{ours / bare:.2f}",
            )
        one = vectors[:1].copy()
        ours, own = _alternate(
            lambda one=one, codec=codec: codec.encode(one),
            lambda one=one, runtime=codec._runtime: runtime.run("embedding", "latent", one),
        )
        single.add_row(f"{dim} -> {code_dim}", f"{ours * 1e6:.1f}", f"{own * 1e6:.1f}", f"{(ours - own) * 1e6:.1f}")
    return batched, single


def _against_others(threads: int) -> Table:
    rows = OTHERS_ROWS
    table = _table(f"vectors/s, {rows:,} vectors in one call, {threads} threads", "encoder")
    random = np.random.default_rng(0)
    columns: list[dict[str, float]] = []
    for dim, hidden, code_dim in SHAPES:
        table.add_column(f"{dim} -> {code_dim}", justify="right")
        training = _unit(random, OTHERS_TRAINING_ROWS, dim)
        vectors = training[:rows]
        encoder = _encoder(random, dim, hidden, code_dim)
        residual = _load(encoder, threads)
        linear = _load(ResidualWeights(encoder.linear, encoder.bias), threads)
        pca = PCA(code_dim, svd_solver="covariance_eigh").fit(training)
        quantizer = faiss.ProductQuantizer(dim, code_dim, 8)
        quantizer.cp.niter = 1
        quantizer.train(training)
        rotation = faiss.OPQMatrix(dim, code_dim)
        rotation.niter = rotation.niter_pq = rotation.niter_pq_0 = 1
        rotation.train(training)
        ranges = np.stack([training.min(axis=0), training.max(axis=0)])
        sides: dict[str, Callable[[], object]] = {
            f"Codec, hidden layer of {hidden}": lambda codec=residual, v=vectors: codec.encode(v),
            "Codec, linear": lambda codec=linear, v=vectors: codec.encode(v),
            "sklearn PCA.transform": lambda pca=pca, v=vectors: pca.transform(v),
            "faiss PQ, code_dim bytes": lambda pq=quantizer, v=vectors: pq.compute_codes(v),
            "faiss OPQ, code_dim bytes": lambda pq=quantizer, opq=rotation, v=vectors: pq.compute_codes(opq.apply(v)),
            "quantize_embeddings int8": lambda v=vectors, r=ranges: quantize_embeddings(v, "int8", ranges=r),
            "quantize_embeddings binary": lambda v=vectors: quantize_embeddings(v, "ubinary"),
        }
        columns.append(
            {
                name: rows / seconds
                for name, seconds in zip(sides, _alternate(*sides.values(), rounds=OTHERS_ROUNDS), strict=True)
            }
        )
    for name in columns[0]:
        table.add_row(name, *(f"{column[name]:,.0f}" for column in columns))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _unit(random: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    vectors = random.standard_normal((rows, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _encoder(random: np.random.Generator, dim: int, hidden: int, code_dim: int) -> ResidualWeights:
    def matrix(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[-1]))

    return ResidualWeights(
        matrix(code_dim, dim),
        np.zeros(code_dim, np.float32),
        matrix(hidden, dim),
        np.zeros(hidden, np.float32),
        matrix(code_dim, hidden),
    )


def _load(encoder: ResidualWeights, threads: int) -> Codec:
    code_dim, dim = encoder.linear.shape
    decoder = ResidualWeights(np.ascontiguousarray(encoder.linear.T), np.zeros(dim, np.float32))
    metadata = Metadata(Kind.VAE, dim, code_dim, Metric.COSINE, Metric.COSINE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codec.onnx"
        path.write_bytes(sign(build_model(CodecWeights(encoder, decoder), metadata)))
        return Codec.load(path, threads=threads)


def _products(vectors: np.ndarray, encoder: ResidualWeights) -> np.ndarray:
    assert encoder.hidden is not None
    assert encoder.output is not None
    return vectors @ encoder.linear.T + vectors @ encoder.hidden.T @ encoder.output.T


def _alternate(*sides: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Return the median seconds per call of each side, measured in turns and in bursts, so that all see the same
    machine.
    """
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for own, call in zip(seconds, sides, strict=True):
            time.sleep(PAUSE_SECONDS)
            call()
            begun = time.perf_counter()
            while True:
                start = time.perf_counter()
                call()
                end = time.perf_counter()
                own.append(end - start)
                if end - begun > BURST_SECONDS:
                    break
    return [float(np.median(own)) for own in seconds]


if __name__ == "__main__":
    typer.run(main)
