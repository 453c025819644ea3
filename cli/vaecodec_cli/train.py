"""``vaecodec train`` and ``vaecodec fit``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vaecodec.errors import AmbiguousColumnError
from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec.linear import LinearKind
from vaecodec_cli.info import AsJson, describe, print_json

if TYPE_CHECKING:
    from vaecodec.sources import VectorSource
    from vaecodec_training.data.collection import Collection
    from vaecodec_training.fit import FitResult
    from vaecodec_training.trainer import Observer, TrainedRun
    from vaecodec_training.trainer import Progress as StepProgress

Column = Annotated[
    str | None, typer.Option(help="Documents' column, dataset, array or vector name, where there are several.")
]
QueryColumn = Annotated[str | None, typer.Option(help="The same of the queries.")]


def train(
    data: Annotated[str, typer.Argument(help="Documents' embeddings: a file of vectors, one row each, or an address.")],
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    queries: Annotated[str | None, typer.Option(help="Queries' embeddings; a few thousand are worth having.")] = None,
    pairs: Annotated[
        str | None, typer.Option(help="Integer .npy (p, 2): rows of queries and their documents; or 'aligned'.")
    ] = None,
    column: Column = None,
    query_column: QueryColumn = None,
    dim: Annotated[int | None, typer.Option(help="Width of the latents.")] = None,
    nested: Annotated[str, typer.Option(help="Smaller widths that shall stand alone, e.g. 32,64.")] = "",
    target: Annotated[
        str, typer.Option(help="Train for codes: bytes per vector such as 48 or 32,48,64; or int8, int4, int2, binary.")
    ] = "",
    recipe: Annotated[Path | None, typer.Option(help="TOML file of settings; see docs/training.md.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the documents.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    metric: Annotated[Metric, typer.Option(help="How the embeddings are compared.")] = Metric.COSINE,
    embedder: Annotated[str, typer.Option(help="Name of the embedding model, kept in the file.")] = "",
    export: Annotated[Path | None, typer.Option(help="Codec file to write at the end, e.g. vae128.onnx.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log every step to OUT/tensorboard.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a codec on a collection's embeddings and keep its best checkpoint."""
    _require_libraries(export is not None)
    from vaecodec_training.recipe import Recipe
    from vaecodec_training.tensorboard import TensorBoard
    from vaecodec_training.trainer import train as run_training

    aims = _aims(target) if target else {}
    settings = Recipe.load(recipe) if recipe else Recipe.for_code(**aims, paired=bool(pairs)) if aims else Recipe()
    if aims and recipe:
        settings = settings.replace(kl=0.0, **aims)
    changes = {"dim": dim, "epochs": epochs, "seed": seed, "nested_dims": _widths(nested) or None}
    settings = settings.replace(**{key: value for key, value in changes.items() if value is not None})
    # Of the processes that torchrun starts, one speaks and exports.
    leads = os.environ.get("RANK", "0") == "0"
    console = Console(stderr=as_json, quiet=not leads)
    with _warnings_on(console):
        collection = _opened((data, column), (queries, query_column), pairs, metric, embedder, 0.0)
        if "target_bytes" in aims and dim is None:
            settings = settings.replace(dim=collection.dim)  # trellis codes choose among all latents: as many as can be
        _describe(collection, console)
        with _going_on(console, f"repeat the command with --resume to go on from {out}"), _Bar(console) as bar:
            observers: list[Observer] = [bar]
            if tensorboard and leads:
                observers.append(TensorBoard(out / "tensorboard"))
            result = run_training(collection, settings, out, resume=resume, observers=observers)
    if not leads:
        return
    console.print(_figures(result))
    if export is not None:
        from vaecodec_training.export import exporter

        exporter("checkpoint")(out, export)
        console.print(f"[bold]{export}[/]: {result.checkpoint.kind}, {collection.dim} -> {settings.dim}")
    if as_json:
        provenance = result.checkpoint.provenance
        document = {
            "run": str(out),
            "validation": provenance["validation"],
            "gain": provenance["gain"],
            "warnings": [{"kind": type(each).__name__, "message": str(each)} for each in result.warnings],
            "codec": None if export is None else describe(export),
        }
        print_json(document)


