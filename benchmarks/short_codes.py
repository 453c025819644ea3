"""Measure recall of the shortest codes: ours against every quantiser of its kind, on the same data and queries.

    python benchmarks/short_codes.py --data DIR --kept runs/ --out docs/bytes/NAME-short

Float queries against what codes decode to, by exact search; recall@10 against the exact neighbours. Ours are untrained,
on all principal axes: what `vaecodec fit` writes where nothing is learned; the learned ones are what `vaecodec train
--target BYTES` writes with as many latents. Writes OUT.json and OUT.md after every row, and goes on from there when it
was stopped; the recall of each query is kept in the folder --kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from short_code_peers import peers
from short_code_systems import (
    FACTORS,
    Data,
    DoesNotFitError,
    K,
    Ours,
    System,
    additive,
    learned,
    product,
    scaled_bits,
    sentence_transformers,
)
from vaecodec.evaluation import ndcg, paired_bootstrap, recall

SIZES = (8, 16, 24, 32, 48, 64, 96)
OURS = "stages and trellis"
LEARNED = "stages and trellis, learned latents"
# Larger ones, or of as many dimensions, take hours on one core.
LARGEST = {"LocalSearchQuantizer": 8, "ResidualQuantizer": 32}
WIDEST = 512
PACKAGES = [
    "numpy",
    "faiss-cpu",
    "sentence-transformers",
    "qdrant-edge-py",
    "turbovec",
    "remex",
    "rabitqlib",
    "scann-core",
]


@dataclass(frozen=True)
class Row:
    """Hold one system at one size. Rates are per second on one thread, of a machine that may have been busy.

    Attributes:
        bytes: the size.
        taken: what a code really takes, at most that.
    """

    system: str
    bytes: int
    taken: int
    recall: float
    ndcg: float
    fit_seconds: float
    encode_rate: float


def systems(data: Data, size: int) -> Iterator[tuple[str, System]]:
    """Yield the systems that exist at a size, the quick ones first."""
    yield OURS, _OURS
    yield "trellis alone", _ALONE
    yield LEARNED, learned
    if data.width % size == 0:
        yield "PQ", product(rotated=False)
    for kind in ("RaBitQ", "EDEN"):
        for bits in (1, 2, 3, 4):
            if 8 <= 8 * (size - FACTORS) // bits <= data.width:
                yield f"{kind}, {bits} bit{'s' * (bits > 1)}", scaled_bits(kind, bits)
    yield "truncation, sentence-transformers int8", sentence_transformers("int8")
    if 8 * size <= data.width:
        yield "truncation, sentence-transformers ubinary", sentence_transformers("ubinary")
    yield from peers(data, size)
    if data.width % size == 0:
        yield "OPQ", product(rotated=True)
    for name in ("ResidualQuantizer", "LocalSearchQuantizer"):
        if size <= LARGEST[name] // (1 + (data.width > WIDEST)):
            yield name, additive(name)
        if size > 8 and data.width % (size // 8) == 0:
            yield f"Product{name}", additive(f"Product{name}")


_OURS, _ALONE = Ours(staged=True), Ours(staged=False)


def measured(data: Data, system: str, size: int, make: System) -> tuple[Row, np.ndarray]:
    started = time.perf_counter()
    encode, find = make(data, size)
    fitted = time.perf_counter()
    codes = encode()
    rate = len(codes) / (time.perf_counter() - fitted)
    ids = find(codes)
    figures = recall(ids, data.truth, K)
    found = float(ndcg(ids, data.relevant, K).mean())
    return Row(system, size, codes.shape[1], float(figures.mean()), found, fitted - started, rate), figures


def table(rows: list[Row], gains: dict[str, dict[str, float]]) -> str:
    """Return a table: for each size every system, the best first, and by how much ours finds more."""
    lines = [
        "| bytes | system | taken | recall@10 | nDCG@10 | ours more, 95 % interval | fit, s | encoded/s |",
        "|" + "---|" * 8,
    ]
    for row in sorted(rows, key=lambda row: (row.bytes, -row.recall)):
        gain = gains.get(f"{row.system}|{row.bytes}")
        more = f"{gain['mean']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]" if gain else ""
        figures = f"{row.recall:.3f} | {row.ndcg:.3f} | {more} | {row.fit_seconds:,.0f} | {row.encode_rate:,.0f}"
        lines.append(f"| {row.bytes} | {row.system} | {row.taken} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kept", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--systems", nargs="*", help="only these")
    arguments = parser.parse_args()
    data = Data(arguments.data)
    output, recalls = arguments.out.with_suffix(".json"), arguments.kept / f"{arguments.out.name}.npz"
    rows = [Row(**row) for row in json.loads(output.read_text())["rows"]] if output.exists() else []
    known = dict(np.load(recalls)) if recalls.exists() else {}
    for size in arguments.sizes:
        for system, make in systems(data, size):
            wanted = arguments.systems is None or system in arguments.systems
            if not wanted or f"{system}|{size}" in known:
                continue
            try:
                row, known[f"{system}|{size}"] = measured(data, system, size, make)
            except (ImportError, DoesNotFitError) as missing:
                print(f"{size:3} bytes  left out: {system}: {missing}", flush=True)
                continue
            print(f"{size:3} bytes  {row.recall:.4f} / {row.ndcg:.4f}  {system}", flush=True)
            rows = [*(old for old in rows if (old.system, old.bytes) != (system, size)), row]
            write(output, recalls, arguments.data.name, rows, known)


def write(output: Path, recalls: Path, name: str, rows: list[Row], known: dict[str, Any]) -> None:
    gains = json.loads(output.read_text())["gains"] if output.exists() else {}
    for key, figures in known.items():
        system, size = key.split("|")
        if system != OURS and f"{OURS}|{size}" in known:
            gains[key] = paired_bootstrap(known[f"{OURS}|{size}"], figures)._asdict()
    versions = {package: _version(package) for package in PACKAGES}
    content = {"data": name, "versions": versions, "rows": [asdict(row) for row in rows], "gains": gains}
    output.write_text(json.dumps(content, indent=1) + "\n")
    np.savez_compressed(recalls, **known)
    output.with_suffix(".md").write_text(table(rows, gains))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
