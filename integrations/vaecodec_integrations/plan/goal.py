"""Define the goal of a plan, and read it as people write it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vaecodec.errors import EvaluationInputError
from vaecodec.sources import VectorSource
from vaecodec_integrations.plan.stores import StoreName

_DEEPEST = 100
_BYTES = {"": 1, "b": 1}
for _power, _unit in enumerate("kmgt", 1):
    _BYTES |= {_unit: 1000**_power, f"{_unit}b": 1000**_power, f"{_unit}ib": 1024**_power}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Say what a setting must reach, and what it may cost.

    Attributes:
        recall: the least mean recall@k, or none: then the most that fits is looked for.
        k: how many neighbours are asked for.
        rerank: up to so many times k candidates may be scored again with the original vectors; 1 for none.
        code_bytes: the most bytes for one stored vector, without what the index adds to each; or none.
        ram_bytes: the most bytes of RAM for all vectors, with what the index adds; or none.
        vectors: how many there will be.
        stores: where they may be kept; an answer is found for each.

    Raises:
        EvaluationInputError: nothing is asked for, or a value is out of range.
    """

    recall: float | None = None
    k: int = 10
    rerank: int = 1
    code_bytes: int | None = None
    ram_bytes: int | None = None
    vectors: int
    stores: tuple[StoreName, ...] = (StoreName.QDRANT, StoreName.HNSWLIB, StoreName.PACKED)

    def __post_init__(self) -> None:
        if self.recall is None and self.code_bytes is None and self.ram_bytes is None:
            raise EvaluationInputError("expected a target, bytes or ram, got none of them; see vaecodec plan --help")
        if self.recall is not None and not 0 < self.recall <= 1:
            raise EvaluationInputError(f"target: expected a recall above 0 and up to 1, got {self.recall:g}")
        if not 1 <= self.k <= _DEEPEST:
            raise EvaluationInputError(f"target: expected recall@k with k from 1 to {_DEEPEST}, got {self.k}")
        for name in ("rerank", "code_bytes", "ram_bytes", "vectors"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EvaluationInputError(f"{name.removeprefix('code_')}: expected at least 1, got {value}")

    def __str__(self) -> str:
        wanted = f"recall@{self.k} >= {self.recall:g}" if self.recall is not None else f"the highest recall@{self.k}"
        limits = [
            f"{self.code_bytes:,} bytes per vector" if self.code_bytes is not None else "",
            f"{self.ram_bytes / 1e9:,.3g} GB of RAM for {self.vectors:,} vectors" if self.ram_bytes is not None else "",
        ]
        return " within ".join([wanted, *([" and ".join(filter(None, limits))] if any(limits) else [])])


def read_goal(
    source: VectorSource,
    *,
    target: str | None = None,
    rerank: int = 1,
    code_bytes: int | None = None,
    ram: str | None = None,
    vectors: str | None = None,
) -> Goal:
    """Read a goal as people write it, before any vector is read.

    Args:
        source: the vectors; their number is taken where ``vectors`` is not given.
        target: such as ``recall@10>=0.95``.
        rerank: see :class:`Goal`.
        code_bytes: see :class:`Goal`.
        ram: such as ``8GB``.
        vectors: such as ``50M``.

    Raises:
        EvaluationInputError: a text is of another form, nothing is asked for, or the source does not know how many
            vectors it holds.
    """
    k, recall = parse_target(target) if target is not None else (10, None)
    count = parse_count(vectors) if vectors is not None else source.rows
    if count is None:
        raise EvaluationInputError(f"{source.name}: does not say how many vectors it holds; give --vectors")
    ram_bytes = parse_bytes(ram) if ram is not None else None
    return Goal(recall=recall, k=k, rerank=rerank, code_bytes=code_bytes, ram_bytes=ram_bytes, vectors=count)


def parse_target(text: str) -> tuple[int, float]:
    """Return ``recall@10>=0.95`` to 10 and 0.95; raises ``EvaluationInputError``."""
    found = re.fullmatch(r"\s*recall@(\d+)\s*>=\s*(\d*\.?\d+)\s*(%?)\s*", text)
    if found is None:
        raise EvaluationInputError(f'target: expected such as "recall@10>=0.95", got {text!r}')
    return int(found[1]), float(found[2]) / (100 if found[3] else 1)


def parse_bytes(text: str) -> int:
    """Return ``8GB``, ``512 MiB`` or a plain number to bytes; raises ``EvaluationInputError``."""
    return _parsed(text, _BYTES, "ram", "8GB, 512MB or 16GiB")


def parse_count(text: str) -> int:
    """Return ``50M``, ``300k`` or a plain number to a number; raises ``EvaluationInputError``."""
    return _parsed(text, _COUNTS, "vectors", "50M, 300k or 1000000")


def _parsed(text: str, units: dict[str, int], name: str, examples: str) -> int:
    found = re.fullmatch(r"\s*(\d*\.?\d+)\s*([A-Za-z]*)\s*", text.replace("_", "").replace(",", ""))
    if found is None or found[2].lower() not in units:
        raise EvaluationInputError(f"{name}: expected such as {examples}, got {text!r}")
    return round(float(found[1]) * units[found[2].lower()])
