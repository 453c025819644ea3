"""Define the command ``vaecodec fit``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

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
from vaecodec_cli.options import AsJson, CheckedTrainingData, Objective, RecipeFile, Target, duration, widths
from vaecodec_cli.progress import TrainingBar
from vaecodec_cli.train import require_training

if TYPE_CHECKING:
    from vaecodec_training.search_result import SearchResult


def fit(
    given: CheckedTrainingData,
    out: Annotated[Path, typer.Option(help="Folder for the fit. The codec file is OUT/codec.onnx.")],
    dims: Annotated[
        str,
        typer.Option(
            help="Latent widths to choose from, e.g. 32,64,128,192. Default with --target 48: the full width."
        ),
    ] = "",
    target: Target = "",
    objective: Objective = "",
    budget: Annotated[str, typer.Option(help="Time for all training, e.g. 90s, 10m, 1.5h.")] = "10m",
    recipe: RecipeFile = None,
    as_json: AsJson = False,
) -> None:
    """Choose width and settings, train, and export the codec that a held-out split confirms.

    Repeat the command to go on from what OUT holds.
    """
    files = given.files()
    require_training(export=True)
    from vaecodec_exporters.from_files import fit_files
    from vaecodec_training.data.files import TrainingFiles
    from vaecodec_training.recipe import Recipe
    from vaecodec_training.request import RecipeRequest

    time, candidates = duration(budget), widths(dims) or None
    console = Terminal(stderr=as_json)

    def on_step(name: str, figures: dict[str, Any]) -> None:
        if "validation" in figures:
            console.print(f"{name}: recall@10 {interval(figures['validation']['recall@10'])}")
        elif "diverged" in figures:
            console.print(f"{name}: diverged, {figures['diverged']}")

    base = Recipe.load(recipe) if recipe else None
    with how_to_resume(console, f"repeat the command to go on from {out}"), TrainingBar() as bar:
        fitted = fit_files(
            TrainingFiles(**files),
            RecipeRequest(base=base, target=target, objective=objective),
            out,
            dims=candidates,
            budget=time,
            observers=[bar],
            on_step=on_step,
            on_open=partial(print_collection, console=console),
        )
    console.print(_steps(fitted.search))
    for line in fitted.lines:
        console.print(line)
    if fitted.picture is None:
        console.print('No picture: pip install "vaecodec[report]" for one.')
    else:
        console.print(f"Recall against bytes: {fitted.picture}")
    if fitted.frontier is not None:
        console.print(f"Old neighbours against right documents: {fitted.frontier}")
    if fitted.full_width is not None:
        console.print(
            f"Uncompressed, after the same training: {fitted.full_width}. "
            f"Let vaecodec report compare with it: --adapter {fitted.full_width}"
        )
    written = describe(fitted.codec)
    print_file(fitted.codec, f"{written['dim']} -> {written['code_dim']}; the recipe is {fitted.recipe}", console)
    console.print(f"Every figure is in {fitted.record}.")
    if as_json:
        print_json({**fitted.to_json(), "codec": written})


def _steps(found: SearchResult) -> Table:
    """Show every run of a fit beside what needs no run, on the validation rows, then the codec on the confirmation
    rows."""
    from vaecodec_training.frontier import BEST_LINEAR, UNCOMPRESSED, stored
    from vaecodec_training.recipe import Recipe

    steps = found.content["steps"]
    confirmed = steps["gate"]["confirmation"]
    metrics = [metric for metric in ("recall@10", "recall@100", "ndcg@10") if metric in confirmed["codec"]]
    shown = table("validation rows", "stored", *metrics, "seconds", title="Steps, means; intervals are in run.json")
    for name, step in steps.items():
        if "validation" in step:
            cells = (_mean(step["validation"], metric) for metric in metrics)
            shown.add_row(name, stored(Recipe.from_dict(step["recipe"])), *cells, f"{step['seconds']:.1f}")
    for point in found.points:
        if point.name in (UNCOMPRESSED, BEST_LINEAR):
            shown.add_row(point.name, point.stored, *(_mean(point.figures, metric) for metric in metrics), "")
    shown.add_section()
    shown.add_row(Text("confirmation rows", "bold"))
    for name, figures in confirmed.items():
        shown.add_row(name, stored(found.recipe), *(_mean(figures, metric) for metric in metrics), "")
    return shown


def _mean(figures: Mapping[str, Mapping[str, float]], metric: str) -> str:
    return f"{figures[metric]['mean']:.3f}"
