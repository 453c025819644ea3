"""Measure relevance: how much better than the embeddings a codec finds the right document, and what that costs.

    OMP_NUM_THREADS=2 python benchmarks/relevance.py --data ../shared/data/debian-minilm --dims 64,128,384

The folder is that of benchmarks/quality.py; its train_queries belong to its train documents row for row, or by
pairs.npy. Everything is chosen on held-out pairs of these; base and queries are only measured. The recipe is that of
``vaecodec train --objective relevance``, unless options change it. Every figure has its mean over the queries
and the 95 % interval of its difference from the uncompressed embeddings, and stands beside the linear codec that is
best in it. The full width is the fair opponent: the same training without compression. With --bytes each codec is
measured by short codes, too: float queries search what the documents' codes decode to. With --target it is trained for
codes of so many bytes, as ``vaecodec train --objective relevance --target BYTES`` does it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings import load, load_relevant
from quality import known_pairs
from vaecodec import Codec
from vaecodec.evaluation import Truth, bootstrap, exact_search, judge
from vaecodec.interface import Metric, VectorCodec
from vaecodec.linear import LinearMoments, linear_kinds
from vaecodec.sources import open_source
from vaecodec_exporters.checkpoint import export_checkpoint
from vaecodec_training.data.collection import Collection, held_out_share
from vaecodec_training.recipe import Recipe, choose_recipe
from vaecodec_training.trainer import train

DEPTH = 100
FIGURES = ("ndcg@10", "relevant@100", "recall@10", "recall@100", "kept@100")
Figures = dict[str, NDArray[np.float64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dims", default="64,128,384")
    parser.add_argument("--weight", type=float, help="of InfoNCE; the rest is the distillation's")
    parser.add_argument("--hidden", type=int, help="units of a hidden layer in both maps")
    parser.add_argument("--noise", type=float, help="norm of noise on the inputs, relative to theirs")
    parser.add_argument("--hard-negatives", type=int, help="documents for each query that do not answer it")
    parser.add_argument("--soft-labels", type=float, help="share of the pairs in what distillation teaches to queries")
    parser.add_argument("--target", default="", help="bytes per vector to train for, such as 48 or 32,48")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, help="by default those of 1,500 steps")
    parser.add_argument("--bytes", type=lambda text: [int(size) for size in text.split(",")], default=[])
    parser.add_argument("--json", type=Path, help="write every mean and interval there")
    arguments = parser.parse_args()
    test = Test(arguments.data)
    reference = test.measure(None)
    print(f"{arguments.data.name}: {len(test.base):,} documents, {len(test.queries):,} queries, seed {arguments.seed}")
    print(f"| codec | k | {' | '.join(FIGURES)} | CPU s |\n|---|---|{'---|' * (len(FIGURES) + 1)}")
    results = [row("uncompressed", test.base.shape[1], reference, reference, 0.0)]
    (documents,) = load(arguments.data, "train")
    moments = LinearMoments.of(documents)
    for dim in map(int, arguments.dims.split(",")):
        family = [test.measure(moments.codec(dim, kind)) for kind in linear_kinds(Metric.COSINE)]
        best = {name: max((each[name] for each in family), key=lambda values: values.mean()) for name in FIGURES}
        results.append(row("best linear for each figure", dim, best, reference, 0.0))
        changes: dict[str, Any] = {
            "hidden": arguments.hidden,
            "input_noise": arguments.noise,
            "hard_negatives": arguments.hard_negatives,
            "soft_labels": arguments.soft_labels,
        }
        if arguments.weight is not None:
            changes |= {"contrastive": arguments.weight, "alignment": 1 - arguments.weight}
        recipe = choose_recipe(
            width=documents.shape[1],
            rows=len(documents),
            objective="relevance",
            target=arguments.target,
            dim=dim,
            seed=arguments.seed,
            epochs=arguments.epochs,
            **changes,
        )
        start = time.process_time()
        codec = trained(arguments.data, recipe)
        seconds = time.process_time() - start
        results.append(row("trained for relevance", dim, test.measure(codec), reference, seconds))
        for size in arguments.bytes:
            figures = test.measure(codec, bytes=size)
            results.append(row(f"its codes of {size} bytes", dim, figures, reference, 0.0))
    if arguments.json:
        arguments.json.write_text(json.dumps({"recipe": recipe.to_dict(), "results": results}, indent=1))


class Test:
    """Hold what the figures are measured on; nothing is chosen here."""

    def __init__(self, folder: Path) -> None:
        self.base, self.queries = load(folder, "base", "queries")
        self.relevant = load_relevant(folder)
        self.truth = Truth.of(self.base, self.queries, Metric.COSINE, depth=DEPTH)

    def measure(self, codec: VectorCodec | None, *, bytes: int = 0) -> Figures:  # noqa: A002
        """Return every figure of every query, by exact search on the latents or their codes, or on the embeddings."""
        base, queries, metric = self.base, self.queries, Metric.COSINE
        if codec is not None:
            base, queries, metric = codec.encode(base), codec.encode_queries(queries), codec.latent_metric
        if bytes:
            assert isinstance(codec, Codec)
            code = codec.code(bytes=bytes)
            base = code.decode(code.encode(base))
        found, _ = exact_search(base, queries, DEPTH, metric)
        return judge(found, self.truth, self.relevant)


def trained(folder: Path, recipe: Recipe) -> Codec:
    """Train a codec through the public interface, from the files to the exported file."""
    with tempfile.TemporaryDirectory() as temporary:
        run, path = Path(temporary) / "run", Path(temporary) / "codec.onnx"
        documents, queries = (open_source(folder / f"{name}.npy") for name in ("train", "train_queries"))
        listed = folder / "pairs.npy"
        pairs = np.load(listed) if listed.exists() else known_pairs(documents, queries)
        share = held_out_share(documents.rows or 1, recipe.objective)
        collection = Collection.open(documents, queries, pairs=pairs, validation=share, seed=recipe.seed)
        train(collection, recipe, run, full_size=False)
        export_checkpoint(run, path)
        return Codec.load(path)


def row(name: str, dim: int, figures: Figures, reference: Figures, seconds: float) -> dict[str, Any]:
    """Print one line of the table, and return what it says."""
    result: dict[str, Any] = {"codec": name, "dim": dim, "cpu_seconds": seconds}
    cells = []
    for figure in FIGURES:
        gain = bootstrap(np.asarray(figures[figure], float) - reference[figure])
        result[figure] = {"mean": float(np.mean(figures[figure])), "gain": [gain.mean, gain.low, gain.high]}
        cells.append(f"{np.mean(figures[figure]):.3f} ({gain:+.3f})")
    print(f"| {name} | {dim} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)
    return result


if __name__ == "__main__":
    main()
