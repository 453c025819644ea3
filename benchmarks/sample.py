"""Print two tables of docs/faq.md, on the bundled sample: how many vectors training takes, and what mistakes with PCA
cost.

    OMP_NUM_THREADS=2 python benchmarks/sample.py

recall@10 by exact search among 6,000 documents that nothing was fitted to; the learned codecs are 64 wide, one seed.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embeddings import SAMPLE, load
from vaecodec import LinearKind, fit_linear
from vaecodec.evaluation import best, exact_search, paired_bootstrap, recall
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.sources import ArraySource
from vaecodec_training.data.collection import Collection
from vaecodec_training.model import in_numpy
from vaecodec_training.recipe import Recipe
from vaecodec_training.trainer import train

DIM = 64
DOCUMENTS, TRAIN_QUERIES, BASE, QUERIES = load(SAMPLE, "train", "train_queries", "base", "queries")
TRUTH, _ = exact_search(BASE, QUERIES, 10, Metric.COSINE)


def main() -> None:
    print("| variant of PCA | 64 dimensions | 128 |\n|---|---|---|")
    narrow, wide = pca_variants(64), pca_variants(128)
    for name in narrow:
        print(f"| {name} | {narrow[name]:.3f} | {wide[name]:.3f} |")

    print("\n| trained on | best linear | learned | difference, 95 % |\n|---|---|---|---|")
    warnings.simplefilter("ignore")  # with few rows training warns that the gain is not sure, and so it is
    for count in (500, 1_000, 2_000, 4_000, 7_500):
        documents, queries = DOCUMENTS[:count], TRAIN_QUERIES[:count]
        collection = Collection.open(ArraySource(documents), ArraySource(queries), pairs="aligned")
        with tempfile.TemporaryDirectory() as run:
            model = train(collection, Recipe(dim=DIM), Path(run)).checkpoint.model
        encode, encode_queries = (in_numpy(function, model) for function in (model.encode, model.encode_queries))
        learned = measure(encode(BASE), encode_queries(QUERIES), Metric.COSINE)
        kinds = {str(kind): {"recall@10": measured(fit_linear(documents, DIM, kind=kind))} for kind in LinearKind}
        linear = kinds[best(kinds, "recall@10")]["recall@10"]
        gain = paired_bootstrap(learned, linear)
        print(f"| {count:,} | {linear.mean():.3f} | {learned.mean():.3f} | {gain:+.3f} |", flush=True)


def pca_variants(dim: int) -> dict[str, float]:
    """Mean recall@10 of every way to centre, scale and compare."""
    mean = DOCUMENTS.mean(0)
    values, vectors = np.linalg.eigh(np.cov(DOCUMENTS, rowvar=False))
    axes, spread = vectors[:, ::-1][:, :dim], np.sqrt(values[::-1][:dim])
    base, queries = ((rows - mean) @ axes for rows in (BASE, QUERIES))
    svd, centred = (fit_linear(DOCUMENTS, dim, kind=kind) for kind in (LinearKind.SVD, LinearKind.PCA_DOCUMENTS))
    recalls = {
        "uncentred SVD, cosine": measured(svd),
        "documents centred, queries not, dot product": measured(centred),
        "both centred, cosine": measure(base, queries, Metric.COSINE),
        "both centred, dot product": measure(base, queries, Metric.DOT),
        "both centred, whitened, cosine": measure(base / spread, queries / spread, Metric.COSINE),
    }
    return {name: float(figures.mean()) for name, figures in recalls.items()}


def measured(codec: VectorCodec) -> NDArray[np.float64]:
    """Return the recall@10 of each query."""
    return measure(codec.encode(BASE), codec.encode_queries(QUERIES), codec.latent_metric)


def measure(base: FloatArray, queries: FloatArray, metric: Metric) -> NDArray[np.float64]:
    """Return the recall@10 of each query."""
    return recall(exact_search(base, queries, 10, metric)[0], TRUTH, 10)


if __name__ == "__main__":
    main()
