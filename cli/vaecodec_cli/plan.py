"""``vaecodec plan``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vaecodec.errors import EvaluationInputError
from vaecodec.interface import Metric
from vaecodec.sources import VectorSource
from vaecodec.sources.bad_rows import OnBadRows, without_bad_rows
from vaecodec_cli.console import Terminal, print_json, table
from vaecodec_cli.options import (
    AsJson,
    Column,
    Documents,
    MetricOption,
    OnBadRowsChoice,
    QueryColumn,
    open_documents,
    open_queries,
)
from vaecodec_cli.progress import steps_shown
from vaecodec_cli.text import visible
from vaecodec_integrations.plan import Goal
from vaecodec_integrations.plan import plan as make_plan
from vaecodec_integrations.plan.goal import parse_bytes, parse_count, parse_target
from vaecodec_integrations.plan.planner import SAMPLE_ROWS
from vaecodec_integrations.plan.stores import StoreName
from vaecodec_integrations.plan.text import LABELS, basis, headline, rows, to_json

NOT_MET = 3


def plan(
    data: Documents,
    queries: Annotated[
        str | None,
        typer.Option(help="Embeddings of queries that no codec was trained on. Default: take some documents."),
    ] = None,
    column: Column = None,
    query_column: QueryColumn = None,
    target: Annotated[str | None, typer.Option(help='What to reach, e.g. "recall@10>=0.95".')] = None,
    rerank: Annotated[
        int,
        typer.Option(help="Up to so many times k candidates are scored again with originals kept on disk."),
    ] = 1,
    budget: Annotated[int | None, typer.Option("--bytes", help="Largest number of bytes of a stored vector.")] = None,
    ram: Annotated[str | None, typer.Option(help="Largest RAM for all vectors, index included, e.g. 8GB.")] = None,
    vectors: Annotated[
        str | None, typer.Option(help="Number of vectors that there will be, e.g. 50M. Default: as many as DATA has.")
    ] = None,
    place: Annotated[
        list[StoreName] | None,
        typer.Option("--for", help="Where vectors may be kept. Can be repeated. Default: qdrant, hnswlib and packed."),
    ] = None,
    codec: Annotated[
        list[Path] | None, typer.Option(help="Codec file to consider beside the linear ones. Can be repeated.")
    ] = None,
    metric: MetricOption = Metric.COSINE,
    on_bad_rows: OnBadRowsChoice = OnBadRows.FAIL,
    sample: Annotated[
        int, typer.Option(help="Number of documents to search in. More are slower, and closer to your index.")
    ] = (SAMPLE_ROWS),
    as_json: AsJson = False,
) -> None:
    """Find the cheapest width, code and re-ranking that meet a goal, with costs and instructions.

    Exit code 3: no compression meets the goal.
    """
    lenient = on_bad_rows is not OnBadRows.FAIL
    source = open_documents(data, column, bad_rows=lenient)
    asked = None if queries is None else open_queries(queries, query_column, bad_rows=lenient)
    goal = _goal(target, rerank, budget, ram, vectors, source)
    if place:
        goal = replace(goal, stores=tuple(place))
    with steps_shown("reading vectors") as step:
        source, *rest = without_bad_rows([source] if asked is None else [source, asked], metric, on_bad_rows)
        result = make_plan(
            source,
            goal,
            queries=rest[0] if rest else None,
            codecs=codec or (),
            metric=metric,
            rows=sample,
            on_step=step,
        )
    if as_json:
        print_json(to_json(result))
    else:
        console = Terminal()
        console.print(headline(result), style="bold")
        console.print(basis(result))
        head, *lines = rows(result)
        console.print(table(*head, rows=lines))
        for answer in result.answers:
            if answer.instructions:
                console.print(f"\n# {LABELS[answer.store]}", style="bold")
                print(visible(answer.instructions), end="")
    if not result.met:
        raise typer.Exit(NOT_MET)


def _goal(
    target: str | None, rerank: int, budget: int | None, ram: str | None, vectors: str | None, source: VectorSource
) -> Goal:
    """Read what is asked for, before any vector is read."""
    try:
        k, recall = parse_target(target) if target is not None else (10, None)
        count = parse_count(vectors) if vectors is not None else source.rows
        if count is None:
            raise EvaluationInputError(f"{source.name}: does not say how many vectors it holds; give --vectors")
        ram_bytes = parse_bytes(ram) if ram is not None else None
        return Goal(recall=recall, k=k, rerank=rerank, code_bytes=budget, ram_bytes=ram_bytes, vectors=count)
    except EvaluationInputError as error:
        raise typer.BadParameter(str(error)) from None
