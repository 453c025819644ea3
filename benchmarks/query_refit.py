"""Measure what fitting the queries' side of a codec anew gains, documents and their codes staying as they are.

    python benchmarks/query_refit.py --data DIR --codec CODEC [--bytes 32] [--out FILE]

The folder holds train, train_queries, base and queries as .npy, and which rows of base answer each query. The codec's
queries are fitted on train and train_queries alone; figures are of queries that search base.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from embeddings import load, load_relevant
from vaecodec import Codec
from vaecodec.evaluation import Figures, Truth, exact_search, judge, paired_bootstrap
from vaecodec.interface import FloatArray
from vaecodec.sources import ArraySource
from vaecodec_exporters.query_refit import CONFIRMATION, refit_queries
from vaecodec_training.data.collection import Collection

SHOWN = ("recall@1", "recall@10", "recall@100", "ndcg@10")


def main() -> None:
    """Run the measurement and print a row of a Markdown table for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--bytes", type=int, help="bytes of the code of documents; float32 latents by default")
    parser.add_argument("--pairs", action="store_true", help="tell the refit which document belongs to which query")
    parser.add_argument("--out", type=Path, help="keep the new codec file")
    arguments = parser.parse_args()
    train, train_queries, base, queries = load(arguments.data, "train", "train_queries", "base", "queries")
    old = Codec.load(arguments.codec)
    collection = Collection.open(
        ArraySource(train),
        ArraySource(train_queries),
        pairs="aligned" if arguments.pairs else None,
        metric=old.metric,
        confirmation=CONFIRMATION,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = arguments.out or Path(folder) / "refitted.onnx"
        start = time.process_time()
        held_out = refit_queries(arguments.codec, collection, file, bytes=arguments.bytes)
        seconds = time.process_time() - start
        new = Codec.load(file)
    truth, relevant = Truth.of(base, queries, old.metric), load_relevant(arguments.data)
    stored = old.encode(base)
    if arguments.bytes:
        code = old.code(bytes=arguments.bytes)
        stored = code.decode(code.encode(stored))

    def figures(codec: Codec) -> dict[str, Figures]:
        latents: FloatArray = codec.encode_queries(queries)
        return judge(exact_search(stored, latents, 100, codec.latent_metric)[0], truth, relevant)

    before, after = figures(old), figures(new)
    print(f"{arguments.codec.name}, {seconds:.0f} s of CPU, held out: {held_out}")
    print("| figure | before | after | difference |")
    print("|---|---|---|---|")
    for name in SHOWN:
        difference = paired_bootstrap(after[name], before[name])
        print(f"| {name} | {before[name].mean():.3f} | {after[name].mean():.3f} | {difference:+.3f} |")


if __name__ == "__main__":
    main()
