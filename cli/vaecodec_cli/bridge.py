"""``vaecodec bridge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vaecodec.extras import require
from vaecodec_cli.console import interval
from vaecodec_cli.info import AsJson, print_json
from vaecodec_cli.options import Overwrite

if TYPE_CHECKING:
    from vaecodec_exporters.bridge import ExportedBridge

# What each figure of a bridge is of: what is searched, and with what.
_SEARCHES = {
    "re-encoded": ("encoded by the new codec", "new codec"),
    "bridged": ("encoded by the old codec", "new codec and bridge"),
    "carried over": ("encoded by the old codec, carried over the bridge", "new codec"),
    "decoded, re-encoded": ("encoded and decoded by the old codec, encoded by the new one", "new codec"),
    "old": ("encoded by the old codec", "old codec"),
}


def bridge(
    old: Annotated[Path, typer.Argument(help="Codec file that filled the collection.")],
    new: Annotated[Path, typer.Argument(help="Codec file to use from now on.")],
    sample: Annotated[
        str, typer.Option(help="Embeddings such as the collection's: a file with one vector a row, or an address.")
    ],
    out: Annotated[Path, typer.Option(help="Bridge file to write, e.g. bridge.onnx.")],
    new_sample: Annotated[
        str | None,
        typer.Option(help="The same texts, in the same order, embedded by the new model, where the model is another."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a bridge from a new codec to a collection that an old one filled, and measure the recall across it."""
    require("onnx", extra="export")
    from vaecodec.codec import Codec
    from vaecodec.sources import open_source
    from vaecodec_exporters.bridge import fit_and_export_bridge

    exported = fit_and_export_bridge(
        Codec.load(old),
        Codec.load(new),
        out,
        open_source(sample),
        None if new_sample is None else open_source(new_sample),
        overwrite=overwrite,
    )
    if as_json:
        print_json(exported.summaries)
        return
    console = Console()
    console.print(_recalls(exported))
    widths = f"latents {exported.bridge.dim} -> {exported.bridge.code_dim} and back"
    console.print(f"[bold]{out}[/]: {widths}, {out.stat().st_size:,} bytes")


def _recalls(exported: ExportedBridge) -> Table:
    title = f"recall@10 of {exported.queries:,} held-out queries, mean [95 % interval]"
    table = Table(title=title, title_justify="left")
    for column in ("documents", "queries", "recall@10"):
        table.add_column(column, justify="right" if column == "recall@10" else "left")
    for name, (documents, queries) in _SEARCHES.items():
        if name in exported.summaries:
            table.add_row(documents, queries, interval(exported.summaries[name]["recall@10"]))
    return table
