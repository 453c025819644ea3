"""Measure what a plan is worth: how often it misses its target, and what recall does when a collection grows.

    python benchmarks/plan.py --data ../shared/data/debian-minilm

The folder holds train, base and queries as .npy. Misses: every setting is searched once for all queries; then queries
are drawn at random again and again, half of them to choose on and half to confirm, and what is chosen is looked up on
all. Growth: the same settings in growing parts of the collection, exact search.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from embeddings import load
from vaecodec import fit_linear
from vaecodec.codes import Calibration, CodeType
from vaecodec.evaluation import exact_search, recall_among
from vaecodec.interface import Metric
from vaecodec.sources import open_source
from vaecodec_integrations.plan import Goal
from vaecodec_integrations.plan.candidates import Setting, TriedSetting, candidates
from vaecodec_integrations.plan.planner import choices, choose, draw
from vaecodec_integrations.plan.stores import STORES

FACTORS = (1, 2, 4)
# Width, code, whether Qdrant's float latents score its candidates again, times k that the originals do.
GROWING = (
    (128, CodeType.FLOAT32, False, 1),
    (192, CodeType.INT4, False, 1),
    (192, CodeType.INT2, True, 1),
    (256, CodeType.INT2, True, 1),
    (128, CodeType.INT2, True, 4),
)


def main(
    data: Annotated[Path, typer.Option(help="Folder with train, base and queries as .npy.")],
    draws: Annotated[int, typer.Option(help="How often queries are drawn.")] = 150,
    rows: Annotated[int, typer.Option(help="Documents that the plans are made in.")] = 10_000,
) -> None:
    """Print both tables."""
    misses(data, draws, rows)
    growth(data)


def misses(data: Path, draws: int, rows: int) -> None:
    """Share of the plans whose setting does not reach the target on all queries."""
    queries = open_source(data / "queries.npy")
    sample = draw(open_source(data / "train.npy"), queries, 10, Metric.COSINE, rows, 0)
    considered = list(candidates(sample, [], FACTORS, lambda _: True, lambda _: None))
    everyone = np.arange(len(sample.queries))
    random = np.random.default_rng(0)
    print("| target | queries | plans | missed | recall above the target |\n|---|---|---|---|---|")
    for target in (0.8, 0.9, 0.95):
        goal = Goal(recall=target, rerank=FACTORS[-1], vectors=1_000_000)
        for asked in (200, 500, 1_000):
            above = []
            for _ in range(draws):
                drawn = random.permutation(everyone)[:asked]
                part = replace(sample, choosing=drawn[: asked // 2], confirming=drawn[asked // 2 :])
                offered = choices(considered, FACTORS, part)
                for store in STORES[:3]:
                    found = choose(store, offered, goal, part)
                    if found is not None and found.met:
                        cheapest = found.choices[0]
                        reached = cheapest.candidate.recalls[cheapest.oversample].mean()
                        above.append(reached - target)
            missed = np.mean(np.array(above) < 0)
            print(f"| {target} | {asked} | {len(above)} | {missed:.1%} | {np.mean(above):+.3f} |", flush=True)


def growth(data: Path) -> None:
    """Return the recall@10 in 1/64, 1/32 and so on of all documents."""
    train, base, queries = load(data, "train", "base", "queries")
    documents = np.random.default_rng(0).permutation(np.concatenate([train, base]))
    parts = [len(documents) >> power for power in range(6, -1, -1)]
    print("\n| documents | " + " | ".join(f"{part:,}" for part in parts) + " |\n|---" + "|---" * len(parts) + "|")
    queries = queries[:1_000]
    whole = fit_linear(train, train.shape[1])
    truths = [exact_search(documents[:part], queries, 10, whole.metric)[0] for part in parts]
    for width, dtype, rescored, oversample in GROWING:
        codec = whole.truncated(width)
        calibration = Calibration.fit(codec.encode(train), codec.latent_metric)
        code = calibration.code(dtype=dtype)
        setting = Setting("svd", None, width, whole.dim, width, dtype, code.bytes_per_vector, rescored)
        candidate = TriedSetting(setting, codec, calibration, code, {})
        recalls = [
            recall_among(candidate.found(documents[:part], queries, 10 * oversample), truth).mean()
            for part, truth in zip(parts, truths, strict=True)
        ]
        name = str(setting).removeprefix("svd, ") + (f", re-ranked {oversample}x" if oversample > 1 else "")
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in recalls) + " |", flush=True)


if __name__ == "__main__":
    typer.run(main)
