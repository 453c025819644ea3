"""Load the data for the shortest codes, and offer our codes and those of faiss and sentence-transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from embeddings import load, load_relevant
from vaecodec import Codec, Metric, fit_linear
from vaecodec.codes import Calibration
from vaecodec.evaluation import exact_search
from vaecodec.sources import ArraySource
from vaecodec.vectors import normalised

K = 10
# Rows that the peers' slow searches for centroids see, evenly spaced, and their iterations. More gain little here.
PEER_ROWS = 16_384
PEER_ITERATIONS = 10
LOCAL_SEARCH_ITERATIONS = 5
# faiss keeps two float32 beside the bits of each vector.
FACTORS = 8


class DoesNotFitError(ValueError):
    """Say that a system has no code of a size."""


class Data:
    """Hold vectors of unit norm, their exact neighbours and the documents that answer the queries."""

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
    """Search ours with stages before the trellis, and without; fitted once for all sizes."""

    def __init__(self, *, staged: bool) -> None:
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


def learned(data: Data, size: int) -> Fitted:
    """Train a codec for codes of this size, with as many latents as the vectors have, and search its codes."""
    from vaecodec_exporters.checkpoint import export_checkpoint
    from vaecodec_training.data.collection import Collection
    from vaecodec_training.recipe import Recipe
    from vaecodec_training.trainer import train

    # In these folders as many queries as documents means that they belong together row for row.
    paired = len(data.train) == len(data.asked)
    documents, asked = ArraySource(data.train), ArraySource(data.asked)
    collection = Collection.open(documents, asked, pairs="aligned" if paired else None)
    with tempfile.TemporaryDirectory() as temporary:
        run, file = Path(temporary) / "run", Path(temporary) / "codec.onnx"
        train(collection, Recipe.for_code(target_bytes=(size,), paired=paired, dim=data.width), run)
        export_checkpoint(run, file)
        codec = Codec.load(file)
    code = codec.code(bytes=size)
    return (
        lambda: code.encode(codec.encode(data.base), threads=1),
        by_decoding(code.decode, codec.encode_queries(data.queries)),
    )


def additive(name: str) -> System:
    """Search one of faiss's additive quantisers, with 8 bits for each of its codebooks."""

    def fit(data: Data, size: int) -> Fitted:
        if name.startswith("Product"):
            quantiser = getattr(faiss, name)(data.width, size // 8, 8, 8)
            part = faiss.downcast_AdditiveQuantizer  # type: ignore[attr-defined]
            parts = [part(quantiser.subquantizer(i)) for i in range(size // 8)]
        else:
            quantiser = getattr(faiss, name)(data.width, size, 8)
            parts = [quantiser]
        for part in parts:
            if "Residual" in name:
                part.cp.niter, part.max_beam_size = PEER_ITERATIONS, 1
            else:
                part.train_iters, part.encode_ils_iters = LOCAL_SEARCH_ITERATIONS, LOCAL_SEARCH_ITERATIONS
        quantiser.train(data.some)
        for part in parts:
            if "Residual" in name:
                part.max_beam_size = 5
        return lambda: quantiser.compute_codes(data.base), by_decoding(quantiser.decode, data.queries)

    return fit


def product(rotated: bool) -> System:
    """Search product quantisation, with or without a learned rotation before it."""

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
    """Search RaBitQ or EDEN with some bits for as many principal axes as fit, by their own estimates."""

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
    """Search as users of sentence-transformers do: the first dimensions, in one byte or one bit each, ranges from
    documents.
    """
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
