"""Measure what each setting of the recipe is worth: one row per change to the default, on unseen queries and documents.

    python benchmarks/ablation.py --data ../shared/data/debian-minilm --seeds 3 --out ablation.jsonl

The folder is laid out as for quality.py. Every finished run is one line of the output file, so that the benchmark can
be interrupted and goes on where it was; the table (mean, and range over the seeds) is printed from that file.

Of each run the checkpoint with the best validation recall is measured, the start among them. Where training only hurts,
that is the start; the column "last" (validation recall@10 of the last checkpoint) then tells what training did.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quality import Test, known_pairs
from vaecodec.evaluation import exact_search, ndcg, recall
from vaecodec.interface import Metric
from vaecodec.sources import open_source
from vaecodec_training.data.collection import Collection
from vaecodec_training.model import in_numpy
from vaecodec_training.recipe import Experimental, Recipe, Start
from vaecodec_training.trainer import train

_PLAIN = {"alignment": 0.0, "reconstruction": 1.0}
_PUBLISHED = {**_PLAIN, "experimental": Experimental(start=Start.RANDOM), "decoder_hidden": 512}

# Name: changes to the base recipe; "queries": False trains on documents alone, "pairs": False does not say which
# query belongs to which document.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "from scratch, MLP decoder, AE": {**_PUBLISHED, "kl": 0.0},
    "from scratch, MLP decoder, VAE": {**_PUBLISHED, "kl": 1e-3},
    "from scratch, MLP decoder, VAE kl 1e-2": {**_PUBLISHED, "kl": 1e-2},
    "from scratch, linear decoder, AE": {**_PLAIN, "experimental": Experimental(start=Start.RANDOM), "kl": 0.0},
    "SVD start, AE, no alignment": {**_PLAIN, "kl": 0.0},
    "SVD start, VAE, no alignment": _PLAIN,
    "SVD start, VAE kl 1e-2, no alignment": {**_PLAIN, "kl": 1e-2},
    "the same, no KL warm-up": {**_PLAIN, "kl": 1e-2, "kl_warmup": 0.0},
    "the same, no free bits": {**_PLAIN, "kl": 1e-2, "free_bits": 0.0},
    "the same, neither": {**_PLAIN, "kl": 1e-2, "kl_warmup": 0.0, "free_bits": 0.0},
    "default without KL (AE)": {"kl": 0.0},
    "default, KL cycles 4": {"experimental": Experimental(kl_cycles=4)},
    "default, KL target 60 nats": {"kl_target": 60.0},
    "default, no reconstruction": {"reconstruction": 0.0},
    "default, reconstruction 1": {"reconstruction": 1.0},
    "default, start from scratch": {"experimental": Experimental(start=Start.RANDOM)},
    "default, documents only": {"queries": False},
    "default, queries without pairs": {"pairs": False},
    "default, linear encoder": {"hidden": 0},
    "default, MLP 128": {"hidden": 128},
    "default, MLP 1024": {"hidden": 1024},
    "default, MLP decoder 512": {"decoder_hidden": 512},
    "default, own query encoder": {"asymmetric": True},
    "default, InfoNCE .02": {"contrastive": 0.02},
    "default, InfoNCE .1": {"contrastive": 0.1},
    "default, InfoNCE 1": {"contrastive": 1.0},
    "default, InfoNCE .1, queue 8192": {"contrastive": 0.1, "queue": 8192},
    "default, queue 2048": {"queue": 2048},
    "default, queue 8192": {"queue": 8192},
    "default, temperature .02": {"temperature": 0.02},
    "default, temperature .1": {"temperature": 0.1},
    "default, batch 512": {"batch": 512},
    "default, batch 2048": {"batch": 2048},
    "default, nested 16/32": {"nested_dims": (16, 32)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--epochs", type=float, default=Recipe().epochs)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no further run after that")
    parser.add_argument("--out", type=Path, default=Path("ablation.jsonl"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # several variants are here because they go wrong
    test = Test(arguments.data)
    documents, queries = (open_source(arguments.data / f"{name}.npy") for name in ("train", "train_queries"))
    pairs = known_pairs(documents, queries)
    opened: dict[tuple[bool, bool], Collection] = {}
    done = _read(arguments.out)
    finish = time.monotonic() + 60 * arguments.minutes
    for seed in range(arguments.seeds):
        for name, changes in VARIANTS.items():
            if any(row["name"] == name and row["seed"] == seed for row in done) or time.monotonic() > finish:
                continue
            settings = dict(changes)
            asks = settings.pop("queries", True), settings.pop("pairs", True)
            if asks not in opened:
                opened[asks] = Collection.open(
                    documents, queries if asks[0] else None, pairs=pairs if all(asks) else None
                )
            recipe = Recipe(dim=arguments.dim, epochs=arguments.epochs, seed=seed).replace(**settings)
            row = {"name": name, "seed": seed, **_measure(opened[asks], recipe, test)}
            done.append(row)
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    _print(done)


def _measure(collection: Collection, recipe: Recipe, test: Test) -> dict[str, float]:
    start = time.process_time()
    with tempfile.TemporaryDirectory() as run:
        result = train(collection, recipe, Path(run))
    seconds = time.process_time() - start
    model = result.checkpoint.model
    base, asked = in_numpy(model.encode, model)(test.base), in_numpy(model.encode_queries, model)(test.queries)
    ids, _ = exact_search(base, asked, 10, Metric.COSINE)
    decoded = in_numpy(model.decode, model)(base)
    last = result.history[-1]
    return {
        "recall@10": float(recall(ids, test.truth, 10).mean()),
        "ndcg@10": float(ndcg(ids, test.relevant, 10).mean()),
        "reconstruction": float(torch.cosine_similarity(torch.from_numpy(decoded), torch.from_numpy(test.base)).mean()),
        "last": last.recall,
        "kl": sum(last.kl),
        "active": last.active_dims,
        "cpu_seconds": seconds,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    print("| recipe | seeds | recall@10 | nDCG@10 | last | reconstruction cosine | KL nats (active dims) | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        recalls = [row["recall@10"] for row in own]
        means = {key: np.mean([row[key] for row in own]) for key in own[0] if key not in ("name", "seed")}
        print(
            f"| {name} | {len(own)} | {means['recall@10']:.3f} ({min(recalls):.3f}-{max(recalls):.3f}) | "
            f"{means['ndcg@10']:.3f} | {means['last']:.3f} | {means['reconstruction']:.3f} | "
            f"{means['kl']:.0f} ({means['active']:.0f}) | {means['cpu_seconds']:.0f} |"
        )


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
