"""Print the tables and draw the picture of benchmarks/bytes.py: one row for each system at each size."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vaecodec.charts import LIGHT, MARKERS, chart, rendered
from vaecodec.evaluation import paired_bootstrap

# Parts that search codes exactly.
EXACT = ("trellis", "uniform", "peers")
RERANKED = (2, 4, 8)
# A peer whose codes have no budget of ours is compared with the next smaller one, up to this factor.
MORE_BYTES = 1.2


@dataclass(frozen=True)
class Row:
    """Hold one system at one size, for one seed or the mean over several. Rates are per second; None where not
    measured.

    Attributes:
        reranked: by R, the recall once the 10 R best were ranked again by the uncompressed vectors.
        kl_bits: what the channel's KL says that the code takes.
        spread: highest less lowest recall of the seeds.
    """

    part: str
    system: str
    bytes: float
    recall: float
    ndcg: float
    encode_rate: float | None = None
    query_rate: float | None = None
    disk_bytes: float | None = None
    kl_bits: float | None = None
    reranked: dict[str, float] = field(default_factory=dict)
    seeds: int = 1
    spread: float = 0.0


def row_key(part: str, system: str, size: float) -> str:
    return f"{part}|{system}|{size:g}"


def averaged(rows: list[Row]) -> list[Row]:
    """Return one row per system and size: the mean over its seeds."""
    found = []
    for key in dict.fromkeys(row_key(row.part, row.system, row.bytes) for row in rows):
        own = [row for row in rows if row_key(row.part, row.system, row.bytes) == key]
        recalls = [row.recall for row in own]
        means: dict[str, Any] = {}
        for name in ("recall", "ndcg", "encode_rate", "query_rate", "disk_bytes", "kl_bits"):
            values = [getattr(row, name) for row in own if getattr(row, name) is not None]
            means[name] = float(np.mean(values)) if values else None
        reranked = {key: float(np.mean([row.reranked[key] for row in own])) for key in own[0].reranked}
        spread = max(recalls) - min(recalls)
        found.append(replace(own[0], **means, reranked=reranked, seeds=len(own), spread=spread))
    return found


def differences(recalls: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return how much more ours finds than other systems of its size, per query: mean and 95 % interval.

    The trellis code over every code that is searched exactly, and in Qdrant ours over the full vector.
    """
    split: dict[str, tuple[str, str, float]] = {}
    for name in recalls:
        first, second, third = name.split("|")
        split[name] = (first, second, float(third))
    found = []
    for own, (part, system, size) in split.items():
        if (part, system) != ("trellis", "trellis") and not (part == "qdrant" and system.startswith("ours")):
            continue
        for other, (other_part, other_system, other_size) in split.items():
            if part == "qdrant":
                rescored = [name.endswith("re-scored") for name in (system, other_system)]
                comparable = other_part == "qdrant" and other_system.startswith("full") and rescored[0] == rescored[1]
            else:
                comparable = other_part in EXACT and other != own
            if comparable and size <= other_size <= MORE_BYTES * size:
                gain = paired_bootstrap(recalls[own], recalls[other])._asdict()
                found.append({"system": system, "bytes": size, "over": other_system, "over_bytes": other_size, **gain})
    return sorted(found, key=lambda gain: (gain["system"], gain["bytes"], gain["mean"]))


def table(rows: list[Row], gains: list[dict[str, Any]]) -> str:
    lines = [
        "| bytes | part | system | recall@10 | nDCG@10 | KL bits / code bits | encoded/s | queries/s | disk bytes |",
        "|" + "---|" * 9,
    ]
    for row in sorted(rows, key=lambda row: (row.part, row.bytes, -row.recall)):
        rates = [f"{value:,.0f}" if value else "" for value in (row.encode_rate, row.query_rate, row.disk_bytes)]
        seeds = f" ({row.seeds} seeds, range {row.spread:.3f})" if row.seeds > 1 else ""
        bits = f"{row.kl_bits:.0f} / {8 * row.bytes:.0f}" if row.kl_bits else ""
        cells = (f"{row.bytes:g}", row.part, row.system + seeds, f"{row.recall:.3f}", f"{row.ndcg:.3f}", bits, *rates)
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| bytes | ours | over | its bytes | recall@10 | 95 % interval |", "|" + "---|" * 6]
    lines += [
        f"| {g['bytes']:g} | {g['system']} | {g['over']} | {g['over_bytes']:g} | {g['mean']:+.4f} | "
        f"{g['low']:+.4f} to {g['high']:+.4f} |"
        for g in gains
    ]
    return "\n".join([*lines, "", *choices(rows)]) + "\n"


