"""``vaecodec compress``."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vaecodec.interface import Metric
from vaecodec_cli.console import Terminal, how_to_resume, print_json
from vaecodec_cli.options import (
    AsJson,
    Column,
    Documents,
    Embedder,
    MetricOption,
    Pairs,
    Queries,
    QueryColumn,
    duration,
    open_documents,
    with_column,
)
from vaecodec_cli.progress import LOGGER, TrainingBar
from vaecodec_cli.train import require_training

NOT_MET = 3


class Place(StrEnum):
    """Where the vectors will be kept."""

    QDRANT = "qdrant"
    HNSWLIB = "hnswlib"
    PGVECTOR = "pgvector"
    FILES = "files"


def _once(show: Callable[[str], None]) -> Callable[[str], None]:
    """Show each step as it begins; what it does in detail, after a colon, is for the log."""
    last = ""

    def step(name: str) -> None:
        nonlocal last
        main = name.partition(":")[0]
        if main != last:
            show(main)
        else:
            LOGGER.debug("%s", name)
        last = main

    return step


def compress(
    source: Documents,
    out: Annotated[Path, typer.Option(help="Folder for codec.onnx, the training and the report.")],
    queries: Queries = None,
    pairs: Pairs = None,
    column: Column = None,
    query_column: QueryColumn = None,
    save: Annotated[
        str | None, typer.Option(help="Share of the memory to save: half, or a figure such as 75%.")
    ] = None,
    budget_bytes: Annotated[
        int | None, typer.Option("--bytes", help="Largest number of bytes of a stored vector.")
    ] = None,
    ram: Annotated[str | None, typer.Option(help="Largest RAM for all vectors, index included, e.g. 8GB.")] = None,
    vectors: Annotated[
        str | None, typer.Option(help="Number of vectors that there will be, e.g. 50M. Default: as many as SOURCE has.")
    ] = None,
    recall: Annotated[float | None, typer.Option(help="Share of the ten nearest to keep, e.g. 0.95.")] = None,
    place: Annotated[
        Place,
        typer.Option("--for", help="Where the vectors will be kept. files are codes, which PackedIndex searches."),
    ] = Place.FILES,
    budget: Annotated[
        str, typer.Option(help="Time for all training, e.g. 90s, 10m, 1.5h. The other steps take minutes more.")
    ] = "10m",
    metric: MetricOption = Metric.COSINE,
    embedder: Embedder = "",
    as_json: AsJson = False,
) -> None:
    """Train a codec, compare it with what needs no training, and say what is worth using and what to type next.

    Repeat the command to go on after an interruption. Exit code 3: the goal is not met.
    """
    require_training(export=True)
    from vaecodec_integrations.compress import CompressionData, goal_for
    from vaecodec_integrations.compress import compress as run
    from vaecodec_integrations.plan.stores import StoreName

    time = duration(budget)
    goal = goal_for(
        open_documents(source, column), save=save, code_bytes=budget_bytes, ram=ram, vectors=vectors, recall=recall
    )
    data = CompressionData(
        documents=with_column(source, column),
        queries=None if queries is None else with_column(queries, query_column),
        pairs=pairs,
        metric=metric,
        embedder=embedder,
    )
    store = StoreName.PACKED if place is Place.FILES else StoreName(place)
    console = Terminal(stderr=as_json)
    with how_to_resume(console, f"repeat the command to go on from {out}"), TrainingBar() as bar:
        found = run(
            data,
            goal,
            out,
            store=store,
            budget=time,
            observers=[bar],
            on_step=_once(lambda step: console.print(f"{step} ...", style="dim")),
        )
    for line in found.lines:
        console.print(line)
    if found.report is not None:
        console.print(f"The report is {found.report / 'report.html'}.")
    if found.command:
        console.print("Next:")
        console.print(found.command)
    if as_json:
        print_json(found.to_json())
    if not found.met:
        raise typer.Exit(NOT_MET)
