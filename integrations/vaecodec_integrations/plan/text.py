"""Write a plan in words, numbers and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vaecodec.evaluation import Interval
from vaecodec_integrations.plan.candidates import RESCORED
from vaecodec_integrations.plan.planner import Answer, Plan
from vaecodec_integrations.plan.stores import StoreName

STORE_LABELS = {
    StoreName.QDRANT: "Qdrant",
    StoreName.HNSWLIB: "hnswlib",
    StoreName.PACKED: "PackedIndex",
    StoreName.PGVECTOR: "pgvector",
}


def headline(plan: Plan) -> str:
    """Return one sentence that says whether the goal is met, in which stores and at what cost."""
    stores = [
        f"{STORE_LABELS[answer.store]} {answer.recall.mean:.3f} with {answer.ram_bytes:,} bytes of RAM per vector, "
        f"{answer.ram_bytes / answer.uncompressed_ram_bytes:.0%} of the uncompressed"
        for answer in plan.answers
        if answer.met and answer.recall is not None
    ]
    if stores:
        goal = str(plan.goal)
        return f"{goal[0].upper()}{goal[1:]}: {'; '.join(stores)}."
    if plan.goal.recall is not None and any(answer.setting for answer in plan.answers):
        return f"No compression here meets {plan.goal}; the table shows what comes nearest."
    return f"Nothing here fits {plan.goal}."


def basis(plan: Plan) -> str:
    """Return the basis of the figures, and its limits."""
    queries = "documents held out as queries" if plan.held_out else "queries"
    sampled = "" if plan.sampled_from is None else f", a sample of {plan.sampled_from:,}"
    text = (
        f"Measured among {plan.documents:,} documents of {plan.dim} dimensions{sampled}; chosen on "
        f"{plan.choosing:,} {queries}, confirmed on {plan.confirming:,} others."
    )
    times = plan.goal.vectors / plan.documents
    if times >= 2:
        text += (
            f" {plan.goal.vectors:,} vectors are {times:,.0f} times as many, and neighbours lie closer in a larger "
            "collection: leave a margin, or search a larger --sample."
        )
    return text


def rows(plan: Plan) -> list[Sequence[str]]:
    """Return the table: first the headings, then a row for each figure; the first column names it. It fits 80
    columns."""
    k, vectors = plan.goal.k, plan.goal.vectors
    columns = [[STORE_LABELS[answer.store], *_cells(answer, vectors)] for answer in plan.answers]
    names = [
        "",
        "goal",
        "codec",
        "stored as",
        "bytes searched",
        "re-scored",
        "re-ranked",
        f"recall@{k}",
        "through its index",
        "last doubling cost",
        "RAM per vector",
        "RAM for all",
        "disk per vector",
        "disk for all",
        "ms per query here",
        "ms at a million",
    ]
    return list(zip(names, *columns, strict=True))


def to_json(plan: Plan) -> dict[str, Any]:
    """Return the whole plan as JSON values."""
    content: dict[str, Any] = _plain({"met": plan.met, "headline": headline(plan), **asdict(plan)})
    return content


def _cells(answer: Answer, vectors: int) -> list[str]:
    setting, trial = answer.setting, answer.trial
    if setting is None or answer.recall is None or answer.per_doubling is None:
        return ["nothing fits", *[""] * 14]
    return [
        "met" if answer.met else "not met" if answer.trial else "not tried",
        f"{setting.codec}, {setting.width}",
        str(setting.dtype) if setting.dtype else "trellis",
        f"{setting.code_bytes:,}",
        f"{RESCORED}x" if setting.rescored else "no",
        f"{answer.oversample}x" if answer.oversample > 1 else "no",
        _interval(answer.recall),
        _interval(trial.recall) if trial else "not installed",
        f"{answer.per_doubling.mean:.3f}",
        f"{answer.ram_bytes:,}",
        _size(answer.ram_bytes * vectors),
        f"{answer.disk_bytes:,}",
        _size(answer.disk_bytes * vectors),
        f"{trial.milliseconds:.2f}" if trial else "",
        f"{trial.milliseconds_per_million:,.2f}" if trial else "",
    ]


def _interval(value: Interval) -> str:
    return f"{value:.3f}".replace(" [", "\n[")


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return value._asdict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
