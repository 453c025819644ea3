"""Measure what a migration costs in recall while it lasts: an old collection searched with a new codec across a bridge.

    python benchmarks/bridge.py --data DIR

DIR holds train.npy, base.npy and queries.npy. All codecs, and the bridges between them, are fitted on the training
documents; then the queries search the base. Prints recall@10 against exact search on the uncompressed vectors, for each
pair of codecs and each way to search (docs/bridge.md). The learned codec has 64 latents and 3 epochs of training.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from embeddings import load
from vaecodec import Codec, LinearKind, VectorCodec, fit_linear
from vaecodec.evaluation import bootstrap
from vaecodec.sources import open_source
from vaecodec.two_models.bridge import fit_bridge, measure_bridge
from vaecodec_exporters.checkpoint import export_checkpoint
from vaecodec_training.data.collection import Collection
from vaecodec_training.recipe import Recipe
from vaecodec_training.trainer import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    documents, base, queries = load(data, "train", "base", "queries")
    codecs: dict[str, VectorCodec] = {
        "SVD 64": fit_linear(documents, 64),
        "SVD 128": fit_linear(documents, 128),
        "truncation 96": fit_linear(documents, 96, kind=LinearKind.TRUNCATION),
        "learned 64": learned(data / "train.npy"),
    }
    for old, new in (
        ("SVD 64", "learned 64"),
        ("learned 64", "SVD 128"),
        ("SVD 128", "learned 64"),
        ("truncation 96", "learned 64"),
    ):
        bridge, _ = fit_bridge(codecs[old], codecs[new], documents)
        print(f"{old} to {new}")
        for name, figures in measure_bridge(codecs[old], codecs[new], bridge, base, queries).items():
            print(f"  {name:<22} {bootstrap(figures):.3f}", flush=True)


def learned(path: Path) -> Codec:
    with tempfile.TemporaryDirectory() as folder:
        train(Collection.open(open_source(path)), Recipe(dim=64, epochs=3), Path(folder))
        export_checkpoint(folder, Path(folder) / "vae64.onnx")
        return Codec.load(Path(folder) / "vae64.onnx")


if __name__ == "__main__":
    main()