def choices(rows: list[Row]) -> list[str]:
    """Return the smallest code that reaches a recall with a re-rank: of any kind, and of those that engines have."""
    lines = [
        "| recall@10 | re-rank R | smallest code (`PackedIndex`) | smallest uniform code (dims x dtype) | in Qdrant |",
        "|" + "---|" * 5,
    ]
    codes = [row for row in rows if row.part in ("trellis", "uniform")]
    for wanted in (0.8, 0.9, 0.95, 0.99):
        for factor in (1, *RERANKED):
            able = [row for row in codes if (row.reranked[str(factor)] if factor > 1 else row.recall) >= wanted]
            able.sort(key=lambda row: (row.bytes, -row.recall))
            best = next(iter(able), None)
            plain = next((row for row in able if row.part == "uniform"), None)
            cells = [f"{row.bytes:g} bytes: {row.system}" if row else "none" for row in (best, plain)]
            lines.append(f"| {wanted:g} | {factor} | {cells[0]} | {cells[1]} | {_setting(plain)} |")
    return lines


_SETTINGS = {
    "int8": "scalar int8",
    "int4": "TurboQuant, 4 bits",
    "int2": "TurboQuant, 2 bits",
    "binary": "TurboQuant, 1 bit",
}


def _setting(row: Row | None) -> str:
    if row is None:
        return ""
    named = re.search(r"(\d+) x (\w+)", row.system)
    assert named is not None
    dim, dtype = named.groups()
    return f"{dim} latents, {_SETTINGS[dtype]}"


FAMILIES = {
    "trellis": "ours, trellis",
    "uniform": "ours, uniform bits",
    "SVD x trellis": "SVD x trellis, untrained",
    "SVD": "SVD x bits",
    "OPQ": "OPQ",
    "PQ": "PQ",
    "RaBitQ": "RaBitQ",
    "full": "TurboQuant's scheme",
}


def picture(rows: list[Row], path: Path, *, ticks: Iterable[float]) -> None:
    """Draw recall against bytes of everything that is searched exactly, with the Pareto front.

    Ours are filled, others hollow; each family has a marker of its own.
    """
    shown = left = [row for row in rows if row.part in EXACT]
    with chart(8, 5) as (figure, (axes,)):
        for number, (prefix, label) in enumerate(FAMILIES.items()):
            own = [row for row in left if row.system.startswith(prefix)]
            left = [row for row in left if row not in own]
            colour = LIGHT.lines[number % len(LIGHT.lines)]
            if own:
                axes.plot(
                    [row.bytes for row in own],
                    [row.recall for row in own],
                    MARKERS[number],
                    color=colour,
                    markerfacecolor=colour if label.startswith("ours") else LIGHT.paper,
                    label=label,
                )
        axes.plot(
            *zip(*_front(shown), strict=True),
            "-",
            color=LIGHT.ink,
            linewidth=0.8,
            zorder=0,
            label="most in so many bytes",
        )
        axes.set(xlabel="bytes per vector", ylabel="recall@10, single pass, exact search over codes", xscale="log")
        ticked = sorted({row.bytes for row in shown} & set(ticks))
        axes.set_xticks(ticked, [f"{tick:g}" for tick in ticked])
        axes.minorticks_off()
        axes.legend(facecolor=LIGHT.paper, edgecolor="none", framealpha=1)
        path.write_bytes(rendered(figure, "svg"))


def _front(rows: list[Row]) -> list[tuple[float, float]]:
    """Return the bytes and recall of each row that finds more than all that take no more bytes."""
    front, best = [], 0.0
    for row in sorted(rows, key=lambda row: (row.bytes, -row.recall)):
        if row.recall > best:
            best = row.recall
            front.append((row.bytes, row.recall))
    return front
