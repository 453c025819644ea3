"""``vaecodec bridge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vaecodec.extras import require
from vaecodec_cli.console import Terminal, interval, print_file, print_json, table
from vaecodec_cli.options import AsJson, Column, Overwrite, open_documents, with_column

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
    column: Column = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a bridge from a new codec to a collection that an old one filled, and measure the recall across it."""
    require("onnx", extra="export")
    from vaecodec.codec import Codec
    from vaecodec_exporters.bridge import fit_and_export_bridge

    exported = fit_and_export_bridge(
        Codec.load(old),
        Codec.load(new),
        out,
        open_documents(sample, column),
        None if new_sample is None else open_documents(with_column(new_sample, column), None),
        overwrite=overwrite,
    )
    if as_json:
        print_json(exported.summaries)
        return
    Terminal().print(_recalls(exported))
    widths = f"latents {exported.bridge.dim} -> {exported.bridge.code_dim} and back"
    print_file(out, f"{widths}, {out.stat().st_size:,} bytes")


def _recalls(exported: ExportedBridge) -> Table:
    title = f"recall@10 of {exported.queries:,} held-out queries, mean [95 % interval]"
    rows = [
        (documents, queries, interval(exported.summaries[name]["recall@10"]))
        for name, (documents, queries) in _SEARCHES.items()
        if name in exported.summaries
    ]
    return table("documents", "queries", "recall@10", title=title, rows=rows)
