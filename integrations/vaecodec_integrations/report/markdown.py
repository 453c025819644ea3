"""Write the report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from vaecodec.text import visible
from vaecodec_integrations.report.tables import Table


def markdown(
    headline: str, verdicts: Sequence[str], tables: Sequence[Table], pictures: Sequence[tuple[str, str]]
) -> str:
    """Write one document: headline and verdicts first, then pictures (file name, what it shows), then tables."""
    parts = [f"# {_escaped(headline)}"]
    if verdicts:
        parts.append("\n".join(f"- {_escaped(verdict)}" for verdict in verdicts))
    parts += [f"![{_escaped(caption)}]({name})" for name, caption in pictures]
    for table in tables:
        parts += [f"## {_escaped(table.title)}", *([table.note] if table.note else []), _table(table)]
    return visible("\n\n".join(parts)) + "\n"


def _table(table: Table) -> str:
    lines = [_row(table.columns), "|---" + "|---:" * (len(table.columns) - 1) + "|"]
    for number, row in enumerate(table.rows):
        cells = [_escaped(cell) for cell in row]
        if number in table.emphasised:
            cells = [cell and f"**{cell}**" for cell in cells]
        lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    """Escape labels and file names, which may hold what Markdown would read as structure."""
    for character in "\\|*_`<[":
        text = text.replace(character, "\\" + character)
    return text.replace("\n", " ")
