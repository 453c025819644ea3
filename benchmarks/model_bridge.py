"""Measure what a bridge between two embedding models keeps, and how well that is predicted before anything is searched
by it.

    python benchmarks/model_bridge.py --data DIR [--maps ridge procrustes]
    python benchmarks/model_bridge.py --data DIR --splits 100 [--maps ridge procrustes]

DIR holds what benchmarks/change_of_model.py reads. The training texts are the sample embedded by both models; base and
queries are the collection, whose answers only the real figure knows. For both directions and each map it prints the
share of the new model's nDCG@10 that is really kept, with its interval, and what is predicted from the sample without
answers.

With --splits it needs no training texts, and answers to many queries, one each. Again and again it draws 5,000
documents (--sample) of the base as the sample, with all queries that they answer. It counts how often what is predicted
with known answers is within .03 of what is really kept among all other documents, by the queries that these answer.
"""

from __future__ import annotations

import argparse
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embeddings import load, load_relevant
from vaecodec.evaluation import Figures, IdArray, Interval, exact_search, ndcg, ratio_bootstrap
from vaecodec.interface import FloatArray, Metric
from vaecodec.two_models.merging import Embedded
from vaecodec_exporters.model_bridge import predict_retention
from vaecodec_training.maps import MapKind, fit_map, map_rows

BOUND = 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs=2, default=["minilm-l3", "minilm-l6"])
    parser.add_argument("--maps", nargs="+", type=MapKind, default=list(MapKind))
    parser.add_argument("--splits", type=int, default=0)
    parser.add_argument("--sample", type=int, default=5_000)
    arguments = parser.parse_args()
    for names in permutations(arguments.models):
        print(f"{names[0]} to {names[1]}")
        judged = Judged(*embedded(arguments.data, names, "base", "queries"), load_relevant(arguments.data))
        for kind in arguments.maps:
            if arguments.splits:
                compared = [judged.divided(kind, arguments.sample, seed) for seed in range(arguments.splits)]
                print(f"  {kind:<10} {summary(compared)}", flush=True)
                continue
            sample = embedded(arguments.data, names, "train", "train_queries")
            predicted = predict_retention(*sample, kinds=(kind,))
            print(
                f"  {kind:<10} real {judged.kept(kind, *sample)}, predicted {predicted.best}",
                flush=True,
            )


def embedded(folder: Path, models: tuple[str, ...], documents: str, queries: str) -> tuple[Embedded, Embedded]:
    def both(kind: str) -> Embedded:
        return Embedded(*load(folder, *(f"{model}-{kind}" for model in models)))

    return both(documents), both(queries)


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

    def of(self, documents: IdArray) -> Judged:
        """Return some of the documents, with the queries that they answer."""
        places = np.full(len(self.documents.old), -1)
        places[documents] = np.arange(len(documents))
        asked = np.flatnonzero(places[self.relevant] >= 0)
        return Judged(self.documents.rows(documents), self.queries.rows(asked), places[self.relevant[asked]])

    def divided(self, kind: MapKind, sampled: int, seed: int) -> tuple[Interval, float]:
        """Return what is predicted from a random sample, and what is kept among all other documents."""
        order = np.random.default_rng(seed).permutation(len(self.documents.old))
        sample, others = self.of(order[:sampled]), self.of(order[sampled:])
        pairs = np.stack([np.arange(len(sample.relevant)), sample.relevant], axis=1)
        predicted = predict_retention(sample.documents, sample.queries, pairs, kinds=(kind,))
        real = others.kept(kind, sample.documents, sample.queries).mean
        return predicted.best, real


def found(documents: FloatArray, queries: FloatArray, relevant: Any) -> Figures:
    return ndcg(exact_search(documents, queries, 10, Metric.COSINE)[0], relevant, 10)


def summary(compared: list[tuple[Interval, float]]) -> str:
    predicted, reals = np.array([share for share, _ in compared]), np.array([real for _, real in compared])
    errors = predicted[:, 0] - reals
    covered = np.sum((predicted[:, 1] <= reals) & (reals <= predicted[:, 2]))
    return (
        f"real {reals.mean():.3f}: {np.sum(np.abs(errors) <= BOUND)} of {len(errors)} predictions within {BOUND}, "
        f"{covered} intervals hold it; error mean {errors.mean():+.3f}, standard deviation {errors.std():.3f}"
    )


if __name__ == "__main__":
    main()
