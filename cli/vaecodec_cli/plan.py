"""``vaecodec plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vaecodec.errors import EvaluationInputError
from vaecodec.interface import Metric
from vaecodec.sources import open_source
from vaecodec_cli.info import AsJson, print_json
from vaecodec_integrations.plan import Goal
from vaecodec_integrations.plan import plan as make_plan
from vaecodec_integrations.plan.goal import parse_bytes, parse_count, parse_target
from vaecodec_integrations.plan.planner import SAMPLE_ROWS
from vaecodec_integrations.plan.text import LABELS, basis, headline, rows, to_json

NOT_MET = 3


def plan(
    data: Annotated[str, typer.Argument(help="Documents' embeddings: a file of vectors, one row each, or an address.")],
    queries: Annotated[
        str | None,
        typer.Option(help="Queries' embeddings that no codec was trained on; else some documents stand in."),
    ] = None,
    target: Annotated[str | None, typer.Option(help='What to reach, e.g. "recall@10>=0.95".')] = None,
    rerank: Annotated[
        int, typer.Option(help="Up to so many times k candidates may be scored again with originals kept on disk.")
    ] = 1,
    budget: Annotated[int | None, typer.Option("--bytes", help="The most bytes for one stored vector.")] = None,
    ram: Annotated[str | None, typer.Option(help="The most RAM for all vectors, index included, e.g. 8GB.")] = None,
    vectors: Annotated[
        str | None, typer.Option(help="How many vectors there will be, e.g. 50M; by default as many as DATA has.")
    ] = None,
    codec: Annotated[
        list[Path] | None, typer.Option(help="A codec file to consider beside the linear ones; may be repeated.")
    ] = None,
    metric: Annotated[Metric, typer.Option(help="How the embeddings are compared.")] = Metric.COSINE,
    sample: Annotated[int, typer.Option(help="Documents to search in; more is slower and closer to your index.")] = (
        SAMPLE_ROWS
    ),
    as_json: AsJson = False,
) -> None:
    """Find the cheapest width, code and re-ranking that meet a goal, with costs and instructions.

    Exit code 3: no compression meets the goal.
    """
    source = open_source(data)
    count = parse_count(vectors) if vectors is not None else source.rows
    if count is None:
        raise EvaluationInputError(f"{data}: does not say how many vectors it holds; give --vectors")
    k, recall = parse_target(target) if target is not None else (10, None)
    goal = Goal(
        recall=recall,
        k=k,
        rerank=rerank,
        code_bytes=budget,
        ram_bytes=parse_bytes(ram) if ram is not None else None,
        vectors=count,
    )
    console = Console()
    progress = Console(stderr=True)
    with progress.status("reading vectors") as status:
        result = make_plan(
            source,
            goal,
            queries=None if queries is None else open_source(queries),
            codecs=codec or (),
            metric=metric,
            rows=sample,
            on_step=lambda step: status.update(escape(step)),
        )
    if as_json:
        print_json(to_json(result))
    else:
        console.print(escape(headline(result)), style="bold", highlight=False)
        console.print(escape(basis(result)), highlight=False)
        console.print(_table([[escape(cell) for cell in row] for row in rows(result)]))
        for answer in result.answers:
            if answer.instructions:
                console.print(f"\n# {LABELS[answer.store]}", style="bold", highlight=False)
                print(answer.instructions, end="")
    if not result.met:
        raise typer.Exit(NOT_MET)


def _table(cells: list[list[str]]) -> Table:
    table = Table()
    for number, heading in enumerate(cells[0]):
        table.add_column(heading, justify="right" if number else "left")
    for row in cells[1:]:
        table.add_row(*row)
    return table
