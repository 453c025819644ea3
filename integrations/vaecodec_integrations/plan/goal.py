"""Define the goal of a plan, and read it as people write it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from vaecodec.errors import InvalidGoalError
from vaecodec.sources import VectorSource
from vaecodec_integrations.plan.stores import StoreName

_DEEPEST = 100
_MOST_RERANKED = 1_000
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
        InvalidGoalError: nothing is asked for, or a value is out of range.
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
            raise InvalidGoalError(
                "expected a target, bytes or ram, got none of them; see vaecodec plan --help, or give vaecodec "
                "compress one of --save, --recall, --bytes and --ram"
            )
        if self.recall is not None and not 0 < self.recall <= 1:
            raise InvalidGoalError(f"target: expected a recall above 0 and up to 1, got {self.recall:g}")
        if not 1 <= self.k <= _DEEPEST:
            raise InvalidGoalError(f"target: expected recall@k with k from 1 to {_DEEPEST}, got {self.k}")
        for name in ("rerank", "code_bytes", "ram_bytes", "vectors"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidGoalError(f"{name.removeprefix('code_')}: expected at least 1, got {value}")
        if self.rerank > _MOST_RERANKED:
            raise InvalidGoalError(f"rerank: expected from 1 to {_MOST_RERANKED:,}, got {self.rerank}")

    def __str__(self) -> str:
        wanted = f"recall@{self.k} >= {self.recall:g}" if self.recall is not None else f"the highest recall@{self.k}"
        limits = [
            f"{self.code_bytes:,} bytes per vector" if self.code_bytes is not None else "",
            f"{self.ram_bytes / 1e9:,.3g} GB of RAM for {self.vectors:,} vectors" if self.ram_bytes is not None else "",
        ]
        return " within ".join([wanted, *([" and ".join(filter(None, limits))] if any(limits) else [])])


@dataclass(frozen=True, kw_only=True)
class GoalRequest:
    """Say what to reach as people write it; what depends on the vectors is filled in by :meth:`goal`.

    Attributes:
        target: such as ``recall@10>=0.95``.
        recall: the share of the ten nearest documents to keep; instead of ``target``.
        rerank: see :class:`Goal`.
        save: share of the bytes of float32 to save, ``half`` or such as ``75%``; instead of ``code_bytes``.
        code_bytes: see :class:`Goal`.
        ram: such as ``8GB``.
        vectors: how many there will be, such as ``50M``; by default as many as there are.
        stores: see :class:`Goal`; empty for the usual ones.

    Raises:
        InvalidGoalError: a text is of another form, nothing is asked for, or a value is out of range.
    """

    target: str | None = None
    recall: float | None = None
    rerank: int = 1
    save: str | None = None
    code_bytes: int | None = None
    ram: str | None = None
    vectors: str | None = None
    stores: tuple[StoreName, ...] = ()

    def __post_init__(self) -> None:
        if self.save is not None and self.code_bytes is not None:
            raise InvalidGoalError("save and bytes: expected one of them, got both")
        self._goal(rows=1, dim=1_000)  # check what can be checked without knowing the vectors

    def goal(self, source: VectorSource, *, unknown: int | None = None) -> Goal:
        """Return the goal for these vectors, none of which is read.

        Args:
            source: the vectors.
            unknown: how many there are taken to be where neither the source nor :attr:`vectors` says it.

        Raises:
            InvalidGoalError: nothing says how many vectors there are.
        """
        rows = source.rows or unknown
        if self.vectors is None and rows is None:
            raise InvalidGoalError(f"{source.name}: does not say how many vectors it holds; give vectors")
        return self._goal(rows=rows or 1, dim=source.dim)

    def _goal(self, *, rows: int, dim: int) -> Goal:
        k, recall = parse_target(self.target) if self.target is not None else (10, self.recall)
        wanted = Goal(
            recall=recall,
            k=k,
            rerank=self.rerank,
            code_bytes=self.code_bytes if self.save is None else bytes_for(self.save, dim),
            ram_bytes=None if self.ram is None else parse_bytes(self.ram),
            vectors=rows if self.vectors is None else parse_count(self.vectors),
        )
        return replace(wanted, stores=self.stores) if self.stores else wanted


def bytes_for(save: str, dim: int) -> int:
    """Return how many bytes a vector may take when ``half`` or ``75%`` of those of float32 are to be saved.

    Raises:
        InvalidGoalError: it is no such share.
    """
    share = {"half": "50%"}.get(save, save)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%", share, re.ASCII)
    if found is None or not 0 < float(found[1]) < 100:
        raise InvalidGoalError(f"save: expected half or such as 75%, got {save!r}")
    return int(4 * dim * (1 - float(found[1]) / 100))


def parse_target(text: str) -> tuple[int, float]:
    """Turn ``recall@10>=0.95`` into 10 and 0.95; raise ``InvalidGoalError``."""
    found = re.fullmatch(r"\s*recall@(\d+)\s*>=\s*(\d*\.?\d+)\s*(%?)\s*", text, re.ASCII)
    if found is None:
        raise InvalidGoalError(f'target: expected such as "recall@10>=0.95", got {text!r}')
    return int(found[1]), float(found[2]) / (100 if found[3] else 1)


def parse_bytes(text: str) -> int:
    """Turn ``8GB``, ``512 MiB`` or a plain number into bytes; raise ``InvalidGoalError``."""
    return _parsed(text, _BYTES, "ram", "8GB, 512MB or 16GiB")


def parse_count(text: str) -> int:
    """Turn ``50M``, ``300k`` or a plain number into a number; raise ``InvalidGoalError``."""
    return _parsed(text, _COUNTS, "vectors", "50M, 300k or 1000000")


def _parsed(text: str, units: dict[str, int], name: str, examples: str) -> int:
    found = re.fullmatch(r"\s*(\d*\.?\d+)\s*([A-Za-z]*)\s*", text.replace("_", "").replace(",", ""), re.ASCII)
    if found is None or found[2].lower() not in units:
        raise InvalidGoalError(f"{name}: expected such as {examples}, got {text!r}")
    return round(float(found[1]) * units[found[2].lower()])
