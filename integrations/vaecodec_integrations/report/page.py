"""Render the report as one HTML page that needs no other file: styles and pictures are inside."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaecodec.extras import require
from vaecodec.text import visible
from vaecodec_integrations.report.picture import Picture
from vaecodec_integrations.report.tables import Table


def page(headline: str, verdicts: Sequence[str], tables: Sequence[Table], pictures: Sequence[Picture]) -> str:
    """Render one document: headline and verdicts first, then pictures, then tables.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    jinja2 = require("jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )

    def mean_above_interval(text: str) -> Any:
        """Split a mean from its interval into two lines, so that a row of them fits on a page."""
        mean, bracket, interval = text.partition(" [")
        if not bracket:
            return text
        return require("markupsafe", extra="report").Markup("{}<br><small>[{}</small>").format(mean, interval)

    # Text from files, and markup, which is a subclass of it.
    environment.finalize = lambda value: visible(value) if type(value) is str else value
    environment.filters |= {"data_address": _data_address, "kind": _kind, "mean_above_interval": mean_above_interval}
    template = environment.get_template("page.html.jinja")
    rendered: str = template.render(headline=headline, verdicts=verdicts, tables=tables, pictures=pictures)
    return rendered + "\n"


def _data_address(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{b64encode(svg).decode()}"


def _kind(table: Table) -> str:
    """Return the kind of a table: text without headings, or one whose second column stays in view on narrow screens."""
    return "prose" if not table.has_head else "decisive" if table.decisive else "plain"