def fit(
    data: Annotated[str, typer.Argument(help="Documents' embeddings: a file of vectors, one row each, or an address.")],
    out: Annotated[Path, typer.Option(help="Folder for the fit; the codec file is OUT/codec.onnx.")],
    queries: Annotated[str | None, typer.Option(help="Queries' embeddings; a few thousand are worth having.")] = None,
    pairs: Annotated[
        str | None, typer.Option(help="Integer .npy (p, 2): rows of queries and their documents; or 'aligned'.")
    ] = None,
    column: Column = None,
    query_column: QueryColumn = None,
    dims: Annotated[str, typer.Option(help="Widths to choose among.")] = "32,64,128,192",
    budget: Annotated[str, typer.Option(help="Time for all training, e.g. 90s, 10m, 1.5h.")] = "10m",
    recipe: Annotated[Path | None, typer.Option(help="TOML file to start from; see docs/training.md.")] = None,
    metric: Annotated[Metric, typer.Option(help="How the embeddings are compared.")] = Metric.COSINE,
    embedder: Annotated[str, typer.Option(help="Name of the embedding model, kept in the file.")] = "",
    as_json: AsJson = False,
) -> None:
    """Choose width and settings, train, and export what a held-out split confirms; resumes what it finds in OUT."""
    _require_libraries(export=True)
    from importlib.util import find_spec

    from vaecodec.codes import Calibration
    from vaecodec.drift import Encoded, Reference
    from vaecodec_training import fit as fitting
    from vaecodec_training.export import exporter
    from vaecodec_training.recipe import Recipe

    fitting.refuse_processes()
    seconds = fitting.seconds(budget)
    console = Console(stderr=as_json)
    with _warnings_on(console):
        collection = _opened((data, column), (queries, query_column), pairs, metric, embedder, 0.05)
    _describe(collection, console)

    def on_step(name: str, figures: dict[str, Any]) -> None:
        if "validation" in figures:
            console.print(f"{name}: recall@10 {_cell(figures['validation']['recall@10'])}", highlight=False)

    again = f"repeat the command to go on from {out}"
    with _warnings_on(console), _going_on(console, again), _Bar(console) as bar:
        result = fitting.fit(
            collection,
            out,
            dims=_widths(dims),
            budget=seconds,
            recipe=Recipe.load(recipe) if recipe else Recipe(),
            observers=[bar],
            on_step=on_step,
        )
    file = out / "codec.onnx"
    if result.gate.passed:
        exporter("checkpoint")(result.run, file)
    else:
        provenance = {
            "data": collection.to_json(),
            "gate": str(result.gate),
            "confirmation": result.content["steps"]["gate"]["confirmation"],
        }
        linear = collection.linear(result.dim, LinearKind(result.gate.over))
        calibration = Calibration.fit(linear.encode(collection.sample), linear.latent_metric)
        scores = collection.validation.score_calibration(linear.encode, linear.encode_queries, linear.latent_metric)
        reference = Reference.fit(
            Encoded.encode(linear.encode, linear.decode, collection.held_out),
            Encoded.encode(linear.encode_queries, linear.decode, collection.held_out_queries),
            linear.metric,
            linear.latent_metric,
        )
        exporter("linear")(
            linear, file, provenance=provenance, calibration=calibration, scores=scores, reference=reference
        )
    console.print(_steps(result))
    for line in fitting.first_lines(result):
        console.print(line, highlight=False)
    if find_spec("matplotlib"):
        fitting.draw(result, out / "recall.png")
        console.print(f"Recall against bytes: {out / 'recall.png'}", highlight=False)
    else:
        console.print('No picture: pip install "vaecodec[report]" for one.', markup=False, highlight=False)
    console.print(f"[bold]{file}[/]: {collection.dim} -> {result.dim}; the recipe is {out / fitting.RECIPE}")
    console.print(f"Every figure is in {out / fitting.RUN}.", highlight=False)
    if as_json:
        document = {
            "run": str(out / fitting.RUN),
            "learned_ships": result.gate.passed,
            "best_linear": result.gate.over,
            "difference": result.gate.difference._asdict(),
            "reason_for_width": result.content["steps"]["knee"]["reason"],
            "codec": describe(file),
        }
        print_json(document)


def _opened(
    documents: tuple[str, str | None],
    queries: tuple[str | None, str | None],
    pairs: str | None,
    metric: Metric,
    embedder: str,
    confirmation: float,
) -> Collection:
    """The collection of two locations, each with the name of its column."""
    from vaecodec_training.data.collection import Collection
    from vaecodec_training.data.pairs import read_pairs

    location, column = queries
    return Collection.open(
        _source(*documents, "--column"),
        _source(location, column, "--query-column") if location else None,
        pairs=read_pairs(pairs) if pairs else None,
        metric=metric,
        embedder=embedder,
        confirmation=confirmation,
    )


