"""Define the command ``vaecodec report``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from vaecodec.codes import CodeType
from vaecodec.evaluation import KEPT_MEANS
from vaecodec_cli.console import Terminal, print_json, tables_for
from vaecodec_cli.options import AsJson, Columns, Dim, with_column
from vaecodec_cli.progress import steps_shown
from vaecodec_integrations.report import ReportFiles
from vaecodec_integrations.report import report as write_report
from vaecodec_integrations.report.engines.base import SearchEngineName

# The terminal shows this many tables, and at the end what was measured. The page has all tables.
_ON_SCREEN = 2


@dataclass(frozen=True, kw_only=True)
class ReportInput:
    """Name the vectors and codecs to measure, and what else is known of them."""

    panel: ClassVar[str] = "Input"

    base: Annotated[str, typer.Option(help="Vectors to index: a file with one vector per row, or an address.")]
    queries: Annotated[str, typer.Option(help="Vectors to search with.")]
    codec: Annotated[list[Path], typer.Option(help="Codec file. Can be repeated, to see several codecs in one report.")]
    columns: Columns
    dim: Dim = None
    adapter: Annotated[
        Path | None,
        typer.Option(help="Codec of full width from the same training. Give it for codecs trained on pairs."),
    ] = None
    train: Annotated[
        str | None,
        typer.Option(help="Vectors to fit the linear baselines on. Default: the base, which favours them."),
    ] = None
    relevant: Annotated[
        str | None,
        typer.Option(
            help="Which rows of the base answer each query: .npy of one each, .json with a list for each, or pairs as "
            "vaecodec train --pairs takes them."
        ),
    ] = None
    labels: Annotated[
        Path | None,
        typer.Option(help="Group of each query, to report on each group: .npy, or text with one line per query."),
    ] = None
    scored_pairs: Annotated[
        Path | None,
        typer.Option(help="Pairs whose similarity people scored: .npz with the arrays first, second and scores."),
    ] = None
    compare: Annotated[
        Path | None, typer.Option(help="File report.json of an earlier report. The new one shows what changed.")
    ] = None

    def files(self) -> ReportFiles:
        """Return the files, each with its column."""
        column = self.columns.column
        return ReportFiles(
            base=with_column(self.base, column),
            queries=with_column(self.queries, self.columns.query_column),
            codecs=self.codec,
            dim=self.dim,
            adapter=self.adapter,
            train=None if self.train is None else with_column(self.train, column),
            relevant=self.relevant,
            labels=self.labels,
            scored_pairs=self.scored_pairs,
            earlier=self.compare,
        )


def report(
    given: ReportInput,
    out: Annotated[Path, typer.Option(help="Folder to write. A report that is there is replaced.")],
    engine: Annotated[SearchEngineName, typer.Option(help="Index to measure on.")] = SearchEngineName.EXACT,
    budget: Annotated[
        list[int] | None,
        typer.Option("--bytes", help="Also measure codes of this many bytes per vector. Can be repeated."),
    ] = None,
    dtype: Annotated[
        list[CodeType] | None,
        typer.Option(help="Also measure this uniform code, in the engine itself if it has it. Can be repeated."),
    ] = None,
    keep_ids: Annotated[
        bool, typer.Option("--keep-ids", help="Write the ids that each search returned into report.json.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure what codecs lose, beside uncompressed vectors and untrained baselines, on the same index."""
    console = Terminal(stderr=as_json)
    with steps_shown("reading codecs") as step:
        written = write_report(
            given.files(),
            out,
            engine=engine,
            budgets=budget or (),
            dtypes=dtype or (),
            keep_ids=keep_ids,
            on_step=step,
        )
    console.print(written.summary.headline, style="bold", soft_wrap=False)
    for judgement in written.summary.judgements:
        console.print(judgement, soft_wrap=False)
    for shown in (*written.tables[:_ON_SCREEN], written.tables[-1]):
        for part in tables_for(console.width, shown.columns, shown.rows, title=shown.title, bold=shown.emphasised):
            console.print(part)
    if any("kept@100" in shown.columns for shown in written.tables[:_ON_SCREEN]):
        console.print(KEPT_MEANS, soft_wrap=False)
    console.print(f"All tables and the pictures are in {out / 'report.html'}.")
    if as_json:
        print_json({"folder": str(out), "summary": written.summary.to_json()})
