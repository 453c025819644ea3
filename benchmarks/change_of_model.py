"""Measure what searches find while an embedding model is replaced, document by document.

    python benchmarks/change_of_model.py --data DIR

DIR holds base, queries, train and train_queries of two models, MODEL-NAME.npy, row for row the same texts, and the row
of the base that answers each query, relevant.npy. The scale is chosen on the training texts, without answers. For both
directions it prints nDCG@10 of each model alone, and of both with a quarter, half and three quarters of the documents
done, by each scale, the mean of five draws of which ones, beside the straight line between the two models.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np

from embeddings import load, load_relevant
from vaecodec.evaluation import bootstrap, exact_search, ndcg
from vaecodec.interface import Metric
from vaecodec.two_models.merging import SHARES, Embedded, Merger, Scale

DRAWS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs=2, default=["minilm-l3", "minilm-l6"])
    arguments = parser.parse_args()
    relevant = load_relevant(arguments.data)
    for names in permutations(arguments.models):
        base, queries, train, train_queries = (
            Embedded(*load(arguments.data, *(f"{name}-{kind}" for name in names)))
            for kind in ("base", "queries", "train", "train_queries")
        )
        merger = Merger.fit(train, train_queries)
        old, new = (
            ndcg(exact_search(rows, asked, 10, Metric.COSINE)[0], relevant, 10)
            for rows, asked in zip(base, queries, strict=True)
        )
        print(f"{names[0]} to {names[1]}: old {bootstrap(old)}, new {bootstrap(new)}, chosen: {merger.scale}")
        for share in SHARES:
            line = (1 - share) * old + share * new
            print(f"  {share:.0%} done, straight line {line.mean():.3f}")
            for scale in Scale:
                merged = replace(merger, scale=scale)
                found = np.mean(
                    [merged.judge(base, queries, relevant, share, seed=seed) for seed in range(DRAWS)], axis=0
                )
                mark = "*" if scale is merger.scale else " "
                print(f"  {mark} {scale:<9}{bootstrap(found)}, to the line {bootstrap(found - line):+.3f}", flush=True)


if __name__ == "__main__":
    main()
