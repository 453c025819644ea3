"""Measure what a bridge between two embedding models keeps, and how well that is predicted before anything is searched
by it.

    python benchmarks/model_bridge.py --data DIR [--splits 100]

DIR holds what benchmarks/change_of_model.py reads. The training texts are the sample embedded by both models; base and
queries are the collection, whose answers only the real figure knows. For both directions and each map it prints the
share of the new model's nDCG@10 that is really kept, with its interval, and the one predicted from all of the sample.
The real share has an error, too, as it is measured on some queries. So it prints in how many of 100 cases a prediction
could be within .03 of it: one without any error, and unbiased ones from 400 and 2,500 queries.
Then 3,000 documents and 2,000 queries of the sample are drawn again and again, each query mapped by a map that was not
fitted on it, and it counts how often what is predicted from them is within .03 of the real share.
"""

from __future__ import annotations

import argparse
from itertools import permutations
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from embeddings import load, load_relevant
from vaecodec.evaluation import Figures, Interval, exact_search, ndcg, ratio_bootstrap
from vaecodec.interface import FloatArray, Metric
from vaecodec.two_models.merging import Embedded
from vaecodec.two_models.retention import probable_answers, searched_by
from vaecodec_exporters.model_bridge import mapped_in_turn
from vaecodec_training.maps import MapKind, fit_map, map_rows

DOCUMENTS, QUERIES = 3_000, 2_000
BOUND = 0.03
CONFIRMED = (400, 2_500)
FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs=2, default=["minilm-l3", "minilm-l6"])
    parser.add_argument("--splits", type=int, default=100)
    arguments = parser.parse_args()
    relevant = load_relevant(arguments.data)
    for names in permutations(arguments.models):
        base, queries, train, train_queries = (
            Embedded(*load(arguments.data, *(f"{name}-{kind}" for name in names)))
            for kind in ("base", "queries", "train", "train_queries")
        )
        print(f"{names[0]} to {names[1]}")
        judged = Judged(base, queries, relevant)
        for kind in MapKind:
            real = judged.kept(kind, train, train_queries)
            across = mapped(kind, train, train_queries)
            everything = np.arange(len(train.old)), np.arange(len(across))
            print(f"  {kind:<10} real {real}, predicted {predicted(train, train_queries, across, *everything):.3f}")
            print(f"    {confirmed(real, len(queries.old))}", flush=True)
            errors = []
            for seed in range(arguments.splits):
                random = np.random.default_rng(seed)
                drawn = (random.permutation(len(rows))[:n] for rows, n in ((train.old, DOCUMENTS), (across, QUERIES)))
                errors.append(predicted(train, train_queries, across, *drawn) - real.mean)
            if errors:
                within = np.sum(np.abs(errors) <= BOUND)
                print(f"    {within} of {len(errors)} within {BOUND}; error {summary(errors)}", flush=True)


def mapped(kind: MapKind, documents: Embedded, queries: Embedded) -> FloatArray:
    """Map each query with a map that was fitted on the documents and on the queries of the other folds."""
    texts = Embedded(*(np.concatenate(pair) for pair in zip(documents, queries, strict=True)))
    folds = np.random.default_rng(0).permutation(len(texts.old)) % FOLDS
    return mapped_in_turn(kind, texts, folds)[len(documents.old) :]


def predicted(documents: Embedded, queries: Embedded, across: FloatArray, rows: Any, asked: Any) -> float:
    """Predict the share from some documents and some queries."""
    documents, queries = documents.rows(rows), queries.rows(asked)
    answers = probable_answers(documents, queries)
    kept = searched_by(documents.old, across[asked], answers)
    return float(kept.sum() / searched_by(documents.new, queries.new, answers).sum())


class Judged(NamedTuple):
    """Hold a collection whose answers are known, and search it with the new model and with a map to the old one."""

    documents: Embedded
    queries: Embedded
    relevant: Any

    def kept(self, kind: MapKind, sample: Embedded, sample_queries: Embedded) -> Interval:
        """Return the share of the new model's nDCG@10 that remains with a map fitted on a sample."""
        texts = [np.concatenate(pair) for pair in zip(sample, sample_queries, strict=True)]
        across = map_rows(fit_map(kind, texts[1], texts[0]), self.queries.new)
        whole = found(self.documents.new, self.queries.new, self.relevant)
        return ratio_bootstrap(found(self.documents.old, across, self.relevant), whole)


def confirmed(real: Interval, queries: int) -> str:
    """Say how often predictions can be within the bound of a share that is measured on some queries."""
    deviation = (real.high - real.low) / (2 * NormalDist().inv_cdf(0.975))
    one = deviation * queries**0.5
    cases = [
        f"{100 * (2 * NormalDist(0, error).cdf(BOUND) - 1):.0f} {name}"
        for name, error in (
            ("without an error", deviation),
            *((f"from {asked:,} queries", np.hypot(deviation, one / asked**0.5)) for asked in CONFIRMED),
        )
    ]
    return f"standard deviation {deviation:.4f}; of 100 predictions within {BOUND}: {', '.join(cases)}"


def found(documents: FloatArray, queries: FloatArray, relevant: Any) -> Figures:
    return ndcg(exact_search(documents, queries, 10, Metric.COSINE)[0], relevant, 10)


def summary(errors: list[float]) -> str:
    return f"mean {np.mean(errors):+.3f}, standard deviation {np.std(errors):.3f}, largest {np.abs(errors).max():.3f}"


if __name__ == "__main__":
    main()
