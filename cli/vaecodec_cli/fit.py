"""``vaecodec fit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vaecodec.interface import Metric
from vaecodec_cli.console import how_to_resume, interval, print_collection, warnings_on
from vaecodec_cli.info import AsJson, describe, print_json
from vaecodec_cli.options import (
    Column,
    Documents,
    Embedder,
    MetricOption,
    Pairs,
    Queries,
    QueryColumn,
    RecipeFile,
    Target,
    duration,
    open_collection,
    open_column,
    widths,
)
from vaecodec_cli.progress import TrainingBar
from vaecodec_cli.train import require_training

if TYPE_CHECKING:
    from vaecodec_training.search import SearchResult


def fit(
    data: Documents,
    out: Annotated[Path, typer.Option(help="Folder for the fit. The codec file is OUT/codec.onnx.")],
    queries: Queries = None,
    pairs: Pairs = None,
    column: Column = None,
    query_column: QueryColumn = None,
    dims: Annotated[
        str, typer.Option(help="Widths to choose among, e.g. 32,64,128,192. With --target 48 all latents by default.")
    ] = "",
    target: Target = "",
    budget: Annotated[str, typer.Option(help="Time for all training, e.g. 90s, 10m, 1.5h.")] = "10m",
    recipe: RecipeFile = None,
    metric: MetricOption = Metric.COSINE,
    embedder: Embedder = "",
    as_json: AsJson = False,
) -> None:
    """Choose width and settings, train, and export the codec that a held-out split confirms.

    Repeat the command to go on from what OUT holds.
    """
    require_training(export=True)
    from vaecodec_exporters.pipeline import fit as fit_and_export
    from vaecodec_training.recipe import Recipe, choose_recipe
    from vaecodec_training.search import refuse_processes

    refuse_processes()
    time = duration(budget)
    console = Console(stderr=as_json)

    def on_step(name: str, figures: dict[str, Any]) -> None:
        if "validation" in figures:
            console.print(f"{name}: recall@10 {interval(figures['validation']['recall@10'])}", highlight=False)
        elif "diverged" in figures:
            console.print(f"{name}: diverged, {figures['diverged']}", highlight=False)

    with warnings_on(console):
        documents = open_column(data, column)
        base = Recipe.load(recipe) if recipe else None
        settings = choose_recipe(base, width=documents.dim, target=target, paired=bool(pairs))
        collection = open_collection(documents, (queries, query_column), pairs, metric, embedder, 0.05)
        print_collection(collection, console)
        with how_to_resume(console, f"repeat the command to go on from {out}"), TrainingBar(console) as bar:
            fitted = fit_and_export(
                collection,
                out,
                dims=widths(dims) or None,
                budget=time,
                recipe=settings,
                observers=[bar],
                on_step=on_step,
            )
    console.print(_steps(fitted.search))
    for line in fitted.lines:
        console.print(line, highlight=False)
    picture = 'No picture: pip install "vaecodec[report]" for one.'
    if fitted.picture is not None:
        picture = f"Recall against bytes: {fitted.picture}"
    console.print(picture, markup=False, highlight=False)
    dim = fitted.search.dim
    console.print(f"[bold]{fitted.codec}[/]: {collection.dim} -> {dim}; the recipe is {fitted.recipe}")
    console.print(f"Every figure is in {fitted.record}.", highlight=False)
    if as_json:
        print_json({**fitted.to_json(), "codec": describe(fitted.codec)})


def _steps(found: SearchResult) -> Table:
    """Every run of a fit on the validation rows, and its codec beside the linear ones on the confirmation rows."""
    steps = found.content["steps"]
    confirmed = steps["gate"]["confirmation"]
    metrics = [metric for metric in ("recall@10", "recall@100", "ndcg@10") if metric in confirmed["codec"]]
    table = Table(title="Steps, mean [95 % interval]", title_justify="left")
    table.add_column("validation rows")
    for column in ("width", *metrics, "seconds"):
        table.add_column(column, justify="right")
    for name, step in steps.items():
        if "validation" in step:
            cells = (interval(step["validation"][metric]) for metric in metrics)
            table.add_row(name, str(step["recipe"]["dim"]), *cells, f"{step['seconds']:.1f}")
    table.add_section()
    table.add_row("[bold]confirmation rows[/]")
    for name, figures in confirmed.items():
        table.add_row(name, str(found.dim), *(interval(figures[metric]) for metric in metrics), "")
    return table
