"""How fast a codec encodes on the CPU, against the bare matrix products of the same model.

Run: OMP_NUM_THREADS=2 python benchmarks/encode.py

Every row is measured in the same process with the same threads, alternating the sides and taking the median. The
weights are random, since speed does not depend on them; the vectors are random unit vectors for the same reason.
Prints, for each shape and batch: vectors per second of `Codec.encode`, of numpy's three products alone (linear part,
hidden layer, output layer; no normalisation, activation or checks), their ratio, and for one vector the overhead in
microseconds over onnxruntime's own call.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from vaecodec import Codec, Kind, Metadata, Metric
from vaecodec.artifact import sign
from vaecodec_exporters.graph import CodecWeights, ResidualWeights, build_model

SHAPES = ((384, 512, 64), (768, 512, 128), (1536, 512, 256))
BATCHES = (1, 32, 1_024, 16_384)


def main(threads: Annotated[int, typer.Option(help="Threads for both sides.")] = 2) -> None:
    """Measure and print both tables."""
    if os.environ.get("OMP_NUM_THREADS") != str(threads):
        raise SystemExit(f"numpy reads its threads at start: run with OMP_NUM_THREADS={threads}")
    batched = Table(title=f"encode, {threads} threads, residual encoder with a hidden layer")
    for column in (
        "dim -> code_dim (hidden)",
        "batch",
        "Codec.encode, vectors/s",
        "bare products, vectors/s",
        "time ratio",
    ):
        batched.add_column(column, justify="right")
    single = Table(title="one vector: the library around onnxruntime's own call")
    for column in ("dim -> code_dim", "Codec.encode, us", "session.run, us", "overhead, us"):
        single.add_column(column, justify="right")
    random = np.random.default_rng(0)
    for dim, hidden, code_dim in SHAPES:
        weights = _weights(random, dim, hidden, code_dim)
        codec = _load(weights, threads)
        encoder = weights.encoder
        for batch in BATCHES:
            vectors = random.standard_normal((batch, dim), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            ours, bare = _alternate(
                lambda vectors=vectors, codec=codec: codec.encode(vectors),
                lambda vectors=vectors, encoder=encoder: _products(vectors, encoder),
                repeats=max(7, 20_000 // batch),
                burst=max(1, 500 // batch),
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
            # The codec's own session: the spinning threads of a second one would be in the way of both.
            lambda one=one, session=codec._session: session.run(["latent"], {"embedding": one}),
            repeats=5_000,
        )
        single.add_row(f"{dim} -> {code_dim}", f"{ours * 1e6:.1f}", f"{own * 1e6:.1f}", f"{(ours - own) * 1e6:.1f}")
    console = Console()
    console.print(batched)
    console.print(single)


def _weights(random: np.random.Generator, dim: int, hidden: int, code_dim: int) -> CodecWeights:
    def matrix(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[-1]))

    encoder = ResidualWeights(
        matrix(code_dim, dim),
        np.zeros(code_dim, np.float32),
        matrix(hidden, dim),
        np.zeros(hidden, np.float32),
        matrix(code_dim, hidden),
    )
    return CodecWeights(encoder, ResidualWeights(matrix(dim, code_dim), np.zeros(dim, np.float32)))


def _load(weights: CodecWeights, threads: int) -> Codec:
    code_dim, dim = weights.encoder.linear.shape
    data = sign(build_model(weights, Metadata(Kind.VAE, dim, code_dim, Metric.COSINE, Metric.COSINE)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codec.onnx"
        path.write_bytes(data)
        return Codec.load(path, threads=threads)


def _products(vectors: np.ndarray, encoder: ResidualWeights) -> np.ndarray:
    assert encoder.hidden is not None
    assert encoder.output is not None
    return vectors @ encoder.linear.T + vectors @ encoder.hidden.T @ encoder.output.T


def _alternate(
    a: Callable[[], object], b: Callable[[], object], *, repeats: int, burst: int = 1
) -> tuple[float, float]:
    """Median seconds per call of each side, in turns so that both see the same machine.

    Short calls go in bursts: onnxruntime's threads keep spinning for a while after a call, in the other side's way.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(max(2, repeats // burst)):
        for side, call in enumerate((a, b)):
            for turn in range(burst + 3):
                start = time.perf_counter()
                call()
                if turn >= 3:
                    seconds[side].append(time.perf_counter() - start)
    return float(np.median(seconds[0])), float(np.median(seconds[1]))


if __name__ == "__main__":
    typer.run(main)
