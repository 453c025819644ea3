"""The report as one HTML page that needs nothing else: styles and pictures are inside."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from vaecodec_integrations.report.tables import Table

_STYLE = """
:root { color-scheme: light; --ink: #1d2321; --quiet: #5b6662; --line: #d9dfdc; --ours: #e6f2ec; --accent: #0b6e4f; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.3rem; line-height: 1.35; border-left: .3rem solid var(--accent); padding-left: .8rem; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .3rem; }
p { margin: .2rem 0 .6rem; color: var(--quiet); font-size: .9rem; max-width: 46rem; }
figure { margin: 1.5rem 0; }
figure img { display: block; width: 100%; max-width: 40rem; }
figcaption { color: var(--quiet); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; padding-left: .2rem; white-space: normal; min-width: 6.5rem; background: #fff;
  position: sticky; left: 0; }
td small { color: var(--quiet); font-size: .85em; }
thead th { color: var(--quiet); font-weight: 600; white-space: normal; vertical-align: bottom; }
tbody th { font-weight: 400; }
tr.ours, tr.ours th { background: var(--ours); }
tr.ours th, tr.ours td { font-weight: 600; }
table.prose td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
@media screen and (max-width: 36rem) {
  h1 { font-size: 1.1rem; }
  figure img { width: 28rem; max-width: none; } /* its text stays readable, and it scrolls as the tables do */
}
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: .2rem .35rem; }
  figure, section { break-inside: avoid; }
  figure img { max-width: 30rem; }
  h2 { break-after: avoid; }
}
"""


def page(headline: str, tables: Sequence[Table], pictures: Sequence[tuple[bytes, str]]) -> str:
    """One document: the headline first, then pictures (SVG, caption), then tables."""
    figures = "\n".join(_figure(svg, caption) for svg, caption in pictures)
    sections = "\n".join(_section(table) for table in tables)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # An empty icon keeps browsers from asking a server for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(headline)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(headline)}</h1>\n{figures}\n{sections}\n</body>\n</html>\n"
    )


def _figure(svg: bytes, caption: str) -> str:
    source = f"data:image/svg+xml;base64,{b64encode(svg).decode()}"
    image = f'<div class="scroll"><img alt="{escape(caption)}" src="{source}"></div>'
    return f"<figure>{image}\n<figcaption>{escape(caption)}</figcaption></figure>"


def _section(table: Table) -> str:
    note = f"<p>{escape(table.note)}</p>\n" if table.note else ""
    headings = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    head = f"<thead><tr>{headings}</tr></thead>\n" if any(table.columns) else ""
    kind = "" if head else ' class="prose"'
    rows = "\n".join(_row(row, ours=number == table.emphasised) for number, row in enumerate(table.rows))
    return (
        f'<section>\n<h2>{escape(table.title)}</h2>\n{note}<div class="scroll"><table{kind}>\n'
        f"{head}<tbody>\n{rows}\n</tbody></table></div>\n</section>"
    )


def _row(cells: Sequence[str], *, ours: bool) -> str:
    kind = ' class="ours"' if ours else ""
    rest = "".join(f"<td>{_cell(cell)}</td>" for cell in cells[1:])
    return f'<tr{kind}><th scope="row">{escape(cells[0])}</th>{rest}</tr>'


def _cell(text: str) -> str:
    """A mean with its interval takes two lines, so that a row of them fits on a page."""
    mean, bracket, interval = escape(text).partition(" [")
    return f"{mean}<br><small>[{interval}</small>" if bracket else mean
