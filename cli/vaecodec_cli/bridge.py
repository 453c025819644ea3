"""Define the command ``vaecodec bridge``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer
from rich.table import Table

from vaecodec.extras import require
from vaecodec_cli.console import Terminal, interval, print_file, print_json, table
from vaecodec_cli.options import AsJson, Column, Embedder, Overwrite, Pairs, with_column
from vaecodec_cli.progress import working

if TYPE_CHECKING:
    from vaecodec_exporters.bridge import ExportedBridge
    from vaecodec_exporters.model_bridge import ModelBridgeFiles

# For each figure: which documents are searched, and with which queries.
_SEARCHES = {
    "re-encoded": ("encoded by the new codec", "new codec"),
    "bridged": ("encoded by the old codec", "new codec and bridge"),
    "carried over": ("encoded by the old codec, carried over the bridge", "new codec"),
    "decoded, re-encoded": ("encoded and decoded by the old codec, encoded by the new one", "new codec"),
    "old": ("encoded by the old codec", "old codec"),
}


@dataclass(frozen=True, kw_only=True)
class BridgeSample:
    """Name the files of sample texts, embedded by both models."""

    sample: Annotated[
        str,
        typer.Option(help="Sample of embeddings like the collection's: a file with one vector per row, or an address."),
    ]
    new_sample: Annotated[
        str | None,
        typer.Option(
            help="The same texts, row for row, embedded by the new model. Needed if the embedding model changes."
        ),
    ] = None
    column: Column = None

    @property
    def old(self) -> str:
        """Return where the sample is, with its column."""
        return with_column(self.sample, self.column)

    @property
    def new(self) -> str | None:
        """Return the same of the new model's sample."""
        return None if self.new_sample is None else with_column(self.new_sample, self.column)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Say how to choose a bridge between two embedding models."""

    panel: ClassVar[str] = "Two embedding models"

    queries: Annotated[
        str | None, typer.Option(help="Queries embedded by the old model, for a bridge without codecs.")
    ] = None
    new_queries: Annotated[
        str | None, typer.Option(help="The same queries, row for row, embedded by the new model.")
    ] = None
    pairs: Pairs = None
    least: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Smallest share of the new model's nDCG@10 to accept. Default: 0.6."),
    ] = None
    embedder: Embedder = ""

    def files(self, old: str, new: str) -> ModelBridgeFiles:
        """Return where all texts are."""
        require("torch", extra="train")
        from vaecodec_exporters.model_bridge import ModelBridgeFiles

        return ModelBridgeFiles(
            old=old, new=new, old_queries=self.queries, new_queries=self.new_queries, pairs=self.pairs
        )

    def check(self, *, codecs: bool) -> None:
        """Refuse options that would be ignored."""
        if self.pairs is not None and self.queries is None:
            raise typer.BadParameter("--pairs needs --queries")
        given = [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value not in (None, "")]
        if codecs and given:
            raise typer.BadParameter(f"{', '.join(given)}: for a bridge between two models, without OLD and NEW")


def bridge(
    given: BridgeSample,
    out: Annotated[Path, typer.Option(help="Bridge file to write, e.g. bridge.onnx.")],
    models: ModelOptions,
    old: Annotated[Path | None, typer.Argument(help="Codec file that filled the collection.")] = None,
    new: Annotated[Path | None, typer.Argument(help="Codec file to use from now on.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a bridge to a collection that an old codec or an old embedding model filled, and say what it costs.

    With two codecs the bridge leads from the latents of the new one to those of the old one. Without codecs it leads
    from a new embedding model to an old one that cannot be run any more; then --new-sample is needed.
    """
    require("onnx", extra="export")
    if old is None or new is None:
        new_sample = given.new
        if old is not None or new_sample is None or (models.queries is None) != (models.new_queries is None):
            raise typer.BadParameter(
                "expected OLD and NEW, two codec files; or, for two models, --new-sample, and --queries with "
                "--new-queries or neither"
            )
        models.check(codecs=False)
        _bridge_models(models.files(given.old, new_sample), out, models, overwrite, as_json)
        return
    models.check(codecs=True)
    from vaecodec_exporters.bridge import fit_and_export_bridge

    with working("reading the sample"):
        exported = fit_and_export_bridge(old, new, out, given.old, given.new, overwrite=overwrite)
    if as_json:
        print_json(exported.summaries)
        return
    Terminal().print(_recalls(exported))
    widths = f"latents {exported.bridge.dim} -> {exported.bridge.code_dim} and back"
    print_file(out, f"{widths}, {out.stat().st_size:,} bytes")


def _bridge_models(files: ModelBridgeFiles, out: Path, models: ModelOptions, overwrite: bool, as_json: bool) -> None:
    from vaecodec_exporters.model_bridge import LEAST_RETENTION, bridge_models_of_files

    with working("reading the sample"):
        found = bridge_models_of_files(
            out,
            files,
            least=LEAST_RETENTION if models.least is None else models.least,
            embedder=models.embedder,
            overwrite=overwrite,
        )
    if as_json:
        print_json(found.to_json())
        return
    title = (
        f"share of the new model's nDCG@10 that is kept among {found.documents:,} documents, "
        f"{found.queries:,} held-out queries, [95 % interval]"
    )
    rows = [(str(kind), f"{kept:.3f}") for kind, kept in found.kept.items()]
    Terminal().print(table("map", "kept", title=title, rows=rows))
    if not found.labelled:
        Terminal().print("without known answers this is uncertain; give them with --pairs")
    print_file(out, f"the map {found.chosen}, {out.stat().st_size:,} bytes")


def _recalls(exported: ExportedBridge) -> Table:
    title = f"recall@10 of {exported.queries:,} held-out queries, mean [95 % interval]"
    rows = [
        (documents, queries, interval(exported.summaries[name]["recall@10"]))
        for name, (documents, queries) in _SEARCHES.items()
        if name in exported.summaries
    ]
    return table("documents", "queries", "recall@10", title=title, rows=rows)