def _source(location: str, column: str | None, option: str) -> VectorSource:
    from vaecodec.sources import open_source

    try:
        return open_source(location, column=column)
    except AmbiguousColumnError as error:
        raise AmbiguousColumnError(f"{error}, with {option}") from None


def _describe(collection: Collection, console: Console) -> None:
    for found in (collection.report, collection.query_report, collection.shift):
        if found is not None:
            console.print(str(found), highlight=False)


def _require_libraries(export: bool) -> None:
    for module in ("torch", "lightning_fabric", "safetensors"):
        require(module, extra="train")
    if export:
        require("onnx", extra="export")


def _aims(target: str) -> dict[str, Any]:
    return {"target_bytes": tuple(sorted(_widths(target)))} if target[0].isdecimal() else {"target": target}


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in text.split(",") if width.strip())
    except ValueError:
        raise typer.BadParameter(f"expected widths such as 32,64, got {text!r}") from None


@contextmanager
def _going_on(console: Console, how: str) -> Iterator[None]:
    """Say how to go on when the run is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"Interrupted; {how}.", markup=False, highlight=False)
        raise


@contextmanager
def _warnings_on(console: Console) -> Iterator[None]:
    """Show warnings as lines of text, without the place in the code that found them."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        console.print(f"[yellow]{category.__name__}[/]: {message}", highlight=False)

    with warnings.catch_warnings():
        warnings.showwarning = cast(Any, show)
        yield


class _Bar:
    """A progress bar with the live figures of a run."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._task = self._bar.add_task("train", total=None, figures="")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def __call__(self, progress: StepProgress) -> None:
        figures = [f"loss {progress.loss:.4f}", f"best recall@10 {progress.best:.3f}"]
        if progress.record is not None:
            record = progress.record
            figures.append(f"now {record.recall:.3f}, rank {record.effective_rank:.0f}")
            if record.kl:
                figures.append(f"KL {sum(record.kl):.0f} nats, {record.active_dims} active")
            if record.queue_age:
                figures.append(f"queue {record.queue_age:.0f} steps old")
        figures.append(f"gradient {progress.gradient_norm:.2g}")
        self._bar.update(self._task, total=progress.steps, completed=progress.step, figures=", ".join(figures))


def _figures(result: TrainedRun) -> Table:
    """The codec beside the linear baselines on the held-out rows."""
    provenance = result.checkpoint.provenance
    metrics = list(result.figures)
    rates = provenance.get("rates", [])
    # Of several codes the middle one is validated.
    through = f" through codes of {rates[len(rates) // 2]['code_bits'] / 8:g} bytes" if rates else ""
    table = Table(title=f"Held-out rows{through}, mean [95 % interval]", title_justify="left")
    table.add_column("codec")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for name, figures in provenance["validation"].items():
        table.add_row(name, *(_cell(figures[metric]) for metric in metrics))
    over = provenance["gain"]["over"]
    table.add_row(f"codec - {over}", *(_cell(provenance["gain"][metric]) for metric in metrics), style="bold")
    return table


def _steps(result: FitResult) -> Table:
    """Every run of a fit on the validation rows, and its codec beside the linear ones on the confirmation rows."""
    steps = result.content["steps"]
    confirmed = steps["gate"]["confirmation"]
    metrics = [metric for metric in ("recall@10", "ndcg@10") if metric in confirmed["codec"]]
    table = Table(title="Steps, mean [95 % interval]", title_justify="left")
    table.add_column("validation rows")
    for column in ("width", *metrics, "seconds"):
        table.add_column(column, justify="right")
    for name, step in steps.items():
        if "validation" in step:
            cells = (_cell(step["validation"][metric]) for metric in metrics)
            table.add_row(name, str(step["recipe"]["dim"]), *cells, f"{step['seconds']:.1f}")
    table.add_section()
    table.add_row("[bold]confirmation rows[/]")
    for name, figures in confirmed.items():
        table.add_row(name, str(result.dim), *(_cell(figures[metric]) for metric in metrics), "")
    return table


def _cell(interval: dict[str, float]) -> str:
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
