"""A plan in words, numbers and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vaecodec.evaluation import Interval
from vaecodec_integrations.plan.planner import Answer, Plan


def headline(plan: Plan) -> str:
    """One sentence: is the goal met, and where at what price."""
    stores = [
        f"{answer.store} with {answer.ram_bytes:,} bytes of RAM per vector ({_times(answer)} less)"
        for answer in plan.answers
        if answer.met
    ]
    if stores:
        return f"{_capital(str(plan.goal))}: {', '.join(stores)}."
    if plan.goal.recall is not None and any(answer.setting for answer in plan.answers):
        return f"No compression here meets {plan.goal}; the table shows what comes nearest."
    return f"Nothing here fits {plan.goal}."


def basis(plan: Plan) -> str:
    """What the figures rest on."""
    queries = "documents held out as queries" if plan.held_out else "queries"
    return (
        f"Measured among {plan.documents:,} documents of {plan.dim} dimensions; chosen on {plan.choosing:,} {queries}, "
        f"confirmed on {plan.confirming:,} others."
    )


def rows(plan: Plan) -> list[Sequence[str]]:
    """The table: first the headings, then a row for each figure; the first column names it."""
    k, vectors = plan.goal.k, plan.goal.vectors
    columns = [[answer.store, *_cells(answer, vectors)] for answer in plan.answers]
    names = [
        "",
        "goal",
        "codec",
        "stored as",
        "bytes searched",
        "re-ranked",
        f"recall@{k}",
        "through its index",
        "lost per doubling",
        "RAM per vector",
        f"RAM for {vectors:,}",
        "disk per vector",
        f"disk for {vectors:,}",
        "ms per query, here",
        "at a million",
    ]
    return list(zip(names, *columns, strict=True))


def to_json(plan: Plan) -> dict[str, Any]:
    """The whole plan as JSON values."""
    content: dict[str, Any] = _plain({"met": plan.met, "headline": headline(plan), **asdict(plan)})
    return content


def _cells(answer: Answer, vectors: int) -> list[str]:
    setting, trial = answer.setting, answer.trial
    if setting is None or answer.recall is None or answer.per_doubling is None:
        return ["nothing fits", *[""] * 13]
    return [
        "met" if answer.met else "not met",
        f"{setting.codec}, {setting.width}",
        str(setting.dtype) if setting.dtype else "trellis",
        f"{setting.code_bytes:,}",
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
    return f"{value.mean:.3f}\n[{value.low:.3f}, {value.high:.3f}]"


def _times(answer: Answer) -> str:
    return f"{answer.uncompressed_ram_bytes / answer.ram_bytes:.1f}x"


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return value._asdict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
