"""Check the quality bars: train through the public interface, export, and measure the codec file on unseen data.

    python benchmarks/quality.py --data ../shared/data/debian-minilm --dims 64,128 --seeds 3

The folder holds train, train_queries, base and queries as .npy, and the queries' relevant rows of base as .npy (one
each) or .json (lists). Prints mean and range over the seeds, the seconds from opening the files to the exported codec
(of the clock, and of all cores together), and the best linear codec fitted on the same documents. With --nested one
file is trained for all dims.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embeddings import load, load_relevant
from vaecodec import Codec, LinearKind, fit_linear
from vaecodec.evaluation import exact_search, ndcg, recall
from vaecodec.interface import Metric, VectorCodec
from vaecodec.sources import VectorSource, open_source
from vaecodec_exporters.checkpoint import export_checkpoint
from vaecodec_training.data.collection import Collection
from vaecodec_training.recipe import Recipe
from vaecodec_training.trainer import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dims", default="64,128")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--recipe", type=Path, help="TOML file; by default the default recipe")
    parser.add_argument("--nested", action="store_true", help="one file for all dims")
    parser.add_argument("--json", type=Path, help="write every single figure there")
    arguments = parser.parse_args()
    dims = sorted(int(dim) for dim in arguments.dims.split(","))
    recipe = Recipe.load(arguments.recipe) if arguments.recipe else Recipe()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    test = Test(arguments.data)
    print(f"{arguments.data.name}: uncompressed nDCG@10 {test.uncompressed():.3f}", flush=True)
    print("| codec | k | recall@10 | range | nDCG@10 | range | train s | CPU s |\n|---|---|---|---|---|---|---|---|")
    documents = np.load(arguments.data / "train.npy")
    results: list[dict[str, Any]] = []
    for dim in dims:
        best = max((test.measure(fit_linear(documents, dim, kind=kind)), str(kind)) for kind in LinearKind)
        print(f"| {best[1]} | {dim} | {best[0][0]:.3f} | | {best[0][1]:.3f} | | | |", flush=True)
    for groups in [dims] if arguments.nested else [[dim] for dim in dims]:
        own = recipe.replace(dim=groups[-1], nested_dims=tuple(groups[:-1]))
        runs = [_run(arguments.data, own.replace(seed=seed), groups, test) for seed in seeds]
        for dim in groups:
            rows = [run[dim] for run in runs]
            results += [{"dim": dim, "nested": arguments.nested, **row} for row in rows]
            keys = ("recall@10", "ndcg@10", "seconds", "cpu_seconds")
            recalls, ndcgs, seconds, cpu = ([row[key] for row in rows] for key in keys)
            print(
                f"| {'nested' if arguments.nested else 'learned'} | {dim} | {np.mean(recalls):.3f} | "
                f"{_range(recalls)} | {np.mean(ndcgs):.3f} | {_range(ndcgs)} | {np.mean(seconds):.0f} | "
                f"{np.mean(cpu):.0f} |",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"recipe": recipe.to_dict(), "results": results}, indent=1))


class Test:
    """Hold what the figures are measured on; nothing is chosen here."""

    def __init__(self, folder: Path) -> None:
        self.base, self.queries = load(folder, "base", "queries")
        self.relevant = load_relevant(folder)
        self.truth, _ = exact_search(self.base, self.queries, 10, Metric.COSINE)

    def uncompressed(self) -> float:
        return float(ndcg(self.truth, self.relevant, 10).mean())

    def measure(self, codec: VectorCodec) -> tuple[float, float]:
        """Mean recall@10 and nDCG@10, by exact search on the latents."""
        base, queries = codec.encode(self.base), codec.encode_queries(self.queries)
        ids, _ = exact_search(base, queries, 10, codec.latent_metric)
        return float(recall(ids, self.truth, 10).mean()), float(ndcg(ids, self.relevant, 10).mean())


def _run(folder: Path, recipe: Recipe, dims: Sequence[int], test: Test) -> dict[int, dict[str, float]]:
    """Train once, from opening the files to the exported codec, and measure every width."""
    with tempfile.TemporaryDirectory() as temporary:
        run, path = Path(temporary) / "run", Path(temporary) / "codec.onnx"
        start, cpu_start = time.perf_counter(), time.process_time()
        documents, queries = (open_source(folder / f"{name}.npy") for name in ("train", "train_queries"))
        collection = Collection.open(documents, queries, pairs=known_pairs(documents, queries), seed=recipe.seed)
        train(collection, recipe, run)
        export_checkpoint(run, path)
        times = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
        figures = {}
        for dim in dims:
            recalled, gained = test.measure(Codec.load(path, dim=dim))
            figures[dim] = {"seed": recipe.seed, "recall@10": recalled, "ndcg@10": gained, **times}
    return figures


def known_pairs(documents: VectorSource, queries: VectorSource) -> Literal["aligned"] | None:
    """Return the known pairs: as many queries as documents means that they belong together row for row."""
    return "aligned" if documents.rows == queries.rows else None


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3f}-{max(values):.3f}"


if __name__ == "__main__":
    main()
