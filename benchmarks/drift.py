"""Measure how soon drift is found, how often an alarm is false, and what watching costs.

Run: OMP_NUM_THREADS=2 python benchmarks/drift.py --data DIR

DIR holds the collections debian-minilm and mpnet-squad (train.npy, base.npy, queries.npy of each). The codecs have 64
latents: the linear one (SVD) and one trained for 3 epochs, each with the statistics of the rows that were held out.

- debian-minilm: trained on the training documents. Then comes: other documents of the same kind; synopses instead of
  descriptions (same model, other texts); the documents turned by a random rotation, which is what another model of the
  same geometry would give; the first 384 coordinates of another model, all-mpnet-base-v2.
- mpnet-squad: trained on 5,000 sentences of SQuAD. Then comes: 2,000 other ones; quiz clues (same model, other corpus).

Prints, for each codec and stream of vectors, the share of checks that find drift after so many vectors, each check on
a new draw; then the same when only a share of the vectors is new; then the time that a monitored codec takes to encode
over the time of the codec itself, measured in turn in the same process, and the time of a check.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from embeddings import load, unit_rows
from vaecodec import Codec
from vaecodec.calibration import CodecCalibration
from vaecodec.drift import Encoded, Reference
from vaecodec.drift.monitor import MonitoredCodec
from vaecodec.interface import FloatArray
from vaecodec.sources import ArraySource
from vaecodec_exporters.checkpoint import export_checkpoint
from vaecodec_exporters.linear import export_linear
from vaecodec_training.data.collection import Collection
from vaecodec_training.recipe import Recipe
from vaecodec_training.trainer import train

DIM = 64
COUNTS = (100, 300, 1_000)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)


def main(
    data: Annotated[Path, typer.Option(help="Folder of the collections.")],
    checks: Annotated[int, typer.Option(help="Checks of each kind.")] = 200,
) -> None:
    """Measure and print everything."""
    names = ("train", "base", "queries")
    debian = dict(zip(names, load(data / "debian-minilm", *names), strict=True))
    mpnet = unit_rows(data / "mpnet-squad" / "base.npy")
    random = np.random.default_rng(0)
    squad, clues = random.permutation(mpnet[:7_000]), mpnet[7_000:]
    rotation = np.linalg.qr(random.standard_normal((384, 384)))[0].astype(np.float32)
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        console.print("debian-minilm")
        codecs = trained(debian["train"], Path(folder) / "debian")
        streams = {
            "other documents, as at training": debian["base"],
            "synopses": debian["queries"],
            "rotated documents": debian["base"] @ rotation,
            "another model's first 384": mpnet[:, :384],
        }
        console.print(caught(codecs, streams, checks, random))
        console.print(mixed(codecs, debian["base"], debian["queries"], "synopses", checks, random))
        console.print("mpnet-squad")
        codecs = trained(squad[:5_000], Path(folder) / "mpnet")
        streams = {"other sentences, as at training": squad[5_000:], "quiz clues": clues}
        console.print(caught(codecs, streams, checks, random))
        console.print(mixed(codecs, squad[5_000:], clues, "quiz clues", checks, random))
        console.print(cost(codecs["learned"], clues))


def trained(rows: FloatArray, folder: Path) -> dict[str, Codec]:
    """Return the linear codec and the learned one, as files."""
    collection = Collection.open(ArraySource(rows))
    linear = collection.linear(DIM, collection.start_kind)
    folder.mkdir()
    encoded = Encoded.encode(linear.encode, linear.decode, collection.held_out)
    reference = Reference.fit(encoded, None, linear.metric, linear.latent_metric)
    export_linear(linear, folder / "svd.onnx", calibration=CodecCalibration(drift=reference))
    train(collection, Recipe(dim=DIM, epochs=3), folder / "run")
    export_checkpoint(folder / "run", folder / "vae.onnx")
    return {"svd": Codec.load(folder / "svd.onnx"), "learned": Codec.load(folder / "vae.onnx")}


def caught(
    codecs: Mapping[str, Codec], streams: Mapping[str, FloatArray], checks: int, random: np.random.Generator
) -> Table:
    """Share of checks that find drift, by stream and number of vectors."""
    table = Table("codec", "then comes", *(f"{count:,} vectors" for count in COUNTS), title="checks that find drift")
    for name, codec in codecs.items():
        for stream, rows in streams.items():
            shares = (alarms(codec, lambda n=n, r=rows: random.permutation(r)[:n], checks) for n in COUNTS)  # type: ignore[arg-type]
            table.add_row(name, stream, *(f"{share:.1%}" for share in shares))
    return table


def mixed(
    codecs: Mapping[str, Codec],
    known: FloatArray,
    other: FloatArray,
    name: str,
    checks: int,
    random: np.random.Generator,
) -> Table:
    """Share of checks that find drift in 1,000 vectors, by the share of them that is new."""
    table = Table(
        "codec", *(f"{share:.0%} {name}" for share in SHARES), title="checks of 1,000 vectors that find drift"
    )

    def draw(share: float) -> FloatArray:
        count = int(1_000 * share)
        return np.concatenate([random.permutation(known)[count:1_000], random.permutation(other)[:count]])

    for kind, codec in codecs.items():
        table.add_row(kind, *(f"{alarms(codec, lambda s=s: draw(s), checks):.1%}" for s in SHARES))
    return table


def alarms(codec: Codec, draw: Callable[[], FloatArray], checks: int) -> float:
    """Share of checks that find drift, each on a new draw."""
    found = 0
    for _ in range(checks):
        monitor = MonitoredCodec.of(codec)
        monitor.encode(draw())
        found += monitor.check().drifted
    return found / checks


def cost(codec: Codec, rows: FloatArray) -> Table:
    """Time of encoding with and without a monitor, median of alternating runs, and of a check."""
    monitor = MonitoredCodec.of(codec)
    table = Table("vectors in a call", "codec, us", "monitored, us", "ratio", title="what watching costs")
    for batch, repeats in ((1, 2_000), (32, 500), (1_024, 50)):
        times: dict[Codec, list[float]] = {codec: [], monitor: []}
        for _ in range(repeats):
            for side, taken in times.items():
                start = time.perf_counter()
                side.encode(rows[:batch])
                taken.append(time.perf_counter() - start)
        plain, watched = (1e6 * np.median(taken) for taken in times.values())
        table.add_row(f"{batch:,}", f"{plain:,.0f}", f"{watched:,.0f}", f"{watched / plain:.2f}")
    start = time.perf_counter()
    monitor.check()
    table.add_row("check()", "", f"{1e6 * (time.perf_counter() - start):,.0f}", "")
    return table


if __name__ == "__main__":
    typer.run(main)
