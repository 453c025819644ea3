"""``vaecodec compress``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from vaecodec.interface import Metric
from vaecodec.sources import open_source
from vaecodec_cli.console import how_to_resume, warnings_on
from vaecodec_cli.info import AsJson, print_json
from vaecodec_cli.options import Documents, Embedder, MetricOption, Pairs, Queries, duration
from vaecodec_cli.progress import TrainingBar
from vaecodec_cli.train import require_training

NOT_MET = 3


class Place(StrEnum):
    """Where the vectors will be kept."""

    QDRANT = "qdrant"
    HNSWLIB = "hnswlib"
    FILES = "files"


def compress(
    source: Documents,
    out: Annotated[Path, typer.Option(help="Folder for codec.onnx, the training and the report.")],
    queries: Queries = None,
    pairs: Pairs = None,
    save: Annotated[str | None, typer.Option(help="How much of the memory to save: half, or such as 75%.")] = None,
    budget_bytes: Annotated[int | None, typer.Option("--bytes", help="The most bytes for one stored vector.")] = None,
    ram: Annotated[str | None, typer.Option(help="The most RAM for all vectors, index included, e.g. 8GB.")] = None,
    vectors: Annotated[
        str | None, typer.Option(help="How many vectors there will be, e.g. 50M; by default as many as SOURCE has.")
    ] = None,
    recall: Annotated[float | None, typer.Option(help="The share of the ten nearest to keep, e.g. 0.95.")] = None,
    place: Annotated[
        Place, typer.Option("--for", help="Where vectors will be kept; files are codes, searched by PackedIndex.")
    ] = Place.FILES,
    budget: Annotated[str, typer.Option(help="Time for all training, e.g. 90s, 10m, 1.5h.")] = "10m",
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

    data = CompressionData(documents=source, queries=queries, pairs=pairs, metric=metric, embedder=embedder)
    goal = goal_for(open_source(source), save=save, code_bytes=budget_bytes, ram=ram, vectors=vectors, recall=recall)
    store = StoreName.PACKED if place is Place.FILES else StoreName(place)
    console = Console(stderr=as_json)
    time = duration(budget)
    with (
        warnings_on(console),
        how_to_resume(console, f"repeat the command to go on from {out}"),
        TrainingBar(console) as bar,
    ):
        found = run(
            data,
            goal,
            out,
            store=store,
            budget=time,
            observers=[bar],
            on_step=lambda step: console.print(escape(f"{step} ..."), style="dim", highlight=False),
        )
    for line in found.lines:
        console.print(escape(line), highlight=False, soft_wrap=True)
    if found.report is not None:
        console.print(f"The report is {escape(str(found.report / 'report.html'))}.", highlight=False, soft_wrap=True)
    if found.command:
        console.print("Next:", highlight=False)
        console.print(escape(found.command), highlight=False, soft_wrap=True)
    if as_json:
        print_json(found.to_json())
    if not found.met:
        raise typer.Exit(NOT_MET)
