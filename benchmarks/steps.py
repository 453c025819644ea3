"""Measure how long to train: the figures on held-out rows by the number of documents and of steps, and the time.

    OMP_NUM_THREADS=1 python benchmarks/steps.py --data ../shared/data/debian-minilm --rows 1000,4000,10000,30000

The folder holds train.npy and train_queries.npy, row for row. The last 8,192 rows are never trained on: the queries of
2,000 of them search all of them, for every number of rows alike. Training is as ``vaecodec train`` does it for so many
rows, but for its length. Every figure stands beside the linear codec that is best in it, fitted on the same rows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

from embeddings import load
from vaecodec.evaluation import Truth, best, exact_search, judge, paired_bootstrap
from vaecodec.interface import Metric
from vaecodec.linear import LinearCodec
from vaecodec.sources import ArraySource
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import QueryFigures
from vaecodec_training.diagnostics import TrainingWarning
from vaecodec_training.model import ModelCodec
from vaecodec_training.recipe import choose_recipe
from vaecodec_training.trainer import train

SEARCHED, ASKED = 8_192, 2_000
FIGURES = ("recall@10", "recall@100", "ndcg@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", default="1000,4000,10000,30000")
    parser.add_argument("--steps", default="140,280,550,1100")
    parser.add_argument("--dim", type=int, default=64)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", TrainingWarning)
    documents, queries = load(arguments.data, "train", "train_queries")
    base, asked = documents[-SEARCHED:], queries[-SEARCHED:][:ASKED]
    truth = Truth.of(base, asked, Metric.COSINE)

    def measured(codec: ModelCodec | LinearCodec) -> QueryFigures:
        found, _ = exact_search(codec.encode(base), codec.encode_queries(asked), truth.depth, codec.latent_metric)
        return judge(found, truth, range(len(asked)))

    print(f"{arguments.data.name}, {arguments.dim} latents\n| rows | steps | kept | {' | '.join(FIGURES)} | CPU s |")
    print(f"|---|---|---|{'---|' * len(FIGURES)}---|")
    for rows in map(int, arguments.rows.split(",")):
        trained_on = [ArraySource(vectors[: min(rows, len(documents) - SEARCHED)]) for vectors in (documents, queries)]
        collection = Collection.open(*trained_on, pairs="aligned")
        linear = {kind: measured(codec) for kind, codec in collection.linear_family(arguments.dim).items()}
        default = choose_recipe(width=collection.dim, rows=rows, dim=arguments.dim)
        per_epoch = max(1, len(collection.document_rows) // min(default.batch, len(collection.document_rows)))
        for steps in map(int, arguments.steps.split(",")):
            start = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                recipe = default.replace(epochs=steps / per_epoch)
                kept = train(collection, recipe, Path(folder), full_size=False).checkpoint
            seconds = time.process_time() - start
            figures = measured(ModelCodec(kept.model))
            cells = " | ".join(
                f"{figures[name].mean():.3f} ({paired_bootstrap(figures[name], linear[best(linear, name)][name]):+.3f})"
                for name in FIGURES
            )
            print(f"| {rows:,} | {steps} | {kept.provenance['trained_share']} | {cells} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
