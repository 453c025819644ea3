"""Measure what training for a code is worth, and each choice in it: codes of documents that were never trained on.

    python benchmarks/channel.py --data ../shared/data/debian-minilm --seeds 2 --out channel.jsonl

The folder holds train.npy and train_queries.npy, row for row. The last rows are held out: their documents are encoded
and decoded, every second of their queries searches them exactly, and the test files are not opened, so that choices may
be made here. One row per change to Recipe.for_code, and the same code on the linear map that training starts from.
Every finished run is one line of the output file; the benchmark can be interrupted and goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from embeddings import load
from vaecodec import Codec, Metric, fit_linear
from vaecodec.codes import Calibration
from vaecodec.evaluation import exact_search, ndcg, recall
from vaecodec.interface import FloatArray
from vaecodec.sources import ArraySource
from vaecodec_exporters.checkpoint import export_checkpoint
from vaecodec_training.channel import learned_rotation
from vaecodec_training.data.collection import Collection
from vaecodec_training.model import in_numpy
from vaecodec_training.recipe import Recipe
from vaecodec_training.trainer import train

# Code: the latents it is given (all where None), and what is changed to its recipe under which name.
_DEFAULT = {"hidden": 512, "reconstruction": 0.1, "batch": 1024, "epochs": 10.0, "contrastive": 0.0}
VARIANTS: dict[tuple[int | None, str | int], dict[str, dict[str, Any]]] = {
    (None, 48): {
        "the recipe": {},
        "trained for 32": {"target_bytes": (32,)},
        "trained for 40": {"target_bytes": (40,)},
        "trained for 32, 48 and 64 in turn": {"target_bytes": (32, 48, 64)},
        "16 epochs": {"epochs": 16.0},
        "hidden layer of 512": {"hidden": 512},
        "hidden layer of 512, rate 1e-3": {"hidden": 512, "learning_rate": 1e-3},
        "an encoder of their own for queries": {"asymmetric": True},
        "batches of 1,024": {"batch": 1024},
        "no InfoNCE": {"contrastive": 0.0},
        "InfoNCE .1": {"contrastive": 0.1},
        "reconstruction .1": {"reconstruction": 0.1},
        "the recipe for floats": _DEFAULT,
    },
    (192, "int2"): {
        "the recipe": {},
        "24 epochs": {"epochs": 24.0},
        "linear encoder": {"hidden": 0},
        "rate 1e-3": {"learning_rate": 1e-3},
        "batches of 1,024": {"batch": 1024},
        "InfoNCE .01": {"contrastive": 0.01},
        "reconstruction .1": {"reconstruction": 0.1},
        "the recipe for floats": _DEFAULT,
    },
    (192, "int4"): {"the recipe": {}, "linear encoder": {"hidden": 0}},
}
FLOATS = (64, 128)


class HeldOut:
    """Hold pairs of documents and queries, split in two; float32, unit norm."""

    def __init__(self, folder: Path, held_out: int) -> None:
        documents, queries = load(folder, "train", "train_queries")
        self.train, self.base = documents[:-held_out], documents[-held_out:]
        self.train_queries, self.queries = queries[:-held_out], queries[-held_out::2]
        self.relevant = np.arange(0, held_out, 2)[:, None]
        self.truth, _ = exact_search(self.base, self.queries, 10, Metric.COSINE)

    def measure(self, decoded: FloatArray, queries: FloatArray) -> dict[str, float]:
        """Measure float queries among the latents that the codes of the base decode to."""
        ids, _ = exact_search(decoded, queries, 10, Metric.COSINE)
        return {
            "recall@10": float(recall(ids, self.truth, 10).mean()),
            "ndcg@10": float(ndcg(ids, self.relevant, 10).mean()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held-out", type=int, default=20_000, help="rows")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("channel.jsonl"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # several variants do not beat the linear map
    data = HeldOut(arguments.data, arguments.held_out)
    done = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []

    def unless_done(code: str | int, name: str, seed: int, run: Callable[[], dict[str, float]]) -> None:
        if any((row["code"], row["name"], row["seed"]) == (code, name, seed) for row in done):
            return
        done.append({"code": code, "name": name, "seed": seed, **run()})
        with arguments.out.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")

    for (dim, code), variants in VARIANTS.items():
        dim = dim or data.base.shape[1]
        for name, untrained in _untrained(data, dim, code).items():
            unless_done(code, name, 0, untrained)
        for seed in range(arguments.seeds):
            for name, changes in variants.items():
                aim = {"target": code} if isinstance(code, str) else {"target_bytes": (code,)}
                recipe = Recipe.for_code(paired=True, **{**aim, "dim": dim, "seed": seed, **changes})
                unless_done(code, name, seed, lambda r=recipe, c=code: _coded_by(data, *_trained(data, r), c))
    for seed in range(arguments.seeds):
        # One file for a trellis code and, in its first latents, for floats.
        aim = {"target_bytes": (48,), "nested_dims": FLOATS, "dim": data.base.shape[1], "seed": seed}
        nested: Any = cache(lambda a=aim: _trained(data, Recipe.for_code(paired=True, **a)))
        name = "nested: 64 and 128 floats, 48 bytes"
        unless_done(48, name, seed, lambda n=nested: _coded_by(data, n()[0], n()[1], 48))
        for dim in FLOATS:
            unless_done(f"{dim} floats", name, seed, lambda n=nested, d=dim: _floats(data, n()[0], n()[1], d))
            own = Recipe(dim=dim, seed=seed)
            unless_done(
                f"{dim} floats", "a file of its own", seed, lambda r=own, d=dim: _floats(data, *_trained(data, r), d)
            )
    _print(done)


def _untrained(data: HeldOut, dim: int, code: str | int) -> dict[str, Callable[[], dict[str, float]]]:
    """Measure the untrained code: on the linear map that training starts from, and on the latents of a VAE."""
    linear = fit_linear(data.train, dim)
    latents = linear.encode(data.train), linear.encode(data.base), linear.encode_queries(data.queries)
    rows = {"untrained": lambda: _coded(data, latents, code)}
    if code == "int2":
        rotation = learned_rotation(latents[0], Calibration.fit(latents[0], Metric.COSINE).code(dtype=code))
        rows["untrained, rotation learned"] = lambda: _coded(data, tuple(part @ rotation for part in latents), code)
    if isinstance(code, int):
        for memory in (8, 12):
            rows[f"untrained, L = {memory}"] = lambda m=memory: _coded(data, latents, code, memory=m)
        rows["VAE, bits by the spread"] = lambda: _vae(data, dim, code, by_rate=False)
        rows["VAE, bits by its KL"] = lambda: _vae(data, dim, code, by_rate=True)
    return rows


def _vae(data: HeldOut, dim: int, code: int, *, by_rate: bool) -> dict[str, float]:
    """Train a VAE without regard to codes. Its rate R gives a dimension exp(2 R) times the variance of its noise."""
    collection = Collection.open(ArraySource(data.train), ArraySource(data.train_queries), pairs="aligned")
    with tempfile.TemporaryDirectory() as folder:
        result = train(collection, Recipe(dim=dim, hidden=0, batch=512, epochs=8.0, checkpoints=3), Path(folder))
    model = result.checkpoint.model
    encode, ask = in_numpy(model.encode, model), in_numpy(model.encode_queries, model)
    latents = encode(data.train), encode(data.base), ask(data.queries)
    importance = np.exp(2 * np.array(result.history[-1].kl, np.float32)) if by_rate else None
    return _coded(data, latents, code, importance=importance)


def _coded(data: HeldOut, latents: tuple[FloatArray, ...], code: str | int, **calibration: Any) -> dict[str, float]:
    """Return latents of training documents, base and queries; "encoded" is rows a CPU second."""
    rows, base, queries = latents
    fitted = Calibration.fit(rows, Metric.COSINE, **calibration).code(**_parameters(code))
    fitted.encode(base[:100])  # compiles
    start = time.process_time()
    codes = fitted.encode(base)
    encoded = len(base) / (time.process_time() - start)
    return {**data.measure(fitted.decode(codes), queries), "encoded": encoded}


def _parameters(code: str | int) -> dict[str, Any]:
    return {"dtype": code} if isinstance(code, str) else {"bytes": code}


def _trained(data: HeldOut, recipe: Recipe) -> tuple[bytes, float]:
    """Return a codec file, and the CPU seconds that training took."""
    collection = Collection.open(ArraySource(data.train), ArraySource(data.train_queries), pairs="aligned")
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train(collection, recipe, Path(folder) / "run")
        seconds = time.process_time() - start
        export_checkpoint(Path(folder) / "run", Path(folder) / "codec.onnx")
        return (Path(folder) / "codec.onnx").read_bytes(), seconds


def _loaded(file: bytes, dim: int | None = None) -> Codec:
    with tempfile.NamedTemporaryFile(suffix=".onnx") as temporary:
        Path(temporary.name).write_bytes(file)
        return Codec.load(temporary.name, dim=dim)


def _coded_by(data: HeldOut, file: bytes, seconds: float, code: str | int) -> dict[str, float]:
    codec = _loaded(file)
    decoded = codec.code(**_parameters(code)).decode(codec.encode(data.base, **_parameters(code)))
    return {**data.measure(decoded, codec.encode_queries(data.queries)), "cpu_seconds": seconds}


def _floats(data: HeldOut, file: bytes, seconds: float, dim: int) -> dict[str, float]:
    codec = _loaded(file, dim)
    return {**data.measure(codec.encode(data.base), codec.encode_queries(data.queries)), "cpu_seconds": seconds}


def _print(rows: list[dict[str, Any]]) -> None:
    print("| code | recipe | seeds | recall@10 | nDCG@10 | trained in CPU s | encoded per CPU s |\n" + "|---" * 7 + "|")
    for code, name in dict.fromkeys((row["code"], row["name"]) for row in rows):
        own = [row for row in rows if (row["code"], row["name"]) == (code, name)]
        recalls, gained = ([row[key] for row in own] for key in ("recall@10", "ndcg@10"))
        times = [np.mean([row[key] for row in own]) if key in own[0] else None for key in ("cpu_seconds", "encoded")]
        print(
            f"| {code} | {name} | {len(own)} | {np.mean(recalls):.4f} ({min(recalls):.4f}-{max(recalls):.4f}) | "
            f"{np.mean(gained):.4f} | " + " | ".join("" if each is None else f"{each:,.0f}" for each in times) + " |"
        )


if __name__ == "__main__":
    main()
