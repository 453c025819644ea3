"""A report on disk: report.md, report.html, report.json and the pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from vaecodec.files import write_atomically
from vaecodec_integrations.report.markdown import markdown
from vaecodec_integrations.report.page import page
from vaecodec_integrations.report.picture import losses, recall_against_bytes
from vaecodec_integrations.report.run import FORMAT_VERSION, Run
from vaecodec_integrations.report.summary import ReportSummary
from vaecodec_integrations.report.tables import tables

_PICTURES = (
    ("recall", "recall against bytes per vector", recall_against_bytes),
    ("losses", "where recall is lost, and what re-ranking brings back", losses),
)


def write(folder: Path, run: Run, summary: ReportSummary) -> None:
    """Write a report; one that was there is replaced.

    Everything is rendered before the first file is written, and each file appears whole.
    """
    shown = tables(summary, run)
    text = markdown(summary.headline, shown, [(f"{name}.png", caption) for name, caption, _ in _PICTURES])
    drawings = [(draw(summary, "svg"), caption) for _, caption, draw in _PICTURES]
    document = {"format_version": FORMAT_VERSION, "summary": asdict(summary), "run": run.to_json()}
    files = {f"{name}.png": draw(summary, "png") for name, _, draw in _PICTURES}
    files["report.md"] = text.encode()
    files["report.html"] = page(summary.headline, shown, drawings).encode()
    files["report.json"] = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
