"""Compare a learned codec with the linear codec that is best in each figure, on vectors that training never saw.

    python benchmarks/contract.py --data DIR --dims 64,128 [--metric dot]
    python benchmarks/contract.py --data DIR --dims 384 --target 48

The folder holds train, train_queries, base and queries as .npy, the queries' relevant rows of base as .npy (one each)
or .json (lists), and perhaps pairs.npy, rows (query, document) of the training data. Trains with the recipe that
``vaecodec train`` chooses for so many rows, one seed. Prints for each figure the learned codec's mean, the 95 % paired
interval of its difference to the best linear codec for that figure, and which codec that is; ``--json`` keeps them.
With --target all codecs store codes of so many bytes, which the learned one is trained for.
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
from vaecodec import Codec
from vaecodec.evaluation import Truth, exact_search, judge
from vaecodec.interface import Metric, VectorCodec
from vaecodec.linear import LinearKind
from vaecodec.provenance import made_now
from vaecodec.sources import open_source
from vaecodec_exporters.checkpoint import export_checkpoint
from vaecodec_exporters.linear import fit_and_export_linear
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
    parser.add_argument("--metric", type=Metric, default=Metric.COSINE, help="how the embeddings are compared")
    parser.add_argument("--target", type=int, default=0, help="bytes per vector to train for and to store")
    parser.add_argument("--json", type=Path, help="write every figure there")
    arguments = parser.parse_args()
    metric, size = arguments.metric, arguments.target
    documents, queries = (open_source(arguments.data / f"{name}.npy") for name in ("train", "train_queries"))
    listed = arguments.data / "pairs.npy"
    pairs = np.load(listed) if listed.exists() else known_pairs(documents, queries)
    collection = Collection.open(documents, queries, pairs=pairs, metric=metric, confirmation=0.05)
    base, asked = load(arguments.data, "base", "queries")
    if metric is not Metric.COSINE:
        base, asked = (np.load(arguments.data / f"{name}.npy").astype(np.float32) for name in ("base", "queries"))
    truth, relevant = Truth.of(base, asked, metric), load_relevant(arguments.data)

    def measured(codec: VectorCodec) -> QueryFigures:
        stored = codec.encode(base)
        if size:
            assert isinstance(codec, Codec)
            code = codec.code(bytes=size)
            stored = code.decode(code.encode(stored))
        ids, _ = exact_search(stored, codec.encode_queries(asked), truth.depth, codec.latent_metric)
        return judge(ids, truth, relevant)

    print("| k | latents, share of the training kept | figure | learned | minus the best linear | which |")
    print("|---|---|---|---|---|---|")
    rows = []
    for dim in map(int, arguments.dims.split(",")):
        target = str(size) if size else ""
        recipe = choose_recipe(width=collection.dim, rows=documents.rows, dim=dim, target=target)
        linear: dict[str, Any] = dict(collection.linear_family(dim))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            kept = train(collection, recipe, folder / "run").checkpoint
            served: Any = ModelCodec(kept.model)
            if size:
                export_checkpoint(folder / "run", folder / "learned.onnx")
                served = Codec.load(folder / "learned.onnx")
                for kind in linear:
                    fit_and_export_linear(documents, folder / f"{kind}.onnx", dim, kind=LinearKind(kind), metric=metric)
                    linear[kind] = Codec.load(folder / f"{kind}.onnx")
        learned = measured(served)
        made = f"{kept.recipe.latent_metric}, {kept.provenance['trained_share']}"
        for each in gate(learned, {kind: measured(codec) for kind, codec in linear.items()}).comparisons:
            mean = learned[each.figure].mean()
            print(f"| {dim} | {made} | {each.figure} | {mean:.3f} | {each.difference:+.3f} | {each.over} |", flush=True)
            difference = each.difference._asdict()
            rows.append({"dim": dim, "figure": each.figure, "learned": float(mean), "over": each.over, **difference})
    if arguments.json:
        asked_for = {"data": arguments.data.name, "metric": str(metric), "bytes": size}
        content = {**made_now(), **asked_for, "results": rows}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
