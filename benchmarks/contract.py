"""Compare a learned codec with the linear codec that is best in each figure, on vectors that training never saw.

    python benchmarks/contract.py --data DIR --dims 64,128

The folder holds train, train_queries, base and queries as .npy, the queries' relevant rows of base as .npy (one each)
or .json (lists), and perhaps pairs.npy, rows (query, document) of the training data. Trains with the recipe that
``vaecodec train`` chooses for so many rows, one seed. Prints for each figure the learned codec's mean, the 95 % paired
interval of its difference to the best linear codec for that figure, and which codec that is; ``--json`` keeps them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from embeddings import load, load_relevant
from quality import known_pairs
from vaecodec.evaluation import Truth, exact_search, judge
from vaecodec.interface import Metric, VectorCodec
from vaecodec.provenance import made_now
from vaecodec.sources import open_source
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import QueryFigures
from vaecodec_training.gate import gate
from vaecodec_training.model import ModelCodec
from vaecodec_training.recipe import choose_recipe
from vaecodec_training.trainer import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dims", default="64,128")
    parser.add_argument("--json", type=Path, help="write every figure there")
    arguments = parser.parse_args()
    documents, queries = (open_source(arguments.data / f"{name}.npy") for name in ("train", "train_queries"))
    listed = arguments.data / "pairs.npy"
    pairs = np.load(listed) if listed.exists() else known_pairs(documents, queries)
    collection = Collection.open(documents, queries, pairs=pairs, confirmation=0.05)
    base, asked = load(arguments.data, "base", "queries")
    truth, relevant = Truth.of(base, asked, Metric.COSINE), load_relevant(arguments.data)

    def measured(codec: VectorCodec) -> QueryFigures:
        ids, _ = exact_search(codec.encode(base), codec.encode_queries(asked), truth.depth, codec.latent_metric)
        return judge(ids, truth, relevant)

    print("| k | latents, share of the training kept | figure | learned | minus the best linear | which |")
    print("|---|---|---|---|---|---|")
    rows = []
    for dim in map(int, arguments.dims.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            recipe = choose_recipe(width=collection.dim, rows=documents.rows, dim=dim)
            kept = train(collection, recipe, Path(folder)).checkpoint
        served: Any = ModelCodec(kept.model)
        learned = measured(served)
        linear = {kind: measured(codec) for kind, codec in collection.linear_family(dim).items()}
        made = f"{kept.recipe.latent_metric}, {kept.provenance['trained_share']}"
        for each in gate(learned, linear).comparisons:
            mean = learned[each.figure].mean()
            print(f"| {dim} | {made} | {each.figure} | {mean:.3f} | {each.difference:+.3f} | {each.over} |", flush=True)
            difference = each.difference._asdict()
            rows.append({"dim": dim, "figure": each.figure, "learned": float(mean), "over": each.over, **difference})
    if arguments.json:
        content = {**made_now(), "data": arguments.data.name, "results": rows}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
