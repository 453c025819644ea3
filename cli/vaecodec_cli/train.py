"""``vaecodec train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec.sources.bad_rows import OnBadRows
from vaecodec_cli.console import (
    Terminal,
    describe,
    how_to_resume,
    interval,
    print_collection,
    print_file,
    print_json,
    table,
)
from vaecodec_cli.options import (
    AsJson,
    Column,
    Documents,
    Embedder,
    MetricOption,
    OnBadRowsChoice,
    Overwrite,
    Pairs,
    Queries,
    QueryColumn,
    RecipeFile,
    Target,
    open_collection,
    open_documents,
    open_queries,
    widths,
)
from vaecodec_cli.progress import TrainingBar

if TYPE_CHECKING:
    from vaecodec_training.observe import Observer
    from vaecodec_training.outcome import TrainedRun


def train(
    data: Documents,
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    queries: Queries = None,
    pairs: Pairs = None,
    column: Column = None,
    query_column: QueryColumn = None,
    dim: Annotated[int | None, typer.Option(help="Width of the latents.")] = None,
    nested: Annotated[
        str, typer.Option(help="Smaller widths that the file can also be loaded at. Example: 32,64.")
    ] = "",
    target: Target = "",
    objective: Annotated[
        str, typer.Option(help="What to train for: neighbours, or relevance where pairs are known.")
    ] = "",
    recipe: RecipeFile = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the documents.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    metric: MetricOption = Metric.COSINE,
    embedder: Embedder = "",
    on_bad_rows: OnBadRowsChoice = OnBadRows.FAIL,
    export: Annotated[Path | None, typer.Option(help="Codec file to write at the end, e.g. vae128.onnx.")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log every step to OUT/tensorboard.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a codec on a collection's embeddings and keep its best checkpoint."""
    require_training(export is not None)
    from vaecodec_exporters.pipeline import leads, train_and_export
    from vaecodec_training.recipe import Recipe, choose_recipe
    from vaecodec_training.tensorboard import TensorBoard

    lenient = on_bad_rows is not OnBadRows.FAIL
    documents = open_documents(data, column, bad_rows=lenient)
    asked = None if queries is None else open_queries(queries, query_column, bad_rows=lenient)
    settings = choose_recipe(
        Recipe.load(recipe) if recipe else None,
        width=documents.dim,
        rows=documents.rows,
        target=target,
        objective=objective,
        paired=bool(pairs),
        dim=dim,
        nested_dims=widths(nested) or None,
        epochs=epochs,
        seed=seed,
    )
    console = Terminal(stderr=as_json, quiet=not leads())
    collection = open_collection(documents, asked, pairs, metric, embedder, on_bad_rows=on_bad_rows, out=out)
    print_collection(collection, console)
    again = f"repeat the command with --resume to go on from {out}"
    with how_to_resume(console, again), TrainingBar() as bar:
        observers: list[Observer] = [bar, TensorBoard(out / "tensorboard")] if tensorboard and leads() else [bar]
        result = train_and_export(
            collection, settings, out, export=export, overwrite=overwrite, resume=resume, observers=observers
        )
    if result is None:
        return
    console.print(_figures(result))
    if export is not None:
        checkpoint = result.checkpoint
        print_file(export, f"{checkpoint.kind}, {collection.dim} -> {checkpoint.recipe.dim}", console)
    if as_json:
        document = {"run": str(out), **result.to_json(), "codec": None if export is None else describe(export)}
        print_json(document)


def require_training(export: bool) -> None:
    """Raise MissingExtraError where a library that training needs is not installed."""
    for module in ("torch", "lightning_fabric", "safetensors"):
        require(module, extra="train")
    if export:
        require("onnx", extra="export")


def _figures(result: TrainedRun) -> Table:
    """Show the codec beside the linear baselines on the held-out rows."""
    provenance = result.checkpoint.provenance
    metrics = list(result.figures)
    rates = provenance.get("rates", [])
    # Of several codes the middle one is validated.
    through = f" through codes of {rates[len(rates) // 2]['code_bits'] / 8:g} bytes" if rates else ""
    over = provenance["gain"]["over"]
    shown = table("codec", *metrics, title=f"Held-out rows{through}, mean [95 % interval]")
    for name, figures in provenance["validation"].items():
        shown.add_row(name, *(interval(figures[metric]) for metric in metrics))
    gains = (interval(provenance["gain"][metric]) for metric in metrics)
    shown.add_row(f"codec - {over}", *gains, style="bold")
    return shown
