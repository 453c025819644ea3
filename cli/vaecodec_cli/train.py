"""Define the command ``vaecodec train``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer
from rich.table import Table

from vaecodec.evaluation import KEPT_MEANS
from vaecodec.extras import require
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
from vaecodec_cli.options import AsJson, CheckedTrainingData, Objective, Overwrite, RecipeFile, Target, widths
from vaecodec_cli.progress import TrainingBar

if TYPE_CHECKING:
    from vaecodec_training.observe import Observer
    from vaecodec_training.outcome import TrainedRun
    from vaecodec_training.request import RecipeRequest


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Say how to train; options that are not given keep the recipe's values."""

    panel: ClassVar[str] = "Recipe"

    dim: Annotated[int | None, typer.Option(help="Width of the latents.")] = None
    nested: Annotated[str, typer.Option(help="Smaller widths that the file can also be loaded at. Example: 32,64.")] = (
        ""
    )
    target: Target = ""
    objective: Objective = ""
    recipe: RecipeFile = None
    epochs: Annotated[float | None, typer.Option(help="Number of passes over the documents.")] = None
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None

    def request(self) -> RecipeRequest:
        """Return what the recipe is chosen by."""
        from vaecodec_training.recipe import Recipe
        from vaecodec_training.request import RecipeRequest

        return RecipeRequest(
            base=Recipe.load(self.recipe) if self.recipe else None,
            target=self.target,
            objective=self.objective,
            dim=self.dim,
            nested_dims=widths(self.nested) or None,
            epochs=self.epochs,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Say where the run is written, and which other outputs are wanted."""

    panel: ClassVar[str] = "Run"

    out: Annotated[Path, typer.Option(help="Folder for the run.")]
    export: Annotated[Path | None, typer.Option(help="Codec file to write at the end, e.g. vae128.onnx.")] = None
    overwrite: Overwrite = False
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log every step to OUT/tensorboard.")] = False


def train(given: CheckedTrainingData, how: RecipeOptions, run: RunOptions, as_json: AsJson = False) -> None:
    """Train a codec on a collection's embeddings and keep its best checkpoint."""
    files = given.files()
    require_training(run.export is not None)
    from vaecodec_exporters.from_files import train_files
    from vaecodec_exporters.pipeline import leads
    from vaecodec_training.data.files import TrainingFiles
    from vaecodec_training.tensorboard import TensorBoard

    out, export = run.out, run.export
    console = Terminal(stderr=as_json, quiet=not leads())
    with how_to_resume(console, f"repeat the command with --resume to go on from {out}"), TrainingBar() as bar:
        observers: list[Observer] = [bar]
        if run.tensorboard and leads():
            observers.append(TensorBoard(out / "tensorboard"))
        result = train_files(
            TrainingFiles(**files),
            how.request(),
            out,
            export=export,
            overwrite=run.overwrite,
            resume=run.resume,
            observers=observers,
            on_open=partial(print_collection, console=console),
        )
    if result is None:
        return
    console.print(_figures(result))
    if "kept@100" in result.best_linear:
        console.print(KEPT_MEANS)
    if result.full_size is not None:
        console.print(str(result.full_size))
    checkpoint = result.checkpoint
    if export is not None:
        print_file(export, f"{checkpoint.kind}, {checkpoint.model.dim} -> {checkpoint.recipe.dim}", console)
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
    """Show each figure of the held-out rows beside the linear codec that is best in it."""
    provenance = result.checkpoint.provenance
    rates = provenance.get("rates", [])
    # If there are several codes, the middle one is validated.
    through = f" through codes of {rates[len(rates) // 2]['code_bits'] / 8:g} bytes" if rates else ""
    shown = table("figure", "codec", "best linear", "kind", "difference", title=f"Held-out rows{through}")
    validation, gains = provenance["validation"], result.gains
    for figure, kind in result.best_linear.items():
        means = [f"{validation[name][figure]['mean']:.3f}" for name in ("codec", kind)]
        shown.add_row(figure, *means, kind, interval(gains[figure]))
    return shown
