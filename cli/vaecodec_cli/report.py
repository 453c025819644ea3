"""``vaecodec report``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vaecodec.codec import Codec
from vaecodec.codes import CodeType
from vaecodec.extras import require
from vaecodec_cli.info import AsJson, print_json
from vaecodec_integrations.report import measure, summarise, write
from vaecodec_integrations.report.engines import open_engine
from vaecodec_integrations.report.engines.base import SearchEngineName
from vaecodec_integrations.report.inputs import read_labels, read_relevant, read_report, read_scored_pairs, read_vectors
from vaecodec_integrations.report.tables import Table as TextTable
from vaecodec_integrations.report.tables import tables

# Of a column: a space on both sides and its border.
_PADDING = 3


def report(
    base: Annotated[str, typer.Option(help="Vectors to index: a .npy file or any other source of vectors.")],
    queries: Annotated[str, typer.Option(help="Vectors to search with.")],
    codec: Annotated[Path, typer.Option(help="The codec file.")],
    out: Annotated[Path, typer.Option(help="Folder to write; a report that is there is replaced.")],
    dim: Annotated[int | None, typer.Option(help="Width of the latents, where the codec file has several.")] = None,
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
        typer.Option("--bytes", help="Bytes per vector at which the codec's codes are measured too; may be repeated."),
    ] = None,
    dtype: Annotated[
        list[CodeType] | None,
        typer.Option(help="Uniform codes that are measured too, by the engine itself where it has them; repeatable."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="The report.json of an earlier report, to show what changed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what a codec costs, beside uncompressed vectors and linear baselines on the same index."""
    require("matplotlib", extra="report")
    measured_on = open_engine(engine)
    loaded = Codec.load(codec, dim=dim)
    answers = None if relevant is None else read_relevant(relevant)
    slices = None if labels is None else read_labels(labels)
    pairs = None if scored_pairs is None else read_scored_pairs(scored_pairs)
    earlier = None if compare is None else read_report(compare)
    console = Console(stderr=as_json)
    with console.status("reading vectors") as status:
        run = measure(
            read_vectors(base),
            read_vectors(queries),
            loaded,
            measured_on,
            name=codec.name if dim is None else f"{codec.name} at {dim}",
            train=None if train is None else read_vectors(train),
            relevant=answers,
            labels=slices,
            scored_pairs=pairs,
            budgets=budget or (),
            dtypes=dtype or (),
            on_method=lambda name: status.update(f"measuring {escape(name)}"),
        )
        status.update("writing the report")
        summary = summarise(run, earlier)
        write(out, run, summary)
    console.print(escape(summary.headline), style="bold", highlight=False)
    for table in tables(summary, run):
        for part in _parts(table, console.width):
            console.print(_rendered(part))
    console.print(f"written to {escape(str(out))}", highlight=False)
    if as_json:
        print_json({"folder": str(out), "summary": asdict(summary)})


def _parts(table: TextTable, width: int) -> list[TextTable]:
    """The table itself, or, where it is too wide, several below each other that name their rows again."""
    if not any(table.columns):
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
    shown = Table(title=escape(table.title) or None, title_justify="left", show_header=any(table.columns))
    for number, column in enumerate(table.columns):
        shown.add_column(escape(column), justify="right" if number and table.columns[0] else "left", overflow="fold")
    for number, row in enumerate(table.rows):
        cells = (Text("\n".join(_lines(cell))) for cell in row)
        shown.add_row(*cells, style="bold" if number == table.emphasised else None)
    return shown
