"""``vaecodec report``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vaecodec.codes import CodeType
from vaecodec_cli.info import AsJson, print_json
from vaecodec_integrations.report import ReportFiles
from vaecodec_integrations.report import report as write_report
from vaecodec_integrations.report.engines.base import SearchEngineName
from vaecodec_integrations.report.tables import Table as TextTable

# Of a column: a space on both sides and its border.
_PADDING = 3


def report(
    base: Annotated[str, typer.Option(help="Vectors to index: a .npy file or any other source of vectors.")],
    queries: Annotated[str, typer.Option(help="Vectors to search with.")],
    codec: Annotated[
        list[Path], typer.Option(help="The codec file; may be repeated, to see several codecs in one report.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; a report that is there is replaced.")],
    dim: Annotated[int | None, typer.Option(help="Width of the latents, where the codec file has several.")] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(help="A codec of all dimensions from the same training, for codecs that were trained on pairs."),
    ] = None,
    engine: Annotated[SearchEngineName, typer.Option(help="Index to measure on.")] = SearchEngineName.EXACT,
    train: Annotated[
        str | None,
        typer.Option(help="Vectors that the linear baselines are fitted on; by default the base, which favours them."),
    ] = None,
    relevant: Annotated[
        Path | None,
        typer.Option(help="Rows of the base that answer each query: .npy of one each, or .json with a list for each."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="The slice that each query belongs to: .npy, or text with one line for each.")
    ] = None,
    scored_pairs: Annotated[
        Path | None,
        typer.Option(help="Pairs whose similarity people scored: .npz with the arrays first, second and scores."),
    ] = None,
    budget: Annotated[
        list[int] | None,
        typer.Option("--bytes", help="Bytes per vector at which the codecs' codes are measured too; may be repeated."),
    ] = None,
    dtype: Annotated[
        list[CodeType] | None,
        typer.Option(help="Uniform codes that are measured too, by the engine itself where it has them; repeatable."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="The report.json of an earlier report, to show what changed.")
    ] = None,
    keep_ids: Annotated[
        bool, typer.Option("--keep-ids", help="Write the ids that each search returned into report.json.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure what codecs cost, beside uncompressed vectors and what needs no training, on the same index."""
    console = Console(stderr=as_json)
    with console.status("reading codecs") as status:
        written = write_report(
            ReportFiles(
                base=base,
                queries=queries,
                codecs=codec,
                dim=dim,
                adapter=adapter,
                train=train,
                relevant=relevant,
                labels=labels,
                scored_pairs=scored_pairs,
                earlier=compare,
            ),
            out,
            engine=engine,
            budgets=budget or (),
            dtypes=dtype or (),
            keep_ids=keep_ids,
            on_step=lambda step: status.update(escape(step)),
        )
    console.print(escape(written.summary.headline), style="bold", highlight=False)
    for verdict in written.summary.verdicts:
        console.print(escape(verdict.text), highlight=False)
    for table in written.tables:
        for part in _parts(table, console.width):
            console.print(_rendered(part))
    console.print(f"written to {escape(str(out))}", highlight=False)
    if as_json:
        print_json({"folder": str(out), "summary": written.summary.to_json()})


def _parts(table: TextTable, width: int) -> list[TextTable]:
    """The table itself, or, where it is too wide, several below each other that name their rows again."""
    if not table.has_head:
        return [table]
    lines = [
        [column, *(line for row in table.rows for line in _lines(row[number]))]
        for number, column in enumerate(table.columns)
    ]
    widths = [max(map(len, column)) + _PADDING for column in lines]
    groups: list[list[int]] = [[]]
    taken = widths[0]
    for number in range(1, len(widths)):
        if groups[-1] and taken + widths[number] >= width:
            groups.append([])
            taken = widths[0]
        groups[-1].append(number)
        taken += widths[number]
    return [
        replace(
            table,
            title=table.title if group is groups[0] else "",
            columns=[table.columns[number] for number in (0, *group)],
            rows=[[row[number] for number in (0, *group)] for row in table.rows],
        )
        for group in groups
    ]


def _lines(cell: str) -> list[str]:
    """A mean with its interval takes two lines, so that a row of them fits on a screen."""
    return cell.replace(" [", "\n[").splitlines() or [""]


def _rendered(table: TextTable) -> Table:
    shown = Table(title=escape(table.title) or None, title_justify="left", show_header=table.has_head)
    for number, column in enumerate(table.columns):
        shown.add_column(escape(column), justify="right" if number and table.columns[0] else "left", overflow="fold")
    for number, row in enumerate(table.rows):
        cells = (Text("\n".join(_lines(cell))) for cell in row)
        shown.add_row(*cells, style="bold" if number in table.emphasised else None)
    return shown
