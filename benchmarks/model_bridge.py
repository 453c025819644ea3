"""What a bridge between two embedding models keeps, and how well that is predicted before anything is searched by it.

    python benchmarks/model_bridge.py --data DIR [--splits 100] [--trained-splits 5]

DIR holds what benchmarks/change_of_model.py reads. The training texts are the sample embedded by both models; base and
queries are the collection, whose answers only the real figure knows. For both directions it prints, for each map, the
share of the new model's nDCG@10 that was predicted on the sample, and the real one. Then it draws 3,000 documents and
2,000 queries of the sample again and again, fits and predicts on them, fits the map on all that was drawn, and counts
how often both agree within .03: with the orthogonal map, which is fitted in no time, and with the trained one.
"""

from __future__ import annotations

import argparse
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embeddings import load, load_relevant
from vaecodec.evaluation import Figures, Interval, exact_search, ndcg, ratio_bootstrap
from vaecodec.interface import FloatArray, Metric
from vaecodec.merging import Embedded
from vaecodec_exporters.model_bridge import predict_retention
from vaecodec_training.maps import MapKind, fit_map, map_rows

DOCUMENTS, QUERIES = 3_000, 2_000
BOUND = 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs=2, default=["minilm-l3", "minilm-l6"])
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--trained-splits", type=int, default=5)
    arguments = parser.parse_args()
    relevant = load_relevant(arguments.data)
    for names in permutations(arguments.models):
        base, queries, train, train_queries = (
            Embedded(*load(arguments.data, *(f"{name}-{kind}" for name in names)))
            for kind in ("base", "queries", "train", "train_queries")
        )
        print(f"{names[0]} to {names[1]}")
        judged = Judged(base, queries, relevant)
        for kind, kept in predict_retention(train, train_queries).kept.items():
            print(f"  {kind:<10} predicted {kept}, real {judged.kept(kind, train, train_queries)}", flush=True)
        for kind, splits in (
            (MapKind.PROCRUSTES, arguments.splits),
            (MapKind.RESIDUAL, arguments.trained_splits),
        ):
            errors = []
            for seed in range(splits):
                drawn = sample_of(train, DOCUMENTS, seed), sample_of(train_queries, QUERIES, seed)
                predicted = predict_retention(*drawn, kinds=(kind,), seed=seed).best
                errors.append(predicted.mean - judged.kept(kind, *drawn).mean)
            if errors:
                within = np.sum(np.abs(errors) <= BOUND)
                print(f"  {kind}: {within} of {splits} within {BOUND}; error {summary(errors)}", flush=True)


class Judged(NamedTuple):
    """A collection whose answers are known: what the new model and a map to the old one find in it."""

    documents: Embedded
    queries: Embedded
    relevant: Any

    def kept(self, kind: MapKind, sample: Embedded, sample_queries: Embedded) -> Interval:
        """The share of the new model's nDCG@10 that is left with a map fitted on a sample."""
        texts = [np.concatenate(pair) for pair in zip(sample, sample_queries, strict=True)]
        across = map_rows(fit_map(kind, texts[1], texts[0]), self.queries.new)
        whole = found(self.documents.new, self.queries.new, self.relevant)
        return ratio_bootstrap(found(self.documents.old, across, self.relevant), whole)


def found(documents: FloatArray, queries: FloatArray, relevant: Any) -> Figures:
    return ndcg(exact_search(documents, queries, 10, Metric.COSINE)[0], relevant, 10)


def sample_of(texts: Embedded, rows: int, seed: int) -> Embedded:
    return texts.rows(np.random.default_rng(seed).permutation(len(texts.old))[:rows])


def summary(errors: list[float]) -> str:
    return f"mean {np.mean(errors):+.3f}, standard deviation {np.std(errors):.3f}, largest {np.abs(errors).max():.3f}"


if __name__ == "__main__":
    main()
